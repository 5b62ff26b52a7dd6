"""The statistics are those of the stored activations, in bounded memory, and the training does not notice."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mixfit.errors import ConfigError
from mixfit.hooks.activation_stats import Activations, ActivationStats, Output, Scheme, measure
from mixfit.hooks.hook import Call, Hooks


class Shared(nn.Module):
    """Two linear layers, one ReLU in two places, a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu, self.end = nn.Linear(3, 8), nn.Linear(8, 5), nn.ReLU(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(9 * self.relu(self.second(self.relu(self.first(x)))))


def model() -> Shared:
    torch.manual_seed(1)
    return Shared().double()


def batches(count: int, rows: int = 7) -> list[Tensor]:
    # Batches of unequal size, so that means of means would be found out.
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(rows + step % 3, 3, generator=generator, dtype=torch.float64) * (1 + step / 9)
        for step in range(count)
    ]


def stored(net: nn.Module, inputs: list[Tensor]) -> dict[tuple[str, int], list[Tensor]]:
    """All outputs of each call of each layer, kept."""
    found: dict[tuple[str, int], list[Tensor]] = {}
    for x in inputs:
        calls: dict[str, int] = {}

        def keep(call: Call, calls: dict[str, int] = calls) -> None:
            number = calls[call.name] = calls.get(call.name, -1) + 1
            found.setdefault((call.name, number), []).append(call.output.detach().clone())

        with Hooks(net, keep):
            net(x)
    return found


def assert_is_of(told: Activations, outputs: list[Tensor], near_zero: float = 1e-3) -> None:
    """The record against the definitions, over stored outputs."""
    values = torch.cat([output.flatten() for output in outputs])
    assert (told.values, told.outputs, told.broken) == (len(values), len(outputs), 0)
    expected = {
        "mean": values.mean(),
        "std": values.std(correction=0),
        "minimum": values.min(),
        "maximum": values.max(),
        "near_zero": (values.abs() <= near_zero).double().mean(),
        "dead_units": torch.stack([(output.abs() <= near_zero).all(0).double().mean() for output in outputs]).mean(),
    }
    for name, value in expected.items():
        assert getattr(told, name) == pytest.approx(float(value), rel=1e-6, abs=1e-9), name
    for share, value in told.quantiles.items():
        each = torch.stack([output.quantile(share) for output in outputs])
        assert value == pytest.approx(float(each.mean()), rel=1e-6, abs=1e-9), share


@pytest.mark.parametrize(("steps", "columns"), [(1, 64), (5, 64), (8, 8), (9, 8), (100, 8), (37, 2)])
def test_statistics_over_all_steps_equal_those_of_stored_activations(steps: int, columns: int) -> None:
    net, inputs = model(), batches(steps)
    with ActivationStats(net, columns=columns, sample=None) as stats:
        for x in inputs:
            net(x)
    kept = stored(net, inputs)
    assert [(o.layer, o.call) for o in stats.outputs] == [
        ("first", 0),
        ("relu", 0),
        ("second", 0),
        ("relu", 1),
        ("end", 0),
    ]
    for output, told in stats.total().items():
        assert_is_of(told, kept[output.layer, output.call])
        assert (told.first_step, told.last_step) == (0, steps - 1)
    for output, told in stats.latest().items():
        assert_is_of(told, kept[output.layer, output.call][-1:])
        assert told.first_step == told.last_step == steps - 1


@pytest.mark.parametrize("steps", [3, 8, 9, 17, 100])
def test_columns_and_histograms_are_of_the_steps_they_name(steps: int) -> None:
    net, inputs = model(), batches(steps)
    with ActivationStats(net, columns=8, sample=None) as stats:
        for x in inputs:
            net(x)
    kept = stored(net, inputs)
    for output in stats.outputs:
        columns, histogram = stats.over_time(output), stats.histogram(output)
        assert 4 <= len(columns) <= 8 or steps < 4
        assert [step for told in columns for step in range(told.first_step, told.last_step + 1)] == list(range(steps))
        assert histogram.spans.tolist() == [[told.first_step, told.last_step] for told in columns]
        for told, counts in zip(columns, histogram.counts, strict=True):
            outputs = kept[output.layer, output.call][told.first_step : told.last_step + 1]
            assert_is_of(told, outputs)
            values = torch.cat([o.flatten() for o in outputs]).numpy()
            np.testing.assert_allclose(counts, np.histogram(values, histogram.edges)[0], atol=1e-6)
        assert len({told.outputs for told in columns[:-1]}) <= 1  # all but the last are of as many steps


def test_saturated_is_near_an_end_of_the_range_and_none_without_one() -> None:
    net, inputs = model(), batches(6)
    with ActivationStats(net) as stats:
        for x in inputs:
            net(x)
    total = {str(output): told for output, told in stats.total().items()}
    ends = torch.cat([o.flatten() for o in stored(net, inputs)["end", 0]])
    expected = float(((ends <= 0.01) | (ends >= 0.99)).double().mean())
    assert 0 < expected < 1
    assert total["end"].saturated == pytest.approx(expected)
    endless = [name for name, told in total.items() if told.saturated is None]
    assert endless == ["first", "relu", "second", "relu (call 2)"]


@pytest.mark.parametrize(
    ("module", "values", "share"),
    [
        (nn.Tanh(), [-9.0, 0.0, 9.0, 0.1], 0.5),
        (nn.ReLU6(), [-1.0, 7.0, 3.0, 3.0], 0.25),
        (nn.Hardtanh(-2.0, 2.0), [-5.0, 5.0, 1.0, 1.9], 0.5),
        (nn.Hardsigmoid(), [-5.0, 5.0, 9.0, 0.0], 0.75),
        (nn.Softsign(), [999.0, 1.0, 1.0, 0.0], 0.25),
    ],
)
def test_the_ends_of_activations(module: nn.Module, values: list[float], share: float) -> None:
    with ActivationStats(module) as stats:
        module(torch.tensor(values))
    (told,) = stats.total().values()
    assert told.saturated == share


def test_a_dead_unit_is_near_zero_for_all_rows_of_a_batch() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        net[0].weight.fill_(0.0)
        net[0].bias.copy_(torch.tensor([-1.0, -1.0, -1.0, 1.0]))
    with ActivationStats(net, nn.ReLU) as stats:
        net(torch.ones(3, 1, 2, 2))
    (told,) = stats.total().values()
    assert (told.dead_units, told.near_zero) == (0.75, 0.75)


def test_every_nth_step_is_looked_at_and_hooks_are_on_the_layers_only_then() -> None:
    net, seen = model(), []
    inputs = batches(10)
    with ActivationStats(net, every=4, sample=None) as stats:
        for x in inputs:
            handle = net.first.register_forward_hook(lambda layer, *_: seen.append(len(layer._forward_hooks) - 1))
            net(x)
            handle.remove()
    assert seen == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0]
    kept = stored(net, inputs[::4])
    for output, told in stats.total().items():
        assert_is_of(told, kept[output.layer, output.call])
        assert (told.first_step, told.last_step) == (0, 8)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_passes_in_evaluation_mode_are_left_out_unless_asked_for() -> None:
    net, (x, *_) = model(), batches(1)
    with ActivationStats(net) as training, ActivationStats(net, training_only=False) as all_of_it:
        net(x)
        net.eval()
        net(x)
    assert {told.outputs for told in training.total().values()} == {1}
    assert {told.outputs for told in all_of_it.total().values()} == {2}


def test_branches_pool_their_layers() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tabular, self.image = nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 4), nn.ReLU())
            self.fusion, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.fusion(self.tabular(x) + self.image(x)))

    net, inputs = Mixed().double(), batches(20)
    with ActivationStats(net, columns=4) as stats:
        for x in inputs:
            net(x)
    kept = stored(net, inputs)
    found = stats.by_branch()
    assert list(found) == ["table", "photos", "fusion and head"]
    for branch, names in {"photos": ["image.0", "image.1"], "fusion and head": ["fusion", "head"]}.items():
        values = torch.cat([output.flatten() for name in names for output in kept[name, 0]])
        assert found[branch].mean == pytest.approx(float(values.mean()), rel=1e-6)
        assert found[branch].std == pytest.approx(float(values.std(correction=0)), rel=1e-6)
    assert set(ActivationStats(net, branches={"image.1": "end"}).branches) == {"image.1"}


@dataclass
class Encoded:
    tokens: Tensor
    length: int
    more: dict[str, list[Tensor]]


class Structured(nn.Module):
    def forward(self, x: Tensor) -> Encoded:
        return Encoded(x, 3, {"parts": [2 * x, (x > 0).long(), x[:0]]})


def test_any_structure_of_outputs() -> None:
    net = Structured()
    with ActivationStats(net) as stats:
        net(torch.ones(2, 3))
    assert [(o.part, told.mean) for o, told in stats.total().items()] == [(".tokens", 1.0), (".more[parts][0]", 2.0)]
    lstm = nn.LSTM(3, 4)
    with ActivationStats(lstm) as stats:
        lstm(torch.ones(5, 2, 3))
    assert [str(output) for output in stats.outputs] == ["model[0]", "model[1][0]", "model[1][1]"]


def test_a_layer_that_is_called_often_has_a_bounded_number_of_series() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(40):
                x = self.cell(x)
            return x

    net = Recurrent()
    with ActivationStats(net) as stats:
        net(torch.ones(1, 2))
    assert len(stats.outputs) == 16
    assert [told.outputs for told in stats.total().values()] == [1] * 15 + [25]


def test_outputs_that_are_not_finite_are_counted_and_spoil_nothing() -> None:
    net = nn.Sequential(nn.Identity())
    with ActivationStats(net) as stats:
        net(torch.tensor([1.0, 3.0]))
        net(torch.tensor([1.0, float("nan")]))
        net(torch.tensor([1.0, float("inf")]))
    (told,) = stats.total().values()
    assert (told.outputs, told.broken, told.mean, told.std) == (1, 2, 2.0, 1.0)
    (last,) = stats.latest().values()
    assert (last.outputs, last.broken) == (0, 1)
    assert np.isnan(last.mean)


def test_a_pass_that_fails_counts_as_nothing_and_leaves_no_hook() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(99, 1))
    with ActivationStats(net) as stats:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            net(torch.ones(2, 3))
        assert stats.outputs == []
        assert stats.state_dict()["outputs"] == []
        net[1] = nn.Linear(3, 1)
        net(torch.ones(2, 3))
    assert [told.outputs for told in stats.total().values()] == [1]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_sample_estimates_quantiles_and_histogram_and_nothing_else() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3))
    x = torch.randn(8, 3, 34, 34, generator=torch.Generator().manual_seed(0))
    with ActivationStats(net, sample=None) as whole, ActivationStats(net, sample=2000) as sampled:
        net(x)
    (a,), (b,) = whole.total().values(), sampled.total().values()
    assert (a.mean, a.std, a.near_zero, a.minimum, a.values) == (b.mean, b.std, b.near_zero, b.minimum, b.values)
    for share in a.quantiles:
        assert a.quantiles[share] != b.quantiles[share]
        assert a.quantiles[share] == pytest.approx(b.quantiles[share], abs=0.2 * a.std)
    (output,) = whole.outputs
    counts, estimated = whole.histogram(output).counts, sampled.histogram(output).counts
    assert estimated.sum() == pytest.approx(counts.sum()) == a.values
    assert np.abs(np.cumsum(counts - estimated)).max() < 0.04 * a.values


def test_half_precision_and_other_memory_layouts_give_the_same() -> None:
    x = torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    scheme = Scheme(1e-3, (0.1, 0.5), (-1.0, 0.0, 1.0), None)
    plain = measure(x.double(), scheme, None)
    torch.testing.assert_close(measure(x, scheme, None), plain, rtol=1e-6, atol=1e-6)
    channels_last = x.double().to(memory_format=torch.channels_last)
    torch.testing.assert_close(measure(channels_last, scheme, None), plain)
    every_second = x.double()[:, ::2]
    torch.testing.assert_close(measure(every_second, scheme, None), measure(every_second.clone(), scheme, None))


class Copies(TorchDispatchMode):
    """Counts what makes a GPU be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.__name__.split(".")[0] in ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero"):
            self.waits.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_no_layer_waits_for_the_device() -> None:
    x = torch.randn(4, 8, 5, 5)
    scheme = Scheme(1e-3, (0.1, 0.5), (-1.0, 0.0, 1.0), 50)
    with Copies() as copies:
        measure(x, scheme, (-0.9, 0.9))
        measure(x[0, 0], scheme, None)
        assert copies.waits == []
        measure(x, scheme, None).tolist()
        x.sum().item()
    assert copies.waits


def test_the_training_is_the_same_to_the_bit() -> None:
    def train(*, watched: bool) -> tuple[Tensor, Tensor]:
        net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.ReLU(inplace=True), nn.Linear(8, 1))
        torch.manual_seed(0)
        for parameter in net.parameters():
            nn.init.normal_(parameter)
        stats = ActivationStats(net, every=2)
        if watched:
            stats.place()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x in batches(6):
            net(x.float()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        stats.remove()
        return net[0].weight.detach(), torch.rand(3)

    for a, b in zip(train(watched=False), train(watched=True), strict=True):
        assert torch.equal(a, b)


def test_what_is_kept_does_not_grow_with_the_steps() -> None:
    def size(stats: ActivationStats) -> int:
        return sum(tensor.numel() for name in ("kept", "latest") for tensor in stats.state_dict()[name].values())

    net, (x, *_) = model(), batches(1)
    with ActivationStats(net, columns=4) as stats:
        net(x)
        first = size(stats)
        for _ in range(300):
            net(x)
        assert size(stats) == first
        assert stats.timeline.used <= 4
        assert not stats._waiting


def test_statistics_go_on_from_what_was_saved() -> None:
    net, inputs = model(), batches(30)
    with ActivationStats(net, columns=4) as whole:
        for x in inputs:
            net(x)
    with ActivationStats(net, columns=4) as before:
        for x in inputs[:13]:
            net(x)
    after = ActivationStats(net, columns=4)
    after.load_state_dict(before.state_dict())
    with after:
        for x in inputs[13:]:
            net(x)
    assert after.total() == whole.total()
    assert after.latest() == whole.latest()
    assert all(after.over_time(output) == whole.over_time(output) for output in whole.outputs)
    with pytest.raises(ConfigError, match="The saved statistics have 4 columns, but these have 8"):
        ActivationStats(net, columns=8).load_state_dict(before.state_dict())
    with pytest.raises(ConfigError, match="The saved statistics have 94 numbers per column, but these have 90"):
        ActivationStats(net, columns=4, quantiles=[0.5]).load_state_dict(before.state_dict())


def test_wrong_settings_are_told() -> None:
    net = model()
    with pytest.raises(ConfigError, match="every must be at least 1, got 0"):
        ActivationStats(net, every=0)
    with pytest.raises(ConfigError, match="columns must be an even number of at least 2, got 3"):
        ActivationStats(net, columns=3)
    with pytest.raises(ConfigError, match="sample must be at least 1 or None, got 0"):
        ActivationStats(net, sample=0)
    with pytest.raises(ConfigError, match=r"quantiles must be in \[0, 1\], got 0.5, 2.0"):
        ActivationStats(net, quantiles=[0.5, 2.0])
    with pytest.raises(ConfigError, match="edges must be at least two increasing numbers"):
        ActivationStats(net, edges=[1.0, 0.0])
    with pytest.raises(ConfigError, match="Did you mean 'second'"):
        ActivationStats(net, "secnd")


def test_an_output_says_where_it_is() -> None:
    assert [str(Output("a.b")), str(Output("a", 1)), str(Output("", 0, "[0]"))] == ["a.b", "a (call 2)", "model[0]"]


def test_a_large_output_is_measured_in_pieces_as_if_whole() -> None:
    x = torch.randn(5, 3, 300, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64).relu()
    x[:, 1] = 0  # a dead unit
    x += 0.0005
    found = measure(x, Scheme(1e-3, (0.5,), (-1.0, 1.0, 2.0), None), None).tolist()
    expected = [x.mean(), x.var(correction=0) * x.numel(), x.min(), x.max(), x.quantile(0.5, interpolation="linear")]
    assert found[:5] == pytest.approx([float(value) for value in expected], rel=1e-9)
    assert found[5:] == [int((x <= 1e-3).sum()), 0, 1, int((x < 1).sum())]
