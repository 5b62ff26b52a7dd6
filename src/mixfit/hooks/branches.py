"""Which branch of a model a layer or a parameter belongs to, told from its name."""

from collections.abc import Mapping

MIXED_BRANCHES: Mapping[str, str] = {
    "tabular": "table",
    "image": "photos",
    "fusion": "fusion and head",
    "head": "fusion and head",
    "auxiliary": "fusion and head",
}
"""Of a ``MixedInputModel``: beginnings of names, and the branch of what begins so."""


def branch_of(name: str, branches: Mapping[str, str] = MIXED_BRANCHES) -> str:
    """The branch of a name; where none is given, the first part of the name, which is a child of the model.

    >>> branch_of("image.backbone.conv1"), branch_of("encoder.0.weight"), branch_of("")
    ('photos', 'encoder', '')
    >>> branch_of("encoder.0.weight", {"encoder": "words", "encoder.0": "letters"})
    'letters'
    """
    parts = name.split(".")
    for end in range(len(parts), 0, -1):  # the longest beginning that is given
        beginning = ".".join(parts[:end])
        if beginning in branches:
            return branches[beginning]
    return parts[0]
