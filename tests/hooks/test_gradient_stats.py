"""Norms, ratios and cosines against their definitions, over gradients and weights that were stored."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.errors import ConfigError
from mixfit.hooks.gradient_stats import Gradients, GradientStats, Part

ROWS = 6


class Adding(nn.Module):
    def forward(self, table: Tensor, photos: Tensor) -> Tensor:
        return table * photos + table


class Mixed(nn.Module):
    """Two branches and a fusion, in float64."""

    def __init__(self, photo_dim: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tabular, self.image = nn.Linear(3, 4), nn.Sequential(nn.Linear(5, photo_dim), nn.Tanh())
        self.fusion = Adding() if photo_dim == 4 else nn.Bilinear(4, photo_dim, 4)
        self.head = nn.Linear(4, 1)
        self.double()

    def forward(self, xb: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(self.fusion(self.tabular(xb[0]), self.image(xb[1])))[:, 0]


def batches(count: int) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        numbers = torch.randn(ROWS, 9, generator=generator, dtype=torch.float64)
        yield (numbers[:, :3], numbers[:, 3:8]), numbers[:, 8]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for n, p in model.named_parameters() if n.startswith("image")], "name": "image", "lr": 0.01},
        {"params": [p for n, p in model.named_parameters() if not n.startswith("image")], "lr": 0.1},
    ]
    return torch.optim.SGD(groups, lr=0.1)


def train(model: nn.Module, steps: int, stats: GradientStats, optimizer: Any) -> dict[str, list[Any]]:
    """A loop by hand; returns by name what was there in each step: gradients, weights before, weights after."""
    found: dict[str, list[Any]] = {}
    with stats:
        for xb, yb in batches(steps):
            F.mse_loss(model(xb), yb).backward()
            stats.after_backward()
            before = {name: (p.grad.clone(), p.detach().clone()) for name, p in model.named_parameters()}
            optimizer.step()
            stats.after_step()
            for name, p in model.named_parameters():
                found.setdefault(name, []).append((*before[name], p.detach().clone()))
            optimizer.zero_grad()
    return found


def joint(found: dict[str, list[Any]], beginnings: tuple[str, ...], step: int) -> tuple[float, float, float]:
    """Norms of gradient, weight and update of all parameters with these beginnings."""
    parts = [found[name][step] for name in found if name.startswith(beginnings)]
    gradient, weight, after = (torch.cat([part[i].flatten() for part in parts]) for i in range(3))
    return float(gradient.norm()), float(weight.norm()), float((after - weight).norm())


NAMES = {
    Part("all"): ("",),
    Part("group", "image"): ("image",),
    Part("group", "1"): ("tabular", "head"),
    Part("branch", "table"): ("tabular",),
    Part("branch", "photos"): ("image",),
    Part("branch", "fusion and head"): ("head",),
    Part("parameter", "image.0.bias"): ("image.0.bias",),
}


def assert_is_of(told: Gradients, norms: list[tuple[float, float, float]]) -> None:
    gradient, weight, update = zip(*norms, strict=True)
    ratios = [u / w for u, w in zip(update, weight, strict=True)]
    count = len(norms)
    assert told.steps == count
    assert told.gradient == pytest.approx(sum(gradient) / count, rel=1e-9)
    assert told.largest_gradient == pytest.approx(max(gradient), rel=1e-9)
    assert told.weight == pytest.approx(sum(weight) / count, rel=1e-9)
    assert told.update == pytest.approx(sum(update) / count, rel=1e-9)
    assert told.ratio == pytest.approx(sum(ratios) / count, rel=1e-9)
    assert told.largest_ratio == pytest.approx(max(ratios), rel=1e-9)


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (3, 1), (9, 1), (25, 2)])
def test_norms_and_ratios_of_every_part_are_those_of_what_was_stored(steps: int, every: int) -> None:
    model = Mixed()
    optimizer = optimizer_of(model)
    stats = GradientStats(model, optimizer, every=every, columns=4)
    found = train(model, steps, stats, optimizer)
    seen = range(0, steps, every)
    assert [part for part in stats.parts if part.kind != "parameter"] == list(NAMES)[:-1]
    for part, beginnings in NAMES.items():
        assert_is_of(stats.total()[part], [joint(found, beginnings, step) for step in seen])
        assert_is_of(stats.latest()[part], [joint(found, beginnings, seen[-1])])
        assert stats.latest()[part].last_step == seen[-1]
        columns = stats.over_time(part)
        assert len(columns) <= 4
        for told in columns:
            steps_of_it = [step for step in seen if told.first_step <= step <= told.last_step]
            assert_is_of(told, [joint(found, beginnings, step) for step in steps_of_it])
        assert sum(told.steps for told in columns) == len(seen)


def encodings(model: Mixed, xb: tuple[Tensor, Tensor], yb: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both encodings and their gradients, by autograd."""
    table, photos = model.tabular(xb[0]), model.image(xb[1])
    loss = F.mse_loss(model.head(model.fusion(table, photos))[:, 0], yb)
    return (table.detach(), photos.detach(), *torch.autograd.grad(loss, (table, photos)))


def test_the_fusion_sends_what_autograd_says() -> None:
    model, copy = Mixed(), Mixed()
    stats = GradientStats(model)
    cosines, agreements, norms = [], [], []
    with stats:
        for xb, yb in batches(5):
            F.mse_loss(model(xb), yb).backward()
            stats.after_backward()
            table, photos, to_table, to_photos = encodings(copy, xb, yb)
            cosines.append(float(F.cosine_similarity(to_table.flatten(), to_photos.flatten(), dim=0)))
            rows = (table * to_table).sum(1), (photos * to_photos).sum(1)
            agreements.append(float(F.cosine_similarity(*rows, dim=0)))
            norms.append((float(to_table.norm()), float(to_photos.norm())))
    told = stats.modalities()
    assert told.steps == 5
    assert told.cosine == pytest.approx(sum(cosines) / 5, rel=1e-6)
    assert told.agreement == pytest.approx(sum(agreements) / 5, rel=1e-6)
    assert told.table == pytest.approx(sum(a for a, _ in norms) / 5, rel=1e-6)
    assert told.photos == pytest.approx(sum(b for _, b in norms) / 5, rel=1e-6)
    last = stats.latest_modalities()
    assert last is not None
    assert (last.cosine, last.first_step) == (pytest.approx(cosines[-1], rel=1e-6), 4)
    assert [m.cosine for m in stats.modalities_over_time()] == pytest.approx(cosines, rel=1e-6)


def test_encodings_of_other_widths_have_an_agreement_and_no_cosine() -> None:
    model = Mixed(photo_dim=7)
    with GradientStats(model) as stats:
        for xb, yb in batches(3):
            F.mse_loss(model(xb), yb).backward()
            stats.after_backward()
    told = stats.modalities()
    assert told.cosine is None
    assert told.agreement is not None
    table, photos, to_table, to_photos = encodings(model, xb, yb)
    rows = (table * to_table).sum(1), (photos * to_photos).sum(1)
    assert stats.latest_modalities().agreement == pytest.approx(float(F.cosine_similarity(*rows, dim=0)), rel=1e-6)


def test_agreement_tells_help_from_harm() -> None:
    class Difference(nn.Module):
        def forward(self, table: Tensor, photos: Tensor) -> Tensor:
            return table - photos

    class Sum(nn.Module):
        def forward(self, table: Tensor, photos: Tensor) -> Tensor:
            return table + photos

    for fusion, expected in ((Sum(), 1.0), (Difference(), -1.0)):
        model = nn.Module()
        model.fusion = fusion
        x = torch.randn(5, 2)
        with GradientStats(model) as stats:
            table, photos = x.clone().requires_grad_(), x.clone().requires_grad_()
            model.fusion(table, photos).sum().backward()
            stats.after_backward()
        assert stats.modalities().agreement == pytest.approx(expected)
        assert stats.modalities().cosine == pytest.approx(expected)


def test_members_of_an_ensemble_share_the_photos() -> None:
    class Members(nn.Module):
        def forward(self, table: Tensor, photos: Tensor) -> Tensor:
            return table * photos[:, None]

    model = nn.Module()
    model.fusion = Members()
    table, photos = torch.randn(5, 3, 2, requires_grad=True), torch.randn(5, 2, requires_grad=True)
    with GradientStats(model) as stats:
        model.fusion(table, photos).square().sum().backward()
        stats.after_backward()
    expected = F.cosine_similarity(table.grad.sum(1).flatten(), photos.grad.flatten(), dim=0)
    assert stats.modalities().cosine == pytest.approx(float(expected), rel=1e-5)


def test_parts_of_a_batch_add_up_and_the_scale_of_the_loss_is_taken_out() -> None:
    (xb, yb), *_ = batches(1)
    whole, parts = Mixed(), Mixed()
    with GradientStats(whole) as a:
        F.mse_loss(whole(xb), yb).backward()
        a.after_backward()
    with GradientStats(parts) as b:
        for rows in (slice(0, 2), slice(2, ROWS)):
            loss = F.mse_loss(parts((xb[0][rows], xb[1][rows])), yb[rows], reduction="sum") / ROWS
            (512 * loss).backward()
        for parameter in parts.parameters():
            parameter.grad /= 512
        b.after_backward(loss_scale=512.0)
    for name in ("table", "photos", "cosine", "agreement"):
        assert getattr(a.modalities(), name) == pytest.approx(getattr(b.modalities(), name), rel=1e-9)
    assert a.total()[Part("all")].gradient == pytest.approx(b.total()[Part("all")].gradient, rel=1e-9)


def test_nothing_is_measured_where_there_is_nothing() -> None:
    model = Mixed()
    model.image.requires_grad_(requires_grad=False)
    (xb, yb), *_ = batches(1)
    with GradientStats(model, every=3) as stats:
        F.mse_loss(model(xb), yb).backward()
        stats.after_backward()
    assert stats.modalities().steps == 0
    assert stats.modalities().agreement is None
    assert stats.latest_modalities() is None
    photos = stats.total()[Part("branch", "photos")]
    assert photos.steps == 0
    assert math.isnan(photos.gradient)
    table = stats.total()[Part("branch", "table")]
    assert table.steps == 1
    assert math.isnan(table.ratio)  # no step was taken


def test_gradients_that_are_not_finite_are_counted_and_spoil_nothing() -> None:
    model = nn.Linear(2, 1)
    with GradientStats(model) as stats:
        for factor in (1.0, math.nan, 1.0):
            (model(torch.ones(1, 2)).sum() * factor).backward()
            stats.after_backward()
            model.zero_grad()
    told = stats.total()[Part("all")]
    assert (told.steps, told.broken) == (2, 1)
    assert told.gradient == pytest.approx(math.sqrt(3))


def test_the_training_is_the_same_to_the_bit_and_nothing_stays() -> None:
    def weights(*, watched: bool) -> Tensor:
        model = Mixed()
        optimizer = optimizer_of(model)
        stats = GradientStats(model, optimizer)
        if watched:
            train(model, 5, stats, optimizer)
            assert not any(module._forward_pre_hooks for module in model.modules())
        else:
            for xb, yb in batches(5):
                F.mse_loss(model(xb), yb).backward()
                optimizer.step()
                optimizer.zero_grad()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(weights(watched=True), weights(watched=False))


def test_statistics_go_on_from_what_was_saved() -> None:
    def run(*, cut: bool) -> GradientStats:
        model = Mixed()
        optimizer = optimizer_of(model)
        stats = GradientStats(model, optimizer, columns=4)
        for place, (xb, yb) in enumerate(batches(11)):
            if cut and place == 6:
                saved = stats.state_dict()
                stats.remove()
                stats = GradientStats(model, optimizer, columns=4)
                stats.load_state_dict(saved)
            stats.place()
            F.mse_loss(model(xb), yb).backward()
            stats.after_backward()
            optimizer.step()
            stats.after_step()
            optimizer.zero_grad()
        stats.remove()
        return stats

    whole, cut = run(cut=False), run(cut=True)
    assert whole.total() == cut.total()
    assert whole.latest() == cut.latest()
    assert whole.modalities_over_time() == cut.modalities_over_time()
    assert whole.latest_modalities() == cut.latest_modalities()
    with pytest.raises(ConfigError, match="belong to a model with other parameters, groups or branches"):
        GradientStats(nn.Linear(2, 2), columns=4).load_state_dict(whole.state_dict())


def test_wrong_settings_are_told() -> None:
    with pytest.raises(ConfigError, match="every must be at least 1, got -1"):
        GradientStats(Mixed(), every=-1)
    with pytest.raises(ConfigError, match=r"no layer 'fussion'\. Did you mean 'fusion'"):
        GradientStats(Mixed(), fusion="fussion")


def test_sparse_gradients_have_norms() -> None:
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True))
    with GradientStats(model) as stats:
        model(torch.tensor([1, 1, 3])).sum().backward()
        stats.after_backward()
    assert stats.total()[Part("all")].gradient == pytest.approx(math.sqrt(2 * 4 + 2))
