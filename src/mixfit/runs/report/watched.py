"""Figures of the outputs and gradients of a network's layers during training.

In: statistics of hooks. Out: ``Watched``, the numbers kept in a run folder; and from these the ``<svg>`` figures, which
are redrawn whenever the page is written, so that no drawing is read from a folder."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from mixfit.errors import DataError
from mixfit.hooks.activation_stats import ActivationStats, Output
from mixfit.hooks.gradient_stats import GradientStats
from mixfit.hooks.pictures import (
    MODALITIES,
    Line,
    Panel,
    draw_histograms,
    draw_lines,
    draw_shares,
    gradient_lines,
    modality_lines,
    panel_of,
    shares_of,
)
from mixfit.runs.report.content import LayerShares, LayerValues, Picture, StepLine, Watched
from mixfit.runs.report.figures import inline

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PANELS = 6
"""Largest number of histograms."""
ROWS = 60
"""Largest number of layers in the figure of dead units."""
_SHOWN = ("SiLU", "ReLU", "GELU", "Sigmoid", "Tanh")
_MOST_COLUMNS, _MOST_BINS, _MOST_LINES = 1_000, 1_000, 100


def watched(activations: ActivationStats, gradients: GradientStats) -> Watched:
    """The numbers of all figures; empty lists where nothing was recorded."""
    outputs = activations.outputs
    shown = spread([one for one in outputs if one.kind in _SHOWN] or outputs)
    panels = [panel_of(activations, one, f"{one}  {one.kind}") for one in shown]
    names, shares = shares_of(activations, "dead_units")
    few = len(outputs) <= ROWS
    return Watched(
        spans=[(int(first), int(last)) for first, last in activations.timeline.spans],
        edges=_short(panels[0].edges) if panels else [],
        values=[
            LayerValues(
                title=one.title,
                counts=[_short(column) for column in one.counts],
                mean=_short(one.mean),
                broken=one.broken.tolist(),
            )
            for one in panels
        ],
        dead_units=[LayerShares(title=name, shares=_short(row)) for name, row in zip(names, shares, strict=True)] * few,
        ratios=[_step_line(line) for line in gradient_lines(gradients, "ratio")],
        modalities=[_step_line(line) for line in modality_lines(gradients)],
    )


def check_watched(seen: Watched) -> None:
    """Check that the numbers are consistent and can be drawn.

    Raises:
        DataError: they are inconsistent or too many.
    """
    columns, bins = len(seen.spans), len(seen.edges) - 1
    steps = [step for span in seen.spans for step in span]
    lines = [*seen.ratios, *seen.modalities]
    if steps != sorted(steps) or any(b <= a for a, b in zip(seen.edges, seen.edges[1:], strict=False)):
        raise DataError("the record of the doctor is damaged: steps or edges are not increasing.")
    if (
        any(len(one.mean) != columns or len(one.broken) != columns or len(one.counts) != columns for one in seen.values)
        or any(len(column) != bins for one in seen.values for column in one.counts)
        or any(len(one.shares) != columns for one in seen.dead_units)
        or any(len(line.steps) != len(line.values) or not line.steps for line in lines)
        or ((seen.values or seen.dead_units) and not columns)
    ):
        raise DataError("the record of the doctor is damaged: its lengths are inconsistent.")
    if any(np.isnan(numbers).any() for one in seen.values for numbers in one.counts) or any(
        np.isnan(line.steps).any() for line in lines
    ):
        raise DataError("the record of the doctor is damaged: numbers are missing.")
    points = max((len(line.steps) for line in lines), default=0)
    if len(seen.values) > PANELS or len(seen.dead_units) > ROWS or len(lines) > _MOST_LINES:
        raise DataError("the record of the doctor is damaged: it has too many layers.")
    if columns > _MOST_COLUMNS or bins > _MOST_BINS or points > _MOST_COLUMNS:
        raise DataError("the record of the doctor is damaged: it has too many columns.")


def watched_pictures(seen: Watched) -> list[Picture]:
    """Histograms over time, dead units, update-to-weight ratios, gradients of both modalities, if recorded."""
    spans, edges = np.array(seen.spans, dtype=np.int64).reshape(-1, 2), np.array(seen.edges, dtype=np.float64)
    wanted: list[tuple[bool, str, str, Callable[[], Figure]]] = [
        (
            bool(seen.values),
            "Outputs of the layers over time",
            "x: time, y: value. Brighter means more values; the white line is the mean.",
            lambda: draw_histograms(
                [
                    Panel(
                        title=one.title,
                        edges=edges,
                        spans=spans,
                        counts=np.array(one.counts, dtype=np.float64),
                        mean=np.array(one.mean, dtype=np.float64),
                        broken=np.array(one.broken, dtype=bool),
                    )
                    for one in seen.values
                ],
                across=2,
            ),
        ),
        (
            bool(seen.dead_units),
            "Dead units",
            "Share of units per layer whose output is zero for a whole batch, over time.",
            lambda: draw_shares(
                [one.title for one in seen.dead_units],
                spans,
                np.array([one.shares for one in seen.dead_units], dtype=np.float64),
                "dead_units",
            ),
        ),
        (
            bool(seen.ratios),
            "Update-to-weight ratio",
            "Relative change of the weights of each part per step; about 0.001 is usual.",
            lambda: draw_lines(list(map(_line, seen.ratios)), "update / weight", mark=1e-3),
        ),
        (
            bool(seen.modalities),
            "Gradients of the modalities",
            "Norms of the gradients of the loss with respect to the encodings of table and photos.",
            lambda: draw_lines(list(map(_line, seen.modalities)), MODALITIES),
        ),
    ]
    return [
        Picture(heading=heading, caption=caption, svg=inline(f"watched-{number}", f"{heading}. {caption}", draw))
        for number, (there, heading, caption, draw) in enumerate(wanted)
        if there
    ]


def spread(outputs: Sequence[Output]) -> list[Output]:
    """At most ``PANELS`` of them, evenly from the first to the last."""
    if len(outputs) <= PANELS:
        return list(outputs)
    return [outputs[round(place * (len(outputs) - 1) / (PANELS - 1))] for place in range(PANELS)]


def _short(numbers: Float[np.ndarray, " numbers"]) -> list[float]:
    """As many digits as a picture shows."""
    return [float(f"{number:.5g}") for number in numbers.tolist()]


def _step_line(line: Line) -> StepLine:
    return StepLine(title=line.name, steps=line.steps.tolist(), values=_short(line.values))


def _line(line: StepLine) -> Line:
    return Line(name=line.title, steps=np.array(line.steps), values=np.array(line.values))
