"""Records the history of a training by step and by epoch."""

import json
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from mixfit.errors import ConfigError
from mixfit.files import explained, json_numbers, write_file
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.distributed import writes_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Recorder(Callback):
    """Records the loss and the rate of every step, and one record per epoch.

    With a folder, appends the records to ``metrics.jsonl`` and writes ``history.csv`` at the end.

    Args:
        folder: an existing folder, or None to keep the records in memory only.
    """

    order = -10  # before the callbacks that may end the fit
    chooses = changes = False

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.records: list[dict[str, float]] = []
        self.step_losses, self.step_rates = array("d"), array("d")
        self._new_losses: list[Tensor] = []
        self._started = 0.0

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: epoch (from 1), lr, seconds, train_loss, valid_loss and the metrics."""
        return pd.DataFrame(self.records)

    @property
    def steps(self) -> pd.DataFrame:
        """One row per step: loss of its batch, and the rate of the first parameter group."""
        return pd.DataFrame({"loss": self.step_losses, "lr": self.step_rates})

    def state_dict(self) -> dict[str, Any]:
        """All records."""
        self._flush()
        return {
            "records": self.records,
            "losses": torch.tensor(self.step_losses, dtype=torch.float64),
            "rates": torch.tensor(self.step_rates, dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the records; epochs recorded after the checkpoint are removed from the file, as they are repeated."""
        self.records = [dict(record) for record in state["records"]]
        self.step_losses, self.step_rates = array("d", state["losses"].tolist()), array("d", state["rates"].tolist())
        if self.folder is not None and writes_files():
            write_file(self.folder / "metrics.jsonl", "".join(map(_line, self.records)))

    def before_fit(self, state: TrainState) -> None:
        """Reset."""
        self.records, self.step_losses, self.step_rates = [], array("d"), array("d")
        self._new_losses = []
        if self.folder is not None and writes_files():
            with explained(self.folder, None):
                (self.folder / "metrics.jsonl").unlink(missing_ok=True)

    def before_epoch(self, state: TrainState) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def after_step(self, state: TrainState) -> None:
        """Record the step; the loss stays on its device until the end of the epoch."""
        self._new_losses.append(state.loss)
        self.step_rates.append(state.optimizer.param_groups[0]["lr"])

    def after_train(self, state: TrainState) -> None:
        """Fetch the losses of the epoch from their device."""
        self._flush()

    def after_epoch(self, state: TrainState) -> None:
        """Add the record of this epoch."""
        record = {
            "epoch": state.epoch + 1,
            "lr": state.optimizer.param_groups[0]["lr"],
            "seconds": round(time.perf_counter() - self._started, 4),
            **state.metrics,
        }
        self.records.append(record)
        if self.folder is not None and writes_files():
            path = self.folder / "metrics.jsonl"
            with explained(path, None), path.open("a", encoding="utf-8") as file:
                file.write(_line(record))

    def close(self, state: TrainState) -> None:
        """Write the table of all epochs."""
        self._flush()
        if self.folder is not None and self.records and writes_files():
            write_file(self.folder / "history.csv", self.history.to_csv(index=False))

    def plot_loss(self) -> "Figure":
        """Loss of every step, and of the training and validation rows of every epoch."""
        figure, axes = _axes("step", "loss")
        axes.plot(range(1, len(self.step_losses) + 1), self.step_losses, color="0.75", linewidth=0.8, label="step")
        history = self.history
        if len(history):
            ends = [len(self.step_losses) * (i + 1) / len(history) for i in range(len(history))]
            for name, label in (("train_loss", "training rows"), ("valid_loss", "validation rows")):
                if name in history:
                    axes.plot(ends, history[name], marker="o", markersize=3, label=label)
        axes.legend()
        return figure

    def plot_lr(self) -> "Figure":
        """Learning rate of every step."""
        figure, axes = _axes("step", "learning rate")
        axes.plot(range(1, len(self.step_rates) + 1), self.step_rates)
        return figure

    def plot_metrics(self, *names: str) -> "Figure":
        """Metrics of the validation rows, epoch by epoch; by default all.

        Raises:
            ConfigError: the metric does not exist."""
        known = [name for name in self.history if name not in ("epoch", "lr", "seconds", "train_loss", "valid_loss")]
        unknown = [name for name in names if name not in self.history]
        if unknown or not known:
            raise ConfigError(
                f"No metric {unknown[0] if unknown else ''!r} was recorded; the metrics are {', '.join(known)}."
            )
        from matplotlib.figure import Figure

        chosen = list(names) or known
        figure = Figure(figsize=(6, 2.2 * len(chosen)), layout="constrained")
        for place, name in enumerate(chosen):
            axes = figure.add_subplot(len(chosen), 1, place + 1)
            axes.plot(self.history["epoch"], self.history[name], marker="o", markersize=3)
            axes.set_ylabel(name)
        axes.set_xlabel("epoch")
        return figure

    def _flush(self) -> None:
        if self._new_losses:
            self.step_losses.extend(torch.stack(self._new_losses).double().cpu().tolist())
            self._new_losses = []


def _line(record: Mapping[str, float | int]) -> str:
    return json.dumps(json_numbers(record)) + "\n"


def _axes(x: str, y: str) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes
