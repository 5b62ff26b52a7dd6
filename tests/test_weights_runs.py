"""Weights in whole runs: what a row of weight 0 holds reaches neither the model nor a figure, and all figures are
weighted."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from small_runs import MODEL, in_few_folds

from mixfit.auto.inspection import inspect_table
from mixfit.auto.recipe import fit
from mixfit.config import DataConfig, TrainConfig
from mixfit.data.bad_inputs import BadInput
from mixfit.runs.comparison import compare_runs
from mixfit.runs.report.saved import read_content
from mixfit.runs.results import BLEND, Run
from mixfit.runs.scoring import evaluate_table
from mixfit.training.metrics import MAE

WEIGHTED = DataConfig(roles={"w": "weight"})
JUNK = 9


def _tables() -> dict[str, pd.DataFrame]:
    """90 rows; the same among a tenth of junk of weight 0; the same with weights in another unit."""
    draw, rows = np.random.default_rng(0), 90
    clean = pd.DataFrame({"area": draw.gamma(4, 20, rows).round(1), "age": draw.normal(30, 8, rows).round(1)})
    clean["town"] = draw.choice(["ash", "elm", "oak"], rows)
    clean["price"] = (clean["area"] / 20 + clean["town"].eq("oak") * 2 + draw.normal(0, 0.4, rows)).round(3)
    clean.loc[::11, "age"] = np.nan
    clean["w"] = draw.integers(1, 4, rows)
    junk = clean.head(JUNK).assign(price=1e6, area=1e9, age=np.nan, town="never", w=0)
    both = pd.concat([clean, junk], ignore_index=True).sample(frac=1, random_state=0, ignore_index=True)
    clean = both[both["w"] > 0].reset_index(drop=True)
    return {"clean": clean, "junk": both, "unit": clean.assign(w=clean["w"] * 70)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for name, table in _tables().items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Run]:
    with pytest.MonkeyPatch.context() as patch:
        in_few_folds(patch)
        return {name: fit_weighted(folder / f"{name}.csv", epochs=2) for name in ("clean", "junk", "unit")}


def fit_weighted(table: Path, *, epochs: int) -> Run:
    """A blend of small models, whose bins of numbers hang on the rows."""
    return fit(
        table,
        target="price",
        data=WEIGHTED,
        model=replace(MODEL, numbers="piecewise"),
        train=TrainConfig(preset="quick", epochs=epochs, report=False),
        out=table.parent / "runs",
        console=Console(quiet=True),
    )


def test_a_model_is_the_same_to_the_byte_without_rows_of_weight_0(runs: dict[str, Run]) -> None:
    names = {path.name for path in (runs["clean"].folder / "model").iterdir()}
    assert {"model.safetensors", "mixfit.json", "README.md"} <= names
    for name in names:
        model, junk = (runs[one].folder / "model" / name for one in ("clean", "junk"))
        assert model.read_bytes() == junk.read_bytes(), name
    assert runs["junk"].scores == runs["clean"].scores


def test_junk_of_weight_0_does_not_widen_intervals(runs: dict[str, Run]) -> None:
    """Targets of 1e6 in a tenth of the rows once made the mean interval 1e8 wide."""
    for name in ("clean", "junk"):
        predictions = pd.read_parquet(runs[name].folder / "predictions_test.parquet")
        assert (predictions["upper"] - predictions["lower"]).mean() < 5


def test_rows_keep_the_numbers_that_they_have_in_the_table(folder: Path, runs: dict[str, Run]) -> None:
    table, content = pd.read_csv(folder / "junk.csv"), read_content(runs["junk"].folder)
    for part in ("valid", "test"):
        predictions = pd.read_parquet(runs["junk"].folder / f"predictions_{part}.parquet")
        np.testing.assert_array_equal(predictions["truth"], table["price"].iloc[predictions["row"]])
        weights = table["w"].iloc[predictions["row"]].to_numpy()
        np.testing.assert_allclose(predictions["weight"] / predictions["weight"].mean(), weights / weights.mean(), 1e-6)
    assert content.data is not None
    for shown in (*content.worst, *content.data.samples):
        assert dict(shown.cells)["area"] == f"{table['area'].iloc[shown.row]:g}"
    left_out = [record for record in runs["junk"].bad if record.action == "row of weight 0 left out"]
    assert [record.row for record in left_out] == np.flatnonzero(table["w"] == 0).tolist()
    assert left_out[0] == BadInput(
        row=left_out[0].row, column="w", value="0", problem="weight is 0", action="row of weight 0 left out"
    )


def test_another_unit_of_the_weights_changes_no_model_and_no_figure(runs: dict[str, Run]) -> None:
    clean, unit = (runs[name].folder / "model" / "model.safetensors" for name in ("clean", "unit"))
    assert clean.read_bytes() == unit.read_bytes()
    assert runs["clean"].scores == runs["unit"].scores


def test_scores_are_weighted(folder: Path, runs: dict[str, Run]) -> None:
    table = pd.read_csv(folder / "clean.csv")
    predictions = pd.read_parquet(runs["clean"].folder / "predictions_test.parquet")
    weights = table["w"].iloc[predictions["row"]]
    errors = (predictions["prediction"] - predictions["truth"]).abs()
    found = runs["clean"].scores["test"][BLEND]["mae"]
    assert found == pytest.approx(np.average(errors, weights=weights), rel=1e-6)
    assert found != pytest.approx(errors.mean(), rel=1e-6)


def _evaluated(run: Run, table: Path, out: Path, **settings: object) -> tuple[dict[str, float], str]:
    text = StringIO()
    values = evaluate_table(run.folder, table, out=out, console=Console(file=text, width=200), **settings)  # type: ignore[arg-type]
    return values, text.getvalue()


def test_evaluate_weights_the_rows_where_the_table_has_the_column(
    folder: Path, runs: dict[str, Run], tmp_path: Path
) -> None:
    values, text = _evaluated(runs["junk"], folder / "junk.csv", tmp_path / "test.json", by=["town"])
    assert values == pytest.approx(runs["junk"].scores["test"][BLEND], rel=1e-5)
    assert "'w' weights the rows" in text
    assert f"{JUNK} x row of weight 0 left out" in text
    assert "never" not in text
    assert json.loads((tmp_path / "test.json").read_text())["weighted"] is True
    pd.read_csv(folder / "clean.csv").drop(columns="w").to_csv(tmp_path / "bare.csv", index=False)
    bare, text = _evaluated(runs["junk"], tmp_path / "bare.csv", tmp_path / "bare.json")
    assert "'w' is not in the table: rows are unweighted" in text
    weighted, _ = _evaluated(runs["clean"], folder / "clean.csv", tmp_path / "all.json", split="all")
    assert bare != pytest.approx(weighted, rel=1e-6)
    assert json.loads((tmp_path / "bare.json").read_text())["weighted"] is False


def test_runs_are_compared_by_weight(folder: Path, runs: dict[str, Run], tmp_path: Path) -> None:
    again = fit_weighted(folder / "junk.csv", epochs=1)
    found = compare_runs(
        [runs["junk"].folder, again.folder], out=tmp_path / "compare.html", console=Console(quiet=True)
    )
    for run, standing in zip((runs["junk"], again), found.scores.scores, strict=True):
        assert standing.metrics[MAE.name] == pytest.approx(run.scores["test"][BLEND]["mae"], rel=1e-6)
    assert not any("weights" in warning for warning in found.warnings)


def test_inspect_leaves_rows_of_weight_0_out_of_what_it_counts(folder: Path, tmp_path: Path) -> None:
    text = StringIO()
    inspect_table(
        folder / "junk.csv", target="price", config=WEIGHTED, out=tmp_path / "i", console=Console(file=text, width=200)
    )
    assert f"note: {JUNK} rows of weight 0 left out" in text.getvalue()
    assert "99 rows x 5 columns" in text.getvalue()
    assert "far outside" not in text.getvalue()
    schema = json.loads((tmp_path / "i" / "schema.json").read_text())
    assert schema["rows"] == 90
