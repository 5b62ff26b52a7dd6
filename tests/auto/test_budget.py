"""What a run costs by sizes alone, and how a plan is shortened to a budget."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mixfit.auto import cost
from mixfit.auto.budget import (
    EXPLAINED,
    LEAST_SHARE,
    PRESET_SECONDS,
    duration,
    explained,
    fixed_seconds,
    model_seconds,
    preset_seconds,
    whole,
    within,
    within_memory,
)
from mixfit.auto.cost import Sizes
from mixfit.auto.cost_table import SECONDS
from mixfit.auto.presets import Plan
from mixfit.config import TrainConfig
from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Constant, Linear
from mixfit.models.model import BOTH, PHOTOS, TABLE, TEXT, FittedModel, Layout, Model, Sees, TrainingRows
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees

SIZES = Sizes(rows=8_500, test=1_500, folds=5, numeric=20, categories=8, levels=200, widest=80, classes=0, columns=30)
MODELS: tuple[Model, ...] = (Constant(), Linear(), KernelRidge(), BoostedTrees(), Network(train=TrainConfig(epochs=20)))
LIMIT = "the budget"


def plan(models: tuple[Model, ...] = MODELS) -> Plan:
    return Plan(models=models, train=TrainConfig(epochs=20), folds=5)


def seconds_of(models: tuple[Model, ...], s: Sizes = SIZES) -> float:
    return sum(model_seconds(one, s) for one in models)


@pytest.mark.parametrize("classes", [0, 2, 7])
@pytest.mark.parametrize("sees", [TABLE, TABLE | TEXT, PHOTOS, BOTH])
@pytest.mark.parametrize("grows", ["rows", "numeric", "levels"])
def test_no_cost_falls_when_a_table_grows(grows: str, sees: Sees, classes: int) -> None:
    s = replace(SIZES, classes=classes, texts=1, text_width=30, characters=500.0, photos=400, features=1_280)
    large = replace(s, **{grows: 2 * getattr(s, grows), "columns": 60})
    for model in (Linear(sees=sees), KernelRidge(sees=sees), BoostedTrees(sees=sees), Network(sees=sees)):
        # A wider design matrix becomes a sparse one, which is cheaper.
        if not isinstance(model, Linear):
            # Trees of more rows are chosen on fewer inner folds.
            least = (0.9 if isinstance(model, BoostedTrees) else 1.0) * cost.seconds(cost.model_work(model, s))
            assert cost.seconds(cost.model_work(model, large)) >= least, model.name
        assert cost.model_bytes(model, large) >= cost.model_bytes(model, s) or isinstance(model, Linear)
    assert fixed_seconds(large, 5) >= fixed_seconds(s, 5)


def test_every_kind_of_work_has_a_coefficient() -> None:
    s = replace(SIZES, texts=2, text_width=30, characters=500.0, photos=400, features=1_280, photo_work=0.4)
    sizes = [s, replace(s, classes=5), replace(s, levels=5_000), replace(s, levels=5_000, classes=2)]
    kinds = {
        kind
        for one in sizes
        for model in (*MODELS, Network(sees=TABLE | {"pixels"}, tuned=True))
        for work in (cost.model_work(model, one), cost.explanation_work([model], one, 10, 4, 100))
        for kind in work
    }
    for one in sizes:
        kinds |= {*cost.shared_work(one), *cost.closing_work(one, 5), *cost.reading_work(one)}
        kinds |= set(cost.photo_pass_work(one))
    assert kinds == set(SECONDS)
    assert min(SECONDS.values()) >= 0


def test_a_plan_within_its_budget_is_unchanged() -> None:
    assert within(plan(), SIZES, 1e9, limit=LIMIT) == plan()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.05, 0.0])
def test_a_plan_is_cut_to_its_budget_and_each_cut_is_told(share: float) -> None:
    budget = share * seconds_of(MODELS)
    found = within(plan(), SIZES, budget, limit=LIMIT)
    names = [one.name for one in found.models]
    assert names[:2] == ["constant", "linear, table"]
    assert seconds_of(found.models) <= max(budget, seconds_of(MODELS[:2]))
    told = {sentence.partition(":")[0] for sentence in found.left_out}
    assert told == {one.name for one in MODELS} - set(names)
    short = {sentence.partition(":")[0] for sentence in found.shortened}
    before = {one.name: one for one in MODELS}
    assert short == {
        one.name for one in found.models if model_seconds(one, SIZES) < model_seconds(before[one.name], SIZES)
    }
    for sentence in (*found.left_out, *found.shortened):
        assert sentence.endswith(LIMIT)
    for one in found.models:
        assert model_seconds(one, SIZES) >= 0.02 * model_seconds(before[one.name], SIZES)
        assert whole(one) == before[one.name]
        assert seconds_of((whole(one),)) == seconds_of((before[one.name],))


def test_less_time_never_gives_more_models() -> None:
    budgets = [seconds_of(MODELS) * share / 20 for share in range(21)]
    kept = [{one.name for one in within(plan(), SIZES, budget, limit=LIMIT).models} for budget in budgets]
    assert all(len(less) <= len(more) for less, more in pairwise(kept))


def test_nothing_is_shortened_for_the_sake_of_a_model_that_is_left_out() -> None:
    both = 0
    for share in np.linspace(0, 1, 41):
        budget = float(share) * seconds_of(MODELS)
        found = within(plan(), SIZES, budget, limit=LIMIT)
        if found.shortened:
            assert seconds_of(tuple(whole(one) for one in found.models)) > budget
            both += bool(found.left_out)
    assert both


@pytest.mark.parametrize("classes", [0, 4])
def test_what_a_budget_leaves_lengthens_the_shortened(classes: int) -> None:
    """An epoch more of its network would not fit in the budget."""
    s, lengthened = replace(SIZES, classes=classes), 0
    for share in np.linspace(0.05, 0.95, 37):
        budget = float(share) * seconds_of(MODELS, s)
        found = within(plan(), s, budget, limit=LIMIT)
        for one in found.models:
            if isinstance(one, Network) and one.most_epochs is not None:
                longer = replace(one, most_epochs=one.most_epochs + 1)
                assert seconds_of(found.models, s) - model_seconds(one, s) + model_seconds(longer, s) > budget
                lengthened += 1
    assert lengthened > 5


def test_a_network_keeps_three_tenths_of_its_epochs() -> None:
    (network,) = (one for one in MODELS if isinstance(one, Network))
    most, budgets = network.epochs(SIZES.fit), np.linspace(0, 1, 41) * seconds_of(MODELS)
    kept = [one for budget in budgets for one in within(plan(), SIZES, float(budget), limit=LIMIT).models]
    epochs = {one.epochs(SIZES.fit) for one in kept if isinstance(one, Network)}
    assert min(epochs) >= LEAST_SHARE * most
    assert len(epochs) > 3


def test_the_costliest_of_least_promise_goes_first() -> None:
    s = replace(SIZES, photos=10_000, features=1_280)
    models = (Constant(), Linear(), Linear(sees=PHOTOS), BoostedTrees(), BoostedTrees(sees=BOTH))
    costs = {one.name: model_seconds(one, s) for one in models}
    budget = sum(costs.values()) - 0.01
    found = within(plan(models), s, 0.5 * budget, limit=LIMIT)
    assert {"constant", "linear, table"} <= {one.name for one in found.models}


def test_a_model_of_the_user_is_never_left_out() -> None:
    class Own:
        name, sees = "my own", TABLE

        def fit(self, rows: TrainingRows, truth: np.ndarray, weight: np.ndarray | None, seed: int) -> FittedModel:
            raise NotImplementedError

        def load(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout) -> FittedModel:
            raise NotImplementedError

    found = within(plan((*MODELS, Own())), SIZES, 0.0, limit=LIMIT)
    assert [one.name for one in found.models] == ["constant", "linear, table", "my own"]


def test_a_shortened_network_trains_fewer_epochs_and_trees_are_fewer() -> None:
    network = Network(train=TrainConfig(epochs=20))
    assert replace(network, most_epochs=3).epochs(500) == 3
    assert network.epochs(500) == replace(network, most_epochs=99).epochs(500) == 20
    assert replace(BoostedTrees(), most_rounds=40).rounds(800, 20, 1) == 40 < BoostedTrees().rounds(800, 20, 1)


def test_a_shortened_kernel_ridge_regression_keeps_fewer_rows() -> None:
    large = replace(SIZES, rows=40_000)
    every = replace(plan(), models=(Constant(), Linear(), KernelRidge()))
    needed = sum(model_seconds(one, large) for one in every.models)
    found = within(every, large, 0.6 * needed, limit="the budget")
    (sentence,) = found.shortened
    said = re.fullmatch(r"kernel ridge, table: it keeps ([\d,]+) of 32,000 training rows, for the budget", sentence)
    assert said is not None
    kept = int(said[1].replace(",", ""))
    assert [one.kept(32_000) for one in found.models if isinstance(one, KernelRidge)] == [kept]
    assert kept < KernelRidge().kept(32_000)
    assert KernelRidge(most_kept=kept).kept(100) == KernelRidge().kept(100) == 100
    assert [KernelRidge().kept(rows) for rows in (4_000, 4_001)] == [4_000, 3_000]
    assert sum(model_seconds(one, large) for one in found.models) <= 0.6 * needed
    assert whole(KernelRidge(most_kept=kept)).most_kept is None


def test_models_that_do_not_fit_in_memory_are_left_out() -> None:
    large = replace(SIZES, rows=3_600)  # almost as many as kernel ridge regression keeps
    found = within_memory(plan(), large, 6e8)
    assert "kernel ridge, table" not in [one.name for one in found.models]
    (sentence,) = found.left_out
    assert sentence.startswith("kernel ridge, table: it needs about ")
    assert sentence.endswith(" are free")
    assert [one.name for one in within_memory(plan(), large, 0.0).models] == ["constant"]
    assert within_memory(plan(), large, float("inf")) == plan()


def test_budgets_grow_with_rows_and_columns() -> None:
    sizes = [replace(SIZES, rows=rows, columns=columns) for rows, columns in ((300, 2), (10_000, 200), (300, 1_000))]
    assert {preset_seconds("quick", one) for one in sizes} == {30}
    assert preset_seconds("balanced", replace(SIZES, rows=20_000)) == 600
    assert preset_seconds("balanced", replace(SIZES, rows=20_000, columns=4_500)) == 900
    assert preset_seconds("best", SIZES) == 1_800


@pytest.mark.parametrize("columns", [700, 1_000, 2_000, 4_500])
@pytest.mark.parametrize("rows", [500, 3_000, 20_000])
def test_at_least_half_a_budget_is_for_the_models_of_a_table(rows: int, columns: int) -> None:
    wide = replace(SIZES, rows=rows, test=rows // 5, columns=columns, numeric=columns - 20)
    usual = max(1.0, rows / 10_000, columns / 1_500)
    for preset, seconds in PRESET_SECONDS.items():
        given = preset_seconds(preset, wide)
        assert given >= max(usual * seconds, 2 * fixed_seconds(wide, 1) - 1e-9)
        # Photos and texts do not enlarge it.
        assert preset_seconds(preset, replace(wide, photos=9_000, features=1_280, texts=3, text_width=300)) == given
    assert (preset_seconds("quick", wide) > 30 * usual) == (rows * columns >= 3e6)


def test_explanations_keep_to_their_seconds() -> None:
    models = MODELS[1:]
    everything = cost.seconds(cost.explanation_work(models, SIZES, 28, *EXPLAINED[0]))
    for share in (1.0, 0.5, 0.2, 0.05, 0.01):
        size = explained(models, SIZES, 28, share * everything)
        if size is not None:
            assert cost.seconds(cost.explanation_work(models, SIZES, 28, *size)) <= share * everything
    assert explained(models, SIZES, 28, everything) == EXPLAINED[0]
    assert explained(models, SIZES, 28, 0.0) is None
    assert explained(models, SIZES, 5_000, 1e9) is None  # too many columns for so few predictions


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (9.4, "9 s"), (14.0, "15 s"), (61.0, "60 s"), (100.0, "2 min"), (6_000.0, "1 h 40 min")],
)
def test_durations_are_rounded_as_estimates_are(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4, 0.25])
def test_networks_that_differ_in_what_they_see_train_equally_long(share: float) -> None:
    s = replace(SIZES, photos=3_000, features=2_000)
    train = TrainConfig(epochs=20)
    twins = tuple(Network(sees=sees, train=train, light=True) for sees in (TABLE, BOTH))
    given = (Constant(), Linear(), BoostedTrees(), *twins)
    found = within(plan(given), s, share * seconds_of(given, s), limit=LIMIT)
    networks = [one for one in found.models if isinstance(one, Network)]
    assert len({one.epochs(s.fit) for one in networks}) <= 1
    told = [line for line in found.shortened if line.startswith("network")]
    assert len(told) == sum(one.epochs(s.fit) < 20 for one in networks)


@pytest.mark.parametrize("model", [Linear(), BoostedTrees()])
def test_ordered_classes_cost_a_model_of_two_classes_for_each_step(model: Model) -> None:
    two, ordered = replace(SIZES, classes=2), replace(SIZES, classes=7, ordered=True)
    for work in (cost.fit_work, lambda model, s: cost.predict_work(model, s, 1_000)):
        assert cost.seconds(work(model, ordered)) == pytest.approx(6 * cost.seconds(work(model, two)))
    assert cost.tree_rounds(BoostedTrees(), ordered) == cost.tree_rounds(BoostedTrees(), two)
