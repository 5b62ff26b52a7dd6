"""``mixfit train`` and ``mixfit demo``: the automatic whole."""

import json as json_module
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import mixfit
from mixfit.cli.flags import Flat, SetRoles, Switch, shown_command, with_roles
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.errors import ConfigError

if TYPE_CHECKING:
    from mixfit.runs.results import Run


def demo(*, out: Path = Path("mixfit-demo"), train: Annotated[TrainConfig | None, Flat] = None) -> None:
    """Draw the embedded example, train on it and write a report.

    Parameters
    ----------
    out
        Folder for the example's table, its pictures and the run.
    """
    from mixfit.auto.recipe import fit
    from mixfit.demo import DEMO_TARGET, write_demo

    print(f" drawing the example into {out}", flush=True)
    fit(
        write_demo(out / "vases"),
        target=DEMO_TARGET,
        train=train or TrainConfig(preset="quick"),
        out=out / "runs",
        command=shown_command(sys.argv[1:]),
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
    from mixfit.auto import recipe

    spoken = _json_lines() if json else {}
    if doctor:
        if resume is None and (train or TrainConfig()).preset != "network":
            raise ConfigError("--doctor examines the training of one network: give --preset network with it.")
        spoken["callbacks"] = [*spoken.get("callbacks", []), mixfit.Doctor()]
    if resume is not None:
        _refuse_settings(target, set_, config, schema, data, model, train)
        run = recipe.resume(resume, table=table, force=force, command=shown_command(sys.argv[1:]), **spoken)
        _say_run(run, as_json=json)
        return
    if table is None or target is None:
        raise ConfigError(
            "mixfit train needs a table and --target COLUMN (or a --config that names them), or --resume RUN."
        )
    run = recipe.fit(
        table,
        target=target,
        data=with_roles(data, set_),
        model=model,
        train=train,
        schema=schema,
        out=out,
        command=shown_command(sys.argv[1:]),
        **spoken,
    )
    _say_run(run, as_json=json)


def _json_lines() -> dict[str, Any]:
    """What makes a run speak to programs alone."""
    from rich.console import Console

    from mixfit.training.callbacks.displays import JsonLines

    return {"console": Console(quiet=True), "callbacks": [JsonLines(sys.stdout)]}


def _say_run(run: "Run", *, as_json: bool) -> None:
    if as_json:
        report = str(run.folder / "report.html")
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
        raise ConfigError("A resumed run has its settings in its folder: leave all flags but --force out.")
