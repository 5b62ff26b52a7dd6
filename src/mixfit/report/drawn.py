"""Whether a drawing that was saved is nothing but a drawing, before it becomes part of a page.

A run folder may come from a stranger. In: the text of an SVG. Out: the same text, or an error."""

import re
from xml.etree import ElementTree

from mixfit.errors import DataError

_SHAPES = frozenset(["path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan", "image"])
_AROUND = frozenset(["svg", "g", "title", "desc", "defs", "use", "clipPath", "metadata", "linearGradient", "stop"])
_LINK = re.compile(r"#[\w.-]+|data:image/png;base64,[A-Za-z0-9+/=\s]*")
_ADDRESS = re.compile(r"url\((?!#)|@import|expression\(|javascript:", re.IGNORECASE)


def checked_svg(text: str, name: str) -> str:
    """Give the text back if it is an SVG without scripts, handlers and references to anything outside of it.

    Raises:
        DataError: it is not.
    """
    # None of them is in what we write, and where they end is not the same in HTML as in XML.
    if "<!" in text or "<?" in text:
        raise DataError(f"{name} is not a drawing of ours: it has a declaration, an instruction or a comment.")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{name} is damaged: {error}.") from error
    for element in root.iter():
        tag = element.tag.rpartition("}")[2]
        if tag not in _SHAPES | _AROUND:
            raise DataError(f"{name} is not a drawing of ours: it has an element {tag!r}.")
        for key, value in element.attrib.items():
            attribute = key.rpartition("}")[2].lower()
            if attribute.startswith("on") or (attribute == "href" and not _LINK.fullmatch(value)):
                raise DataError(f"{name} is not a drawing of ours: it has an attribute {attribute!r}.")
            if _ADDRESS.search(value):
                raise DataError(f"{name} is not a drawing of ours: it refers to something outside.")
    return text
