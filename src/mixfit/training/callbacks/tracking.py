"""Trackers: callbacks that log a whole run, with its settings, its epochs and its result, for a program that shows many
runs. TensorBoard is here; ``mixfit.mlflow`` is another.

In: the settings and the folder of a run, the events of each training, and the result. Does not know what a run is."""

import io
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mixfit.errors import ConfigError, ResourceError
from mixfit.training.callback import Callback, TrainState

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a finished run."""

    folder: Path
    """With ``report.html``, ``model/`` and the other files of the run."""
    verdict: str
    """The result in plain words."""
    scores: Mapping[str, float]
    """By name, such as "test/mae" for the delivered model and "leaderboard/boosted trees, table"; finite."""
    by_fold: Mapping[str, list[float]] = field(default_factory=dict)
    """Out-of-fold scores of the delivered model in each fold; empty for a single network."""
    figures: Mapping[str, Callable[[], "Figure"]] = field(default_factory=dict)
    """Figures of the report, which are drawn when called."""


class Tracker(Callback, ABC):
    """Base of the callbacks that log a whole run: ``mixfit.fit`` calls ``begin_run`` before the first training, and
    then one of ``end_run`` and ``stop_run``.

    A tracker only reports: it never changes a training, and after ``begin_run`` nothing that it raises ends one."""

    order = -9  # as the recorder, before the callbacks that may end the fit
    chooses = changes = False
    flag: ClassVar[str] = ""
    """Name for ``--track``; "" if it has none."""

    def __init__(self) -> None:
        self.model = ""
        """The network of the next fit, and its fold; "" if there is only one."""

    def around_run(self) -> AbstractContextManager[None]:
        """A context for a whole run, from before its table is read."""
        return nullcontext()

    @abstractmethod
    def begin_run(self, folder: Path, settings: Mapping[str, object]) -> None:
        """Before the first training of a run, or of what is left of a resumed one.

        Args:
            folder: of the run.
            settings: all settings by section and name.
        Raises:
            ResourceError: nothing can be logged.
        """

    @abstractmethod
    def end_run(self, run: TrackedRun) -> None:
        """The run is finished and its files are written."""

    def stop_run(self, *, resumable: bool) -> None:
        """The run ended without a result.

        Args:
            resumable: whether a signal stopped it, so that it can be resumed.
        """


class TensorBoard(Tracker):
    """Writes loss and rate of every step, and all metrics of every epoch, to TensorBoard; of a whole run also its
    settings, scores and figures.

    View them with ``tensorboard --logdir FOLDER``. Each network and fold of a run has a folder of its own, so that they
    appear as curves of one chart. A resumed fit overwrites the steps that it repeats. TensorBoard keeps no models: the
    text "run" says where the model and the report are.

    Args:
        folder: created if needed; by default ``tensorboard`` in the run folder.
        every: number of steps between writes, which fetch the losses from their device.
    Raises:
        ConfigError: ``every`` is below 1.
        ResourceError: TensorBoard is not installed.
    """

    flag = "tensorboard"

    def __init__(self, folder: Path | None = None, *, every: int = 50) -> None:
        super().__init__()
        if every < 1:
            raise ConfigError(f"every must be at least 1 step, got {every}.")
        if find_spec("tensorboard") is None:
            raise ResourceError("TensorBoard is not installed; install it with: pip install 'mixfit[track]'")
        self.folder, self.every = folder, every
        self._place = folder
        self._settings: dict[str, object] = {}
        self._writer: Any = None
        self._losses: list[Tensor] = []
        self._steps: list[tuple[int, float, float]] = []

    def begin_run(self, folder: Path, settings: Mapping[str, object]) -> None:
        """Choose the folder."""
        self._place = self.folder or folder / "tensorboard"
        self._settings = dict(settings)

    def end_run(self, run: TrackedRun) -> None:
        """Write settings, scores, figures, and where report and model are."""
        with self._opened() as writer:
            listed = "\n".join(f"| {name} | {value} |" for name, value in self._settings.items())
            writer.add_text("settings", f"| setting | value |\n| --- | --- |\n{listed}")
            writer.add_text("run", f"{run.verdict}\n\nReport: {run.folder}/report.html. Model: {run.folder}/model.")
            for name, value in run.scores.items():
                writer.add_scalar(f"score/{plain_name(name)}", value, 0)
            for name, values in run.by_fold.items():
                for fold, value in enumerate(values):
                    writer.add_scalar(f"fold/{plain_name(name)}", value, fold + 1)
            for name, draw in run.figures.items():
                writer.add_image(f"report/{name}", _pixels(draw()), dataformats="HWC")

    def before_fit(self, state: TrainState) -> None:
        """Discard unwritten values of an earlier fit."""
        if self._place is None:
            raise ConfigError("TensorBoard() without a folder is for mixfit.fit: for a Learner, name a folder.")
        self._losses, self._steps = [], []

    def before_epoch(self, state: TrainState) -> None:
        """Open the file, once the first step is known."""
        if self._writer is None:
            self._writer = self._opened(self.model, purge_step=state.step + 1 if state.step else None)

    def after_step(self, state: TrainState) -> None:
        """Record the step with its time."""
        self._losses.append(state.loss.detach())
        self._steps.append((state.step, state.optimizer.param_groups[0]["lr"], time.time()))
        if len(self._losses) >= self.every:
            self._write_steps()

    def after_epoch(self, state: TrainState) -> None:
        """Write the metrics."""
        self._write_steps()
        for name, value in state.metrics.items():
            self._writer.add_scalar(f"epoch/{name}", value, state.step)
        self._writer.flush()

    def close(self, state: TrainState) -> None:
        """Close the file, and stop its writer thread."""
        if self._writer is not None:
            self._write_steps()
            self._writer.close()
            self._writer = None

    def _opened(self, model: str = "", *, purge_step: int | None = None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        assert self._place is not None
        folder = self._place / plain_name(model).replace(" ", "_") if model else self._place
        # TensorBoard reads files in the order of their names, which say the second, the host and the process.
        while purge_step is not None and any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            time.sleep(0.05)
        return SummaryWriter(str(folder), purge_step=purge_step)

    def _write_steps(self) -> None:
        if not self._losses:
            return
        losses = torch.stack(self._losses).double().cpu().tolist()
        for loss, (step, lr, moment) in zip(losses, self._steps, strict=True):
            self._writer.add_scalar("step/loss", loss, step, moment)
            self._writer.add_scalar("step/lr", lr, step, moment)
        self._losses, self._steps = [], []


def plain_name(name: str) -> str:
    """A name that trackers accept: letters, digits, spaces and - _ . /

    >>> plain_name("network, table + photos, fold 3/train_loss")
    'network table photos fold 3/train_loss'
    """
    return re.sub(r"[^\w\-./]+", " ", name, flags=re.ASCII).strip()


def _pixels(figure: "Figure") -> np.ndarray:
    """uint8 ``(height, width, 3)``."""
    from PIL import Image  # not needed by a training

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    with Image.open(content) as picture:
        return np.asarray(picture.convert("RGB"))
