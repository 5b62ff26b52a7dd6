"""The command line: typed functions that hand over to the package; a user's mistake ends in one sentence.

Heavy imports stay inside the commands, so that ``mixfit --help`` is there at once."""

import json as json_module
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

import mixfit
from mixfit import config_file
from mixfit.choices import ROLES, Role
from mixfit.config import DataConfig, ModelConfig, TextConfig, TrainConfig
from mixfit.errors import ConfigError, MixfitError, ResourceError
from mixfit.suggest import did_you_mean

if TYPE_CHECKING:
    from mixfit.data.cache import Cache
    from mixfit.results import Run

app = App(
    name="mixfit",
    version=mixfit.__version__,
    help="Train one model on table rows together with their photos.\n\nStart with: mixfit demo",
    help_epilogue="Exit codes: 0 ok, 1 a bug of ours, 2 usage, 3 data, 4 resources, 5 diverged, "
    "75 stopped with everything saved, 130 interrupted.",
    config=config_file.lay_under,
)

Flat = Parameter(name="*")
SetRoles = Annotated[tuple[str, ...], Parameter(name="--set", negative=())]


@app.command
def demo(*, out: Path = Path("mixfit-demo"), train: Annotated[TrainConfig | None, Flat] = None) -> None:
    """Draw the embedded example, train on it and write a report.

    Parameters
    ----------
    out
        Folder for the example's table, its pictures and the run.
    """
    from mixfit.demo import DEMO_TARGET, write_demo
    from mixfit.recipe import fit

    print(f" drawing the example into {out}", flush=True)
    fit(
        write_demo(out / "vases"),
        target=DEMO_TARGET,
        train=train or TrainConfig(preset="quick"),
        out=out / "runs",
        command=_shown_command(sys.argv[1:]),
    )


@app.command
def inspect(
    table: Path,
    *,
    target: str,
    set_: SetRoles = (),
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    data: Annotated[DataConfig | None, Flat] = None,
) -> None:
    """Show what each column is taken for, and what is missing, broken or suspicious.

    Parameters
    ----------
    table
        CSV, TSV, Parquet, Feather or JSON Lines; photo paths in it start from its folder.
    target
        Column to predict.
    set_
        COLUMN=ROLE, to set a role: number, category, date, image, group, split, weight or ignored.
    out
        New folder for inspect.html and schema.json; by default one under runs/.
    json
        Print one JSON object and nothing else.
    """
    from mixfit.inspection import inspect_table

    raise SystemExit(inspect_table(table, target=target, config=_with_roles(data, set_), out=out, as_json=json))


@app.command
def train(
    table: Path | None = None,
    *,
    target: str | None = None,
    resume: Path | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
    set_: SetRoles = (),
    config: Path | None = None,
    schema: Path | None = None,
    out: Path = Path("runs"),
    json: Annotated[bool, Parameter(negative=())] = False,
    doctor: Annotated[bool, Parameter(negative=())] = False,
    data: Annotated[DataConfig | None, Flat] = None,
    model: Annotated[ModelConfig | None, Flat] = None,
    train: Annotated[TrainConfig | None, Flat] = None,
) -> None:
    """Train on a table and its photos; write weights, metrics and a report into a new run folder.

    Parameters
    ----------
    table
        CSV, TSV, Parquet, Feather or JSON Lines; photo paths in it start from its folder.
    target
        Column to predict.
    resume
        Run folder of a training that was stopped, to go on with it; it says all the settings itself.
    force
        Resume though the table or its photos have changed.
    set_
        COLUMN=ROLE, to set a role: number, category, date, image, group, split, weight or ignored.
    config
        TOML file with settings, such as a run's config.toml; it may name table and target, and flags win over it.
    schema
        A schema.json, perhaps edited, to use in place of inferred roles.
    out
        Folder in which the run folder is made.
    json
        Print one JSON object a line, for other programs: the start, every epoch, the end, the run.
    doctor
        Watch the network (of --preset network) while it trains, and say what is wrong with it; to be given again
        with --resume.
    """
    from mixfit import recipe

    spoken = _json_lines() if json else {}
    if doctor:
        if resume is None and (train or TrainConfig()).preset != "network":
            raise ConfigError("--doctor examines the training of one network: give --preset network with it.")
        spoken["callbacks"] = [*spoken.get("callbacks", []), mixfit.Doctor()]
    if resume is not None:
        _refuse_settings(target, set_, config, schema, data, model, train)
        run = recipe.resume(resume, table=table, force=force, command=_shown_command(sys.argv[1:]), **spoken)
        _say_run(run, as_json=json)
        return
    if table is None or target is None:
        raise ConfigError(
            "mixfit train needs a table and --target COLUMN (or a --config that names them), or --resume RUN."
        )
    run = recipe.fit(
        table,
        target=target,
        data=_with_roles(data, set_),
        model=model,
        train=train,
        schema=schema,
        out=out,
        command=_shown_command(sys.argv[1:]),
        **spoken,
    )
    _say_run(run, as_json=json)


@app.command
def tune(
    table: Path,
    *,
    target: str,
    trials: int = 20,
    set_: SetRoles = (),
    config: Path | None = None,
    schema: Path | None = None,
    out: Path = Path("tune"),
    data: Annotated[DataConfig | None, Flat] = None,
    model: Annotated[ModelConfig | None, Flat] = None,
    train: Annotated[TrainConfig | None, Flat] = None,
) -> None:
    """Search for better settings of train; the same command goes on with a search, also in several processes at once.

    The time that --time gives is that of the search, after which no trial is begun and the running one is given up.

    Parameters
    ----------
    table
        CSV, TSV, Parquet, Feather or JSON Lines; photo paths in it start from its folder.
    target
        Column to predict.
    trials
        How many trainings there shall be in all; the first has the settings that are given here.
    set_
        COLUMN=ROLE, to set a role: number, category, date, image, group, split, weight or ignored.
    config
        TOML file with settings around which to search; flags win over it.
    schema
        A schema.json, perhaps edited, to use in place of inferred roles.
    out
        Folder in which the search's folder is made; best.toml in there is for train --config.
    """
    from mixfit.tuning.run import tune as search

    roles = _with_roles(data, set_)
    search(table, target=target, trials=trials, data=roles, model=model, train=train, schema=schema, out=out)


@app.command
def config() -> None:
    """Print all settings of train with their defaults and explanations, as a file for --config."""
    print(config_file.describe_settings(), end="")


@app.command
def evaluate(
    run: Path,
    table: Path,
    *,
    split: Literal["train", "valid", "test", "all"] | None = None,
    images: Path | None = None,
    out: Path | None = None,
    cache: Path | None = None,
    cache_gb: float = 20.0,
    text: Annotated[TextConfig | None, Flat] = None,
) -> None:
    """Score a trained model on the rows of a table that has the target.

    Parameters
    ----------
    run
        Run folder or model folder.
    table
        Table with the target column.
    split
        Which rows; by default test for the table that the run was trained on, and all rows of any other.
    images
        Folder that the photo paths start from; by default the table's folder.
    out
        JSON file for the metrics; by default metrics-SPLIT.json in the run folder.
    cache
        Folder where image features are kept; by default MIXFIT_CACHE or the user's cache folder.
    cache_gb
        The most that the cache folder may hold, in gigabytes; 0 for no cache.
    """
    from mixfit.scoring import evaluate_table

    kept = _configured_cache(cache, cache_gb)
    evaluate_table(run, table, split=split, images=images, out=out, text=text, cache=kept)


@app.command
def predict(
    run: Path,
    table: Path,
    *,
    out: Annotated[Path, Parameter(name=("--out", "-o"))],
    images: Path | None = None,
    bad_rows: Literal["mark", "drop", "fail"] = "mark",
    raw_csv: Annotated[bool, Parameter(negative=())] = False,
    interval: float | None = None,
    cache: Path | None = None,
    cache_gb: float = 20.0,
    text: Annotated[TextConfig | None, Flat] = None,
) -> None:
    """Predict new rows; the same columns come back with prediction and status.

    Parameters
    ----------
    run
        Run folder or model folder.
    table
        Table with new rows; no target needed.
    out
        File to write: CSV, TSV, Parquet or JSON Lines by its ending.
    images
        Folder that the photo paths start from; by default the table's folder.
    bad_rows
        What to do with rows whose cells or photos are broken: mark them in the status, drop them, or fail.
    raw_csv
        Write text cells that a spreadsheet would run as formulas as they are.
    interval
        Share of rows, such as 0.9, whose truth shall lie between lower and upper, or in prediction_set.
    cache
        Folder where image features are kept; by default MIXFIT_CACHE or the user's cache folder.
    cache_gb
        The most that the cache folder may hold, in gigabytes; 0 for no cache.
    """
    from mixfit.scoring import predict_table

    kept = _configured_cache(cache, cache_gb)
    predict_table(
        run,
        table,
        out=out,
        images=images,
        bad_rows=bad_rows,
        raw_csv=raw_csv,
        interval=interval,
        text=text,
        cache=kept,
    )


@app.command
def cache(*, clear: Annotated[bool, Parameter(negative=())] = False, cache: Path | None = None) -> None:
    """Show the decoded photos and image features that are kept from run to run, or remove them.

    Parameters
    ----------
    clear
        Remove them; they are made anew when they are needed.
    cache
        The folder; by default MIXFIT_CACHE or the user's cache folder.
    """
    from mixfit.data.cache import clear as remove
    from mixfit.data.cache import default_folder, list_stores

    folder = default_folder() if cache is None else cache
    stores, kept = remove(folder) if clear else (list_stores(folder), [])
    print(f" {folder}{'   cleared:' if clear else ''}")
    for store in stores:
        print(f"   {store.folder.name:<52}{store.records:>10,} photos{store.bytes / 1e6:>12,.1f} MB")
    print(f"   {len(stores)} stores, {sum(store.bytes for store in stores) / 1e6:,.1f} MB")
    if kept:
        raise ResourceError(f"{len(kept)} of the stores are in use and stay, the first is {kept[0].folder.name}.")


def _json_lines() -> dict[str, Any]:
    """What makes a run speak to programs alone."""
    from rich.console import Console

    from mixfit.training.callbacks.json_lines import JsonLines

    return {"console": Console(quiet=True), "callbacks": [JsonLines(sys.stdout)]}


def _say_run(run: "Run", *, as_json: bool) -> None:
    if as_json:
        report = str(run.folder / "report.html")
        line: dict[str, Any] = {
            "event": "run",
            "folder": str(run.folder),
            "report": report,
            "verdict": run.comparison.verdict,
        }
        if run.doctor is not None:
            line["findings"] = [asdict(finding) for finding in run.doctor.findings()]
        if run.contest is not None:
            line["choice"] = run.contest.choice
            line["leaderboard"] = [asdict(place) for place in run.contest.leaderboard]
        print(json_module.dumps(line))


def _refuse_settings(*given: object) -> None:
    if any(setting is not None and setting != () for setting in given):
        raise ConfigError("A resumed run has its settings in its folder: leave all flags but --force out.")


def _with_roles(data: DataConfig | None, set_: Sequence[str]) -> DataConfig:
    """Add the roles of ``--set COLUMN=ROLE`` to the configuration."""
    pairs: dict[str, Role] = {}
    for text in set_:
        column, equals, role = text.rpartition("=")
        if not equals or not column:
            raise ConfigError(f"--set wants COLUMN=ROLE, for instance --set zipcode=category, got {text!r}.")
        known = next((name for name in ROLES if name == role), None)
        if known is None:
            raise ConfigError(f"no role {role!r}.{did_you_mean(role, ROLES)} roles: {', '.join(ROLES)}")
        pairs[column] = known
    return replace(DataConfig() if data is None else data, roles=pairs)


def _configured_cache(folder: Path | None, limit: float) -> "Cache | None":
    """The cache that --cache and --cache-gb ask for."""
    from mixfit.data.cache import Cache

    settings = DataConfig(cache=folder, cache_gb=limit)
    return Cache.configured(settings, warn=lambda text: print(f" {text}"), progress=sys.stdout.isatty())


def _shown_command(arguments: list[str]) -> str:
    """What was typed, for a page that is shown around: without absolute paths."""
    return shlex.join(["mixfit", *(Path(word).name if Path(word).is_absolute() else word for word in arguments)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    # OpenMP threads spin without end while they wait for each other, which on a busy machine wastes most of the time
    # (docs/LOG.md). Spinning briefly costs nothing on a quiet one. Must be set before torch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sys.exit(_run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(arguments: list[str]) -> int:
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except MixfitError as error:
        return _fail(str(error), error.exit_code)
    except CycloptsError as error:
        # A wrong value that a dataclass refused arrives wrapped; its own sentence is the better one.
        cause = error.__cause__
        return _fail(str(cause if isinstance(cause, MixfitError) else error), ConfigError.exit_code)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output went away, as in `mixfit inspect ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        return _report_bug()
    return 0


def _fail(message: str, code: int) -> int:
    print(f"mixfit: {message}", file=sys.stderr)
    return code


def _report_bug() -> int:
    """Keep the traceback out of the user's sight but not out of reach."""
    with tempfile.NamedTemporaryFile("w", prefix="mixfit-error-", suffix=".log", delete=False) as log:
        traceback.print_exc(file=log)
    return _fail(
        f"this is a bug of mixfit, not a mistake of yours: {sys.exc_info()[1]!r}. "
        f"Please report it together with {log.name}.",
        1,
    )


if __name__ == "__main__":
    main()
