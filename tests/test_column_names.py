"""Columns may have any name, those of parameters of pandas' methods, too."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import MODEL, QUIET, TRAIN

from mixfit.auto import recipe
from mixfit.config import DataConfig
from mixfit.export.exporting import export_run
from mixfit.runs.explaining import explain_run
from mixfit.runs.scoring import evaluate_table, predict_table

NAMES = ("frame", "columns", "index", "name", "class", "0", "=a", 'c"', "d,e", "f\tg", "ü", "_", "{x}", "[red]", "%s")


def test_a_table_of_any_names_is_trained_on_judged_explained_predicted_and_exported(tmp_path: Path) -> None:
    pytest.importorskip("spox", reason="needs the extra onnx")
    random = np.random.default_rng(0)
    frame = pd.DataFrame({name: random.normal(size=60) for name in NAMES})
    frame["kind"] = random.choice(["a, b", "b"], 60)
    frame["self"] = np.where(frame["frame"] + (frame["kind"] == "b") + frame["index"] > 0, "high", "low")
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = DataConfig(cache_gb=0.0)
    out = tmp_path / "runs"
    run = recipe.fit(tmp_path / "t.csv", target="self", out=out, train=TRAIN, model=MODEL, data=data, console=QUIET)
    assert {*NAMES, "kind"} == set(run.predictor.schema.inputs)
    other = frame.copy()
    other["self"] = frame["self"].str.upper()
    other["kind"] = 'c, "d"'
    other.to_parquet(tmp_path / "other.parquet")
    judged = evaluate_table(run.folder, tmp_path / "other.parquet", by="index", console=QUIET)
    assert 0.5 < judged["accuracy"] <= 1
    predict_table(run.folder, tmp_path / "other.parquet", out=tmp_path / "said.csv", console=QUIET)
    said = pd.read_csv(tmp_path / "said.csv")
    assert said.columns[: frame.shape[1]].to_list() == [name.replace("=a", "'=a") for name in frame.columns]
    pd.testing.assert_frame_equal(said[[*frame.columns[:6]]], frame[[*frame.columns[:6]]])
    assert said["self"].str.lower().eq(said["prediction"]).mean() == judged["accuracy"]
    explain_run(run.folder, n=2, table=tmp_path / "other.parquet", out=tmp_path / "why", console=QUIET)
    exported = export_run(run.folder, tmp_path / "model.onnx", console=QUIET)
    assert exported.agreement is not None
    assert len(exported.agreement.differences) > 100, "cells of each column are altered"
    assert exported.agreement.differences.max() < 1e-5
