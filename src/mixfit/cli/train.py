"""``mixfit train`` and ``mixfit demo``: the whole pipeline from table to report."""

import json as json_module
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, assert_never

from cyclopts import Parameter

import mixfit
from mixfit.cli.flags import EngineName, Flat, SetRoles, Switch, chosen_fits, shown_command, with_roles
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.config_file import naming_the_file
from mixfit.errors import ConfigError

if TYPE_CHECKING:
    from mixfit.runs.results import Run
    from mixfit.training.callbacks.tracking import Tracker

LISTED = "list"
"""In place of a backbone, to list them."""
TrackerName = Literal["mlflow", "tensorboard"]


def demo(
    *,
    out: Path = Path("mixfit-demo"),
    messy: Annotated[bool, Switch] = False,
    train: Annotated[TrainConfig | None, Flat] = None,
) -> None:
    """Generate the built-in example, train on it and write a report.

    Parameters
    ----------
    out
        Folder for the example's table, its images and the run.
    messy
        Generate a messy export: free text, tags, currencies, units, and a folder of photos for each id.
    """
    began = time.monotonic()  # before the imports, which take seconds
    from mixfit.auto.recipe import fit
    from mixfit.demo import DEMO_TARGET, write_demo, write_messy_demo
    from mixfit.files import check_new_folder

    check_new_folder(out)
    print(f" writing the example to {out}", flush=True)
    fit(
        write_messy_demo(out / "listings") if messy else write_demo(out / "vases"),
        target=DEMO_TARGET,
        train=train or TrainConfig(preset="quick"),
        out=out / "runs",
        command=shown_command(sys.argv[1:]),
        began=began,
    )


def train(
    table: Path | None = None,
    *,
    target: str | None = None,
    resume: Path | None = None,
    force: Annotated[bool, Switch] = False,
    set_: SetRoles = (),
    config: Path | None = None,
    schema: Path | None = None,
    out: Path = Path("runs"),
    json: Annotated[bool, Switch] = False,
    doctor: Annotated[bool, Switch] = False,
    track: Annotated[tuple[TrackerName, ...], Parameter(negative=(), show_default=False)] = (),
    engine: EngineName = "local",
    data: Annotated[DataConfig | None, Flat] = None,
    model: Annotated[ModelConfig | None, Flat] = None,
    train: Annotated[TrainConfig | None, Flat] = None,
) -> None:
    """Train on a table with its texts and photos; write weights, metrics and a report into a new run folder.

    Before anything is fitted, the plan says how long it takes: the presets quick, balanced and best take at most about
    30 s, 5 min and 30 min for 10,000 rows on two cores, more for wide tables, beyond image features. Models that
    would take longer are shortened or left out by fixed rules; --time sets a limit for the whole run instead.

    Parameters
    ----------
    table
        CSV, TSV, Parquet, Feather or JSON Lines; photo paths are relative to its folder.
    target
        Column to predict.
    resume
        Run folder of a stopped training to resume; all settings are read from it.
    force
        Resume even if the table or its photos have changed.
    set_
        COLUMN=ROLE sets a role: number, category, ordered, date, text, tags, image, group, split, weight or ignored.
    config
        TOML file with settings, such as a run's config.toml; it may also set table and target. Flags override it.
    schema
        A schema.json, possibly edited, used instead of inferred roles.
    out
        Folder in which the run folder is created.
    json
        Print JSON Lines for other programs: start, each epoch, end, run.
    doctor
        Diagnose the training of the network (needs --preset network); give it again with --resume.
    track
        Log settings, epochs, scores, report and model to mlflow or tensorboard; may be repeated, also with --resume.
    engine
        Where the models of each fold are fitted: in this process, or by ray on all cores of this machine or of the
        cluster of RAY_ADDRESS; give it again with --resume.
    """
    began = time.monotonic()  # before the imports, which take seconds
    if model is not None and model.backbone == LISTED:
        _list_backbones()
        return
    from mixfit.auto import recipe

    spoken: dict[str, Any] = {"began": began} | (_json_lines() if json else {})
    if doctor:
        if resume is None and (train or TrainConfig()).preset != "network":
            raise ConfigError("--doctor diagnoses the training of a single network: add --preset network.")
        spoken["callbacks"] = [*spoken.get("callbacks", []), mixfit.Doctor()]
    if track:
        spoken["callbacks"] = [*spoken.get("callbacks", []), *map(_tracker, dict.fromkeys(track))]
    with chosen_fits(engine, quiet=json) as spoken["fits"]:
        if resume is not None:
            _refuse_settings(target, set_, config, schema, data, model, train)
            run = recipe.resume(resume, table=table, force=force, command=shown_command(sys.argv[1:]), **spoken)
            _say_run(run, as_json=json)
            return
        if table is None or target is None:
            raise ConfigError(
                "mixfit train needs a table and --target COLUMN (or a --config that names them), or --resume RUN."
            )
        roles = with_roles(data, set_, config)
        with naming_the_file(config, table=table, target=target, schema=schema, data=roles, model=model, train=train):
            run = recipe.fit(
                table,
                target=target,
                data=roles,
                model=model,
                train=train,
                schema=schema,
                out=out,
                command=shown_command(sys.argv[1:]),
                **spoken,
            )
        _say_run(run, as_json=json)


def _list_backbones() -> None:
    """Print the image networks that are on this machine."""
    from mixfit.nn.backbones import backbones_on_disk

    print(f" {'--backbone':<40}{'MB':>8}  {'licence':<24}")
    for one in backbones_on_disk():
        print(f" {one.name:<40}{one.bytes / 1e6:>8.1f}  {one.licence:<24}{one.where}")
    print(" Any other model of timm: --backbone NAME --backbone-weights FILE.safetensors")
    print(" with weights under the names of timm, OpenCLIP or DINOv2.")


def _tracker(name: TrackerName) -> "Tracker":
    match name:
        case "mlflow":
            from mixfit.mlflow import MLflow

            return MLflow()
        case "tensorboard":
            from mixfit.training.callbacks.tracking import TensorBoard

            return TensorBoard()
        case _:
            assert_never(name)


def _json_lines() -> dict[str, Any]:
    """Arguments that make a run print JSON Lines only."""
    from rich.console import Console

    from mixfit.training.callbacks.displays import JsonLines

    return {"console": Console(quiet=True), "callbacks": [JsonLines(sys.stdout)]}


def _say_run(run: "Run", *, as_json: bool) -> None:
    from mixfit.files import is_there

    if as_json:
        report = str(run.folder / "report.html") if is_there(run.folder / "report.html") else None
        line: dict[str, Any] = {
            "event": "run",
            "folder": str(run.folder),
            "report": report,
            "verdict": run.result.verdict,
        }
        if run.doctor is not None:
            line["findings"] = [asdict(finding) for finding in run.doctor.findings()]
        if run.contest is not None:
            line["choice"] = run.contest.choice
            line["leaderboard"] = [asdict(place) for place in run.contest.leaderboard]
        print(json_module.dumps(line))


def _refuse_settings(*given: object) -> None:
    if any(setting is not None and setting != () for setting in given):
        raise ConfigError("A resumed run reads its settings from its folder: leave out all flags except --force.")
