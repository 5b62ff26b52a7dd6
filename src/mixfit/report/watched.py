"""Pictures of what the layers of a network gave and got while it trained, for the page.

In: statistics of hooks. Out: plain values with an ``<svg>`` each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixfit.errors import ConfigError
from mixfit.hooks.activation_stats import ActivationStats
from mixfit.hooks.gradient_stats import GradientStats
from mixfit.hooks.pictures import compare_histograms, plot_gradients, plot_modalities, plot_shares
from mixfit.hooks.records import Output
from mixfit.report.content import Picture
from mixfit.report.figures import inline

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

PANELS = 6
"""Histograms that can be read beside each other."""
ROWS = 60
"""Layers that can be read below each other."""
_SHOWN = ("SiLU", "ReLU", "GELU", "Sigmoid", "Tanh")


def watched_pictures(activations: ActivationStats, gradients: GradientStats) -> list[Picture]:
    """Histograms over time, dead units, ratios of update to weight, gradients of both modalities; what there is."""
    outputs = activations.outputs
    shown = spread([one for one in outputs if one.kind in _SHOWN] or outputs)
    wanted: list[tuple[str, str, Callable[[], Figure]]] = [
        (
            "Values of the layers over time",
            "Time goes to the right, values upwards; bright where many values are, the white line is their mean.",
            lambda: compare_histograms(
                [(activations, one) for one in shown], [f"{one}  {one.kind}" for one in shown], across=2
            ),
        ),
        (
            "Update divided by weight",
            "How much of its size a step changes the weights of each part by; about a thousandth is usual.",
            lambda: plot_gradients(gradients, "ratio"),
        ),
        (
            "Gradients of the modalities",
            "How strongly the loss speaks to the table's vector and to that of the photos.",
            lambda: plot_modalities(gradients),
        ),
    ]
    if len(outputs) <= ROWS:
        caption = "Share of the units of each layer that give nothing for a whole batch, step by step."
        wanted.insert(1, ("Dead units", caption, lambda: plot_shares(activations, "dead_units")))
    found = []
    for number, (heading, caption, draw) in enumerate(wanted):
        try:
            svg = inline(f"watched-{number}", f"{heading}. {caption}", draw)
        except ConfigError:  # nothing of this kind was seen, such as modalities of a table alone
            continue
        found.append(Picture(heading=heading, caption=caption, svg=svg))
    return found


def spread(outputs: Sequence[Output]) -> list[Output]:
    """At most ``PANELS`` of them, evenly from the first to the last."""
    if len(outputs) <= PANELS:
        return list(outputs)
    return [outputs[round(place * (len(outputs) - 1) / (PANELS - 1))] for place in range(PANELS)]
