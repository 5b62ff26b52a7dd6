"""Explanations of every kind of model: they are about the very predictions, add up, and find what is there to find."""

import json
from dataclasses import replace
from itertools import combinations, permutations
from math import factorial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from blends_by_hand import EVERY_KIND, Workshop, two_image_columns

from mixfit.auto.recipe import Run
from mixfit.data.load import load_data
from mixfit.demo import DEMO_TARGET, demo_truth, write_demo
from mixfit.errors import ConfigError, DataError
from mixfit.evaluation.explain import (
    Exact,
    Explanation,
    Plan,
    affordable_background,
    explain,
    explained_columns,
    typical_rows,
)
from mixfit.evaluation.photo_heat import photo_heat
from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Constant, Linear
from mixfit.models.mixed import Mixture
from mixfit.models.model import BOTH, Model
from mixfit.predictor import Predictor
from mixfit.predictor.blend import BlendPredictor
from mixfit.training.build import build_model

KINDS = [model.name for model in EVERY_KIND]
KERNELS = KernelRidge(sees=BOTH)


@pytest.fixture(scope="module")
def frame(demo_table: Path) -> pd.DataFrame:
    return two_image_columns(demo_table)


@pytest.fixture(scope="module")
def images(demo_table: Path) -> Path:
    return demo_table.parent


@pytest.fixture(scope="module")
def numbers(frame: pd.DataFrame, images: Path) -> Workshop:
    return Workshop.of(frame, images, DEMO_TARGET)


@pytest.fixture(scope="module")
def classes(frame: pd.DataFrame, images: Path) -> Workshop:
    return Workshop.of(frame, images, "material")


def in_the_scale_of_parts(predictor: Predictor, frame: pd.DataFrame, images: Path) -> np.ndarray:
    values = predictor.predictions(frame, images=images).values
    return np.log(values) if predictor.target.log else values


def random_mixture(predictor: Predictor, frame: pd.DataFrame, seed: int) -> tuple[Mixture, pd.DataFrame]:
    """Mixed rows, and the same as a table of raw cells."""
    rng, (table, photos) = np.random.default_rng(seed), explained_columns(predictor)
    cells = rng.integers(0, len(frame), (9, len(table)))
    galleries = rng.integers(0, len(frame), (7, len(photos)))
    table_of, photos_of = rng.integers(0, 9, 30), rng.integers(0, 7, 30)
    raw = {name: frame[name].to_numpy()[cells[table_of, place]] for place, name in enumerate(table)}
    raw |= {name: frame[name].to_numpy()[galleries[photos_of, place]] for place, name in enumerate(photos)}
    mixture = Mixture(cells=cells, columns=table, photos=galleries, table_of=table_of, photos_of=photos_of)
    return mixture, pd.DataFrame(raw)


@pytest.fixture(scope="module")
def of_numbers(numbers: Workshop) -> BlendPredictor:
    """Of all kinds of models."""
    return numbers.blend(EVERY_KIND)


@pytest.fixture(scope="module")
def of_classes(classes: Workshop) -> BlendPredictor:
    """Of all kinds of models."""
    return classes.blend(EVERY_KIND)


def alone(predictor: BlendPredictor, name: str) -> BlendPredictor:
    """One of the models."""
    folds = [replace(fold, models={name: fold.models[name]}) for fold in predictor.folds]
    return replace(predictor, shares={name: 1.0}, folds=folds)


@pytest.mark.parametrize(
    ("task", "model"),
    [
        pytest.param(task, model, id=f"{task}-{name}")
        for task in ("of_numbers", "of_classes")
        for model, name in zip(EVERY_KIND, KINDS, strict=True)
    ],
)
def test_mixed_rows_are_predicted_as_the_same_rows_in_a_table(
    task: str, model: Model, frame: pd.DataFrame, images: Path, request: pytest.FixtureRequest
) -> None:
    predictor = alone(request.getfixturevalue(task), model.name)
    mixture, raw = random_mixture(predictor, frame, seed=1)
    mix = predictor.mixer(predictor.raw_rows(frame, images=images), device=torch.device("cpu"))
    expected = in_the_scale_of_parts(predictor, raw, images)
    np.testing.assert_allclose(mix(mixture), expected, atol=2e-5)
    if not isinstance(model, Constant):
        assert np.ptp(expected, axis=0).max() > 1e-4


@pytest.mark.parametrize("fusion", ["attention", "gated"])
def test_a_network_of_any_fusion_predicts_mixed_rows_from_pixels_or_features(
    fusion: str, frame: pd.DataFrame, images: Path, numbers: Workshop
) -> None:
    config = replace(numbers.model, fusion=fusion, backbone="small_resnet", tabular="tabm")  # type: ignore[arg-type]
    predictor = Predictor.from_training(build_model(numbers.data, config, seed=0), numbers.data, config)
    mixture, raw = random_mixture(predictor, frame, seed=2)
    mix = predictor.mixer(predictor.raw_rows(frame, images=images), device=torch.device("cpu"))
    np.testing.assert_allclose(mix(mixture), in_the_scale_of_parts(predictor, raw, images), atol=2e-5)


@pytest.fixture(scope="module", params=["of_numbers", "of_classes"])
def explained(request: pytest.FixtureRequest, frame: pd.DataFrame, images: Path) -> tuple[BlendPredictor, Explanation]:
    predictor: BlendPredictor = request.getfixturevalue(request.param)
    return predictor, explain(predictor, frame, images=images, rows=[3, 5, 11], background=6)


def test_parts_add_up_to_the_prediction_less_the_mean_prediction(
    explained: tuple[BlendPredictor, Explanation], frame: pd.DataFrame, images: Path
) -> None:
    predictor, found = explained
    values = in_the_scale_of_parts(predictor, frame, images)
    background = values[typical_rows(frame, predictor, 6)]
    rows = values[[3, 5, 11]]
    if predictor.target.classes is not None:
        best = rows.argmax(1)
        rows, background = rows[np.arange(3), best], background[:, best]
        assert found.explained == found.predictions == tuple(predictor.target.classes[one] for one in best)
    assert found.exact
    np.testing.assert_allclose(found.value, rows, atol=1e-5)
    np.testing.assert_allclose(found.base, np.broadcast_to(background.T.mean(-1), 3), atol=1e-5)
    np.testing.assert_allclose(found.parts.sum(1), rows - background.T.mean(-1), atol=1e-5)
    np.testing.assert_allclose(found.parts.sum(1), found.value - found.base, atol=1e-10)
    np.testing.assert_allclose(found.table + found.photos, found.value - found.base, atol=1e-10)
    assert (np.abs(found.parts[:, found.is_photo]).sum(axis=1) > 0).all()


def test_a_rows_explanation_does_not_depend_on_the_other_rows(
    explained: tuple[BlendPredictor, Explanation], frame: pd.DataFrame, images: Path
) -> None:
    predictor, found = explained
    alone = explain(predictor, frame, images=images, rows=[5], background=6)
    np.testing.assert_allclose(alone.parts[0], found.parts[1], atol=1e-6)
    np.testing.assert_allclose(alone.errors[0], found.errors[1], atol=1e-6)
    assert alone.cells[0] == found.cells[1]
    assert alone.cells[0][alone.columns.index("front")] == ""  # its photo cannot be read


def test_a_row_against_itself_has_no_parts(
    explained: tuple[BlendPredictor, Explanation], frame: pd.DataFrame, images: Path
) -> None:
    found = explain(explained[0], frame, images=images, rows=[11], background=frame.iloc[[11]])
    np.testing.assert_array_equal(found.parts, 0.0)
    assert np.isnan(found.errors).all()
    json.dumps(found.to_dict(), allow_nan=False)


def test_parts_are_the_shapley_values_of_predictions_of_tables(
    frame: pd.DataFrame, images: Path, of_numbers: BlendPredictor
) -> None:
    """One after another: every coalition as a table of its own, and the sum over subsets from the textbook."""
    predictor = alone(of_numbers, KERNELS.name)
    table, photos = explained_columns(predictor)
    names, background = [*table, *photos], frame.iloc[[20, 41]]
    found = explain(predictor, frame, images=images, rows=[7], background=background)
    coalitions = [set(some) for size in range(len(names) + 1) for some in combinations(range(len(names)), size)]
    lines = [
        {name: (frame.iloc[7] if place in some else other)[name] for place, name in enumerate(names)}
        for some in coalitions
        for _, other in background.iterrows()
    ]
    values = in_the_scale_of_parts(predictor, pd.DataFrame(lines), images).reshape(-1, 2).mean(1)
    worth = {frozenset(some): value for some, value in zip(coalitions, values, strict=True)}
    count = len(names)
    for player in range(count):
        part = sum(
            factorial(len(some))
            * factorial(count - len(some) - 1)
            / factorial(count)
            * (worth[some | {player}] - worth[some])
            for some in worth
            if player not in some
        )
        assert found.parts[0, player] == pytest.approx(part, abs=1e-8)
    of_table, of_photos = frozenset(range(len(table))), frozenset(range(len(table), count))
    together = worth[of_table | of_photos] - worth[of_table] - worth[of_photos] + worth[frozenset()]
    assert found.interaction[0] == pytest.approx(together, abs=1e-8)
    assert abs(together) > 1e-5


def test_what_a_model_does_not_look_at_has_no_part(
    frame: pd.DataFrame, images: Path, of_numbers: BlendPredictor
) -> None:
    blind = alone(of_numbers, "boosted trees, table")
    found = explain(blind, frame, images=images, rows=[1, 2], background=5)
    np.testing.assert_array_equal(found.parts[:, found.is_photo], 0.0)
    np.testing.assert_array_equal(found.interaction, 0.0)
    assert found.photo_share[0] == 0
    looking = alone(of_numbers, "linear, photos")
    found = explain(looking, frame, images=images, rows=[1, 2], background=5)
    np.testing.assert_array_equal(found.parts[:, ~found.is_photo], 0.0)
    assert found.photo_share[0] == pytest.approx(1)
    table_alone = replace(alone(of_numbers, "linear, table"), photos=False)
    found = explain(table_alone, frame.drop(columns=["front", "detail"]).assign(front=None, detail=None), rows=[1])
    assert not found.is_photo.any()
    # It is a sum of columns, so that nothing meets.
    np.testing.assert_array_equal(found.interaction, 0.0)


def test_equal_columns_have_equal_parts(frame: pd.DataFrame, images: Path) -> None:
    twice = frame.assign(again=frame["height_cm"])
    predictor = Workshop.of(twice, images, DEMO_TARGET).blend([Linear(sees=BOTH)])
    found = explain(predictor, twice, images=images, rows=[0, 9], background=5)
    height, again = (found.parts[:, found.columns.index(name)] for name in ("height_cm", "again"))
    np.testing.assert_allclose(height, again, atol=1e-8)
    assert np.abs(height).max() > 1e-3


@pytest.mark.parametrize("players", [6, 14])
def test_sampled_parts_are_within_their_error_of_exact_ones(players: int) -> None:
    rng = np.random.default_rng(0)
    values, slopes = rng.normal(size=(41, players)), rng.normal(size=players)
    meet = rng.normal(size=(players, players)) * 0.3

    def predict(mixture: Mixture) -> np.ndarray:
        x = values[mixture.cells, np.arange(players)][mixture.table_of]
        return x @ slopes + np.einsum("ni,ij,nj->n", x, meet, x) + np.prod(x[:, :3], axis=1)

    names = tuple(f"column {number}" for number in range(players))
    sampled = Plan.of(names, (), 40, seed=3)
    if sampled.exact:  # the same few columns, sampled
        from mixfit.evaluation.explain import Sampled

        designs = tuple(Sampled.draw(players, 2, rng) for _ in range(40))
        sampled = Plan(table=names, photos=(), background=40, designs=designs)
    exact = Plan(table=names, photos=(), background=40, designs=(Exact(players=players),) * 40)
    found = []
    for plan in (exact, sampled):
        mixture, mixed_of = plan.mixture(0, 1, np.zeros((40, players), dtype=bool))
        found.append(plan.parts(predict(mixture)[mixed_of]).columns)
    assert not sampled.exact
    assert sampled.orders == len(sampled.designs[0].orders)  # type: ignore[union-attr]
    np.testing.assert_allclose(found[0].sum(axis=1), found[1].sum(axis=1), atol=1e-9)
    # Of each background row, as both plans have the same ones: what is left is the choice of orders.
    away = found[1] - found[0]
    np.testing.assert_allclose(away[:, 3:], 0.0, atol=1e-9)  # pairs of columns alone, in orders and their reverses
    error = away[:, :3].std(axis=0, ddof=1) / np.sqrt(40)
    assert (error > 0).all()
    assert (np.abs(away[:, :3].mean(axis=0)) < 3 * error).all()
    assert (error < found[0][:, :3].std(axis=0, ddof=1) / np.sqrt(40)).all()


@pytest.mark.parametrize("texts", [(), ("b",), ("a", "c"), ("a", "b", "c")])
@pytest.mark.parametrize("most", [None, 280])
def test_each_side_is_one_player_and_the_interaction_is_what_they_change_together(
    texts: tuple[str, ...], most: int | None
) -> None:
    """Against the mean over all orders of the sides, one after another."""
    rng = np.random.default_rng(1)
    names, photos = ("a", "b", "c"), ("front", "back")
    values = rng.normal(size=(9, 5))

    def worth(x: np.ndarray) -> np.ndarray:
        return x @ np.arange(1, 6) + 2 * x[:, 0] * x[:, 1] * x[:, 3] + x[:, 2] * x[:, 4]

    background = 6 if most is None else affordable_background(5, 8, most, sides=3 if texts else 2)
    plan = Plan.of(names, photos, background, seed=0, most=most, texts=texts)
    assert plan.exact == (most is None)
    mixture, mixed_of = plan.mixture(0, 1, np.zeros((background, 5), dtype=bool))
    if most is not None:
        assert len(mixed_of) <= most
    x = np.concatenate(
        [
            values[mixture.cells, np.arange(3)][mixture.table_of],
            values[mixture.photos, np.arange(3, 5)][mixture.photos_of],
        ],
        axis=1,
    )
    whole = worth(x)[mixed_of]
    np.testing.assert_allclose(plan.prediction(whole), worth(values[:1]))
    np.testing.assert_allclose(plan.background_values(whole), worth(values[1 : background + 1]))
    found = plan.parts(whole)
    sides = [[place for place, name in enumerate(names) if name not in texts], [3, 4]]
    sides[1:1] = [[names.index(name) for name in texts]] if texts else []
    for number in range(background):
        other = values[number + 1]

        def of(members: tuple[int, ...], other: np.ndarray = other) -> float:
            mixed = other.copy()
            for side in members:
                mixed[sides[side]] = values[0, sides[side]]
            return float(worth(mixed[None])[0])

        orders = list(permutations(range(len(sides))))
        for side in range(len(sides)):
            gains = [of(order[: order.index(side) + 1]) - of(order[: order.index(side)]) for order in orders]
            assert found.sides[number, side] == pytest.approx(np.mean(gains), abs=1e-9)
        alone = sum(of((side,)) - of(()) for side in range(len(sides)))
        assert found.interaction[number] == pytest.approx(of(tuple(range(len(sides)))) - of(()) - alone, abs=1e-9)
    np.testing.assert_allclose(found.sides.sum(axis=1), found.columns.sum(axis=1), atol=1e-9)


def test_more_than_ten_columns_are_sampled_and_say_so(frame: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.normal(size=(60, 12)), columns=[f"x{number}" for number in range(12)])
    wide["y"] = wide["x0"] * 2 + wide["x1"] * wide["x2"] + 0.01 * rng.normal(size=60)
    data = load_data(wide, target="y")
    predictor = Predictor.from_training(build_model(data, seed=0), data)
    found = explain(predictor, wide, rows=[0, 1], background=8)
    assert not found.exact
    assert found.orders > 0
    np.testing.assert_allclose(found.parts.sum(1), found.value - found.base, atol=1e-5)
    np.testing.assert_allclose(found.value, predictor.predict(wide.head(2))["prediction"], atol=1e-5)
    assert (found.errors >= 0).all()
    assert found.to_dict()["orders_a_background_row"] == found.orders


def test_a_class_can_be_asked_for(frame: pd.DataFrame, images: Path, of_classes: BlendPredictor) -> None:
    predictor = alone(of_classes, "linear, table and photos")
    assert predictor.target.classes is not None
    found = [
        explain(predictor, frame, images=images, rows=[0], background=4, target=name)
        for name in predictor.target.classes
    ]
    np.testing.assert_allclose(np.sum([one.parts for one in found], axis=0), 0.0, atol=1e-10)
    assert sum(float(one.value[0]) for one in found) == pytest.approx(1)


@pytest.mark.long
def test_parts_of_the_example_are_those_that_its_prices_are_made_of(tmp_path: Path) -> None:
    """Trained in seconds: kernel ridge regression on small photos, a fold of 440 vases."""
    rows = 550
    table = write_demo(tmp_path / "vases", rows=rows)
    frame = pd.read_csv(table).drop(columns="vase_id")
    frame["photos"] = frame["photos"].str.split(";").str[0]  # half as many to look at
    workshop = Workshop.of(frame, table.parent, DEMO_TARGET, size=128, folds=5)
    one_fold = replace(workshop, folds=replace(workshop.folds, folds=workshop.folds.folds[:1]))
    predictor = one_fold.blend([KERNELS])
    unseen = np.flatnonzero(~np.isin(np.arange(rows), workshop.folds.folds[0].fit_rows))
    complete = unseen[frame.iloc[unseen].notna().all(axis=1)][:60]
    background = frame.iloc[workshop.folds.folds[0].fit_rows]
    background = background.iloc[typical_rows(background, predictor, 32)]
    found = explain(predictor, frame, images=table.parent, rows=complete.tolist(), background=background)
    truth = demo_truth(rows).iloc[complete]
    half = truth["interaction"] / 2
    truths = [truth["table_part"] + half, truth["photo_part"] + half, truth["interaction"]]
    ours = [found.table, found.photos, found.interaction]
    table, photos, interaction = (np.corrcoef(a, b)[0, 1] for a, b in zip(ours, truths, strict=True))
    assert min(table, photos) > 0.95, (table, photos, interaction)
    assert interaction > 0.8, (table, photos, interaction)


def test_errors_are_how_far_other_background_rows_move_the_parts() -> None:
    """The target, which background rows are spread over, is one of the columns: its part is moved little."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=2_000).round(4), "z": rng.normal(size=2_000).round(4)})
    table["y"] = table["x"] * 3
    data = load_data(table, target="y")
    predictor = Predictor.from_training(build_model(data, seed=0), data)
    found = [explain(predictor, table, rows=[0, 1], background=16, seed=seed) for seed in range(40)]
    moved = np.std([one.parts for one in found], axis=0, ddof=1)
    stated = np.sqrt(np.mean([one.errors**2 for one in found], axis=0))
    assert (np.abs(np.log(stated / moved)) < np.log(1.6)).all()


def test_background_rows_are_spread_over_the_target(frame: pd.DataFrame, of_numbers: BlendPredictor) -> None:
    predictor = of_numbers
    found = typical_rows(frame, predictor, 10, seed=4)
    price = frame[DEMO_TARGET].astype(float)
    ranks = price.rank().to_numpy()[found]
    assert ((ranks > np.arange(10) * 9) & (ranks <= np.arange(1, 11) * 9)).all()
    assert len(typical_rows(frame, predictor, 1000)) == len(frame)
    assert len(typical_rows(frame.drop(columns=DEMO_TARGET), predictor, 7)) == 7
    unknown = typical_rows(frame.assign(**{DEMO_TARGET: np.nan}), predictor, 7)
    np.testing.assert_array_equal(unknown, typical_rows(frame.drop(columns=DEMO_TARGET), predictor, 7))
    np.testing.assert_array_equal(found, typical_rows(frame, predictor, 10, seed=4))


def test_heat_of_a_blend_is_the_mean_over_its_networks(
    frame: pd.DataFrame, images: Path, of_classes: BlendPredictor
) -> None:
    blind = alone(of_classes, "linear, table and photos")
    with pytest.raises(ConfigError, match="No network of this blend uses photos, and other models have no heat maps"):
        photo_heat(blind, frame, images=images, rows=[0])
    predictor = alone(of_classes, "network, table and photos")
    layer = "image.backbone.blocks.2"
    found = photo_heat(predictor, frame, images=images, rows=[4, 0, 11], layer=layer)
    assert [one.row for one in found] == [4, 0, 11]
    said = predictor.predict(frame.iloc[[4, 0, 11]], images=images)["prediction"].tolist()
    assert [one.prediction for one in found] == [one.explained for one in found] == said
    for one in found:
        assert one.heat.shape[0] == len(one.names) > 0
        assert one.heat.amax() == pytest.approx(1.0)
    first = found[0]
    only = first.of_columns(["front"])
    assert only.columns == ("front",)
    assert len(only.heat) == len(only.photos) == len(only.names) == 1
    assert len(first.of_columns([]).heat) == 0


def test_a_network_is_explained_as_a_blend_is(quick_run: Run, demo_table: Path) -> None:
    frame = pd.read_csv(demo_table, dtype=str)
    found = explain(quick_run.predictor, frame, images=demo_table.parent, rows=[0, 1], background=5)
    expected = quick_run.predictor.predict(frame.head(2), images=demo_table.parent)["prediction"]
    np.testing.assert_allclose(found.predictions, expected, rtol=1e-5)
    np.testing.assert_allclose(found.parts.sum(1), found.value - found.base, atol=1e-5)
    assert found.scale == "logarithm"


def test_mistakes_are_told(
    frame: pd.DataFrame, images: Path, of_numbers: BlendPredictor, of_classes: BlendPredictor
) -> None:
    predictor = of_numbers
    with pytest.raises(ConfigError, match=r"1 of 2 rows are not in the table of 90 rows, such as 90\."):
        explain(predictor, frame, images=images, rows=[0, 90])
    with pytest.raises(ConfigError, match=r"seed must be at least 0, got -1\."):
        explain(predictor, frame, images=images, rows=[0], seed=-1)
    with pytest.raises(ConfigError, match=r"Nothing to explain: 0 rows, and 32 background rows"):
        explain(predictor, frame, images=images, rows=[])
    with pytest.raises(ConfigError, match=r"At least one background row is needed, got 0\."):
        explain(predictor, frame, images=images, rows=[1], background=0)
    with pytest.raises(ConfigError, match="The model is a regression model without classes: leave out the target"):
        explain(predictor, frame, images=images, rows=[1], target="porcelain")
    with pytest.raises(DataError, match=r"The background has no column 'maker', which the model needs\."):
        explain(predictor, frame, images=images, rows=[1], background=frame.drop(columns="maker"))
    with pytest.raises(ConfigError, match="pass images=FOLDER"):
        explain(predictor, frame, rows=[1])
    with pytest.raises(ConfigError, match=r"'porcelan' is not one of the model's 4 classes\. Did you mean"):
        explain(of_classes, frame, images=images, rows=[1], target="porcelan")
