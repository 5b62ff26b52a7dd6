"""Fault case 10: targets that cannot be learnt, and rows that cannot be judged by every metric."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import QUICK, Page, mixfit

from mixfit.training.metrics import metric_label


def refuse_constant(word: str) -> float:
    raise AssertionError(f"{word} is no JSON")


def check_json(folder: Path) -> None:
    """Every JSON file of a folder is JSON: no NaN, no Infinity."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl")]
    assert len(paths) >= 6
    for path in paths:
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for line in lines:
            json.loads(line, parse_constant=refuse_constant)


UNJUDGED = {
    "one class in valid and test": (["a", "b"] * 20 + ["a"] * 20, "auc"),
    "a class with one row": (["a", "b"] * 19 + ["a", "once"] + ["a"] * 20, "auc"),
    "constant number in valid and test": ([*np.arange(40) / 8, *[2.5] * 20], "r2"),
    "zero in valid and test": ([*np.arange(1, 41) / 8, *[0.0] * 20], "mape"),
}


@pytest.mark.parametrize("case", UNJUDGED)
def test_f10_metrics_that_cannot_be_computed_are_not_available(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target, metric = UNJUDGED[case]
    frame = pd.DataFrame({"area": np.random.default_rng(0).normal(size=60), "y": target})
    frame.assign(split=["train"] * 40 + ["valid"] * 10 + ["test"] * 10).to_csv("t.csv", index=False)
    printed = {}
    for command in (
        ("inspect", "t.csv", "--target", "y"),
        ("train", "t.csv", "--target", "y", *QUICK),
        ("evaluate", "runs/t-y-001", "t.csv", "--split", "test"),
    ):
        code, printed[command[0]] = mixfit(capsys, *command)
        assert code == 0, printed[command[0]]
        assert not re.search(r"\bnan\b", printed[command[0]], flags=re.IGNORECASE)
    assert re.search(rf"{re.escape(metric_label(metric))} +n/a   no interval: ", printed["evaluate"])
    metrics = json.loads(Path("runs/t-y-001/metrics-test.json").read_text())
    assert metrics[metric] is metrics[f"{metric}_ci95_low"] is None
    check_json(Path("runs"))
    assert "n/a" in Path("runs/t-y-001/model/README.md").read_text()
    text = Page(Path("runs/t-y-001/report.html")).text
    assert "n/a" in text.split()
    assert "nan" not in text.lower().split()
    if case == "a class with one row":
        warning = "warning: 1 of 3 classes have under 5 training rows: 'once'"
        assert warning in printed["inspect"]
        assert warning in printed["train"]
        assert warning.removeprefix("warning: ") in text
        assert json.loads(Path("runs/t-y-001/model/mixfit.json").read_text())["target"]["classes"] == ["a", "b", "once"]


@pytest.mark.parametrize("target", [[1.5] * 60, ["yes"] * 60, [1.5] * 40 + [2.5] * 20, ["a"] * 40 + ["b"] * 20])
def test_f10_a_target_that_is_constant_in_train_ends_with_3_before_a_run_folder_is_made(
    target: list[float] | list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"area": np.random.default_rng(0).normal(size=60), "y": target})
    frame.assign(split=["train"] * 40 + ["valid"] * 10 + ["test"] * 10).to_csv("t.csv", index=False)
    task = ("--task", "regression") if isinstance(target[0], float) else ()
    code, printed = mixfit(capsys, "train", "t.csv", "--target", "y", *task)
    assert code == 3
    assert re.search(r"only (one|the) class|is 1\.5 in all", printed)
    assert not Path("runs").exists()
