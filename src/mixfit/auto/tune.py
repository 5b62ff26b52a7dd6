"""``mixfit tune``: the search space, and one training per trial: of a single network, or of all models of a preset.

With a preset of many models, the settings of its networks are searched, and a trial is judged by the out-of-fold loss
of the whole blend; other models choose their settings themselves, on the training rows of each fold."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

from rich.console import Console

from mixfit.auto.blending import train_blend
from mixfit.auto.kept_models import RunKeeper
from mixfit.auto.preparation import Prepared, check_arguments, prepare, with_features
from mixfit.choices import Augmentation, Fusion
from mixfit.config import DataConfig, ModelConfig, TrainConfig, parse_duration
from mixfit.console import PlainConsole
from mixfit.data.columns.schema import Schema
from mixfit.data.transforms.augment import augmentation
from mixfit.errors import ConfigError, Diverged, ResourceError, Stopped
from mixfit.evaluation.result import headline_for, metrics_for
from mixfit.files import write_file
from mixfit.runs.folder import run_name, settings_toml
from mixfit.runs.results import BLEND
from mixfit.seeding import seeded
from mixfit.training.build import build_model
from mixfit.training.callback import Callback
from mixfit.training.callbacks.control import Deadline, EarlyStopping, Pruning, TimeBudget, interruptible
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.choose import choose_optimizer, watched_metric
from mixfit.training.learner import Learner

if TYPE_CHECKING:
    import optuna

    from mixfit.auto.study import Study


@runtime_checkable
class Suggests(Protocol):
    """The methods needed of a trial, such as ``optuna.Trial``."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The search space around given settings; learning rate, weight decay and sizes are not None."""

    model: ModelConfig
    train: TrainConfig
    photos: bool
    """Whether the table has photos: then fusion and the dropout of photos are searched."""
    texts: bool = False
    """Whether it has columns of text: then, as with photos, the dropout of whole texts or photos is searched."""
    pixels: bool
    """Whether the image network is trained on pixels: then augmentation is searched."""

    def suggest(self, trial: Suggests) -> tuple[ModelConfig, TrainConfig]:
        """The settings of a trial."""
        model, train = self.model, self.train
        assert train.lr is not None
        assert train.weight_decay is not None
        train = replace(train, lr=trial.suggest_float("lr", train.lr / 10, train.lr * 10, log=True))
        if self.train.weight_decay:
            decay = self.train.weight_decay
            train = replace(train, weight_decay=trial.suggest_float("weight_decay", decay / 10, decay * 10, log=True))
        model = replace(model, dropout=trial.suggest_float("dropout", 0.0, max(0.5, model.dropout)))
        model = replace(model, tabular_hidden=self._hidden(trial))
        model = replace(model, encoding_dim=_size(trial, "encoding_dim", model.encoding_dim))
        if model.tabular == "tabm":
            model = replace(model, members=_size(trial, "members", model.members, least=2, growth=2))
        if self.photos:
            model = replace(model, fusion=trial.suggest_categorical("fusion", get_args(Fusion)))
        if self.photos or self.texts:
            most = max(0.3, model.modality_dropout)
            model = replace(model, modality_dropout=trial.suggest_float("modality_dropout", 0.0, most))
        if self.photos:
            model = replace(
                model,
                image_dropout=trial.suggest_float("image_dropout", 0.0, max(0.7, model.image_dropout)),
            )
        if self.pixels:
            train = replace(train, augment=trial.suggest_categorical("augment", get_args(Augmentation)))
        return model, train

    def start(self) -> dict[str, Any]:
        """The starting point of the search: the parameters of the given settings."""
        own = {
            "lr": self.train.lr,
            "weight_decay": self.train.weight_decay,
            "dropout": self.model.dropout,
            "layers": len(self._widths),
            "width": max(self._widths, default=1),
            "encoding_dim": self.model.encoding_dim,
            "members": self.model.members,
            "fusion": self.model.fusion,
            "modality_dropout": self.model.modality_dropout,
            "image_dropout": self.model.image_dropout,
            "augment": self.train.augment,
        }
        asked = _Names()
        self.suggest(asked)
        return {name: own[name] for name in asked.names}

    @property
    def _widths(self) -> tuple[int, ...]:
        assert self.model.tabular_hidden is not None
        return self.model.tabular_hidden

    def _hidden(self, trial: Suggests) -> tuple[int, ...]:
        """Widths of the hidden layers: in proportion to the given ones, the last one repeated."""
        if not self._widths:
            return ()
        layers = trial.suggest_int("layers", 1, max(4, len(self._widths)))
        widths = (*self._widths, *[self._widths[-1]] * layers)[:layers]
        if self.model.tabular == "resnet":  # its width is encoding_dim
            return widths
        widest = max(self._widths)
        width = _size(trial, "width", widest)
        return tuple(max(1, round(part * width / widest)) for part in widths)


class _Names:
    """A stub trial that records the names of the parameters."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.names.append(name)
        return low

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.names.append(name)
        return low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.names.append(name)
        return choices[0]


def _size(trial: Suggests, name: str, start: int, *, least: int = 4, growth: int = 4) -> int:
    """Suggest a size from a quarter of ``start`` to ``growth`` times ``start``."""
    return trial.suggest_int(name, min(start, max(least, start // 4)), start * growth, log=True)


BEST = "best.toml"
_FEWEST_SECONDS = 1.0
"""Shortest training of the first trial."""
_NOT_COMPARED = (
    *("data.cache", "data.cache_gb", "data.features", "model.memory_format", "model.precision"),
    *("train.save_every", "train.report"),
    *("data.roles", "data.ignore", "data.task"),
)
"""Settings that may differ between trials of one search: they affect only speed, or are part of the schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """A search so far."""

    folder: Path
    trials: int
    """Number of finished trials, including pruned ones."""
    loss: float
    """Lowest validation loss, best value of the chosen metric, or lowest out-of-fold loss of the blend. It chose the
    settings, so it is a selection score: better than that of new rows."""
    settings: Path
    """``best.toml``, for ``mixfit train --config``."""


TrialState = Literal["complete", "pruned", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a trial found."""

    state: TrialState
    value: float | None
    """What trials are compared by, lower is better; None unless complete."""
    facts: dict[str, Any]
    """What else is known of the trial, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialWork:
    """All that a trial needs to run in any process: the data, and the settings around which is searched."""

    prepared: Prepared
    """With image features, if these are computed once."""
    space: Space
    watched: str
    """What trials are compared by: a validation metric, by default the loss, or the out-of-fold loss of the blend."""
    sign: float
    """-1 if higher is better."""
    beside: str
    """A second metric that is shown."""
    models: Path
    """Folder of the models of a blend that do not depend on the settings that are searched."""
    advice: str
    """How the search is resumed."""

    @property
    def blends(self) -> bool:
        """Whether a trial fits all models of a preset."""
        return self.prepared.train_config.preset != "network"

    def __call__(self, trial: "optuna.Trial", seconds: float | None) -> Outcome:
        """Run a trial.

        Args:
            trial: of the study; its settings are known.
            seconds: left of the time limit; None for no limit.
        """
        return _run_blend_trial(self, trial) if self.blends else _run_trial(self, trial, seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search that is going on: it proposes trials, and is told what they found."""

    work: TrialWork
    study: "Study"
    schema: Path | None
    wanted: int
    """Number of trials."""
    deadline: float | None
    """Value of ``time.monotonic()``; None for no time limit."""
    console: Console

    def propose(self) -> "optuna.Trial | None":
        """The next trial, with its settings; None if there are enough, or there is no time for another."""
        if self.deadline is not None and self.study.has_begun():
            known = [trial.user_attrs.get("seconds", 0.0) for trial in self.study.trials()]
            longest = max(known, default=0.0) if self.work.blends else 0.0
            if time.monotonic() + longest >= self.deadline:
                return None
        trial = self.study.next_trial(self.wanted, self.work.space.start())
        if trial is not None:
            self.work.space.suggest(trial)
        return trial

    def seconds_left(self) -> float | None:
        """Of the time limit."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def finish(self, trial: "optuna.Trial", outcome: Outcome) -> None:
        """Tell the study what a trial found, show it, and write the best settings so far."""
        from optuna.trial import TrialState as State

        if outcome.state == "interrupted":
            self.abandon(trial)
            return
        for key, fact in outcome.facts.items():
            trial.set_user_attr(key, fact)
        state = State.COMPLETE if outcome.state == "complete" else State.PRUNED
        frozen = self.study.study.tell(trial, outcome.value, state=state)
        self.study.write_table()
        self.console.print(_line(frozen, self.work), markup=False)
        _write_best(self)

    def abandon(self, trial: "optuna.Trial") -> None:
        """Tell the study that a trial was interrupted; another one takes its place."""
        from optuna.trial import TrialState as State

        self.study.study.tell(trial, state=State.FAIL)


@runtime_checkable
class TrialEngine(Protocol):
    """Runs the trials of a search, here or in other processes."""

    def run(self, search: Search) -> None:
        """Run trials until none is proposed any more."""


class LocalTrials:
    """One trial after another, in this process."""

    def run(self, search: Search) -> None:
        """See ``TrialEngine``."""
        while (trial := search.propose()) is not None:
            try:
                outcome = search.work(trial, search.seconds_left())
            except BaseException:
                search.abandon(trial)
                raise
            search.finish(trial, outcome)


def tune(
    table: str | Path,
    *,
    target: str,
    trials: int = 20,
    seconds: float | None = None,
    data: DataConfig | None = None,
    model: ModelConfig | None = None,
    train: TrainConfig | None = None,
    schema: str | Path | None = None,
    out: str | Path = "tune",
    console: Console | None = None,
    began: float | None = None,
    engine: TrialEngine | None = None,
) -> Tuning:
    """Search for better settings of the networks of a preset; the first trial has the given settings.

    A trial of the preset ``network`` trains a single network and is judged by its validation loss; a trial of any other
    preset cross-validates all its models and is judged by the out-of-fold loss of their blend. Test rows play no part.
    The loss of the best trial is a selection score: train with ``best.toml`` and look at the test rows.

    The folder ``out/<table>-<target>`` stores the search: the same call resumes it, also after an interrupt, and
    several processes may take part at the same time. It has ``study.log``, ``trials.csv`` and ``best.toml``.

    Args:
        table, target, schema: as for ``fit``.
        trials: total number of trials, without interrupted ones.
        seconds: time limit of the search with reading and image features, after which no trial is started and the
            running one is abandoned; the first one is cut short instead. Of a preset of many models, the first trial
            always finishes, and another is started only if the longest one so far would finish. By default
            ``train.time``, which applies to the whole search.
        data, model, train: starting point of the search; ``train.seed`` is also its seed.
        out: folder in which search folders are created.
        console: where progress is written.
        began: value of ``time.monotonic()`` that the time limit counts from; by default now.
        engine: runs the trials in other processes, such as ``mixfit.distributed.ray_tune.RayTrials``.
    Raises:
        ConfigError: the folder holds a search with another target, other data or other settings.
        ResourceError: Optuna is not installed.
    """
    import mixfit.auto.study  # noqa: F401  fails before the table is read if the extra is missing

    check_arguments(table, target=target, data=data, model=model, train=train, schema=schema, out=out)
    console, table = console or PlainConsole(), Path(table)
    began = time.monotonic() if began is None else began
    train = train or TrainConfig()
    if seconds is None and train.time is not None:
        seconds = parse_duration(train.time)
    if trials < 1:
        raise ConfigError(f"trials must be at least 1, got {trials}.")
    with seeded(train.seed):
        prepared = prepare(
            table,
            target=target,
            data=data or DataConfig(),
            model=model or ModelConfig(),
            train=replace(train, time=None),
            schema=schema,
            console=console,
        )
    watched, mode = watched_metric(prepared.data)
    if prepared.train_config.preset != "network":
        watched, mode = "out_of_fold_loss", "min"
    sign = 1.0 if mode == "min" else -1.0
    headline = headline_for(prepared.data.schema.task, prepared.data.target, prepared.data.metric).name
    beside = headline if watched != headline else "valid_loss"
    study = _open_study(prepared, Path(out), trials, watched, sign)
    has_photos = prepared.data.photos is not None
    is_trained = not prepared.model_config.freeze_backbone or prepared.model_config.train_blocks > 0
    mixed = with_features(prepared.data, prepared.network, console)
    with TemporaryDirectory(dir=study.folder, prefix="models-") as models:
        work = TrialWork(
            prepared=replace(prepared, data=mixed),
            space=Space(
                model=prepared.model_config,
                train=prepared.train_config,
                photos=has_photos,
                texts=bool(mixed.schema.names("text")) and (has_photos or mixed.has_columns),
                pixels=has_photos and is_trained,
            ),
            watched=watched,
            sign=sign,
            beside=beside,
            models=Path(models),
            advice=f"The search is saved in {study.folder}; the same command resumes it.",
        )
        search = Search(
            work=work,
            study=study,
            schema=None if schema is None else Path(schema),
            wanted=trials,
            deadline=None if seconds is None else began + seconds,
            console=console,
        )
        _say_search(search)
        with _stoppable(search):
            (engine or LocalTrials()).run(search)
        return _finish(search)


def _say_search(search: Search) -> None:
    work, console = search.work, search.console
    split = work.prepared.data.split
    judged = f"{len(split.train)} train / {len(split.valid)} valid rows"
    if work.blends:
        judged = f"preset {work.prepared.train_config.preset}, {len(split.train) + len(split.valid)} rows in folds"
    done = f"{search.study.done()} of {search.wanted} trials done"
    console.print(f" search {search.study.folder}   {done}   {judged}", markup=False)
    if work.blends:
        console.print(" trial  out_of_fold_loss  networks       s  settings of the networks", markup=False)
    else:
        console.print(f" trial  {work.watched:>10}{work.beside:>11}  epochs       s  settings", markup=False)


@contextmanager
def _stoppable(search: Search) -> Iterator[None]:
    """Say how to resume when a signal stops the search; the running trial is abandoned.

    Raises:
        Stopped: on one signal.
        KeyboardInterrupt: on a second one.
    """
    with interruptible() as came:
        try:
            yield
        except KeyboardInterrupt:
            done = f"stopped after {search.study.done()} of {search.wanted} trials; the same command resumes the search"
            search.console.print(f" {done}", markup=False)
            if len(came) == 1:
                raise Stopped(f"stopped by {came[0]}. {search.work.advice}") from None
            raise


def _open_study(prepared: Prepared, out: Path, trials: int, watched: str, sign: float) -> "Study":
    """The study of this table and target, around these settings, by this metric."""
    from mixfit.auto.study import Study

    target, train = prepared.data.schema.target, prepared.train_config
    return Study(
        out / run_name(prepared.table, target),
        target=target,
        fingerprint=prepared.fingerprint,
        settings=_compared(prepared.data_config, prepared.model_config, train, prepared.data.schema),
        seed=train.seed,
        trials=trials,
        epochs=train.epochs,
        watched=watched,
        sign=sign,
    )


def _compared(data: DataConfig, model: ModelConfig, train: TrainConfig, schema: Schema) -> dict[str, Any]:
    """Settings that all trials of a search have in common, as strings by name."""
    sections = {"data": asdict(data), "model": asdict(model), "train": asdict(train)}
    named = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    roles = {"task": schema.task, **{f"role of {column.name}": column.role for column in schema.columns}}
    return {key: str(value) for key, value in (named | roles).items() if key not in _NOT_COMPARED}


def _run_trial(work: TrialWork, trial: "optuna.Trial", seconds: float | None) -> Outcome:
    """Train with the settings of a trial."""
    defaults = bool(trial.user_attrs.get("defaults"))
    began, recorder = time.perf_counter(), Recorder()
    pruning = Pruning(trial, may_end=not defaults)
    limits: list[Callback] = [deadline := Deadline(None if defaults or seconds is None else time.monotonic() + seconds)]
    if defaults and seconds is not None:  # it is cut short rather than abandoned, so that there is a result
        limits.append(TimeBudget(max(_FEWEST_SECONDS, seconds)))
    problem = ""
    try:
        model, train = work.space.suggest(trial)
        mode: Literal["min", "max"] = "min" if work.sign > 0 else "max"
        stopping = EarlyStopping(work.watched, mode=mode, patience=train.patience)
        _train(work, model, train, [recorder, pruning, stopping, *limits])
    except (Diverged, ResourceError) as error:  # bad settings: the study learns from them
        problem = str(error)
    if deadline.over:
        return Outcome(state="interrupted", value=None, facts={})
    records = recorder.records
    best = min(records, key=lambda record: work.sign * record[work.watched], default={})
    facts = {
        work.beside: best.get(work.beside, float("nan")),
        "epochs": len(records),
        "seconds": round(time.perf_counter() - began, 2),
        **({"problem": problem} if problem else {}),
    }
    if problem or pruning.pruned or not best:
        return Outcome(state="pruned", value=None, facts=facts)
    return Outcome(state="complete", value=work.sign * best[work.watched], facts=facts)


def _run_blend_trial(work: TrialWork, trial: "optuna.Trial") -> Outcome:
    """Cross-validate and blend the models of the preset with the settings of a trial."""
    began, prepared = time.perf_counter(), work.prepared
    facts: dict[str, Any]
    value: float | None = None
    try:
        model, train = work.space.suggest(trial)
        keeper = RunKeeper(
            work.models,
            train.save_every,
            Console(quiet=True),
            (),
            work.advice,
            network_settings=hashlib.sha256(f"{model} {train}".encode()).hexdigest(),
        )
        with seeded(train.seed):
            found = train_blend(
                replace(prepared.data, transforms=tuple(augmentation(train.augment))),
                image=prepared.network.image,
                model=model,
                train=train,
                console=Console(quiet=True),
                keeper=keeper,
            )
        lines = found.contest.leaderboard
        value = next(line.loss for line in lines if line.model == BLEND)
        share = sum(line.share or 0.0 for line in lines if "network" in line.model)
        facts = {"networks": round(share, 4)}
    except (Diverged, ResourceError) as error:  # bad settings: the study learns from them
        facts = {"networks": 0.0, "problem": str(error)}
    return Outcome(
        state="pruned" if value is None else "complete",
        value=value,
        facts={**facts, "seconds": round(time.perf_counter() - began, 2)},
    )


def _train(work: TrialWork, model: ModelConfig, train: TrainConfig, callbacks: list[Any]) -> None:
    """Train exactly as ``mixfit train`` does, so that the best settings give the same result there."""
    chosen = choose_optimizer(train)
    mixed = replace(work.prepared.data, transforms=tuple(augmentation(train.augment)))
    with seeded(train.seed):
        learner = Learner(
            build_model(mixed, model).to(mixed.device),
            mixed,
            loss=work.prepared.loss,
            optimizer=chosen.make,
            metrics=metrics_for(mixed.schema.task, mixed.target, mixed.metric),
            callbacks=callbacks,
            weight_decay=chosen.weight_decay,
        )
        (learner.fit_one_cycle if chosen.one_cycle else learner.fit)(train.epochs, chosen.lr)


def _write_best(search: Search) -> None:
    """Write the best settings so far, complete, for ``mixfit train --config``."""
    best = search.study.best()
    if best is None:
        return
    model, train = search.work.space.suggest(_Fixed(best.params))
    text = settings_toml(
        search.work.prepared.table,
        search.work.prepared.data.schema.target,
        search.work.prepared.data_config,
        model,
        train,
        schema=search.schema,
    )
    write_file(search.study.folder / BEST, text)


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A finished trial, to reconstruct its settings."""

    params: dict[str, Any]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self.params[name]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self.params[name]

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self.params[name]


def _finish(search: Search) -> Tuning:
    sign = search.work.sign
    study, console = search.study, search.console
    best = study.best()
    if best is None or best.value is None:
        raise Diverged(
            f"None of the {study.done()} trials finished: train once with a smaller --lr, and search around that."
        )
    _write_best(search)
    defaults = next((trial for trial in study.trials() if trial.user_attrs.get("defaults") and trial.value), None)
    given = None if defaults is None or defaults.value is None else sign * defaults.value
    compared = "" if given is None else f" (given settings: {given:.4g})"
    reached = (
        f"{search.work.watched} {sign * best.value:.4g}{compared}, a selection score: better than that of new rows"
    )
    console.print(f" best   trial {best.number}: {reached}", markup=False)
    console.print(f" trials {study.folder / 'trials.csv'}", markup=False)
    console.print(f" next   mixfit train --config {study.folder / BEST}", markup=False)
    return Tuning(folder=study.folder, trials=study.done(), loss=sign * best.value, settings=study.folder / BEST)


def _line(trial: "optuna.trial.FrozenTrial", work: TrialWork) -> str:
    facts = trial.user_attrs
    finished = trial.value is not None and trial.state.name == "COMPLETE"
    if work.blends:
        value = f"{trial.value:.5g}" if finished else "pruned"
        shown = f" {trial.number:>5}  {value:>16}{facts['networks']:>9.0%} {facts['seconds']:>8.1f}"
    else:
        value = f"{work.sign * (trial.value or 0.0):.4g}" if finished else trial.state.name.lower()
        beside = f"{facts[work.beside]:>11.4g}"
        shown = f" {trial.number:>5}  {value:>10}{beside}  {facts['epochs']:>6}  {facts['seconds']:>6.1f}"
    return f"{shown}  {_settings_of(trial)}"


def _settings_of(trial: "optuna.trial.FrozenTrial") -> str:
    settings = "  ".join(
        f"{key} {part:.2g}" if isinstance(part, float) else f"{key} {part}" for key, part in trial.params.items()
    )
    return f"{'as given: ' if trial.user_attrs.get('defaults') else ''}{settings}"
