"""A page that predicts in the browser: a folder that is opened by a double click, without a server or a network.

In: an exported file, and onnxruntime-web. Out: ``index.html``, a form made from the metadata of the file;
``model.onnx``; and both it and onnxruntime-web as scripts, as a page that is opened from a disk may load scripts, but
no other files.

onnxruntime-web is no part of mixfit's source. ``make runtime`` puts it into the package, and so into the wheel; without
that, it is taken from ``node_modules`` or from where the user says."""

import base64
import gzip
import hashlib
import json
import tarfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

import mixfit
from mixfit.data.columns.category import CategoryColumn
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.tags import TagsColumn
from mixfit.errors import ConfigError, DataError, ResourceError
from mixfit.files import new_folder, write_file

RUNTIME = "1.30.0"
"""Version of onnxruntime-web."""
_FILES = {
    "ort.wasm.min.js": "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""What of its folder ``dist`` the page needs, with sha256."""
_INSTALLED = Path("node_modules/onnxruntime-web")
_HOW = (
    f"get it once by: npm pack onnxruntime-web@{RUNTIME}, and give --runtime onnxruntime-web-{RUNTIME}.tgz; or: npm "
    f"install onnxruntime-web@{RUNTIME}, in the folder that mixfit runs in"
)
_MOST_LEVELS = 500
"""Suggestions of a field."""


def read_runtime(given: Path | None = None) -> dict[str, bytes]:
    """The files of onnxruntime-web, by name.

    Args:
        given: the archive of ``npm pack``, or the folder of the package; by default the files in mixfit's own package,
            or in ``node_modules``.
    Raises:
        ResourceError: they are not there.
        DataError: they are those of another version, or damaged.
    """
    own = files("mixfit.export").joinpath("onnxruntime_web")
    if given is not None:
        if not given.exists():
            raise ResourceError(f"There is no {given}: {_HOW}.")
        found, place = _of_archive(given) if given.is_file() else _of_folder(given), str(given)
    elif own.is_dir():
        found, place = {name: own.joinpath(name).read_bytes() for name in _FILES}, str(own)
    elif _INSTALLED.is_dir():
        found, place = _of_folder(_INSTALLED), str(_INSTALLED)
    else:
        raise ResourceError(f"A page needs onnxruntime-web {RUNTIME}, which this mixfit does not hold: {_HOW}.")
    for name, wanted in _FILES.items():
        if hashlib.sha256(found[name]).hexdigest() != wanted:
            raise DataError(f"{name} in {place} is not that of onnxruntime-web {RUNTIME}: {_HOW}.")
    return found


def _of_folder(folder: Path) -> dict[str, bytes]:
    places = (folder, folder / "dist", folder / "package" / "dist", folder / "onnxruntime-web" / "dist")
    place = next((one for one in places if (one / "ort.wasm.min.js").is_file()), None)
    missing = [name for name in _FILES if place is None or not (place / name).is_file()]
    if place is None or missing:
        raise ResourceError(f"{folder} does not hold onnxruntime-web, as there is no {missing[0]}: {_HOW}.")
    return {name: (place / name).read_bytes() for name in _FILES}


def _of_archive(path: Path) -> dict[str, bytes]:
    found = dict[str, bytes]()
    try:
        with tarfile.open(path) as archive:
            for name in _FILES:
                file = archive.extractfile(f"package/dist/{name}")
                found[name] = b"" if file is None else file.read()
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:
        raise DataError(f"{path} is damaged, or not the archive of onnxruntime-web: {_HOW}.") from error
    return found


def require_possible(meta: Mapping[str, Any]) -> None:
    """Refuse a model whose inputs a page cannot make of what is typed.

    Raises:
        ConfigError: it has sentence embeddings.
    """
    embedded = sorted({one["column"] for one in meta["inputs"] if one["holds"] == "embedding"})
    if embedded:
        names = ", ".join(map(repr, embedded))
        raise ConfigError(
            f"A page cannot make the sentence embeddings that the model needs of {names}: train with --text-model "
            "none, or export an ONNX file and use it with mixfit.onnx_predict."
        )


def write_page(folder: Path, content: bytes, meta: Mapping[str, Any], runtime: Mapping[str, bytes]) -> int:
    """Write the folder, and return its size in bytes.

    Args:
        content, meta: the ONNX file and its metadata.
        runtime: see ``read_runtime``.
    Raises:
        ConfigError: see ``require_possible``.
        ResourceError: the folder exists, or cannot be written.
    """
    require_possible(meta)
    schema, preprocessor = Schema.from_dict(meta["schema"]), TablePreprocessor.from_dict(meta["preprocessor"])
    packed = gzip.compress(runtime["ort-wasm-simd-threaded.wasm"], mtime=0)
    glue = json.dumps(runtime["ort-wasm-simd-threaded.mjs"].decode())
    parts: dict[str, bytes | str] = {
        "index.html": _html(meta, schema, preprocessor),
        "model.onnx": content,
        "model.js": f'"use strict";\nconst MIXFIT_MODEL = "{base64.b64encode(content).decode()}";\n',
        "runtime.js": runtime["ort.wasm.min.js"].decode()
        + f'\nconst MIXFIT_RUNTIME = {{ glue: {glue}, wasm: "{base64.b64encode(packed).decode()}" }};\n',
    }
    size = 0
    with new_folder(folder) as new:
        for name, part in parts.items():
            write_file(new / name, part)
            size += (new / name).stat().st_size
    return size


def _html(meta: Mapping[str, Any], schema: Schema, preprocessor: TablePreprocessor) -> str:
    states = {state.name: state for state in preprocessor.columns}
    levels = {name: _levels(state) for name, state in states.items()}
    roles = {one.name: one for one in schema.columns if one.name in schema.inputs}
    known = {
        "inputs": meta["inputs"],
        "photos": meta["photos"],
        "text": meta["text"],
        "classes": meta["classes"],
        "level": meta["level"],
        "unit": meta["units"].get(meta["target"]),
        "forms": {
            name: {
                "keys": one.form.keys,
                "clock": bool(one.form.clock),
                "between": getattr(states.get(name), "between", None),
                "levels": levels.get(name, []),
            }
            for name, one in roles.items()
        },
    }
    used = {one["column"] for one in meta["inputs"]} | set(meta["photos"]["columns"] if meta["photos"] else ())
    fields = [
        {
            "name": name,
            "kind": one.role,
            "unit": one.form.unit,
            "levels": levels.get(name, [])[:_MOST_LEVELS],
            "hint": _hint(one.role, known["forms"][name]),
        }
        for name, one in roles.items()
        if name in used
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_resource("page.html.j2")).render(
        target=meta["target"],
        fields=fields,
        version=mixfit.__version__,
        sha256=meta["weights_sha256"],
        licence=meta["licence"],
        runtime=RUNTIME,
        # Within a script, "<" could end it.
        model=json.dumps(known, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        script=_resource("page.js"),
        style=_resource("page.css"),
    )


def _levels(state: object) -> list[str]:
    """Levels of a category, or tags, that the model knows."""
    if isinstance(state, TagsColumn):
        return list(state.tags)
    return (
        [*state.levels, *getattr(state, "rare", ())]
        if isinstance(state, CategoryColumn)
        else list(getattr(state, "levels", ()))
    )


def _hint(role: str, form: Mapping[str, Any]) -> str:
    """How a field is filled in."""
    match role:
        case "date":
            return "For instance 18:30" if form["clock"] else "For instance 2020-01-31, or 2020-01-31 18:30"
        case "tags":
            sign = "," if form["between"] == "list" else form["between"]
            return f"Several with {sign} between them, for instance: {f'{sign} '.join(form['levels'][:2])}"
        case "image":
            return "One or several photos; choose them, or drop them here"
        case "number":
            return "A plain number, such as 1234.5"
    return ""


def _resource(name: str) -> str:
    return files("mixfit.export").joinpath(name).read_text(encoding="utf-8")
