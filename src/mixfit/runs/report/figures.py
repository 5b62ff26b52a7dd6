"""The figures of a run: for notebooks, and as SVG that takes colours and fonts from the CSS of the page.

In: arrays. Out: a matplotlib figure, or ``Markup`` of one ``<svg>``. Contains no names from the user's table: the
page writes those as HTML. Never changes pyplot's or matplotlib's settings outside one call."""

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

INK, MUTED, RULE, ACCENT, SECOND = "#1c2226", "#59656e", "#d9dee2", "#1f5f99", "#bf5316"
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent", SECOND: "--second"}
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # "$" is a literal dollar sign
    "font.size": 11.5,
    "axes.labelsize": 11.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 11.5,
    "figure.constrained_layout.use": True,
}
# Two fit side by side on a desktop screen, and one is legible on a phone (about 350 px wide).
WIDE, SQUARE = (4.7, 3.1), (4.7, 4.5)
MOST_DOTS = 2_000


def compact(value: float | int) -> str:
    """Format a tick value in few characters.

    >>> [compact(value) for value in (0.25, 1500, 20_000, 1.5e6, 4e9)]
    ['0.25', '1500', '20k', '1.5M', '4e+09']
    """
    size = abs(value)
    if 1e4 <= size < 1e6:
        return f"{value / 1e3:g}k"
    if 1e6 <= size < 1e9:
        return f"{value / 1e6:g}M"
    return f"{value:.6g}" if size < 1e4 else f"{value:.3g}"


def line_figure(
    x: Float[np.ndarray, " epochs"],
    lines: Sequence[tuple[str, str, Float[np.ndarray, " epochs"]]],
    *,
    mark: float | None = None,
) -> Figure:
    """Draw one line per (label, colour, values) over epochs.

    Args:
        x: epoch numbers; values that are not finite leave a gap.
        mark: an epoch to draw a vertical line at.
    """
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = figure.subplots()
    if mark is not None:
        axes.axvline(mark, color=MUTED, linewidth=1.0, linestyle=(0, (2, 3)))
    for label, colour, values in lines:
        finite = np.where(np.isfinite(values), values, np.nan)
        # Draw a dot per epoch if there are few; a single epoch has no line.
        dots = "o" if len(x) <= 30 else ""
        axes.plot(x, finite, color=colour, linewidth=1.8, marker=dots, markersize=3.5, label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    _format_ticks(axes)
    axes.grid(visible=False, axis="x")
    if len(lines) > 1:
        figure.legend(loc="outside upper left", ncols=len(lines), borderaxespad=0.1, handlelength=1.4)
    return figure


def scatter_figure(
    truth: Float[np.ndarray, " rows"], prediction: Float[np.ndarray, " rows"], *, log_scale: bool
) -> Figure:
    """Draw predicted against true values: dots, or above ``MOST_DOTS`` rows hexagons, darker with more rows.

    Args:
        truth, prediction: finite, at least one row; above 0 when ``log_scale``.
    """
    both = np.concatenate([truth, prediction])
    low, high = _padded(float(both.min()), float(both.max()), log_scale=log_scale)
    scale = "log" if log_scale else "linear"
    figure = Figure(figsize=SQUARE, layout="constrained")
    axes = figure.subplots()
    axes.set(xscale=scale, yscale=scale, xlabel="true", ylabel="predicted")
    axes.set_aspect("equal")
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1.0, zorder=1)
    if len(truth) > MOST_DOTS:
        _hexagons(axes, truth, prediction, low, high, log_scale=log_scale)
    else:
        axes.plot(truth, prediction, "o", color=ACCENT, alpha=0.45, markersize=4.5, markeredgewidth=0, zorder=2)
    axes.set(xlim=(low, high), ylim=(low, high))
    for axis in (axes.xaxis, axes.yaxis):
        if log_scale:
            _log_ticks(axis, low, high)
        else:
            axis.set_major_locator(MaxNLocator(nbins=5))
    _format_ticks(axes)
    return figure


def calibration_figure(
    x: Sequence[float], y: Sequence[float], counts: Sequence[int], *, labels: tuple[str, str]
) -> Figure:
    """Draw observed frequency over predicted probability, in [0, 1]; dot size grows with the count."""
    figure = Figure(figsize=SQUARE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set_aspect("equal")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, zorder=1)
    axes.plot(x, y, color=ACCENT, linewidth=1.2, zorder=2)
    axes.scatter(x, y, s=[18 + 240 * count / max(*counts, 1) for count in counts], color=ACCENT, alpha=0.75, zorder=3)
    _format_ticks(axes)
    return figure


def heat_figure(shares: Float[np.ndarray, "bins bins"]) -> Figure:
    """Draw a confusion matrix normalised by row, values in [0, 1], without names."""
    figure = Figure(figsize=SQUARE, layout="constrained")
    axes = figure.subplots()
    # 0 is fully transparent, so the page's background shows; a single error is still visible.
    pixels = np.empty((*shares.shape, 4))
    pixels[...] = to_rgba("#3f82c4")
    pixels[..., 3] = np.where(shares > 0, 0.25 + 0.75 * shares, 0.0)
    axes.imshow(pixels, interpolation="nearest")
    axes.grid(visible=False)
    axes.set(xlabel="predicted class", ylabel="true class", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE)
    return figure


def svg(name: str, title: str, draw: Callable[[], Figure]) -> Markup:
    """A figure of this module for the page.

    Args:
        name: unique in the page, becomes part of the ids.
        title: what the figure shows, for readers who cannot see it.
        draw: makes the figure; its exceptions propagate.
    """
    with _settings(name):
        return _svg(draw(), name, title)


def inline(name: str, title: str, draw: Callable[[], Figure]) -> Markup:
    """A figure drawn elsewhere, as SVG in the style of this module.

    Args:
        name, title, draw: as for ``svg``."""
    with _settings(name):
        fonts: Any = {
            key: matplotlib.rcParamsDefault[key] for key in ("font.size", "axes.labelsize", "text.parse_math")
        }
        # Logarithmic scales need math text; these figures contain no user text. Only axes that set a background
        # colour have one.
        matplotlib.rcParams.update(fonts | {"figure.facecolor": "none", "axes.facecolor": "none"})
        return _svg(draw(), name, title, transparent=False)


@contextmanager
def _settings(name: str) -> Iterator[None]:
    """Apply our settings over matplotlib's defaults, ignoring the user's matplotlibrc; restore all after the block."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        matplotlib.rcParams["svg.hashsalt"] = name
        yield


def _padded(low: float, high: float, *, log_scale: bool) -> tuple[float, float]:
    """Limits a little wider than the values, also if all values are equal."""
    if log_scale:
        room = (high / low) ** 0.05 if high > low else 2.0
        return low / room, high * room
    room = (high - low) * 0.05 if high > low else max(abs(low), 1.0) * 0.5
    return low - room, high + room


def _hexagons(
    axes: Axes,
    truth: Float[np.ndarray, " rows"],
    prediction: Float[np.ndarray, " rows"],
    low: float,
    high: float,
    *,
    log_scale: bool,
) -> None:
    extent = (math.log10(low), math.log10(high)) if log_scale else (low, high)
    scale: Literal["linear", "log"] = "log" if log_scale else "linear"
    cells: PolyCollection = axes.hexbin(
        truth,
        prediction,
        gridsize=38,
        mincnt=1,
        extent=extent * 2,
        xscale=scale,
        yscale=scale,
        linewidths=0.0,
        zorder=2,
    )
    counts = np.log1p(np.asarray(cells.get_array(), dtype=float))
    # A single colour with varying opacity works in light and dark mode; a colour map does not.
    colours = np.tile(to_rgba(ACCENT), (len(counts), 1))
    colours[:, 3] = np.round(0.15 + 0.85 * counts / counts.max(), 2)
    cells.set(array=None, facecolor=colours, edgecolor="none")


def _log_ticks(axis: Axis, low: float, high: float) -> None:
    decades = math.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,), numticks=12))
    axis.set_minor_formatter(NullFormatter())


def _format_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.tick_params(length=0, which="both")


def _svg(figure: Figure, name: str, title: str, *, transparent: bool = True) -> Markup:
    """Convert the figure to an ``<svg>`` that scales with its container, with unique ids and a title."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing, transparent=transparent, dpi=200)
    svg = buffer.getvalue()
    head, body = svg[svg.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="[\d. ]+"', head)
    assert box is not None
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would style the whole page
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)  # of formulas
    used = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r"font-family: [^;\"]*(; )?", "", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(f": {colour}", f": var({variable})")
    body = re.sub(r"\s*\n\s*", " ", body)
    label = f"{name}-title"
    # The body is matplotlib's, which escapes its texts; the rest is escaped here.
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img" '
        f'aria-labelledby="{escape(label)}"><title id="{escape(label)}">{escape(title)}</title>{body}'
    )
