"""Models on the same rows: their metrics, intervals, paired differences, and what is said of them."""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bootstrap_ends import bootstrap_difference, bootstrap_interval
from small_runs import small_fit, small_table

from mixfit.auto.recipe import resume
from mixfit.ensemble.photo_rule import judge_photos
from mixfit.errors import ConfigError, DataError
from mixfit.evaluation import bootstrap, departure, groups, result
from mixfit.evaluation.result import (
    LOSSES,
    RESULTS,
    Contest,
    Difference,
    Part,
    PhotoGain,
    Result,
    Rows,
    TextGain,
    difference_sentence,
    judge,
    read_result,
    write_result,
)
from mixfit.runs.results import BLEND, CONSTANT, TABLE_BLEND, TREES
from mixfit.training.metrics import (
    ACCURACY,
    AUC,
    CLASSIFICATION_METRICS,
    MAE,
    MAPE,
    REGRESSION_METRICS,
    Metric,
    evaluate,
)

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.normal(size=400)
AMOUNTS = RANDOM.lognormal(size=200)
GOOD, BAD = AMOUNTS * np.exp(0.1 * RANDOM.normal(size=200)), AMOUNTS * np.exp(0.5 * RANDOM.normal(size=200))


def test_the_interval_has_the_width_that_theory_says() -> None:
    prediction = TRUTH + RANDOM.laplace(size=400)
    low, high = bootstrap_interval(MAE, TRUTH, prediction, resamples=1000)
    errors = np.abs(prediction - TRUTH)
    assert low < errors.mean() < high
    assert (high - low) == pytest.approx(2 * 1.96 * errors.std() / 20, rel=0.15)


def test_what_cannot_be_computed_has_no_interval() -> None:
    assert all(map(math.isnan, bootstrap_interval(MAE, TRUTH[:1], TRUTH[:1])))
    one_class, probabilities = np.zeros(10, dtype=np.int64), np.full((10, 2), 0.5)
    assert all(map(math.isnan, bootstrap_interval(AUC, one_class, probabilities)))


def test_the_difference_is_paired() -> None:
    shared = RANDOM.normal(size=400)
    low, high = bootstrap_difference(MAE, TRUTH, TRUTH + 3 + shared, TRUTH + 3.1 + shared)
    assert high < 0
    assert high - low < 0.01


def compared(first: np.ndarray, second: np.ndarray, metrics: Any = REGRESSION_METRICS, **options: Any) -> Part:
    """Two models, and all differences of the second to the first."""
    truth = options.pop("truth", AMOUNTS)
    return judge(Rows("test", truth, {"a": first, "b": second}, **options), metrics, pairs={("b", "a"): metrics})


def test_a_model_does_not_differ_from_itself() -> None:
    found = compared(GOOD, GOOD).differences
    assert [(one.value, one.low, one.high, one.finding) for one in found] == [(0, 0, 0, "equal")] * 4


def test_better_and_worse_are_told_by_the_direction_of_the_metric() -> None:
    worse, better = compared(GOOD, BAD).differences, compared(BAD, GOOD).differences
    assert [one.finding for one in worse] == ["worse"] * 4
    assert [one.finding for one in better] == ["better"] * 4
    assert all(one.gain[2] < 0 for one in worse)
    assert all(one.gain[1] > 0 for one in better)
    by_metric = {one.metric: one.value for one in worse}
    assert by_metric["mae"] > 0 > by_metric["r2"]


def test_values_are_the_metrics_and_the_interval_is_around_the_difference() -> None:
    found = compared(GOOD, BAD)
    assert found.score("b").metrics == evaluate(REGRESSION_METRICS, AMOUNTS, BAD)
    for one in found.differences:
        assert one.value == found.score("b").metrics[one.metric] - found.score("a").metrics[one.metric]
        assert one.low < one.value < one.high
        metric = next(metric for metric in REGRESSION_METRICS if metric.name == one.metric)
        assert (one.low, one.high) == bootstrap_difference(metric, AMOUNTS, BAD, GOOD)
        assert found.score("b").interval(one.metric) == bootstrap_interval(metric, AMOUNTS, BAD)


def test_pairs_are_told_apart_that_single_intervals_do_not() -> None:
    shared = RANDOM.normal(size=200)
    found = compared(AMOUNTS + 3 + shared, AMOUNTS + 3.1 + shared, (MAE,))
    (low, high), (other_low, _) = (one.intervals["mae"] for one in found.scores)
    assert low < other_low < high
    assert found.differences[0].finding == "worse"


def test_a_small_difference_is_noise() -> None:
    errors = RANDOM.normal(size=200)
    assert compared(AMOUNTS + errors, AMOUNTS + errors[::-1], (MAE,)).differences[0].finding == "within noise"


def test_what_cannot_be_computed_is_unknown() -> None:
    one_class = np.zeros(30, dtype=np.int64)
    first, second = RANDOM.dirichlet(np.ones(2), (2, 30))
    by_metric = {
        one.metric: one for one in compared(first, second, CLASSIFICATION_METRICS, truth=one_class).differences
    }
    assert by_metric[AUC.name].finding == "unknown"
    assert math.isnan(by_metric[AUC.name].low)


@pytest.mark.parametrize("per_group", [1, 5])
def test_rows_of_a_group_are_drawn_together(per_group: int) -> None:
    found = compared(GOOD, BAD, (MAE,), groups=np.arange(200) // per_group)
    assert (found.rows, found.drawn) == (200, 200 // per_group)


def outcome(ours: np.ndarray, table: np.ndarray, *, photos: bool = True, **options: Any) -> Result:
    """Of one network against a model of the table, by the MAE or what is asked for."""
    truth, metrics = options.pop("truth", TRUTH), options.pop("metrics", (MAE,))
    others = {"constant": options.pop("constant")} if "constant" in options else {}
    rows = Rows(options.pop("split", "test"), truth, {"ours": ours, "table": table, **others})
    kinds: Any = {"ours": "ours", "table": "table", "constant": "constant"}
    pairs = {("ours", other): metrics for other in ("table", *others)}
    part = judge(rows, metrics, kinds=kinds, pairs=pairs, **options)
    gain = PhotoGain(with_photos="ours", without="table", same_kind=False, used=True) if photos else None
    return Result(
        target="y",
        task="regression" if ours.ndim == 1 else "binary",
        headline=metrics[0].name,
        rows={"test": len(truth)},
        ours="ours",
        against="table",
        parts=[part],
        photos=gain,
    )


def noisy(size: float) -> np.ndarray:
    return TRUTH + size * RANDOM.normal(size=400)


def test_the_verdict_says_who_wins() -> None:
    found = outcome(noisy(0.1), noisy(1.0))
    assert found.verdict.startswith("The mixed model is better than table, beyond noise: test MAE 0.")
    assert found.final.differences[0].finding == "better"
    found = outcome(noisy(1.0), noisy(0.1))
    assert found.verdict.startswith("The mixed model is worse than table, beyond noise: test MAE 0.")
    assert "Prefer table here." in found.verdict
    (one,) = found.final.differences
    value, interval = one.texts
    assert f"the difference is {value} (95 % CI {interval})" in found.verdict


def of_parts(*, photos: bool | None, text: bool | None, columns: bool = True) -> Result:
    """Of blends of table, of table and text, and of all; None for a part that is not in the table."""
    names = ["table", *(["text"] if text is not None else []), *(["photos"] if photos is not None else [])]
    predictions = {name: TRUTH + 4 - place for place, name in enumerate(names)}
    rows = Rows("test", TRUTH, {**predictions, BLEND: TRUTH + 0.5, TREES: TRUTH + 5})
    pairs = {(BLEND, TREES): (MAE,), ("text", "table"): (MAE,), ("photos", "text"): (MAE,), ("photos", "table"): (MAE,)}
    pairs = {pair: metrics for pair, metrics in pairs.items() if set(pair) <= set(rows.predictions)}
    rule = judge_photos(np.full(90, 1.0), np.full(90, 0.5), np.arange(90) % 3, np.arange(90), columns=columns)
    before = "table" if text is None else "text"
    gain = PhotoGain(
        with_photos="photos", without=before, same_kind=True, used=bool(photos), beside_text=text is not None
    )
    return Result(
        target="y",
        task="regression",
        headline="mae",
        rows={"test": len(TRUTH)},
        ours=BLEND,
        against=TREES,
        parts=[judge(rows, (MAE,), kinds={BLEND: "ours"}, pairs=pairs)],
        photos=None if photos is None else gain,
        text=None if text is None else TextGain(with_text="text", without="table", used=text),
        contest=Contest(
            leaderboard=[],
            choice="",
            photos=None if photos is None else rule if text is None else replace(rule, columns=True),
            text=None if text is None else replace(rule, what="text"),
        ),
    )


TABLE_ALONE, TABLE_AND_TEXT, TEXT_ALONE = (
    "The table columns alone: MAE 4.",
    "Table and text alone: MAE 3.",
    "The text alone: MAE 3.",
)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"photos": None, "text": None}, []),
        ({"photos": True, "text": None}, [TABLE_ALONE]),
        ({"photos": False, "text": None}, []),
        ({"photos": None, "text": True}, [TABLE_ALONE]),
        ({"photos": None, "text": False}, []),
        ({"photos": True, "text": True}, [TABLE_AND_TEXT, TABLE_ALONE]),
        ({"photos": False, "text": True}, [TABLE_ALONE]),
        ({"photos": True, "text": False}, [TABLE_ALONE]),
        ({"photos": True, "text": None, "columns": False}, []),
        ({"photos": True, "text": True, "columns": False}, [TEXT_ALONE]),
    ],
)
def test_the_verdict_says_what_is_left_without_the_parts_that_are_used(parts: dict[str, Any], said: list[str]) -> None:
    found = of_parts(**parts)
    assert re.findall(r"[A-Z][a-z ]+ alone: MAE [\d.]+\.", found.verdict) == said
    assert "alone" not in found.findings(values=False)


def test_results_with_text_come_back_and_need_the_difference_of_the_text(tmp_path: Path) -> None:
    found = of_parts(photos=True, text=True)
    write_result(tmp_path, found)
    assert read_result(tmp_path).text == found.text
    (part,) = found.parts
    kept = [one for one in part.differences if one.model != "text"]
    write_result(tmp_path, replace(found, parts=[replace(part, differences=kept)]))
    with pytest.raises(DataError, match=r"results\.json is damaged: a difference is missing"):
        read_result(tmp_path)


def test_a_difference_within_noise_is_called_so() -> None:
    classes = np.tile([0, 1], 30)
    good = np.eye(2)[classes]
    worse = good.copy()
    worse[0] = worse[0, ::-1]
    options: dict[str, Any] = {"truth": classes, "metrics": (ACCURACY,), "split": "valid"}
    behind = outcome(worse, good, **options).verdict
    assert "is behind table, but within noise: valid accuracy" in behind
    assert "The photos did not improve the predictions." in behind
    assert "is ahead of table, but within noise" in outcome(good, worse, **options).verdict


def test_a_tie_is_called_a_tie_and_a_table_without_photos_has_no_mixed_model() -> None:
    found = outcome(TRUTH + 1, TRUTH + 1, photos=False)
    assert found.verdict.startswith("The network is exactly as good as table on 400 rows.")
    assert "photo" not in outcome(TRUTH + 2, TRUTH + 1, photos=False).verdict


def test_no_comparison_without_a_value() -> None:
    assert "cannot be compared" in outcome(np.zeros(0), np.zeros(0), truth=np.zeros(0)).verdict
    assert "on too few rows for an interval" in outcome(np.ones(5), np.zeros(5), truth=np.zeros(5)).verdict


def test_every_model_gets_every_metric() -> None:
    found = judge(Rows("test", TRUTH, {"ours": noisy(0.1), "table": noisy(0.2)}), (MAE,))
    assert found.score("ours").metrics["mae"] < found.score("table").metrics["mae"]


@pytest.mark.parametrize(("nothing", "how"), [(1.0, "just as good"), (0.5, "better, beyond noise"), (2.0, None)])
def test_a_constant_that_does_as_well_is_told(nothing: float, how: str | None) -> None:
    truth = np.zeros(20)
    verdict = outcome(truth + 1, truth + 3, truth=truth, constant=truth + nothing).verdict
    assert "is better than table" in verdict
    if how is None:
        assert "constant" not in verdict
    else:
        assert f"A constant is {how} ({nothing:.3g}): the model learned nothing useful for these rows." in verdict


def test_the_answer_holds_for_the_rows_that_it_is_about() -> None:
    found = outcome(GOOD, BAD, truth=AMOUNTS, constant=np.full(200, 1.0), metrics=(MAPE,), relative=True)
    errors, ratios = np.abs(GOOD - AMOUNTS), np.abs(GOOD / AMOUNTS - 1)
    said = found.answer
    within = float(said.split("predictions are within ")[1].split(" of the truth")[0])
    assert np.mean(errors <= within) >= 0.5
    assert within == pytest.approx(np.median(errors), rel=0.01)
    assert said.startswith(f"Typically off by {100 * np.median(ratios):.2g} %; half of the test predictions are within")
    alone = np.median(np.abs(1 / AMOUNTS - 1))
    assert found.answer_of_constant == f"Predicting the same for every row: typically off by {100 * alone:.0f} %."
    absolute = outcome(noisy(0.1), noisy(1.0), constant=np.zeros(400))
    assert absolute.answer.startswith("Half of the test predictions are within ")
    assert absolute.answer_of_constant.startswith("Predicting the same for every row: half within ")
    assert found.final.errors[0][1] == pytest.approx(np.median(errors))
    assert found.final.errors[-1] == (1.0, errors.max())


@pytest.mark.parametrize(
    ("right", "rows", "said"),
    [(87, 100, "87"), (26, 30, "87"), (39, 45, "87"), (1000, 1000, "100"), (999, 1000, ">99"), (1, 1000, "<1")],
)
def test_the_answer_for_classes_never_says_all_where_it_is_not(right: int, rows: int, said: str) -> None:
    truth = np.zeros(rows, dtype=np.int64)
    ours = np.eye(2)[(np.arange(rows) >= right).astype(int)]
    found = outcome(ours, ours, truth=truth, metrics=(ACCURACY,), constant=np.eye(2)[np.ones(rows, dtype=int)])
    assert found.answer == f"Right for {right:,} of {rows:,} test rows ({said} %)."
    assert found.answer_of_constant == f"The most frequent class alone: 0 of {rows:,} (0 %)."
    weighted = replace(found, parts=[replace(found.final, weighted=True)])
    assert weighted.answer == f"Right for {said} % of {rows:,} test rows (by weight)."


def test_weighted_rows_count_by_their_weight_in_the_answer() -> None:
    truth, ours = np.zeros(3), np.array([1.0, 2.0, 3.0])
    part = judge(Rows("test", truth, {"m": ours}, weight=np.array([1.0, 1.0, 8.0])), (MAE,), kinds={"m": "ours"})
    assert part.score("m").median_error == 3.0
    assert part.weighted
    found = outcome(noisy(0.1), noisy(1.0))
    weighted = replace(found, parts=[replace(found.final, weighted=True)])
    assert weighted.answer.startswith("Half of the test predictions (by weight) are within ")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Counter[str]]:
    """A run of the preset quick, and how often each metric was resampled while it was made."""
    folder, resampled = tmp_path_factory.mktemp("once"), Counter[str]()
    real = bootstrap.bootstrap_values

    def counted(metric: Metric, *arguments: Any, **options: Any) -> np.ndarray:
        resampled[metric.name] += 1
        return real(metric, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        for module in (bootstrap, result, departure, groups):
            if hasattr(module, "bootstrap_values"):
                patch.setattr(module, "bootstrap_values", counted)
        run = small_fit(small_table(folder / "t", rows=120), folder / "runs", report=True)
    return run, resampled


def test_a_run_resamples_each_metric_of_each_model_once(fitted: Any) -> None:
    run, by_metric = fitted
    found: Result = run.result
    models = {BLEND, TABLE_BLEND, TREES, CONSTANT}
    for name in found.final.score(BLEND).metrics:  # of both parts; the headline metric of all that are compared
        resampled = len(models) if name == found.headline else 2 if name in LOSSES else 1  # the constant's loss too
        assert by_metric[name] == len(found.parts) * resampled


def test_all_that_shows_a_figure_shows_that_of_the_result(fitted: Any) -> None:
    run: Any = fitted[0]
    assert read_result(run.folder) == run.result
    test = run.result.final.score(BLEND)
    assert run.scores["test"][BLEND] == test.metrics
    assert run.predictor.metrics["test"] == test.metrics
    facts = {one.metric: one for one in run.predictor.facts.scores if one.rows == "test"}
    assert {name: one.value for name, one in facts.items()} == test.metrics
    assert {name: (one.low, one.high) for name, one in facts.items()} == test.intervals
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert run.result.answer in page
    assert run.result.findings(values=False) in page


def edited(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / RESULTS
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda _: "{", DataError, r"results\.json is damaged"),
        (lambda _: "[]", DataError, r"results\.json is damaged: it has no version"),
        (lambda text: text.replace('"version": 1', '"version": 99'), DataError, "has a newer version than 1"),
        (lambda text: text.replace('"mae"', '"mine"'), DataError, "a metric is unknown"),
        (lambda text: text.replace('"ours": "ours"', '"ours": "other"'), DataError, "a compared model is missing"),
        (lambda text: text.replace('"split": "test"', '"split": "both"'), DataError, "must be one of valid, test"),
    ],
)
def test_a_result_that_is_none_is_refused(
    change: Callable[[str], str], error: type[Exception], text: str, tmp_path: Path
) -> None:
    write_result(tmp_path, outcome(noisy(0.1), noisy(1.0)))
    edited(tmp_path, change)
    with pytest.raises(error, match=text):
        read_result(tmp_path)


def test_a_result_without_a_part_or_a_difference_is_refused(tmp_path: Path) -> None:
    whole = outcome(noisy(0.1), noisy(1.0))
    for harmed in (replace(whole, parts=[]), replace(whole, parts=[replace(whole.final, differences=[])])):
        write_result(tmp_path, harmed)
        with pytest.raises(DataError, match=r"results\.json is damaged"):
            read_result(tmp_path)


def test_the_results_of_an_older_run_are_asked_for_in_a_sentence_and_resuming_writes_them(fitted: Any) -> None:
    run: Any = fitted[0]
    (run.folder / RESULTS).unlink()
    with pytest.raises(ConfigError, match=r"has no results\.json.*mixfit train --resume"):
        read_result(run.folder)
    assert resume(run.folder, console=None).result.scores == run.scores
    assert read_result(run.folder).scores == run.scores


def test_a_sentence_on_two_models_has_both_values() -> None:
    part = compared(GOOD, BAD, (MAE,))
    (found,) = part.differences
    assert isinstance(found, Difference)
    said = difference_sentence(part, found, "b", "a")
    assert said.startswith("b is worse than a, beyond noise: MAE 0.")
    assert "on 200 rows" in said
