"""Figures of statistics over time, one question each, with matplotlib but without its global state.

pyplot is not used: save a figure with ``figure.savefig(path)``, or display it in a notebook."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from mixfit.errors import ConfigError, did_you_mean
from mixfit.hooks.activation_stats import Activations, ActivationStats, Output
from mixfit.hooks.gradient_stats import Gradients, GradientStats, Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Share = Literal["dead_units", "near_zero", "saturated"]
Quantity = Literal["gradient", "ratio", "weight", "update"]
_MUTED, _RULE, _BROKEN = "#59656e", "#d9dee2", "#d62828"
_COLOURS = ("#1f5f99", "#bf5316", "#2b7a4b", "#7a3f8f", "#8a6d00", "#a11d4a")
_SHARES = {
    "dead_units": "share of units near zero for a whole batch",
    "near_zero": "share of values near zero",
    "saturated": "share of saturated values",
}
MODALITIES = "norm of the gradient of the encoding"
_QUANTITIES = {
    "gradient": "norm of the gradient",
    "ratio": "update / weight",
    "weight": "norm of the weights",
    "update": "norm of the update",
}
_LINEAR = 0.25  # below this absolute value the axis is linear, like the default bins


def plot_histograms(
    stats: ActivationStats, outputs: Sequence[Output] | None = None, *, titles: Sequence[str] | None = None
) -> "Figure":
    """How are the values of each layer distributed over the steps? One panel per output, brighter for higher density.

    The vertical axis is linear around 0 and logarithmic far from it, and the same in all panels. The colour is the
    logarithm of the density on that axis; the thin line is the mean. Columns with an output that was not finite are
    red.

    Args:
        outputs: by default all; up to a dozen are legible.
        titles: of the panels; by default the names and types of the layers.
    Raises:
        ConfigError: there are no statistics yet.
    """
    chosen = stats.outputs if outputs is None else list(outputs)
    return compare_histograms([(stats, output) for output in chosen], titles or list(map(_name, chosen)))


def compare_histograms(
    panels: Sequence[tuple[ActivationStats, Output]], titles: Sequence[str], *, across: int = 3
) -> "Figure":
    """``plot_histograms`` for outputs of several training runs, with ``across`` panels per line.

    Raises:
        ConfigError: there are no panels."""
    _require(panels)
    drawn = []
    for (stats, output), title in zip(panels, titles, strict=False):
        drawn.append(panel_of(stats, output, title))
    return draw_histograms(drawn, across=across)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """The data of a panel of ``plot_histograms``."""

    title: str
    edges: Float64[np.ndarray, " edges"]
    """Edges of the bins, increasing."""
    spans: Int64[np.ndarray, "columns 2"]
    """First and last step of each column."""
    counts: Float64[np.ndarray, "columns bins"]
    mean: Float64[np.ndarray, " columns"]
    broken: Bool[np.ndarray, " columns"]
    """Columns in which an output was not finite."""


def panel_of(stats: ActivationStats, output: Output, title: str) -> Panel:
    """The data of one output."""
    histogram, told = stats.histogram(output), stats.over_time(output)
    return Panel(
        title=title,
        edges=histogram.edges,
        spans=histogram.spans,
        counts=histogram.counts,
        mean=np.array([record.mean for record in told]),
        broken=np.array([record.broken > 0 for record in told], dtype=bool),
    )


def draw_histograms(panels: Sequence[Panel], *, across: int = 3) -> "Figure":
    """``plot_histograms`` from data."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    across = min(across, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(0.6 + 3.0 * across, 0.5 + 1.9 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    low, high, mesh = 0.0, 0.0, None
    for axes, panel in zip(grid.flat, panels, strict=False):
        counts = panel.counts
        seen = np.flatnonzero(counts.sum(0))
        if len(seen):
            low, high = min(low, panel.edges[seen[0]]), max(high, panel.edges[seen[-1] + 1])
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        # Density on the axis scale, not per value: bins far from 0 are wide, and would look empty.
        heights = np.diff(np.arcsinh(panel.edges / _LINEAR))
        density = (shares / heights).T
        borders = _borders(panel.spans)
        mesh = axes.pcolormesh(
            borders,
            panel.edges,
            np.where(density > 0, density, np.nan),
            norm=LogNorm(1e-3, 3.0),
            cmap="viridis",
            rasterized=True,
        )
        axes.plot(panel.spans.mean(1), panel.mean, color="white", linewidth=0.9)
        for broken, left, right in zip(panel.broken, borders, borders[1:], strict=False):
            if broken:
                axes.axvspan(left, right, color=_BROKEN, linewidth=0)
        axes.set_title(panel.title, fontsize=9, loc="left")
        _plain(axes)
        axes.set_facecolor("#2a0a38")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    grid[0, 0].set_yscale("asinh", linear_width=_LINEAR)
    grid[0, 0].set_ylim(low, high)
    _value_ticks(grid[0, 0], low, high)
    figure.supxlabel("step", fontsize=9, color=_MUTED)
    figure.supylabel("value", fontsize=9, color=_MUTED)
    if mesh is not None:
        bar = figure.colorbar(mesh, ax=list(grid.flat), label="density of values", shrink=0.8, aspect=30)
        bar.outline.set_visible(False)
    return figure


def plot_shares(stats: ActivationStats, share: Share = "dead_units") -> "Figure":
    """Which layers have dead units (or values near zero, or saturated values), and since when? One row per output.

    Raises:
        ConfigError: there are no statistics yet, no layer can be saturated, or there is no such share."""
    names, values = shares_of(stats, share)
    _require(names)
    return draw_shares(names, stats.timeline.spans, values, share)


def shares_of(stats: ActivationStats, share: Share) -> tuple[list[str], Float64[np.ndarray, "outputs columns"]]:
    """The data of ``plot_shares``: a name and a row for each output, nan where nothing was measured."""
    _require_known(share, _SHARES)
    rows = [(output, [getattr(told, share) for told in stats.over_time(output)]) for output in stats.outputs]
    rows = [(output, values) for output, values in rows if any(value is not None for value in values)]
    values = [[np.nan if value is None else value for value in row] for _, row in rows]
    return [_name(output) for output, _ in rows], np.array(values, dtype=np.float64).reshape(
        len(rows), len(stats.timeline.spans)
    )


def draw_shares(
    names: Sequence[str],
    spans: Int64[np.ndarray, "columns 2"],
    values: Float64[np.ndarray, "rows columns"],
    share: Share,
) -> "Figure":
    """``plot_shares`` from data."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 1.3 + 0.24 * len(names)), layout="constrained")
    axes = figure.subplots()
    borders = _borders(spans)
    mesh = axes.pcolormesh(borders, np.arange(len(names) + 1), values, vmin=0, vmax=1, cmap="OrRd", rasterized=True)
    axes.set_facecolor(_RULE)  # where nothing was measured
    axes.set_yticks(np.arange(len(names)) + 0.5, list(names), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("step", color=_MUTED)
    _plain(axes)
    for place, row in enumerate(values):
        last = row[np.isfinite(row)][-1:] if np.isfinite(row).any() else np.array([])
        if len(last):
            axes.annotate(
                f"{last[0]:.0%}",
                (1.0, place + 0.5),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=_MUTED,
            )
    bar = figure.colorbar(mesh, ax=axes, location="top", label=_SHARES[share], shrink=0.6, aspect=40)
    bar.outline.set_visible(False)
    return figure


def plot_spread(stats: ActivationStats, outputs: Sequence[Output] | None = None) -> "Figure":
    """Do the values keep their scale through the layers? Standard deviation of each output, first and last steps.

    Raises:
        ConfigError: there are no statistics yet."""
    chosen = stats.outputs if outputs is None else list(outputs)
    _require(chosen)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 1.2 + 0.24 * len(chosen)), layout="constrained")
    axes = figure.subplots()
    for place, label, colour, size in ((0, "first steps", _COLOURS[1], 7), (-1, "last steps", _COLOURS[0], 3.5)):
        spreads = [_std(stats.over_time(output), place) for output in chosen]
        axes.plot(spreads, range(len(chosen)), "o-", color=colour, markersize=size, linewidth=1.2, label=label)
    axes.set_xscale("log")
    _plain_logarithms(axes.xaxis)
    axes.set_yticks(range(len(chosen)), [_name(output) for output in chosen], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("standard deviation of the outputs", color=_MUTED)
    axes.grid(axis="x", color=_RULE, linewidth=0.8)
    _plain(axes)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def plot_gradients(
    stats: GradientStats, quantity: Quantity = "ratio", *, kind: Literal["branch", "group"] = "branch"
) -> "Figure":
    """How fast does each branch learn (or how large are its gradients)? One line per branch, or per optimizer group.

    Raises:
        ConfigError: there are no statistics yet."""
    lines = gradient_lines(stats, quantity, kind=kind)
    _require(lines)
    return draw_lines(lines, _QUANTITIES[quantity], mark=1e-3 if quantity == "ratio" else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line over the steps."""

    name: str
    steps: Float64[np.ndarray, " points"]
    values: Float64[np.ndarray, " points"]
    """nan where nothing was measured."""


def gradient_lines(
    stats: GradientStats, quantity: Quantity = "ratio", *, kind: Literal["branch", "group"] = "branch"
) -> list[Line]:
    """The data of ``plot_gradients``."""
    _require_known(quantity, _QUANTITIES)
    _require_known(kind, ("branch", "group"))
    found = []
    for part in stats.parts:
        told = stats.over_time(part) if part.kind == kind else []
        values = np.array([_of(record, quantity) for record in told], dtype=np.float64)
        if np.isfinite(values).any():
            found.append(Line(name=_label(part), steps=np.array(_middles(told), dtype=np.float64), values=values))
    return found


def plot_modalities(stats: GradientStats) -> "Figure":
    """Which modality does the loss depend on? Norm of the gradient that each encoding receives from the fusion.

    Raises:
        ConfigError: no gradient of a fusion was recorded yet."""
    lines = modality_lines(stats)
    _require(lines)
    return draw_lines(lines, MODALITIES)


def modality_lines(stats: GradientStats) -> list[Line]:
    """The data of ``plot_modalities``: a line for the table and one for the photos, or none."""
    told = [record for record in stats.modalities_over_time() if record.steps]
    steps = np.array([(record.first_step + record.last_step) / 2 for record in told], dtype=np.float64)
    sides = {"table": [record.table for record in told], "photos": [record.photos for record in told]}
    return [Line(name=name, steps=steps, values=np.array(values)) for name, values in sides.items() if told]


def draw_lines(lines: Sequence[Line], ylabel: str, *, mark: float | None = None) -> "Figure":
    """Lines over the steps, with values on a logarithmic scale.

    Args:
        mark: value of a horizontal reference line."""
    figure, axes = _line_figure(ylabel)
    for line, colour in zip(lines, _cycle(len(lines)), strict=True):
        axes.plot(line.steps, line.values, color=colour, label=line.name)
    axes.set_yscale("log")
    _plain_logarithms(axes.yaxis)
    if mark is not None:
        axes.axhline(mark, color=_MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    figure.legend(loc="outside upper left", ncols=min(len(lines), 4), frameon=False, fontsize=9)
    return figure


def plot_agreement(stats: GradientStats) -> "Figure":
    """Do table and photos reduce the loss on the same rows, or do they conflict? See ``Modalities.agreement``.

    Raises:
        ConfigError: no gradient of a fusion was recorded yet."""
    told = [record for record in stats.modalities_over_time() if record.agreement is not None]
    _require(told)
    figure, axes = _line_figure("agreement of table and photos")
    steps = [(record.first_step + record.last_step) / 2 for record in told]
    axes.plot(steps, [record.agreement for record in told if record.agreement is not None], color=_COLOURS[2])
    axes.axhline(0.0, color=_MUTED, linewidth=0.9)
    axes.set_ylim(-1.05, 1.05)
    return figure


def _require(found: Sequence[Any]) -> None:
    if not found:
        raise ConfigError("There are no statistics to plot yet: train first, with the statistics enabled.")


def _require_known(word: str, words: Iterable[str]) -> None:
    known = list(words)
    if word not in known:
        raise ConfigError(f"There is no {word!r} to plot: choose one of {', '.join(known)}.{did_you_mean(word, known)}")


def _std(told: Sequence[Activations], place: int) -> float:
    known = [record.std for record in told if np.isfinite(record.std) and record.std > 0]
    return known[place] if known else float("nan")


def _of(record: Gradients, quantity: Quantity) -> float:
    value: float = getattr(record, quantity)
    return value


def _name(output: Output) -> str:
    return f"{output}  {output.kind}"


def _label(part: Part) -> str:
    return part.name or "all"


def _cycle(count: int) -> list[str]:
    return [_COLOURS[place % len(_COLOURS)] for place in range(count)]


def _middles(told: Sequence[Gradients]) -> list[float]:
    return [(record.first_step + record.last_step) / 2 for record in told]


def _borders(spans: Int64[np.ndarray, "columns 2"]) -> Float64[np.ndarray, " borders"]:
    """Boundaries of the columns on the step axis; the last column ends one step interval after its last step."""
    apart = (spans[-1, 1] - spans[0, 0]) / 64 if len(spans) > 1 else 1
    return np.append(spans[:, 0], spans[-1, 1] + max(apart, 1)).astype(np.float64)


def _line_figure(ylabel: str) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("step", color=_MUTED)
    axes.set_ylabel(ylabel, color=_MUTED, fontsize=9)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    _plain(axes)
    return figure, axes


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)
    axes.tick_params(length=0, labelsize=8, colors=_MUTED, which="both")


def _plain_logarithms(axis: "Axis") -> None:
    """Tick labels such as 0.02 instead of 2 x 10^-2."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))


def _value_ticks(axes: "Axes", low: float, high: float) -> None:
    """Ticks at zero and at powers of ten within the range of the values."""
    powers = [sign * 10.0**power for power in range(-1, 4) for sign in (-1, 1)]
    ticks = sorted([0.0, *(tick for tick in powers if low <= tick <= high and abs(tick) >= 1)])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_yticks([], minor=True)
