"""The pictures show the statistics, and leave matplotlib as it was."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from test_gradient_stats import Mixed, optimizer_of, train
from torch import nn

from mixfit.errors import ConfigError
from mixfit.hooks.activation_stats import ActivationStats
from mixfit.hooks.gradient_stats import GradientStats, Part
from mixfit.hooks.pictures import (
    compare_histograms,
    plot_agreement,
    plot_gradients,
    plot_histograms,
    plot_modalities,
    plot_shares,
    plot_spread,
)


@pytest.fixture(scope="module")
def stats() -> ActivationStats:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5), nn.Sigmoid())
    with ActivationStats(net, columns=8) as found:
        for _ in range(20):
            net(torch.randn(6, 3))
    return found


@pytest.fixture(scope="module")
def gradients() -> GradientStats:
    model = Mixed()
    optimizer = optimizer_of(model)
    found = GradientStats(model, optimizer, columns=8)
    train(model, 20, found, optimizer)
    return found


def drawn(figure: Figure) -> None:
    """Warnings are errors here: of ticks, of layouts, of logarithms."""
    figure.canvas.draw()


def test_histograms_have_a_panel_an_output_and_a_column_a_span(stats: ActivationStats) -> None:
    figure = plot_histograms(stats)
    drawn(figure)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == ["0  Linear", "1  ReLU", "2  Linear", "3  Sigmoid"]
    for axes, output in zip(panels, stats.outputs, strict=True):
        (mesh,) = (found for found in axes.collections if isinstance(found, QuadMesh))
        histogram = stats.histogram(output)
        shown = np.ma.filled(mesh.get_array(), 0.0)
        assert shown.shape == histogram.counts.T.shape
        np.testing.assert_array_equal(np.nan_to_num(shown) > 0, histogram.counts.T > 0)
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [told.mean for told in stats.over_time(output)])


def test_panels_of_two_fits_stand_beside_each_other(stats: ActivationStats) -> None:
    output = stats.outputs[1]
    figure = compare_histograms([(stats, output), (stats, output)], ["bad", "good"], across=2)
    drawn(figure)
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")] == ["bad", "good"]


def test_shares_are_those_of_the_columns(stats: ActivationStats) -> None:
    figure = plot_shares(stats, "near_zero")
    drawn(figure)
    (mesh,) = (found for found in figure.axes[0].collections if isinstance(found, QuadMesh))
    shown = np.asarray(mesh.get_array())
    np.testing.assert_allclose(shown, [[told.near_zero for told in stats.over_time(o)] for o in stats.outputs])
    saturated = plot_shares(stats, "saturated")
    drawn(saturated)
    assert [label.get_text() for label in saturated.axes[0].get_yticklabels()] == ["3  Sigmoid"]
    drawn(plot_shares(stats))


def test_spread_is_that_of_the_first_and_the_last_column(stats: ActivationStats) -> None:
    figure = plot_spread(stats)
    drawn(figure)
    first, last = (line.get_xdata() for line in figure.axes[0].lines)
    np.testing.assert_allclose(first, [stats.over_time(o)[0].std for o in stats.outputs])
    np.testing.assert_allclose(last, [stats.over_time(o)[-1].std for o in stats.outputs])


def test_lines_of_gradients_are_those_of_the_branches(gradients: GradientStats) -> None:
    for quantity in ("ratio", "gradient", "weight", "update"):
        figure = plot_gradients(gradients, quantity)
        drawn(figure)
        lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
        for name in ("table", "photos", "fusion and head"):
            expected = [getattr(told, quantity) for told in gradients.over_time(Part("branch", name))]
            np.testing.assert_allclose(lines[name], expected)
    drawn(plot_gradients(gradients, kind="group"))


def test_modalities_and_their_agreement(gradients: GradientStats) -> None:
    told = gradients.modalities_over_time()
    figure = plot_modalities(gradients)
    drawn(figure)
    table, photos = (line.get_ydata() for line in figure.axes[0].lines)
    np.testing.assert_allclose(table, [record.table for record in told])
    np.testing.assert_allclose(photos, [record.photos for record in told])
    figure = plot_agreement(gradients)
    drawn(figure)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [record.agreement for record in told])


def test_there_is_no_picture_of_nothing() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    empty, gradients = ActivationStats(net), GradientStats(net)
    for plot in (plot_histograms, plot_shares, plot_spread):
        with pytest.raises(ConfigError, match="There are no statistics to plot yet"):
            plot(empty)
    for plot in (plot_gradients, plot_modalities, plot_agreement):
        with pytest.raises(ConfigError, match="There are no statistics to plot yet"):
            plot(gradients)
    with empty:
        net(torch.ones(1, 2))
    with pytest.raises(ConfigError, match="There are no statistics to plot yet"):
        plot_shares(empty, "saturated")
    drawn(plot_histograms(empty))


def test_pyplot_is_never_loaded_and_hooks_load_no_matplotlib() -> None:
    code = (
        "import io, sys, torch, mixfit.hooks.pictures as p; from mixfit.hooks.activation_stats import ActivationStats\n"
        "assert 'matplotlib' not in sys.modules\n"
        "net = torch.nn.Sequential(torch.nn.ReLU())\n"
        "with ActivationStats(net) as stats: net(torch.ones(2, 2))\n"
        "p.plot_histograms(stats).savefig(io.BytesIO())\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
