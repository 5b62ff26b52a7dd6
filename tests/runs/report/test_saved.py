"""What a run folder keeps for its report: read again it is the same, and what is no such thing is refused."""

import base64
import io
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from PIL import Image
from report_content import content, shown_row

from mixfit.data.bad_inputs import BadInput, write_bad_inputs
from mixfit.errors import ConfigError, DataError
from mixfit.evaluation.result import Rows, write_result
from mixfit.files import from_plain, to_plain
from mixfit.runs.report.content import (
    Diagnosis,
    LayerShares,
    LayerValues,
    ReportContent,
    ReportFacts,
    StepLine,
    Watched,
)
from mixfit.runs.report.page import report_page, rewrite_report
from mixfit.runs.report.saved import (
    predictions_frame,
    read_content,
    read_facts,
    write_facts,
    write_predictions,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    pair: tuple[float, float]
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    number: float
    count: int
    parts: list[Inner]
    by_name: dict[str, Inner]
    some: Inner | None = None
    names: tuple[str, ...] = ()
    flag: bool = False
    extra: list[str] = field(default_factory=list)


def test_dataclasses_come_back_as_they_were() -> None:
    inner = Inner(pair=(1.0, -2.5), kind="b")
    before = Outer(number=2.0, count=3, parts=[inner], by_name={"x": inner}, some=inner, names=("a", "b"), flag=True)
    after = from_plain(Outer, json.loads(json.dumps(to_plain(before), allow_nan=False)))
    assert after == before
    lost = from_plain(Outer, to_plain(replace(before, number=float("inf"), some=None)))
    assert math.isnan(lost.number)
    assert lost.some is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"count": 1.5}, r"it\.count is float"),
        ({"count": True}, r"it\.count is bool"),
        ({"parts": {}}, r"it\.parts is dict"),
        ({"parts": [{"pair": [1]}]}, r"it\.parts\[0\]\.pair is list"),
        ({"parts": [{"pair": [1, 2], "kind": "c"}]}, r"it\.parts\[0\]\.kind must be one of a, b"),
        ({"by_name": {"x": {}}}, r"it\.by_name\.x lacks 'pair'"),
        ({"number": "1"}, r"it\.number is str"),
        ({"number": 10**400}, r"it\.number must be a finite number"),
        ({"number": float("inf")}, r"it\.number must be a finite number"),
        ({"count": 2**63}, r"it\.count must be from -2\*\*63 to 2\*\*63"),
        ({"flag": 1}, r"it\.flag is int"),
        ({"names": ["a", 1]}, r"it\.names\[1\] is int"),
        ({"by_name": {"a\nb": {}}}, r"it\.by_name\.'a\\nb' lacks 'pair'"),
    ],
)
def test_what_is_no_such_dataclass_is_refused_with_its_place(change: dict[str, object], text: str) -> None:
    good = to_plain(Outer(number=2.0, count=3, parts=[], by_name={}))
    with pytest.raises(DataError, match=text):
        from_plain(Outer, good | change)


def _photo(kind: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (2, 2)).save(content, format=kind)
    return content.getvalue()


JPEG, PNG = _photo("JPEG"), _photo("PNG")
SEEN = Watched(
    spans=[(0, 1), (2, 3)],
    edges=[-1.0, 0.0, 1.0],
    values=[LayerValues(title="a", counts=[[1.0, 2.0], [0.0, 3.0]], mean=[0.5, float("nan")], broken=[False, True])],
    dead_units=[LayerShares(title="a", shares=[0.0, float("nan")])],
    ratios=[StepLine(title="table", steps=[0.5, 2.5], values=[1e-3, 2e-3])],
    modalities=[],
)


def write_run(folder: Path, subject: ReportContent) -> ReportContent:
    """The files of a run as a training leaves them."""
    facts = ReportFacts(**{one.name: getattr(subject, one.name) for one in fields(ReportFacts)})
    probabilities = subject.probabilities
    ours = subject.prediction if probabilities is None else probabilities
    rows = Rows("test", subject.truth, {"ours": ours, "constant": ours})
    assert subject.predicted_rows is not None
    frame = predictions_frame(
        rows, subject.predicted_rows, "ours", ["constant"], subject.classes or None, subject.interval
    )
    write_predictions(frame, folder / "predictions_test.parquet")
    (folder / "schema.json").write_text(json.dumps(subject.schema.to_dict()))
    subject.history.to_csv(folder / "history.csv", index=False)
    write_bad_inputs(subject.bad_inputs, folder / "bad_inputs.csv")
    write_facts(folder, facts, {"row-0-0.jpg": JPEG})
    write_result(folder, subject.result)
    return read_content(folder)


@pytest.mark.parametrize("classes", [pytest.param(0, marks=pytest.mark.long), 3])
def test_a_report_that_is_written_again_is_the_same(classes: int, tmp_path: Path) -> None:
    before = replace(
        content("multiclass" if classes else "regression", classes),
        bad_inputs=[BadInput(row=3, column="NA", value="null", problem='a, "b"', action="photo treated as missing")],
        diagnoses=[Diagnosis(name="n", sentence="s", fix="f")],
        watched=SEEN,
    )
    after = write_run(tmp_path, before)
    assert report_page(after) == report_page(replace(before, photo_files=after.photo_files))
    assert f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}" in report_page(after)
    assert "Dead units" in report_page(after)
    assert rewrite_report(tmp_path).read_text(encoding="utf-8") == report_page(after)


def test_a_small_picture_that_is_gone_or_lies_outside_is_not_shown(tmp_path: Path) -> None:
    outside = shown_row(2)
    outside = replace(outside, photos=[replace(outside.photos[0], file="../secret.jpg")])
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    after = write_run(tmp_path, replace(content(), worst=[outside], data=None))
    assert after.photo_files == {}
    assert "a.jpg cannot be read" in report_page(after)


@pytest.mark.parametrize(
    ("harm", "error", "text"),
    [
        (lambda path: path.unlink(), ConfigError, r"has no report\.json.*mixfit train --resume"),
        (lambda path: path.write_text("{"), DataError, r"report\.json is damaged"),
        (lambda path: path.write_text("[]"), DataError, r"report\.json is damaged: it has no version"),
        (lambda path: path.write_text('{"version": 99}'), DataError, "newer version than 2"),
        (lambda path: path.write_text('{"version": 2}'), DataError, r"report\.json lacks 'title'"),
        (lambda path: path.write_text('{"version": 1}'), DataError, r"is of an older mixfit\. .*mixfit train --resume"),
        (lambda path: path.with_name("results.json").unlink(), ConfigError, r"has no results\.json.*older mixfit"),
        (lambda path: (path.parent / "predictions_test.parquet").unlink(), DataError, "cannot be read: No such file"),
        (
            lambda path: (path.parent / "predictions_test.parquet").write_text("x"),
            DataError,
            "is empty, damaged or not a parquet file",
        ),
        (lambda path: (path.parent / "bad_inputs.csv").write_text("x,y\n1,2\n"), DataError, r"bad_inputs\.csv is dam"),
    ],
)
def test_a_folder_that_lacks_something_is_one_sentence(
    harm: Callable[[Path], object], error: type[Exception], text: str, tmp_path: Path
) -> None:
    write_run(tmp_path, content())
    harm(tmp_path / "report.json")
    with pytest.raises(error, match=text):
        read_content(tmp_path)


def test_no_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_facts(tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"spans": [[2, 3], [0, 1]]}, "steps or edges are not increasing"),
        ({"edges": [0.0, 0.0, 1.0]}, "steps or edges are not increasing"),
        ({"spans": [[0, 1]]}, "lengths are inconsistent"),
        ({"edges": [0.0, 1.0]}, "lengths are inconsistent"),
        ({"ratios": [{"title": "a", "steps": [1.0], "values": []}]}, "lengths are inconsistent"),
        ({"values": [to_plain(SEEN.values[0])] * 7}, "too many layers"),
        ({"values": [to_plain(SEEN.values[0]) | {"counts": [[None, 1.0], [0.0, 2.0]]}]}, "numbers are missing"),
        ({"dead_units": [{"title": "a", "shares": [0.5, 1.5]}]}, r"shares\[1\] must be from 0 to 1"),
        ({"spans": [[0, 1], [True, 3]]}, "is bool"),
    ],
)
def test_what_the_doctor_saw_is_checked(change: dict[str, object], text: str, tmp_path: Path) -> None:
    write_run(tmp_path, replace(content(), diagnoses=[], watched=SEEN))
    path = tmp_path / "report.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["watched"] |= change
    path.write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(DataError, match=text):
        rewrite_report(tmp_path)


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda path: path.write_bytes(b"<svg/>"), r"row-0-0\.jpg is damaged"),
        (lambda path: path.write_bytes(PNG), r"row-0-0\.jpg is damaged: it is not a JPEG"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "is a link out of its folder"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is not a regular file"),
    ],
)
def test_a_small_picture_that_is_none_is_refused(harm: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    write_run(tmp_path, content())
    harm(tmp_path / "report_files" / "row-0-0.jpg")
    with pytest.raises(DataError, match=text):
        rewrite_report(tmp_path)


def test_a_report_of_20_000_rows_is_written_in_20_seconds(tmp_path: Path) -> None:
    rows = 20_000
    write_run(tmp_path, content("multiclass", 7, rows))
    started = time.perf_counter()
    rewrite_report(tmp_path)
    assert time.perf_counter() - started < 20
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    assert len(pd.read_parquet(tmp_path / "predictions_test.parquet")) == rows


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        (
            "contest",
            {"coverage": [{"rows": "all", "count": 0, "inside": 0, "level": 0.9}]},
            r"\.count must be at least 1",
        ),
        ("contest", {"coverage": [{"rows": "all", "count": 1, "inside": 2, "level": 0.9}]}, "more rows are inside"),
        ("contest", {"coverage": [{"rows": "all", "count": 1, "inside": 1, "level": 2}]}, "level must be from 0 to 1"),
        ("rows", {"train": True}, "rows.train is bool"),
    ],
)
def test_numbers_that_do_not_belong_together_are_told(
    tmp_path: Path, name: str, change: dict[str, object], text: str
) -> None:
    write_run(tmp_path, content())
    path = tmp_path / "results.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said[name] |= change
    path.write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(DataError, match=text):
        rewrite_report(tmp_path)


def test_labels_and_counts_go_together(tmp_path: Path) -> None:
    write_run(tmp_path, content())
    path = tmp_path / "report.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    column = {"column": "a", "kind": "levels", "labels": ["x"], "counts": [1, 2], "summary": ""}
    said["data"] = {"distributions": [column], "samples": [], "notes": []}
    path.write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(DataError, match="1 labels for 2 counts"):
        rewrite_report(tmp_path)
