"""``mixfit serve``: a finished run behind HTTP."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mixfit.errors import ConfigError, ResourceError


def serve(
    run: Path | None = None,
    *,
    model: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    interval: float = 0.9,
    timeout: float = 30.0,
    drain: float = 2.0,
    body_mb: float = 20.0,
    rows: int = 256,
    queue: int = 512,
    batch: int = 16,
    threads: int = 1,
    text_model: Path | None = None,
) -> None:
    """Serve a finished run: an HTTP API for programs, and a form for people at /.

    Predictions are those of mixfit predict for the same cells and photos. It ends on Ctrl-C or SIGTERM, once all
    answers that have begun are given; on SIGHUP it reads the model folders again.

    Parameters
    ----------
    run
        Run folder, model folder, or file of mixfit export (.onnx).
    model
        NAME=RUN serves a further run or file under a name, for requests with ?model=NAME; may be repeated.
    host
        Address to listen on; any other than that of this machine itself needs a token.
    port
        Port to listen on; 0 for a free one.
    token
        Token that requests must carry, as Authorization: Bearer or as a password; better set MIXFIT_TOKEN, which other
        users of the machine do not see.
    interval
        Coverage of the intervals of predicted numbers, unless a request asks for another one.
    timeout
        Seconds that a client may take for headers, body and reading, and that an answer may take.
    drain
        Seconds between SIGTERM, from which on /readyz answers 503, and the end of listening.
    body_mb
        Largest body of a request in megabytes.
    rows
        Largest number of rows of a request.
    queue
        Largest number of rows that wait; further requests are answered with 503 and Retry-After.
    batch
        Largest number of rows of different requests that are predicted together.
    threads
        Threads that one batch takes; as many batches are predicted at a time as the cores have room for. More give a
        single client its answer sooner, and many clients fewer answers.
    text_model
        Folder of the text model, if a model was trained with one from a folder.
    """
    try:
        from mixfit.serve.run import DEFAULT
        from mixfit.serve.run import serve as run_server
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mixfit"):
            raise
        raise ResourceError(
            f"mixfit serve needs {error.name}, which is not installed: pip install 'mixfit[serve]'."
        ) from error
    from mixfit.serve.settings import ServeSettings, token_of_environment

    runs = ({} if run is None else {DEFAULT: run}) | _named(model)
    if not runs:
        raise ConfigError("Name a run to serve: mixfit serve RUN, or --model NAME=RUN.")
    settings = ServeSettings(
        host=host,
        port=port,
        token=token_of_environment() if token is None else token,
        interval=interval,
        timeout=timeout,
        drain=drain,
        body_mb=body_mb,
        rows=rows,
        queue=queue,
        batch=batch,
        threads=threads,
    )
    run_server(runs, settings, text_model=text_model)


def _named(texts: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--model must be NAME=RUN, such as --model houses=runs/houses-price-001, got {text!r}.")
        if name in found:
            raise ConfigError(f"--model names {name!r} twice.")
        found[name] = Path(path)
    return found
