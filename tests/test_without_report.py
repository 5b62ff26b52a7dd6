"""Runs without a report: the same model, result and predictions; the page can be written later."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import TRAIN, model_bytes, small_fit, small_table

from mixfit.runs.report.page import rewrite_report

KEPT = ("predictions_valid.parquet", "predictions_test.parquet", "split.parquet")


@pytest.mark.parametrize("preset", ["quick", "network"])
def test_only_explanations_and_the_page_are_left_out(preset: Any, tmp_path: Path) -> None:
    table = small_table(tmp_path / "data")
    train = replace(TRAIN, preset=preset, folds=None if preset == "network" else TRAIN.folds)
    full, bare = (small_fit(table, tmp_path / "runs", train=train, report=asked) for asked in (True, False))
    assert (full.folder / "report.html").is_file()
    assert not (bare.folder / "report.html").exists()
    assert model_bytes(bare.folder) == model_bytes(full.folder)
    for name in KEPT:
        assert (bare.folder / name).read_bytes() == (full.folder / name).read_bytes(), name
    assert bare.scores == full.scores
    page = rewrite_report(bare.folder).read_text(encoding="utf-8")
    assert "no report was asked for. To explain some rows: mixfit explain RUN --n 10" in page
