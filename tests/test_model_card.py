"""The README.md of a model folder."""

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bootstrap_ends import bootstrap_interval
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mixfit.auto.recipe import Run
from mixfit.config import ModelConfig
from mixfit.data.columns.schema import Column, Schema
from mixfit.data.load import MixedData, load_data
from mixfit.data.table.read import read_table
from mixfit.errors import DataError
from mixfit.evaluation.facts import model_facts, rows_with_photo
from mixfit.evaluation.result import Contest
from mixfit.files import json_numbers
from mixfit.nn.backbones import LITE0
from mixfit.predictor import Predictor
from mixfit.predictor.card import FROM_SCRATCH, LICENCE, ModelFacts, ScoreFacts, WeakGroup, code, licence_of, model_card
from mixfit.runs.results import BLEND, CONSTANT, result_of, rows_of, truth_of
from mixfit.training.metrics import R2_LOG, REGRESSION_METRICS

HOSTILE = "<img src=x onerror=alert(1)> [a](http://b) | `x` ``` www.a.com a@b.com # *b*"
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")


def card_of(facts: ModelFacts | None, **changes: object) -> str:
    schema = Schema(
        columns=(Column(name="y", role="target", reason="", missing=0),), task="binary", task_reason="", rows=9
    )
    arguments = {"classes": ("a", "b"), "photos": True, "notes": [], "licence": LICENCE, "weights_sha256": "0" * 64}
    return model_card(**({"schema": schema, "version": "1", "facts": facts} | arguments | changes))  # type: ignore[arg-type]


FACTS = ModelFacts(training_rows=70, test_rows=20, columns=(), scores=())


def test_the_card_of_a_run_has_all_its_parts(quick_run: Run, demo_table: Path) -> None:
    folder = quick_run.folder / "model"
    card = (folder / "README.md").read_text()
    for heading in ("Intended use", "Data", "Metrics", "Limits", "Licence", "Load and verify"):
        assert f"## {heading}\n" in card
    frame, rows = read_table(demo_table), len(pd.read_parquet(quick_run.folder / "predictions_valid.parquet"))
    heights = pd.to_numeric(frame["height_cm"])
    assert f"| validation | {rows} | MAE | {quick_run.scores['valid']['mixfit, table and photos']['mae']:.4g} |" in card
    assert f"| test | {quick_run.predictor.facts.scores[-1].count} | " in card  # type: ignore[union-attr]
    assert "| `maker` | category | " in card
    assert LICENCE in card
    assert str(demo_table.parent) not in card
    (line,) = [line for line in card.splitlines() if line.startswith("| `height_cm` | number | ")]
    low, high = (float(text) for text in line.split(" | ")[2].split(" to "))
    assert heights.min() <= low < high <= heights.max()


def test_the_sum_in_the_card_is_that_of_the_weights(quick_run: Run) -> None:
    folder = quick_run.folder / "model"
    card = (folder / "README.md").read_text()
    (command,) = [line for line in card.splitlines() if line.startswith("sha256sum ")]
    printed = subprocess.run(command.split(), capture_output=True, text=True, cwd=folder, check=True).stdout.split()[0]
    assert f"# {printed}\n" in card
    assert printed == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_saving_what_was_loaded_writes_the_same_card(quick_run: Run, tmp_path: Path) -> None:
    Predictor.load(quick_run.folder / "model").save(tmp_path / "again")
    for name in ("README.md", "mixfit.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (quick_run.folder / "model" / name).read_bytes()


def test_a_folder_without_facts_is_read_and_one_with_odd_ones_is_refused(quick_run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(quick_run.folder / "model", tmp_path / "model"))
    state = json.loads((copy / "mixfit.json").read_text())
    del state["description_sha256"]
    (copy / "mixfit.json").write_text(json.dumps({key: state[key] for key in state if key != "facts"}))
    assert Predictor.load(copy).facts is None
    (copy / "mixfit.json").write_text(json.dumps(state | {"facts": {"columns": [], "oracle": 1}}))
    with pytest.raises(DataError, match="does not describe these weights"):
        Predictor.load(copy)


def test_a_model_put_together_by_hand_has_a_card_without_figures() -> None:
    card = card_of(None)
    assert "## Metrics" not in card
    assert "## Load and verify" in card


def test_weak_groups_and_what_has_no_value_are_told() -> None:
    scores = (ScoreFacts(rows="test", count=20, metric="auc", value=None, low=None, high=None),)
    weak = (WeakGroup(column="maker", value="b", rows=31, error=0.5, rest=0.2),)
    card = card_of(replace(FACTS, scores=scores, weak=weak, groups=4, error="log_loss", judged_rows="out of fold"))
    assert "| test | 20 | ROC AUC | n/a | n/a to n/a |" in card
    assert (
        "Of 4 groups of rows, by category and by photos, 1 is predicted significantly worse than the other rows" in card
    )
    assert "| `maker` | `b` | 31 | 0.5 | 0.2 |" in card
    assert "none is predicted significantly worse than the other rows" in card_of(replace(FACTS, groups=4))
    assert "No group of rows was large enough" in card_of(FACTS)


def assert_only_text(card: str, text: str) -> None:
    """Nothing but text came of a name: the tokens are those that the same card has with a harmless name."""
    tokens = [child for token in MARKDOWN.parse(card) for child in (token, *(token.children or ()))]
    assert not {token.type for token in tokens} & {"html_inline", "html_block", "link_open", "image"}
    assert text in {token.content for token in tokens if token.type == "code_inline"}


def test_markup_in_names_is_text() -> None:
    weak = (WeakGroup(column=HOSTILE, value=HOSTILE, rows=31, error=0.5, rest=0.2),)
    schema = Schema(
        columns=(Column(name=HOSTILE, role="target", reason="", missing=0),), task="binary", task_reason="", rows=9
    )
    card = card_of(replace(FACTS, weak=weak, groups=2), schema=schema)
    assert_only_text(card, HOSTILE)
    tables = [token for token in MARKDOWN.parse(card) if token.type == "table_open"]
    assert len(tables) == 3
    cells = [token for token in MARKDOWN.parse(card) if token.type in ("td_open", "th_open")]
    assert len(cells) == 4 + 5 + 5 * 2


@given(text=st.text(min_size=1, max_size=60))
def test_any_text_is_one_code_span(text: str) -> None:
    (paragraph,) = [token for token in MARKDOWN.parse(f"x {code(text)} y") if token.type == "inline"]
    kinds = [child.type for child in paragraph.children or ()]
    assert kinds == ["text", "code_inline", "text"]
    shown = (paragraph.children or [])[1].content
    assert shown == (" ".join("".join(c if c.isprintable() else " " for c in text).split()) or "(empty)")


def test_licences_are_those_of_the_weights() -> None:
    assert licence_of(None) == FROM_SCRATCH
    assert licence_of(ModelConfig(backbone=LITE0)) == LICENCE
    assert licence_of(ModelConfig(backbone="small_resnet")) == f"Image network: `small_resnet`. {FROM_SCRATCH}"
    given = licence_of(ModelConfig(backbone="resnet18", backbone_weights=Path("/home/someone/w.safetensors")))
    assert (
        given == "Image network: `resnet18`, initialised with the weights of `w.safetensors`: their licence is unknown."
    )
    fetched = licence_of(ModelConfig(backbone="resnet18.a1_in1k", allow_download=True))
    assert fetched.endswith("weights of timm's model hub; licence: apache-2.0.")


def facts_of_blend(mixed: MixedData, ours: dict[Any, np.ndarray]) -> ModelFacts:
    """Of a blend that predicts so."""
    judged = {split: rows_of(mixed, split, {BLEND: values, CONSTANT: values}, {}) for split, values in ours.items()}
    return model_facts(
        mixed, result_of(mixed, judged, seconds={}, contest=Contest(leaderboard=[], choice="")), judged["valid"]
    )


def test_groups_that_are_predicted_worse_are_found(demo_table: Path) -> None:
    mixed = load_data(demo_table, target="price", image_size=32)
    everything = np.sort(np.concatenate(list(mixed.split.parts().values())))
    mixed = replace(mixed, split=replace(mixed.split, valid=everything))
    truth: dict[Any, np.ndarray] = {"valid": truth_of(mixed, "valid"), "test": truth_of(mixed, "test")}
    makers = mixed.frame["maker"].to_numpy()[everything]
    largest = pd.Series(makers).value_counts().index[0]
    random = np.random.default_rng(0)
    noise = 1 + random.normal(scale=np.where(makers == largest, 0.8, 0.05))
    ours = {"valid": truth["valid"] * noise, "test": truth["test"]}
    facts = facts_of_blend(mixed, ours)
    assert [(one.column, one.value) for one in facts.weak] == [("maker", largest)]
    assert facts.weak[0].rows == (makers == largest).sum()
    assert facts.weak[0].error > 5 * facts.weak[0].rest
    assert facts.judged_rows == "out of fold"
    for score in facts.scores:  # as in the report and in evaluate
        split = "test" if score.rows == "test" else "valid"
        metric = next(one for one in (*REGRESSION_METRICS, R2_LOG) if one.name == score.metric)
        low, high = bootstrap_interval(metric, truth[split], ours[split])
        assert {"low": score.low, "high": score.high} == json_numbers({"low": low, "high": high})
    even = {"valid": truth["valid"] * 1.1, "test": truth["test"]}
    assert facts_of_blend(mixed, even).weak == ()
    assert mixed.photos is not None
    assert (rows_with_photo(mixed, everything) == (mixed.photos.slots[everything] >= 0).any(1)).all()
