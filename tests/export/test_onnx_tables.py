"""A model of a table as one ONNX file predicts as ``predict`` does, for every model, task and kind of column."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("spox", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from onnx_blends import ROLES, assert_agrees, blend_of, exported, wide_table

from mixfit.ensemble.intervals import NumberUncertainty, Scores
from mixfit.errors import ConfigError
from mixfit.export.exporting import difference
from mixfit.export.graph import export_graph
from mixfit.export.onnx_predict import OnnxModel
from mixfit.export.ops import NotExportable
from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Constant, Linear
from mixfit.models.model import TABLE, TEXT, Model, Rows, State
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees
from mixfit.predictor.blend import BlendPredictor

SIMPLE: tuple[Model, ...] = (Constant(), Linear(), BoostedTrees(most_rounds=20))


def strange_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with cells that are missing, unseen, extreme, broken or of another type, a column each."""
    first = frame.iloc[[0]].drop(columns="y").astype(object)
    rows = [first.assign(**dict.fromkeys(first.columns))]
    for name in first.columns:
        rows += [first.assign(**{name: cell}) for cell in ("", "never seen \u6f22", "1e300", "-1e400", "nan", "12")]
    return pd.concat(rows, ignore_index=True).astype("str")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return wide_table()


@pytest.fixture(scope="module")
def regression(frame: pd.DataFrame) -> BlendPredictor:
    return blend_of(frame, [*SIMPLE, KernelRidge()], roles=ROLES)


@pytest.fixture(scope="module")
def model(regression: BlendPredictor) -> OnnxModel:
    return exported(regression)


def test_a_blend_of_a_number(regression: BlendPredictor, model: OnnxModel, frame: pd.DataFrame) -> None:
    assert model.meta["level"] == 0.9
    assert_agrees(regression, model, frame, most=1e-9)
    assert_agrees(regression, model, strange_rows(frame), most=1e-9)


def test_any_number_of_rows_and_any_order_of_columns(
    regression: BlendPredictor, model: OnnxModel, frame: pd.DataFrame
) -> None:
    assert all(isinstance(one.shape[0], str) for one in model.session.get_inputs())
    for rows in (0, 1, 300):
        some = frame.iloc[np.arange(rows) % len(frame), ::-1]
        assert_agrees(regression, model, some, most=1e-9)


EXTREME = [
    *(
        "1e308",
        "-1.7976931348623157e308",
        "-0.0",
        "5e-324",
        "1e-310",
        "9007199254740993",
        "-18446744073709551617",
        "inf",
    ),
    *("a\0", "\0", "b e\u0301", "B \u00c9", " a ", "\U0001f469\u200d\U0001f467", "\u2028", "x" * 3000, "fine " * 300),
    *("1010", "10100\0", "010100", "1.01e4", "low ", "LOW", "0001-01-01", "9999-12-31", "2021-03-01T23:59:59.9Z"),
    *("pool,pool", "pool, , wifi", "\u0663", "\u216b", "12 %", "1,200", "N/A", "True", "level  3", "'", "\\"),
]
"""Cells of each kind of column at the ends of what it can be, and nearly of it."""
CELLS = st.one_of(
    st.none(),
    st.sampled_from(EXTREME),
    st.text(max_size=6),
    st.floats().map(repr),
    st.integers(-(2**65), 2**65).map(str),
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(CELLS, min_size=10, max_size=10), min_size=1, max_size=6))
def test_whatever_the_cells_hold(rows: list[list[str | None]], regression: BlendPredictor, model: OnnxModel) -> None:
    frame = pd.DataFrame(rows, columns=[name for name in wide_table(2).columns if name != "y"], dtype="str")
    assert_agrees(regression, model, frame, most=1e-9)


def test_each_column_with_cells_at_the_ends(regression: BlendPredictor, model: OnnxModel, frame: pd.DataFrame) -> None:
    first = frame.iloc[[0]].drop(columns="y").astype(object)
    rows = [first.assign(**{name: cell}) for name in first.columns for cell in EXTREME]
    cells = pd.concat(rows, ignore_index=True)
    assert_agrees(regression, model, cells, most=1e-9)
    numbers = np.array([1e308, -0.0, 5e-324, np.inf, -np.inf, np.nan, 2.0**53 + 2, 1e-300])
    typed = frame.head(8).drop(columns="y").assign(x=numbers, skewed=-numbers)
    typed["code"] = np.array([10100, 2**53 + 1, -(2**63), 2**63 - 1, 0, -1, 12990, 101])
    typed["kind"] = pd.Series([1, 1.0, True, None, "a", 2**70, pd.NA, "b"], dtype=object)
    assert_agrees(regression, model, typed, most=1e-9)


def test_columns_may_have_the_names_of_anything_in_the_file() -> None:
    """Of other inputs, of outputs, of nodes, and names that differ by signs alone."""
    names = ["probabilities", "prediction_set", "prediction", "row_count", "photos", "a b", "a_b", "1st", "\u540d"]
    names += ["Cast_0", "Cast_0_output", "Gather_1_output", "Concat_0_concat_result", "Constant_0_output"]
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, len(names))), columns=names).assign(y=rng.normal(size=60))
    predictor = blend_of(frame, [Linear()], roles={}, task="binary")
    assert_agrees(predictor, exported(predictor), frame, most=1e-9)


@pytest.mark.parametrize(("task", "knots"), [("multiclass", 1), ("regression", 3)])
def test_linear_models_of_more_columns_than_rows(task: str, knots: int) -> None:
    """Those of classes have one knot for each number."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(150, 210)), columns=[f"x{number}" for number in range(210)])
    frame["y"] = frame["x0"] + 0.1 * rng.normal(size=150)
    predictor = blend_of(frame, [Linear()], roles={}, task=task)
    assert {len(fold.models["linear, table"].state()[0]["knots"]) for fold in predictor.folds} == {knots}
    assert_agrees(predictor, exported(predictor), frame, most=1e-9)


def test_dates_of_any_time() -> None:
    rng = np.random.default_rng(0)
    frame = wide_table()[["day", "moment", "x", "y"]]
    frame["local"] = pd.to_datetime(frame["day"]).dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin")
    roles = {"day": "date", "moment": "date", "local": "date"}
    predictor = blend_of(frame, [Linear()], roles=roles)
    model = exported(predictor)
    seconds = rng.integers(-10_000_000_000, 30_000_000_000, 500)
    days = pd.to_datetime(pd.Series(seconds), unit="s").dt.as_unit("us")
    later = pd.DataFrame(
        {
            "day": days,
            "moment": days.astype("str"),
            "x": 0.0,
            "local": days.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin"),
        }
    )
    assert_agrees(predictor, model, later, most=1e-9)


def test_parts_of_the_predictions_have_their_own_intervals(regression: BlendPredictor, frame: pd.DataFrame) -> None:
    assert isinstance(regression.uncertainty, NumberUncertainty)
    parts = (Scores.of(np.linspace(0, 1, 50)), Scores.of(np.ones(3)), Scores.of(np.linspace(1, 2, 50)))
    apart = replace(regression.uncertainty, edges=np.array([-0.5, 0.4]), by_prediction=parts)
    predictor = replace(regression, uncertainty=apart)
    assert_agrees(predictor, exported(predictor, 0.8), frame, most=1e-9)


def test_what_is_no_number_differs_infinitely(regression: BlendPredictor) -> None:
    wanted = pd.DataFrame({"prediction": [1.0, 1.0, np.inf, 2.0], "lower": [0.0, np.nan, 0.0, 0.0], "upper": 3.0})
    found = pd.DataFrame({"prediction": [1.0, 1.0, np.inf, np.nan], "lower": 0.0, "upper": [3.0, 3.0, 3.0, 3.0]})
    assert difference(regression, found, wanted).tolist() == [0.0, np.inf, 0.0, np.inf]
    beyond = difference(regression, found.assign(upper=3.0 + regression.target.std), wanted)  # type: ignore[union-attr]
    assert beyond[0] == pytest.approx(1.0)


def test_what_has_no_counterpart_is_refused(regression: BlendPredictor) -> None:
    class Own:
        def predict(self, rows: Rows) -> np.ndarray:
            return np.zeros(len(rows))

        def state(self) -> State:
            return {}, {}

    folds = [replace(fold, models=dict.fromkeys(fold.models, Own())) for fold in regression.folds]
    with pytest.raises(NotExportable, match="a model of the class Own is none of mixfit's own"):
        export_graph(replace(regression, folds=folds))
    with pytest.raises(ConfigError, match="too few for intervals"):
        export_graph(regression, 0.9999)


@pytest.mark.parametrize("task", ["count", "binary", "multiclass", "ordered"])
def test_a_blend_of_counts_and_of_classes(task: str, frame: pd.DataFrame) -> None:
    models = SIMPLE if task == "count" else [*SIMPLE, KernelRidge()]
    predictor = blend_of(frame, models, roles=ROLES, task=task)
    if task == "binary":
        predictor = replace(predictor, threshold=0.3)
    model = exported(predictor)
    assert_agrees(predictor, model, frame, most=1e-9)
    assert_agrees(predictor, model, strange_rows(frame), most=1e-9)


def test_a_network_of_a_table_and_its_texts(frame: pd.DataFrame) -> None:
    models = [Network(sees=TABLE | TEXT), Linear(sees=TABLE | TEXT), BoostedTrees(sees=TEXT, most_rounds=20)]
    predictor = blend_of(frame, models, roles=ROLES | {"note": "text"}, folds=2)
    model = exported(predictor)
    assert_agrees(predictor, model, frame)
    assert_agrees(predictor, model, strange_rows(frame))
