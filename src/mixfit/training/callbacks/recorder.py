"""Writes down what happened, epoch by epoch."""

import json
import time
from pathlib import Path

import pandas as pd

from mixfit.files import explained, json_numbers, write_file
from mixfit.training.callback import Callback
from mixfit.training.state import TrainState


class Recorder(Callback):
    """Keeps one record per epoch; with a folder, appends it to ``metrics.jsonl`` and writes ``history.csv`` at the end.

    Args:
        folder: an existing folder, or None to keep the records in memory only.
    """

    order = -10  # before the callbacks that may end the fit

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.records: list[dict[str, float]] = []
        self._started = 0.0

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: epoch (from 1), lr, seconds, train_loss, valid_loss and the metrics."""
        return pd.DataFrame(self.records)

    def before_fit(self, state: TrainState) -> None:
        """Forget an earlier fit."""
        self.records = []

    def before_epoch(self, state: TrainState) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def after_epoch(self, state: TrainState) -> None:
        """Add the record of this epoch."""
        record = {
            "epoch": state.epoch + 1,
            "lr": state.optimizer.param_groups[0]["lr"],
            "seconds": round(time.perf_counter() - self._started, 4),
            **state.metrics,
        }
        self.records.append(record)
        if self.folder is not None:
            path = self.folder / "metrics.jsonl"
            with explained(path, None), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(json_numbers(record)) + "\n")

    def close(self, state: TrainState) -> None:
        """Write the table of all epochs."""
        if self.folder is not None and self.records:
            write_file(self.folder / "history.csv", self.history.to_csv(index=False))
