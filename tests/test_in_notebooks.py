"""What notebooks show of data, schema, learner, run, result and explanation: escaped, small, without script.

And that progress is plain there: a notebook asks for the colours of a terminal, but is none."""

import io
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from hostile_texts import HOSTILE, MARKUP, assert_harmless
from small_fits import learner, net

from mixfit import console, explain, infer_schema, load_data
from mixfit.demo import DEMO_TARGET
from mixfit.html import SHOWN_ROWS, Bar, Grid, card
from mixfit.training.callbacks.displays import ProgressLines
from mixfit.training.metrics import metric_text

if TYPE_CHECKING:
    from mixfit.auto.recipe import Run

LARGEST = 30_000  # characters


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_every_text_of_a_card_is_escaped_and_cut(text: str) -> None:
    grid = Grid(heading=text, head=(text,), rows=[(text,), (1.5,), (Bar(0.5),)])
    page = assert_harmless(card(text, facts={text: text}, lines=[text], grids=[grid]))
    assert page.attributes <= {"style", "open"}


def test_a_card_leaves_out_what_is_empty_and_cuts_long_tables() -> None:
    empty = card("Vases", facts={"photos": ""}, lines=["", ""], grids=[Grid(heading="none", head=(), rows=[])])
    assert re.sub(r"\s*<[^>]*>\s*", "", empty) == "Vases"
    rows = [(f"column {number}", number) for number in range(1_030)]
    page = assert_harmless(card("Wide", grids=[Grid(heading="columns", head=("name", "count"), rows=rows)]))
    assert page.names.count("tr") == 1 + SHOWN_ROWS
    assert "and 1,000 more" in page.text


def test_colours_are_those_of_the_notebook() -> None:
    shown = card("Bars", grids=[Grid(heading="all", head=("share",), rows=[(Bar(1.0),)])])
    assert set(re.findall(r"(?:color|background):([^;\"]+)", shown)) <= {"inherit", "none", "currentColor"}


def test_data_and_schema_name_rows_columns_and_photos(demo_table: Path) -> None:
    data = load_data(demo_table, target=DEMO_TARGET, image_size=32)
    page = assert_harmless(data._repr_html_())
    for name, rows in data.split.parts().items():
        assert f"{name}: {len(rows)} rows" in page.text
    assert data.photos is not None
    assert f"photos: {len(data.photos.files)} in" in page.text
    schema = assert_harmless(data.schema._repr_html_())
    for column in data.schema.columns:
        assert column.name in page.text
        assert column.name in schema.text
        assert column.role in schema.text
    assert "predict price, regression" in schema.text
    assert max(len(data._repr_html_()), len(data.schema._repr_html_())) < LARGEST


def test_a_schema_of_hostile_names_is_harmless() -> None:
    names = [name[:5_000] for name in HOSTILE.values()]
    frame = pd.DataFrame({name: [f"{name[:50]}{i % 3}" for i in range(30)] for name in names})
    frame[MARKUP + "2"] = range(30)
    page = assert_harmless(infer_schema(frame, target=MARKUP + "2")._repr_html_())
    assert "<script>" in page.text


def test_a_learner_names_its_parts_and_counts_parameters() -> None:
    model = net()
    shown = learner(model=model)
    page = assert_harmless(shown._repr_html_())
    for said in ("Learner of Net", "loss: mse", "optimizer: AdamW", "device: cpu", "batches per epoch: 5"):
        assert said in page.text
    assert f"{sum(one.numel() for one in model.parameters())}" in page.text
    model.first.weight.requires_grad_(False)
    trainable = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert f"{trainable}" in assert_harmless(shown._repr_html_()).text


def test_a_run_and_its_result_have_the_verdict_and_the_scores(blend_run: "Run", class_run: "Run") -> None:
    for run in (blend_run, class_run):
        result = run.result
        for shown in (run._repr_html_(), result._repr_html_()):
            page = assert_harmless(shown)
            assert len(shown) < LARGEST
            assert result.answer in page.text
            assert result.ours in page.text
            assert f"{result.final.rows} test rows" in page.text
        assert str(run.folder) in assert_harmless(run._repr_html_()).text
        assert run.contest is not None
        assert all(line.model in assert_harmless(run._repr_html_()).text for line in run.contest.leaderboard)
    score = blend_run.result.final.score(blend_run.result.ours).metrics["mape"]
    assert metric_text(score) in assert_harmless(blend_run._repr_html_()).text


def test_an_explanation_has_a_bar_for_each_column(blend_run: "Run", demo_table: Path) -> None:
    data = load_data(demo_table, target=DEMO_TARGET, image_size=32)
    found = explain(blend_run.predictor, data.frame, images=demo_table.parent, rows=[0, 1], background=4)
    page = assert_harmless(found._repr_html_())
    assert all(column in page.text for column in found.columns)
    widths = [float(one) for one in re.findall(r";width:([\d.]+)em\"", found._repr_html_())]
    assert len(widths) == len(found.columns)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 12


def test_a_fit_that_ends_a_cell_is_shown_in_a_line() -> None:
    shown = repr(learner().fit(1, 0.01))
    assert shown.startswith("TrainState(")
    assert "epochs=1" in shown
    assert "Linear" not in shown
    assert len(shown) < 500


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What a notebook shows; it sets what ipykernel sets."""
    shown: list[dict[str, str]] = []

    def display(line: dict[str, str], *, raw: bool, display_id: bool) -> SimpleNamespace:
        assert raw
        assert display_id
        shown.append(line)
        return SimpleNamespace(update=lambda line, raw: shown.append(line))

    ipython = ModuleType("IPython")
    vars(ipython).update(get_ipython=lambda: SimpleNamespace(kernel="k"), display=SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.setenv(name, "1")
    return shown


def test_progress_of_rows_is_one_line_that_goes_away(
    notebook: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "BEAT", 0.0)
    assert list(console.tracked("abcd", total=4, description=" photos")) == list("abcd")
    assert [line["text/plain"] for line in notebook] == ["photos 0%", "photos 25%", "photos 50%", "photos 75%", ""]


def test_progress_of_a_fit_is_lines_without_control_characters(
    notebook: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    learner(ProgressLines()).fit(2, 0.01)
    assert len(written.getvalue().splitlines()) == 3
    assert "\x1b" not in written.getvalue()
    assert notebook == []
