"""The form for people: one page made on the server from the columns of a model, which needs no script.

In: a ``Service``. Out: the paths / and /form.css. Names and levels of columns are untrusted: the template escapes all
of them."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response

from mixfit.serve.asked import Asked, Cell
from mixfit.serve.facts import MOST_LEVELS, ColumnFact, unit_of_target
from mixfit.serve.model import ServedModel
from mixfit.serve.problems import Problem
from mixfit.serve.service import Files, Service, Texts


def add_form(app: FastAPI, service: Service) -> None:
    """Add the paths of the form."""

    @app.get("/", include_in_schema=False)
    async def form(model: str | None = None) -> Response:
        return _page(service, service.model(model), {})

    @app.post("/", include_in_schema=False)
    async def answered(request: Request, model: str | None = None) -> Response:
        served = service.model(model)
        try:
            texts, photos = await service.parts(request)
        except Problem as problem:
            return _page(service, served, {}, problem=problem)
        written = dict(texts)
        try:
            service.require_ready()
            asked = asked_of_form(texts, photos, served)
            if served.explains:
                answer, (explained,) = await service.explain(request, served, asked)
            else:
                answer, explained = await service.predict(request, served, asked), None
        except Problem as problem:
            return _page(service, served, written, problem=problem)
        return _page(service, served, written, row=answer.rows[0], explained=explained)

    @app.get("/form.css", include_in_schema=False)
    async def style() -> Response:
        return Response(_resource("form.css"), media_type="text/css; charset=utf-8")


def asked_of_form(texts: Texts, photos: Files, model: ServedModel) -> Asked:
    """The row of a filled form; fields are numbered as the facts of the model are.

    Raises:
        Problem: a photo belongs to no field.
    """
    written = dict(texts)
    cells: dict[str, Cell] = {}
    inputs = [one for one in model.facts if one.role != "image"]
    for place, one in enumerate(model.facts):
        if one in inputs:
            cells[one.name] = _cell(written.get(f"c{place}", ""), one)
    by_field = {f"c{place}": one.name for place, one in enumerate(model.facts) if one.role == "image"}
    found: dict[str, tuple[bytes, ...]] = dict.fromkeys(by_field.values(), ())
    for name, content in photos:
        if name not in by_field:
            raise Problem(422, "A photo belongs to no field of this form.", name[:80])
        found[by_field[name]] += (content,)
    return Asked(rows=(cells,), photos=(found,), interval=None)


def _cell(text: str, one: ColumnFact) -> Cell:
    text = text.strip()
    if not text:
        return None
    if one.role == "number":
        try:
            return float(text)
        except ValueError:
            return text
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """An input of the form."""

    id: str
    fact: ColumnFact
    value: str

    @property
    def kind(self) -> str:
        """Which input it is."""
        if self.fact.role == "date":
            plain = len(str(self.fact.example)) == len("2020-01-31") and self.fact.first.count("-") == 2
            return "date" if plain else "text"
        return {"image": "file", "text": "long", "number": "number"}.get(self.fact.role, "text")

    @property
    def hint(self) -> str:
        """What was seen in training."""
        one = self.fact
        if one.low is not None and one.high is not None:
            return f"In training {one.low:g} to {one.high:g}{f' {one.unit}' if one.unit else ''}"
        if one.first:
            return f"In training {one.first} to {one.last}"
        if one.role == "image":
            return "One or several photos; choose them, or drop them here"
        return f"For instance {_shown(one.example)}" if one.example is not None else ""

    @property
    def levels(self) -> tuple[str, ...]:
        """Suggestions."""
        return self.fact.levels[:MOST_LEVELS] if self.kind == "text" else ()


def _shown(example: object) -> str:
    return ", ".join(map(str, example)) if isinstance(example, list) else str(example)


def _page(
    service: Service,
    model: ServedModel,
    written: dict[str, str],
    *,
    row: dict[str, Any] | None = None,
    explained: dict[str, Any] | None = None,
    problem: Problem | None = None,
) -> Response:
    fields = [
        _Field(id=f"c{place}", fact=one, value=written.get(f"c{place}", "")) for place, one in enumerate(model.facts)
    ]
    page = _template().render(
        model=model,
        models=list(service.models),
        fields=fields,
        target=model.schema.target,
        unit=unit_of_target(model.schema),
        row=row,
        explained=None if explained is None else _moved(explained),
        problem=problem,
        limit=service.settings.body_mb,
    )
    status, headers = (200, {}) if problem is None else (problem.status, problem.headers)
    return HTMLResponse(page, status, headers=headers)


def _moved(explained: dict[str, Any]) -> dict[str, Any]:
    """What moved a prediction, with bars from the middle, in percent of the width."""
    largest = max((abs(one["part"] or 0.0) for one in explained["parts"]), default=0.0) or 1.0
    parts = []
    for one in explained["parts"]:
        part = one["part"] or 0.0
        width = round(50 * abs(part) / largest, 1)
        parts.append(one | {"less": part < 0, "width": width, "left": 50.0 if part >= 0 else round(50 - width, 1)})
    rows, source = explained["compared_with"]["rows"], explained["compared_with"]["source"]
    return explained | {"parts": parts, "compared_with": source if rows == 1 else f"{rows} typical {source}"}


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: "not finite" if value is None else f"{value:,.6g}"
    environment.filters["percent"] = lambda value: "" if value is None else f"{100 * value:.1f} %"
    return environment.from_string(_resource("form.html.j2"))


@cache
def _resource(name: str) -> str:
    return files("mixfit.serve").joinpath(name).read_text(encoding="utf-8")
