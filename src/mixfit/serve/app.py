"""The paths of the server. In: a ``Service``. Out: an ASGI application.

/predict and /explain answer programs, / is a form for people; /schema and /openapi.json say what may be sent, with
examples of the model at hand; /healthz, /readyz, /metrics and /reload are for whoever runs it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

import mixfit
from mixfit.serve.asked import level_of_text
from mixfit.serve.facts import unit_of_target
from mixfit.serve.form import add_form
from mixfit.serve.guard import BUG, Guard
from mixfit.serve.model import ServedModel
from mixfit.serve.openapi import document
from mixfit.serve.problems import Problem
from mixfit.serve.service import Service, answer_dict, explained_dict
from mixfit.serve.tables import predict_table

ModelName = Annotated[str | None, Query(description="Name of the model; by default the first.")]
Interval = Annotated[str | None, Query(description="Coverage of intervals or sets, in (0, 1), such as 0.9.")]


def make_app(service: Service) -> ASGIApp:
    """The application around a service, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(title="mixfit", version=mixfit.__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    _add_errors(app)
    _add_health(app, service)
    _add_model(app, service)
    add_form(app, service)
    app.openapi = lambda: document(app, service)  # type: ignore[method-assign]
    paths = tuple(route.path for route in app.routes if hasattr(route, "path"))
    return Guard(app, service.settings, service.metrics, paths)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return JSONResponse(error.to_dict(), error.status, headers=error.headers)

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return JSONResponse(BUG.to_dict(), BUG.status)  # the guard logs where

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        said = Problem(error.status_code, f"{error.detail}: see /openapi.json for what there is.")
        return JSONResponse(said.to_dict(), error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def query(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        said = Problem(422, f"{first['msg']}.", ".".join(map(str, first["loc"])))
        return JSONResponse(said.to_dict(), 422)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether requests should be sent here")
    async def readyz() -> Response:
        status = "ending" if service.draining else "ready" if service.ready else "starting"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/reload", summary="Read the model folders again")
    async def reload() -> dict[str, Any]:
        if service.settings.token is None:
            raise Problem(403, "This server has no token: start it with one, or send the process SIGHUP.")
        service.require_ready()
        return await service.reload()


def _add_model(app: FastAPI, service: Service) -> None:
    @app.get("/schema", summary="What the model needs to know of a row")
    async def schema(model: ModelName = None) -> dict[str, Any]:
        return schema_of(service, service.model(model))

    @app.post("/predict", summary="Predict rows")
    async def predict(request: Request, model: ModelName = None, interval: Interval = None) -> Response:
        service.require_ready()
        served, level = service.model(model), level_of_text(interval)
        asked = await service.asked(request, served)
        answer = await service.predict(request, served, asked if level is None else asked.at(level))
        return JSONResponse(answer_dict(served, answer))

    @app.post("/explain", summary="Predict rows, and say what moved each prediction")
    async def explain(request: Request, model: ModelName = None, interval: Interval = None) -> Response:
        service.require_ready()
        served, level = service.model(model), level_of_text(interval)
        asked = await service.asked(request, served)
        answer, found = await service.explain(request, served, asked if level is None else asked.at(level))
        return JSONResponse(explained_dict(served, answer, found))

    @app.post("/predict/batch", summary="Predict a table, streamed back as lines of JSON")
    async def batch(request: Request, model: ModelName = None, interval: Interval = None) -> Response:
        service.require_ready()
        return await predict_table(service, request, service.model(model), level_of_text(interval))


def schema_of(service: Service, model: ServedModel) -> dict[str, Any]:
    """What a client must know of a model."""
    settings = service.settings
    return {
        "model": model.identity,
        "models": list(service.models),
        "task": model.schema.task,
        "target": {
            "name": model.schema.target,
            "unit": unit_of_target(model.schema),
            "classes": None if model.classes is None else list(model.classes),
        },
        "interval": model.level,
        "photos": bool(model.images),
        "columns": [one.to_dict() for one in model.facts],
        "limits": {
            "rows": settings.rows,
            "rows_to_explain": settings.explained,
            "photos": settings.parts,
            "bytes": settings.most_body,
            "pixels_of_a_photo": settings.most_pixels,
        },
    }
