"""The page of compared runs."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mixfit.evaluation.result import Part, Rows, judge
from mixfit.runs.report.compare_page import RunComparison, compare_page
from mixfit.training.metrics import CLASSIFICATION_METRICS, REGRESSION_METRICS

IMG = "<img src=x onerror=alert(1)>"
RANDOM = np.random.default_rng(0)


def scores(*names: str) -> Part:
    truth = RANDOM.lognormal(size=50)
    predictions = {name: truth * np.exp(0.1 * (1 + place) * RANDOM.normal(size=50)) for place, name in enumerate(names)}
    pairs = {(name, names[0]): REGRESSION_METRICS for name in names[1:]}
    return judge(Rows("test", truth, predictions), REGRESSION_METRICS, pairs=pairs)


def content(*names: str) -> RunComparison:
    return RunComparison(
        target="price",
        headline="mae",
        scores=scores(*names),
        settings={"train.lr": ("0.001", "")},
        warnings=("Few rows.",),
        test_rows=dict.fromkeys(names, 50),
    )


def test_runs_stand_side_by_side() -> None:
    page = compare_page(content("a", "b"))
    for expected in (
        "2 runs compared",
        "50 test rows",
        "b is worse than a, beyond noise: MAE",
        "Few rows.",
        "train.lr",
        "0.001",
        "<svg",
    ):
        assert expected in page
    assert "<strong>A</strong> a" in page
    assert "<strong>B</strong> b" in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")


def test_the_same_content_is_the_same_page() -> None:
    same = content("a", "b")
    assert compare_page(same) == compare_page(same)


def test_many_runs_have_letters_of_their_own() -> None:
    names = [f"run {number}" for number in range(28)]
    page = compare_page(content(*names))
    assert "<strong>Z</strong> run 25" in page
    assert "<strong>B2</strong> run 27" in page


def test_f45_markup_in_names_is_text_on_the_compare_page() -> None:
    names = (f"one {IMG}", f"two {IMG}")
    hostile = replace(
        content(*names),
        target=IMG,
        settings={f"k {IMG}": (f"v {IMG}", IMG)},
        warnings=(f"w {IMG}",),
    )
    assert "<img" not in compare_page(hostile)


def test_the_best_value_stands_out_by_the_direction_of_its_metric() -> None:
    page = compare_page(content("good", "bad"))
    good, bad = page[page.index("<tbody>") :].split("</tr>")[:2]
    assert good.count("<strong>") == 1 + len(REGRESSION_METRICS)
    assert bad.count("<strong>") == 1


def test_what_cannot_be_computed_is_said() -> None:
    truth, probabilities = np.zeros(30, dtype=np.int64), RANDOM.dirichlet(np.ones(2), 30)
    nothing = judge(
        Rows("test", truth, {"a": probabilities, "b": probabilities}),
        CLASSIFICATION_METRICS,
        pairs={("b", "a"): CLASSIFICATION_METRICS},
    )
    page = compare_page(replace(content("a", "b"), headline="log_loss", scores=nothing, settings={}))
    assert math.isnan(nothing.scores[0].metrics["auc"])
    assert "n/a" in page
    assert "cannot be computed" in page
    assert "All settings are the same." in page


@pytest.mark.parametrize("drawn", [10, 50])
def test_rows_of_groups_are_told(drawn: int) -> None:
    one = content("a", "b")
    page = compare_page(replace(one, scores=replace(one.scores, groups=None if drawn == 50 else drawn)))
    assert ("in 10 groups" in page) == (drawn == 10)
