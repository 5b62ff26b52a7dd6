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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """The data and settings of a trial."""

    prepared: Prepared
    """With image features, if these are computed once."""
    space: Space
    study: "Study"
    schema: Path | None
    deadline: float | None
    console: Console
    watched: str
    """What trials are compared by: a validation metric, by default the loss, or the out-of-fold loss of the blend."""
    sign: float
    """-1 if higher is better."""
    beside: str
    """A second metric that is shown."""
    models: Path
    """Folder of the models of a blend that do not depend on the settings that are searched."""

    @property
    def blends(self) -> bool:
        """Whether a trial fits all models of a preset."""
        return self.prepared.train_config.preset != "network"


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
    Raises:
        ConfigError: the folder holds a search with another target, other data or other settings.
        ResourceError: Optuna is not installed.
    """
    import mixfit.auto.study  # noqa: F401  fails before the table is read if the extra is missing

    check_arguments(table, target=target, data=data, model=model, train=train, schema=schema, out=out)
    began, console, table = time.monotonic(), console or PlainConsole(), Path(table)
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
        search = _Search(
            prepared=replace(prepared, data=mixed),
            space=Space(
                model=prepared.model_config,
                train=prepared.train_config,
                photos=has_photos,
                texts=bool(mixed.schema.names("text")) and (has_photos or mixed.has_columns),
                pixels=has_photos and is_trained,
            ),
            study=study,
            schema=None if schema is None else Path(schema),
            deadline=None if seconds is None else began + seconds,
            console=console,
            watched=watched,
            sign=sign,
            beside=beside,
            models=Path(models),
        )
        return _run_trials(search, trials)


def _run_trials(search: _Search, trials: int) -> Tuning:
    """Run trials until there are enough, or the time is over."""
    study, console = search.study, search.console
    split = search.prepared.data.split
    judged = f"{len(split.train)} train / {len(split.valid)} valid rows"
    if search.blends:
        judged = f"preset {search.prepared.train_config.preset}, {len(split.train) + len(split.valid)} rows in folds"
    console.print(f" search {study.folder}   {study.done()} of {trials} trials done   {judged}", markup=False)
    if search.blends:
        console.print(" trial  out_of_fold_loss  networks       s  settings of the networks", markup=False)
    else:
        console.print(f" trial  {search.watched:>10}{search.beside:>11}  epochs       s  settings", markup=False)
    longest = max((trial.user_attrs.get("seconds", 0.0) for trial in study.study.trials), default=0.0)
    with _stoppable(search, trials):
        while search.deadline is None or time.monotonic() + longest < search.deadline or not study.has_begun():
            trial = study.next_trial(trials, search.space.start())
            if trial is None:
                break
            began = time.monotonic()
            if search.blends:
                _run_blend_trial(search, trial)
                longest = max(longest, time.monotonic() - began)
            else:
                _run_trial(search, trial)
            _write_best(search)
    return _finish(search)


@contextmanager
def _stoppable(search: _Search, trials: int) -> Iterator[None]:
    """Say how to resume when a signal stops the search; the running trial is abandoned.

    Raises:
        Stopped: on one signal.
        KeyboardInterrupt: on a second one.
    """
    with interruptible() as came:
        try:
            yield
        except KeyboardInterrupt:
            done = f"stopped after {search.study.done()} of {trials} trials; the same command resumes the search"
            search.console.print(f" {done}", markup=False)
            if len(came) == 1:
                raise Stopped(
                    f"stopped by {came[0]}. The search is saved in {search.study.folder}; the same command resumes it."
                ) from None
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


def _run_trial(search: _Search, trial: "optuna.Trial") -> None:
    """Train with the settings of a trial, and report the result to the study."""
    from optuna.trial import TrialState

    study, defaults = search.study, bool(trial.user_attrs.get("defaults"))
    began, recorder = time.perf_counter(), Recorder()
    pruning, stopping = Pruning(trial, may_end=not defaults), None
    limits: list[Callback] = [deadline := Deadline(None if defaults else search.deadline)]
    if defaults and search.deadline is not None:  # it is cut short rather than abandoned, so that there is a result
        limits.append(TimeBudget(max(_FEWEST_SECONDS, search.deadline - time.monotonic())))
    state, problem = TrialState.COMPLETE, ""
    try:
        model, train = search.space.suggest(trial)
        mode: Literal["min", "max"] = "min" if search.sign > 0 else "max"
        stopping = EarlyStopping(search.watched, mode=mode, patience=train.patience)
        _train(search, model, train, [recorder, pruning, stopping, *limits])
    except (Diverged, ResourceError) as error:  # bad settings: the study learns from them
        state, problem = TrialState.PRUNED, str(error)
    except BaseException:
        study.study.tell(trial, state=TrialState.FAIL)
        raise
    if deadline.over:
        study.study.tell(trial, state=TrialState.FAIL)
        return
    if pruning.pruned:
        state = TrialState.PRUNED
    records = recorder.records
    best = min(records, key=lambda record: search.sign * record[search.watched], default={})
    facts = {
        search.beside: best.get(search.beside, float("nan")),
        "epochs": len(records),
        "seconds": round(time.perf_counter() - began, 2),
        **({"problem": problem} if problem else {}),
    }
    for key, value in facts.items():
        trial.set_user_attr(key, value)
    values = search.sign * best[search.watched] if state is TrialState.COMPLETE and best else None
    frozen = study.study.tell(trial, values, state=state)
    study.write_table()
    search.console.print(_line(frozen, search), markup=False)


def _run_blend_trial(search: _Search, trial: "optuna.Trial") -> None:
    """Cross-validate and blend the models of the preset with the settings of a trial, and report to the study."""
    from optuna.trial import TrialState

    study, began, prepared = search.study, time.perf_counter(), search.prepared
    facts: dict[str, Any]
    try:
        model, train = search.space.suggest(trial)
        keeper = RunKeeper(
            search.models,
            train.save_every,
            Console(quiet=True),
            (),
            f"The search is saved in {study.folder}; the same command resumes it.",
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
        state, facts = TrialState.COMPLETE, {"networks": round(share, 4)}
    except (Diverged, ResourceError) as error:  # bad settings: the study learns from them
        value, state, facts = None, TrialState.PRUNED, {"networks": 0.0, "problem": str(error)}
    except BaseException:
        study.study.tell(trial, state=TrialState.FAIL)
        raise
    for key, fact in {**facts, "seconds": round(time.perf_counter() - began, 2)}.items():
        trial.set_user_attr(key, fact)
    frozen = study.study.tell(trial, value, state=state)
    study.write_table()
    shown = "pruned" if frozen.value is None else f"{frozen.value:.5g}"
    search.console.print(
        f" {frozen.number:>5}  {shown:>16}{frozen.user_attrs['networks']:>9.0%} {frozen.user_attrs['seconds']:>8.1f}  "
        f"{_settings_of(frozen)}",
        markup=False,
    )


def _train(search: _Search, model: ModelConfig, train: TrainConfig, callbacks: list[Any]) -> None:
    """Train exactly as ``mixfit train`` does, so that the best settings give the same result there."""
    chosen = choose_optimizer(train)
    mixed = replace(search.prepared.data, transforms=tuple(augmentation(train.augment)))
    with seeded(train.seed):
        learner = Learner(
            build_model(mixed, model).to(mixed.device),
            mixed,
            loss=search.prepared.loss,
            optimizer=chosen.make,
            metrics=metrics_for(mixed.schema.task, mixed.target, mixed.metric),
            callbacks=callbacks,
            weight_decay=chosen.weight_decay,
        )
        (learner.fit_one_cycle if chosen.one_cycle else learner.fit)(train.epochs, chosen.lr)


def _write_best(search: _Search) -> None:
    """Write the best settings so far, complete, for ``mixfit train --config``."""
    best = search.study.best()
    if best is None:
        return
    model, train = search.space.suggest(_Fixed(best.params))
    text = settings_toml(
        search.prepared.table,
        search.prepared.data.schema.target,
        search.prepared.data_config,
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


def _finish(search: _Search) -> Tuning:
    sign = search.sign
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
    reached = f"{search.watched} {sign * best.value:.4g}{compared}, a selection score: better than that of new rows"
    console.print(f" best   trial {best.number}: {reached}", markup=False)
    console.print(f" trials {study.folder / 'trials.csv'}", markup=False)
    console.print(f" next   mixfit train --config {study.folder / BEST}", markup=False)
    return Tuning(folder=study.folder, trials=study.done(), loss=sign * best.value, settings=study.folder / BEST)


def _line(trial: "optuna.trial.FrozenTrial", search: _Search) -> str:
    facts = trial.user_attrs
    finished = trial.value is not None and trial.state.name == "COMPLETE"
    value = f"{search.sign * (trial.value or 0.0):.4g}" if finished else trial.state.name.lower()
    beside = f"{facts[search.beside]:>11.4g}"
    return (
        f" {trial.number:>5}  {value:>10}{beside}  {facts['epochs']:>6}  {facts['seconds']:>6.1f}  "
        f"{_settings_of(trial)}"
    )


def _settings_of(trial: "optuna.trial.FrozenTrial") -> str:
    settings = "  ".join(
        f"{key} {part:.2g}" if isinstance(part, float) else f"{key} {part}" for key, part in trial.params.items()
    )
    return f"{'as given: ' if trial.user_attrs.get('defaults') else ''}{settings}"
