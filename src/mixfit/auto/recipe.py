"""The pipeline from a table to a run folder with a trained model, baselines and a report."""

import atexit
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path

import pandas as pd
from rich.console import Console

from mixfit.auto import cost
from mixfit.auto.kept_models import BelongsTo, callbacks_digest, earlier_seconds
from mixfit.auto.network_run import run_network
from mixfit.auto.preparation import (
    Prepared,
    changes_since_inspection,
    check_arguments,
    notes_of,
    prepare,
    warnings_of,
)
from mixfit.auto.preset_run import run_preset
from mixfit.auto.presets import check_models
from mixfit.auto.started import StartedRun, digest_of, say_start, write_parts
from mixfit.auto.timetable import Timetable
from mixfit.auto.tracked import around, tracked
from mixfit.choices import MetricName
from mixfit.config import DataConfig, ModelConfig, TrainConfig, parse_duration
from mixfit.config_file import read_config
from mixfit.console import PlainConsole
from mixfit.data.columns.schema import Schema
from mixfit.data.fingerprint import read_fingerprint
from mixfit.data.table.write import kept_frame
from mixfit.diagnostics.doctor import Doctor
from mixfit.ensemble.cross_fit import Fits
from mixfit.errors import ConfigError, DataError, Stopped, check_type
from mixfit.files import is_there, said_by, unseal
from mixfit.models.model import Model
from mixfit.runs.folder import (
    changed_versions,
    locked,
    new_run_folder,
    note_resumption,
    run_name,
    write_settings,
)
from mixfit.runs.results import Run
from mixfit.seeding import seeded
from mixfit.training.callback import Callback
from mixfit.training.callbacks.control import SecondSignal, interruptible
from mixfit.training.callbacks.distributed import join_processes, process_rank, wait_for_processes
from mixfit.training.callbacks.tracking import Tracker
from mixfit.training.checkpoint import Snapshot, newest_checkpoint

KEPT_TABLE = "table.parquet"
"""The rows of a run on a DataFrame, in its folder."""


def fit(
    table: str | Path | pd.DataFrame,
    *,
    target: str,
    images: str | Path | None = None,
    metric: MetricName | None = None,
    data: DataConfig | None = None,
    model: ModelConfig | None = None,
    train: TrainConfig | None = None,
    schema: Schema | str | Path | None = None,
    out: str | Path = "runs",
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    models: Sequence[Model] = (),
    command: str | None = None,
    began: float | None = None,
    fits: Fits | None = None,
) -> Run:
    """Train on a table and its photos; write the run folder ``out/<table>-<target>-NNN``.

    Args:
        table: a CSV, TSV, Parquet, Feather or JSON Lines file; or a DataFrame, which is saved as ``table.parquet`` in
            the run folder, so that the run can be resumed, evaluated and explained.
        target: the column to predict.
        images: folder that photo paths are relative to, overrides ``data.images``; by default the table's folder, and
            for a DataFrame the working directory.
        metric: overrides ``train.metric``.
        data, model, train: settings; the defaults suit a laptop.
        schema: known roles of the columns; with the ``schema.json`` of ``inspect``, a warning is given if the data
            have changed since.
        out: folder in which run folders are created.
        console: where progress is written, by default standard output; ``Console(quiet=True)`` for none.
        callbacks: further callbacks, such as ``TensorBoard``, or ``Doctor``, whose findings on a single network
            (``preset="network"``) are reported.
        models: your own models, see ``mixfit.Model``: they are fitted after those of the preset on the same folds,
            appear in the leaderboard, and get a share of the blend if this lowers its out-of-fold loss. Pass them to
            ``resume`` and ``Predictor.load``, too.
        command: the command shown in the report; by default this call.
        began: value of ``time.monotonic()`` that ``train.time`` counts from; by default now.
        fits: fits the models of each fold in other processes, such as ``mixfit.distributed.ray_fits.RayFits``.
    Raises:
        ConfigError, DataError, ResourceError, Diverged: with one sentence that says what to do.
        Stopped: a signal stopped the run; everything is saved, and ``resume`` continues it.
    """
    check_arguments(table, target=target, images=images, data=data, model=model, train=train, schema=schema, out=out)
    check_type("callbacks", callbacks, (list, tuple), "a list of callbacks")
    check_type("models", models, (list, tuple), "a list of models")
    console, data, train = console or PlainConsole(), data or DataConfig(), train or TrainConfig()
    if metric is not None:
        train = replace(train, metric=metric)
    _check_callbacks(callbacks, train)
    _check_fits(fits, callbacks, train)
    check_models(models, train)
    if _rank_among(train):
        out, console = _folder_of_process(), Console(quiet=True)
    timetable = _timetable(console, train, began)
    if images is not None:
        data = replace(data, images=Path(images))
    with seeded(train.seed), around(callbacks):
        if isinstance(table, pd.DataFrame):
            path = new_run_folder(Path(out), run_name(Path("dataframe"), target)) / KEPT_TABLE
            data = replace(data, images=data.images or Path())
            written: AbstractContextManager[None] = kept_frame(table, path)
            command = command or f"mixfit.fit(frame, target={target!r})"
        else:
            path, written = Path(table), nullcontext()
        try:
            with written, timetable.stage("reading the table", cost.seconds_of_reading(path), learn=False):
                prepared = prepare(
                    path,
                    target=target,
                    data=data,
                    model=model or ModelConfig(),
                    train=train,
                    schema=schema,
                    console=console,
                )
        except BaseException:
            if isinstance(table, pd.DataFrame):
                shutil.rmtree(path.parent)  # it contains only the caller's rows
            raise
        folder = path.parent if isinstance(table, pd.DataFrame) else new_run_folder(Path(out), run_name(path, target))
        advice = _resume_command(folder, callbacks, models)
        with locked(folder), _stoppable(folder, advice):
            settings = _write_settings(folder, prepared)
            warnings = [
                *warnings_of(prepared.data, prepared.images_beside),
                *changes_since_inspection(prepared.fingerprint, schema),
            ]
            started = StartedRun(
                folder=folder,
                prepared=prepared,
                settings=settings,
                console=console,
                command=command or f"mixfit.fit({path.name!r}, target={target!r})",
                callbacks=callbacks,
                models=models,
                advice=advice,
                timetable=timetable,
                fits=fits,
                warnings=warnings,
                notes=notes_of(prepared.data),
            )
            return _train_and_judge(started)


def _timetable(console: Console, train: TrainConfig, began: float | None) -> Timetable:
    return Timetable(console, None if train.time is None else parse_duration(train.time), began=began)


def resume(
    run: str | Path,
    *,
    table: str | Path | None = None,
    force: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    models: Sequence[Model] = (),
    command: str | None = None,
    began: float | None = None,
    fits: Fits | None = None,
) -> Run:
    """Resume a stopped or killed run; the result is bit-identical to an uninterrupted run.

    A run that was stopped before anything was saved restarts; the results of a finished run are written again.
    Bit-identical holds on the same machine, with the same versions and number of threads.

    Args:
        run: its folder.
        table: path of the table; by default unchanged.
        force: resume even if the table or its photos have changed, or the files are not those of this run.
        console, callbacks, models, command: as for ``fit``; pass the same models, and the same callbacks that may
            change a training: with others, the networks of a preset are fitted again, and a single network is
            refused.
        began, fits: as for ``fit``; the time limit of a run counts the time before it was stopped, too.
    Raises:
        ConfigError, DataError, ResourceError, Diverged, Stopped: as ``fit``; and if the data have changed.
    """
    check_type("run", run, (str, PathLike), "a run or the path of its folder")
    folder, console = Path(run), console or PlainConsole()
    settings_file = folder / "config.toml"
    if not is_there(settings_file):
        raise ConfigError(f"{folder} is not a run folder: it has no config.toml.")
    with said_by(settings_file):
        said = read_config(settings_file)
    advice = _resume_command(folder, callbacks, models, table=table, force=force)
    table = said.table if table is None else Path(table)
    if table is None or said.target is None:
        raise DataError(f"{settings_file} lacks the table or the target.")
    _check_callbacks(callbacks, said.train)
    _check_fits(fits, callbacks, said.train)
    check_models(models, said.train)
    if _rank_among(said.train):
        here = _folder_of_process() / folder.name
        shutil.copytree(folder, here)
        folder, console = here, Console(quiet=True)
    wait_for_processes()  # before the first one changes the folder
    schema = folder / "schema.json"
    timetable = _timetable(console, said.train, began)
    timetable.began -= earlier_seconds(folder)
    with locked(folder), _stoppable(folder, advice), seeded(said.train.seed), around(callbacks):
        with said_by(settings_file), timetable.stage("reading the table", cost.seconds_of_reading(table), learn=False):
            prepared = prepare(
                table,
                target=said.target,
                # the schema contains all roles, unless the run was killed before it was written
                data=replace(said.data, roles={}, ignore=(), task=None, order=()) if is_there(schema) else said.data,
                model=said.model,
                train=said.train,
                schema=schema if is_there(schema) else said.schema,
                console=console,
            )
        prepared = replace(prepared, data_config=said.data)
        snapshot = newest_checkpoint(folder / "checkpoints")
        begun = snapshot is not None or _count_kept(folder) > 0
        # files missing after a kill are written now; if nothing was fitted, there is nothing to compare
        warnings = _differences(folder, prepared, force=force) if begun or _has_environment(folder) else []
        unseal(folder)
        settings = _write_settings(folder, prepared)
        key, _, begun_with = ("" if snapshot is None else BelongsTo.of(snapshot)).partition(" ")
        if snapshot is not None and key != digest_of(prepared) and not force:
            raise DataError(
                f"{folder}/checkpoints has the weights of another network: its settings, data or seed are not those of "
                "this run. Restore the right checkpoints, or remove that folder to restart the training."
            )
        if snapshot is not None and not snapshot.finished and begun_with != callbacks_digest(callbacks):
            if not force:
                raise ConfigError(
                    f"{folder} was started with other callbacks or callback settings: pass the same callbacks to "
                    "mixfit.resume(..., callbacks=[...])."
                )
            warnings.append("From here on, the training uses other callbacks than before.")
        if snapshot is not None and snapshot.note:
            warnings.append(f"{snapshot.note} Resuming from the previous checkpoint.")
        _say_where(console, folder, snapshot, len(prepared.data.train))
        if force:
            note_resumption(folder, warnings)
        warnings = [*warnings_of(prepared.data, prepared.images_beside), *warnings]
        started = StartedRun(
            folder=folder,
            prepared=prepared,
            settings=settings,
            console=console,
            command=command or f"mixfit.resume({folder.name!r})",
            callbacks=callbacks,
            models=models,
            advice=advice,
            timetable=timetable,
            fits=fits,
            warnings=warnings,
            notes=notes_of(prepared.data),
        )
        return _train_and_judge(started, snapshot)


def _train_and_judge(started: StartedRun, snapshot: Snapshot | None = None) -> Run:
    """Train or resume, and write the files of the run folder."""
    write_parts(started.folder, started.prepared.data)
    say_start(started)
    with tracked(started.callbacks, started.folder, started.settings, started.console) as finished:
        network = started.prepared.train_config.preset == "network"
        run = run_network(started, snapshot) if network else run_preset(started)
        finished(run)
    return run


def _check_callbacks(callbacks: Sequence[Callback], train: TrainConfig) -> None:
    """Refuse a doctor with a preset of many models, which it cannot diagnose, and callbacks that need validation rows
    where the delivered models are fitted on all rows."""
    if train.preset != "network" and any(isinstance(one, Doctor) for one in callbacks):
        raise ConfigError(
            f"A doctor diagnoses the training of a single network, but the preset {train.preset} trains many models: "
            "use the preset network."
        )
    choosing = [type(one).__name__ for one in callbacks if one.chooses]
    if train.refit and choosing:
        raise ConfigError(
            f"refit=True leaves no validation rows, which the callback {choosing[0]} may use: leave one out, or "
            "set chooses = False in a callback that only reports."
        )


def _check_fits(fits: Fits | None, callbacks: Sequence[Callback], train: TrainConfig) -> None:
    """Refuse what cannot be fitted in other processes."""
    if fits is None:
        return
    if train.preset == "network":
        raise ConfigError(
            "Another engine fits the many models of a preset, and the preset network has one: start one training on "
            "many processes with torchrun."
        )
    acting = [type(one).__name__ for one in callbacks if one.changes]
    if acting:
        raise ConfigError(f"The callback {acting[0]} cannot act on trainings in other processes: leave it out.")


def _rank_among(train: TrainConfig) -> int:
    """Number of this process among those that torchrun started, from 0; 0 without torchrun.

    Raises:
        ConfigError: the training is not one of a single network, which several processes can share.
    """
    if process_rank()[1] == 1:
        return 0
    if train.preset != "network":
        raise ConfigError(
            f"torchrun trains one network on several processes, and the preset {train.preset} fits many models: add "
            "--preset network, or use --engine ray without torchrun."
        )
    if train.time is not None:
        raise ConfigError("Several processes cannot agree on a clock: set --epochs in place of --time under torchrun.")
    return join_processes()[0]


def _folder_of_process() -> Path:
    """Where all but the first of several processes keep their run, until they end."""
    folder = tempfile.mkdtemp(prefix="mixfit-process-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextmanager
def _stoppable(folder: Path, advice: str) -> Iterator[None]:
    """Turn a signal between two trainings into a sentence on what is saved where, and how to resume.

    During the training of a network, ``StopOnSignal`` stops it after the batch.

    Raises:
        Stopped: on one signal.
        KeyboardInterrupt: on a second signal, or if the settings are not saved yet.
    """
    with interruptible() as came:
        try:
            yield
        except SecondSignal:
            raise SecondSignal(f"interrupted. {_saved(folder)} {advice}") from None
        except KeyboardInterrupt:
            if not (folder / "config.toml").is_file():
                raise
            raise Stopped(f"stopped by {came[0] if came else 'SIGINT'}. {_saved(folder)} {advice}") from None


def _saved(folder: Path) -> str:
    """A sentence on what is saved in the run folder."""
    kept = _count_kept(folder)
    if kept:
        return f"{kept} fitted fold model{'' if kept == 1 else 's'} and all settings are saved in {folder}."
    if (folder / "checkpoints").is_dir():
        return f"The training and all settings are saved in {folder}."
    return f"No model has been fitted yet; the settings are saved in {folder}."


def _count_kept(folder: Path) -> int:
    return len(list((folder / "candidates").glob("*.safetensors")))


def _has_environment(folder: Path) -> bool:
    return (folder / "environment.json").exists()


def _write_settings(folder: Path, prepared: Prepared) -> dict[str, object]:
    return write_settings(
        folder,
        prepared.table,
        prepared.data.schema.target,
        prepared.data.schema,
        prepared.data_config,
        prepared.model_config,
        prepared.train_config,
        prepared.fingerprint,
        given=prepared.known,
    )


def _resume_command(
    folder: Path,
    callbacks: Sequence[Callback],
    models: Sequence[Model] = (),
    *,
    table: str | Path | None = None,
    force: bool = False,
) -> str:
    """The command to resume, with the flags and callbacks that must be given again."""
    acting = [one for one in callbacks if one.changes or isinstance(one, Doctor)]
    if models or any(one.changes for one in callbacks):  # these cannot be given on the command line
        given = {"callbacks": acting, "models": models}
        again = [
            f", {name}=[{', '.join(f'{type(one).__name__}(...)' for one in them)}]"
            for name, them in given.items()
            if them
        ]
        what = " and ".join(name for name, them in given.items() if them)
        place = "" if table is None else f", table={str(table)!r}"
        return (
            f"Resume in Python with the same {what}: mixfit.resume({str(folder)!r}{place}"
            f"{', force=True' * force}{''.join(again)})"
        )
    moved = "" if table is None else f"{shlex.quote(str(table))} "
    flags = " --force" * force + " --doctor" * any(isinstance(one, Doctor) for one in callbacks)
    flags += "".join(f" --track {one.flag}" for one in callbacks if isinstance(one, Tracker) and one.flag)
    return f"Resume with: mixfit train {moved}--resume {shlex.quote(str(folder))}{flags}"


def _differences(folder: Path, now: Prepared, *, force: bool) -> list[str]:
    """Changes since the start of the run.

    Raises:
        DataError: the table or its photos have changed, without ``force``.
    """
    then = read_fingerprint(folder / "environment.json")
    changed = [] if then is None else now.fingerprint.changes_since(then, "this run")
    if changed and not force:
        raise DataError(f"{'; '.join(changed)}: start a new training, or resume with --force.")
    return changed + changed_versions(folder)


def _say_where(console: Console, folder: Path, snapshot: Snapshot | None, batches: int) -> None:
    fitted = _count_kept(folder)
    if fitted:
        text = f"resuming: {fitted} fold models are already fitted"
    elif snapshot is None:
        text = "nothing was saved yet: restarting"
    elif snapshot.finished:
        text = "the training is finished: rewriting its results"
    else:
        text = f"resuming at epoch {snapshot.epoch + 1}, batch {snapshot.batch + 1} of {batches}"
    console.print(f" {text}", markup=False)
