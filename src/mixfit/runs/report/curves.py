"""Learning curves of a run: training and validation loss by epoch, and the headline metric where it was recorded.

In: the history of a network. Out: figures with captions, and its rows as texts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from markupsafe import Markup

from mixfit.runs.report import figures
from mixfit.runs.report.content import ReportContent
from mixfit.runs.report.render import number, plain

SHOWN_EPOCHS = 500


def _numbers(history: pd.DataFrame, name: str) -> Float[np.ndarray, " epochs"]:
    return pd.to_numeric(history[name], errors="coerce").to_numpy(dtype=np.float64)


def curves(content: ReportContent) -> list[dict[str, str | Markup]]:
    """Train and validation loss, and the headline metric where the history has it."""
    history, metric = content.history, content.headline_metric
    if history.empty:
        return []
    epochs = _numbers(history, "epoch") if "epoch" in history else np.arange(1.0, len(history) + 1)
    colours = {"train": figures.ACCENT, "valid": figures.SECOND}
    losses = [(part, colours[part], f"{part}_loss") for part in ("train", "valid")]
    metrics = [("train", figures.ACCENT, f"train_{metric}"), ("valid", figures.SECOND, f"valid_{metric}")]
    if f"valid_{metric}" not in history:
        metrics = [("valid", figures.SECOND, metric)]
    plans: list[tuple[str, str, list[tuple[str, str, str]], Callable[..., Any]]] = [
        ("curve-loss", "Loss", losses, np.nanargmin),
        ("curve-metric", metric, metrics, np.nanargmax if content.higher_is_better else np.nanargmin),
    ]
    found: list[dict[str, str | Markup]] = []
    for name, heading, wanted, best_of in plans:
        lines = [(label, colour, _numbers(history, column)) for label, colour, column in wanted if column in history]
        if not lines or (name == "curve-metric" and metric in ("loss", "valid_loss")):
            continue
        judged = np.where(np.isfinite(lines[-1][2]), lines[-1][2], np.nan)
        mark, caption = None, "No finite value was recorded."
        if not np.isnan(judged).all():
            best = int(best_of(judged))
            mark = float(epochs[best])
            caption = (
                f"Best {'validation' if lines[-1][0] == 'valid' else 'training'} value {number(float(judged[best]))}, "
                f"in epoch {plain(mark)} of {plain(float(epochs[-1]))} (dotted)."
            )
        svg = figures.line_figure(name, f"{heading} by epoch. {caption}", epochs, lines, mark=mark)
        found.append({"heading": heading, "svg": svg, "caption": caption})
    return found


def history_rows(history: pd.DataFrame) -> list[list[str]]:
    """The first epochs as texts, row by row."""
    shown = history.head(SHOWN_EPOCHS)
    columns = [[plain(float(value)) for value in _numbers(shown, name)] for name in shown.columns]
    return [list(cells) for cells in zip(*columns, strict=True)]
