"""Tables of a target and a text alone: what models are called, and what is said of photos and columns that are not
there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hostile_texts import Page
from PIL import Image
from rich.console import Console
from small_runs import QUIET, small_fit
from test_text_runs import described

import mixfit
from mixfit.config import TrainConfig
from mixfit.runs.explaining import explain_run
from mixfit.runs.results import BLEND, TABLE_BLEND, Run, our_name
from mixfit.runs.scoring import evaluate_table, predict_table

ROWS = 120


def tickets() -> pd.DataFrame:
    quality = np.random.default_rng(0).normal(size=ROWS)
    return pd.DataFrame({"note": described(quality), "y": np.round(quality, 3)})


def said_by(folder: Path, call: Any, *arguments: Any, **settings: Any) -> str:
    """What a command prints."""
    with (folder / "terminal").open("w", encoding="utf-8") as file:
        call(*arguments, **settings, console=Console(width=300, file=file))
    return (folder / "terminal").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    folder = tmp_path_factory.mktemp("tickets")
    tickets().to_csv(folder / "table.csv", index=False)
    runs = list[Run]()
    said = said_by(
        folder, lambda **given: runs.append(small_fit(folder / "table.csv", folder / "runs", report=True, **given))
    )
    return runs[0], said


@pytest.fixture(scope="module")
def run(made: tuple[Run, str]) -> Run:
    return made[0]


def test_the_baseline_of_a_text_is_a_constant_not_a_table(made: tuple[Run, str]) -> None:
    run, said = made
    result = run.result
    assert result.text is not None
    assert (result.text.with_text, result.text.without) == (BLEND, "constant")
    assert result.contest is not None
    assert [line.model for line in result.contest.leaderboard if "blend" in line.model] == [BLEND]
    page = Page((run.folder / "report.html").read_text(encoding="utf-8")).text
    card = (run.folder / "model" / "README.md").read_text(encoding="utf-8")
    for shown in (said, page, card):
        assert not re.search(r"table only|and photos|\bphotos?\b|the table alone", shown, flags=re.IGNORECASE)
        assert "compared with a constant" in shown.replace("\n   ", " ")


def test_the_words_that_matter_are_in_the_report(run: Run) -> None:
    page = " ".join(Page((run.folder / "report.html").read_text(encoding="utf-8")).text.split())
    assert "Words that matter" in page
    assert "in the unit of y" in page


def test_new_words_and_empty_texts_are_noted_with_what_remains(run: Run, tmp_path: Path) -> None:
    new, out = tickets().head(6), tmp_path / "out.csv"
    new.loc[[1, 4], "note"] = "Xyzzy plugh"
    new.to_csv(tmp_path / "new.csv", index=False)
    said = said_by(tmp_path, predict_table, run, tmp_path / "new.csv", out=out)
    assert "6 rows: 4 ok, 2 with new words only, 0 with broken cells -> status" in said
    assert (
        "note: in 2 of 6 rows (first: row 1), 'note' has no word that training texts have: predictions rely on " in said
    )
    assert said.count("note: ") == 1
    status = pd.read_csv(out)["status"].tolist()
    assert [row for row, one in enumerate(status) if one == "note: no word that training texts have"] == [1, 4]
    assert [row for row, one in enumerate(status) if one == "ok"] == [0, 2, 3, 5]
    assert "'note' has no word" in said_by(tmp_path, evaluate_table, run, tmp_path / "new.csv", out=tmp_path / "m.json")
    new.assign(note=None).to_csv(tmp_path / "new.csv", index=False)
    said = said_by(tmp_path, predict_table, run, tmp_path / "new.csv", out=out)
    assert "note: 'note' is empty in all 6 rows: all get the same prediction" in said
    assert pd.read_csv(out)["prediction"].nunique() == 1


def test_a_text_of_another_length_is_predicted_within_reason(run: Run) -> None:
    notes = ["Xyzzy", "superb", "superb " * 400, "x" * 500, "!"]
    found = run.predictor.predict(pd.DataFrame({"note": notes}))["prediction"]
    assert found.between(-6, 6).all()


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_files_for_people_have_seven_digits_and_others_all(run: Run, tmp_path: Path, kind: str) -> None:
    new = tickets().head(20)
    predict_table(run, new, out=tmp_path / f"out.{kind}", interval=0.5, console=QUIET)
    found = {"csv": pd.read_csv, "tsv": pd.read_table, "parquet": pd.read_parquet}.get(
        kind, lambda path: pd.read_json(path, lines=True, precise_float=True)
    )(tmp_path / f"out.{kind}")
    exact = predict_table(run, new, interval=0.5, console=QUIET)
    names = ["prediction", "lower", "upper"]
    if kind in ("csv", "tsv"):
        assert [f"{one:.7g}" for one in exact[names].to_numpy().ravel()] == [
            f"{one:.7g}" for one in found[names].to_numpy().ravel()
        ]
        assert all(
            len(f"{one!r}".strip("-0.").replace(".", "")) <= 7 for one in found[names].to_numpy().ravel().tolist()
        )
    else:
        pd.testing.assert_frame_equal(found[names], exact[names], check_exact=True)
    assert ((found["lower"] <= found["prediction"]) & (found["prediction"] <= found["upper"])).all()


def test_an_explanation_says_why_no_words_are_shown(run: Run, tmp_path: Path) -> None:
    frame = tickets().assign(note="!")
    frame.to_csv(tmp_path / "signs.csv", index=False)
    said = said_by(tmp_path, explain_run, run, rows=[0, 1], table=tmp_path / "signs.csv", out=tmp_path)
    assert "row 0: Typical y: " in said
    assert re.search(r"The texts .*, so (no words|none) are marked\.", " ".join(said.split()))


PARTS = {
    ("table",): "mixfit, table only",
    ("text",): "mixfit, text only",
    ("photos",): "mixfit, photos only",
    ("table", "text"): "mixfit, table and text",
    ("table", "photos"): "mixfit, table and photos",
    ("text", "photos"): "mixfit, text and photos",
    ("table", "text", "photos"): "mixfit, table, text and photos",
}


@pytest.mark.parametrize("parts", PARTS)
def test_a_network_is_called_by_what_it_sees(parts: tuple[str, ...], tmp_path: Path) -> None:
    frame = tickets().head(60)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    given = {"table": {"x": frame["y"] ** 2}, "text": {"note": frame["note"]}, "photos": {"photo": "a.png"}}
    columns = {name: cells for part in parts for name, cells in given[part].items()}
    roles: Any = {"table": {"x": "number"}, "text": {"note": "text"}, "photos": {"photo": "image"}}
    config = mixfit.DataConfig(roles={name: role for part in parts for name, role in roles[part].items()})
    table = frame[["y"]].assign(**columns)
    assert our_name(mixfit.load_data(table, target="y", images=tmp_path, config=config)) == PARTS[parts]


def test_a_single_network_of_a_text_is_compared_with_a_constant(tmp_path: Path) -> None:
    tickets().to_csv(tmp_path / "table.csv", index=False)
    train = TrainConfig(preset="network", epochs=1)
    result = small_fit(tmp_path / "table.csv", tmp_path / "runs", train=train).result
    assert (result.ours, result.against) == ("mixfit, text only", "constant")
    assert TABLE_BLEND not in {score.model for score in result.final.scores}
    assert not [score.model for score in result.final.scores if "table" in score.model]
