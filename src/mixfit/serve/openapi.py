"""The OpenAPI document: what FastAPI knows of the paths, with bodies, answers and examples of the models at hand."""

from typing import TYPE_CHECKING, Any

import pandas as pd
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from mixfit.serve.facts import ColumnFact, example_row
from mixfit.serve.model import ServedModel
from mixfit.serve.tables import SHA256

if TYPE_CHECKING:
    from mixfit.serve.service import Service

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "where"],
            "properties": {"message": {"type": "string"}, "where": {"type": ["string", "null"]}},
        }
    },
}
_REFUSED = {
    "400": "Not strict JSON, or damaged parts",
    "401": "The token is missing or wrong",
    "404": "There is no such model",
    "408": "The body did not arrive in time",
    "413": "Larger than a limit of the server",
    "415": "Another content type",
    "422": "A value cannot be used; where says which",
    "503": "No place, or not ready: Retry-After says when to come back",
}
_ALWAYS = ("400", "401")


def document(app: FastAPI, service: "Service") -> dict[str, Any]:
    """The document for the models as they are now."""
    found = get_openapi(title=app.title, version=app.version, routes=app.routes)
    model = service.model(None)
    for path, methods in found["paths"].items():
        for operation in methods.values():
            responses = operation.setdefault("responses", {})
            responses.pop("422", None)
            which = (
                _REFUSED if path.startswith(("/predict", "/explain")) else {code: _REFUSED[code] for code in _ALWAYS}
            )
            if path == "/schema":
                which = {**which, "404": _REFUSED["404"]}
            if path in ("/readyz", "/reload"):
                which = {**which, "503": _REFUSED["503"]}
            if path == "/reload":
                which = {**which, "403": "The server has no token", "409": "A model folder cannot be used"}
            for code, said in which.items():
                content = _ERROR if path != "/readyz" else {"type": "object"}
                responses[code] = {"description": said, "content": {"application/json": {"schema": content}}}
    _describe_predict(found["paths"]["/predict"]["post"], model, _answer(model))
    _describe_predict(found["paths"]["/explain"]["post"], model, _explained(model))
    _describe_batch(found["paths"]["/predict/batch"]["post"], model)
    found.get("components", {}).get("schemas", {}).pop("HTTPValidationError", None)
    found.get("components", {}).get("schemas", {}).pop("ValidationError", None)
    if service.settings.token is not None:
        found.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found


def _describe_predict(operation: dict[str, Any], model: ServedModel, answer: dict[str, Any]) -> None:
    row = {
        "type": "object",
        "required": [one.name for one in model.facts if one.role != "image"],
        "properties": {one.name: _cell(one) for one in model.facts},
    }
    example = example_row(model.facts)
    body = {
        "type": "object",
        "properties": {
            "row": row,
            "rows": {"type": "array", "items": row, "minItems": 1},
            "interval": {"type": ["number", "null"], "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        },
        "additionalProperties": False,
    }
    images = [one.name for one in model.facts if one.role == "image"]
    files = {
        image: {"type": "array", "items": {"type": "string", "contentMediaType": "application/octet-stream"}}
        for image in images
    }
    cells = {name: value for name, value in example.items() if name not in images}
    operation["description"] = (
        "One of `row` and `rows`, with null where a value is not known. Photos are bytes, never paths or URLs: files "
        "named by their column (`photo`, or `photo[0]` for the first of several rows), or base64 in JSON."
    )
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": body, "example": {"row": example}},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"row": row, **files}},
                "encoding": {"row": {"contentType": "application/json"}},
                "example": {"row": cells},
            },
        },
    }
    operation["responses"]["200"] = {
        "description": "A prediction for each row, in their order",
        "content": {"application/json": {"schema": answer}},
    }


def _describe_batch(operation: dict[str, Any], model: ServedModel) -> None:
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    parts = {"type": "object", "required": ["table"], "properties": {"table": file, "photos": file}}
    operation["description"] = (
        "A CSV or Parquet table, alone or as the file `table` beside the file `photos`, a zip archive that the photo "
        "paths in the table are relative to. No other file is ever read."
    )
    operation["requestBody"] = {
        "required": True,
        "content": {
            "text/csv": {"schema": {"type": "string"}, "example": _csv(model)},
            "application/vnd.apache.parquet": {"schema": file},
            "multipart/form-data": {"schema": parts},
        },
    }
    row = _answer(model)["properties"]["predictions"]["items"]
    line = {**row, "properties": {"row": {"type": "integer"}, **row["properties"]}}
    operation["responses"]["200"] = {
        "description": "A line of JSON for each row, in their order",
        "headers": {SHA256: {"description": "Hash of the model", "schema": {"type": "string"}}},
        "content": {"application/jsonl": {"schema": line}},
    }


def _csv(model: ServedModel) -> str:
    """A table of one row of examples."""
    row = example_row(model.facts)
    cells = {name: ";".join(cell) if isinstance(cell, list) else cell for name, cell in row.items()}
    return pd.DataFrame([cells]).to_csv(index=False)


def _cell(one: ColumnFact) -> dict[str, Any]:
    """The schema of a cell: lenient, as cells that cannot be used are reported in the status of their row."""
    types = ["number", "string", "boolean", "null"]
    if one.role == "image":
        types = ["string", "array", "null"]
    elif isinstance(one.example, list):
        types = ["array", "string", "null"]
    found: dict[str, Any] = {"type": types, "description": _about(one), "examples": [one.example]}
    if "array" in types:
        found["items"] = {"type": "string"}
    return found


def _about(one: ColumnFact) -> str:
    """A line on a column."""
    said = [one.role, *([f"in {one.unit}"] if one.unit else [])]
    if one.low is not None:
        said.append(f"{one.low:g} to {one.high:g} in training")
    if one.first:
        said.append(f"{one.first} to {one.last} in training")
    if one.levels:
        more = ", ..." if len(one.levels) > 5 else ""
        said.append(f"such as {', '.join(one.levels[:5])}{more}")
    return "; ".join(said)


def _answer(model: ServedModel) -> dict[str, Any]:
    number = {"type": ["number", "null"]}
    classes = model.classes
    row: dict[str, Any] = {"status": {"type": "string"}}
    if classes is None:
        bounds = {"level": number, "lower": number, "upper": number}
        row |= {"prediction": number, "interval": {"type": "object", "properties": bounds}}
    else:
        listed = {"level": number, "classes": {"type": "array", "items": {"type": "string"}}}
        row |= {
            "prediction": {"type": "string", "enum": list(classes)},
            "probabilities": {"type": "object", "properties": dict.fromkeys(classes, number)},
            "prediction_set": {"type": "object", "properties": listed},
        }
    named = {"type": "object", "properties": {"name": {"type": "string"}, "sha256": {"type": "string"}}}
    rows = {"type": "array", "items": {"type": "object", "required": ["prediction", "status"], "properties": row}}
    return {
        "type": "object",
        "required": ["model", "predictions"],
        "properties": {"model": named, "predictions": rows},
    }


def _explained(model: ServedModel) -> dict[str, Any]:
    """An answer of /explain."""
    number, text = {"type": ["number", "null"]}, {"type": "string"}
    part = {
        "column": text,
        "kind": {"enum": ["table", "text", "photos"]},
        "part": number,
        "error": number,
        "said": text,
    }
    picture = {"column": text, "photo": {"type": "integer"}, "png": {**text, "contentEncoding": "base64"}}
    said = {
        "about": text,
        "compared_with": {"type": "object", "properties": {"rows": {"type": "integer"}, "source": text}},
        "scale": {"enum": ["number", "logarithm", "probability"]},
        "exact": {"type": "boolean"},
        "explained": text,
        "value": number,
        "base": number,
        "parts": {"type": "array", "items": {"type": "object", "properties": part}},
        "sides": {"type": "object", "properties": dict.fromkeys(("table", "text", "photos", "interaction"), number)},
        "heat": {"type": "array", "items": {"type": "object", "properties": picture}},
        "heat_note": text,
    }
    found = _answer(model)
    row = found["properties"]["predictions"]["items"]
    row["required"] = [*row["required"], "explanation"]
    row["properties"] = {**row["properties"], "explanation": {"type": "object", "properties": said}}
    return found
