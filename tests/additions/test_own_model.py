"""A competing model that was written outside mixfit, in one file: it is judged on the folds, blended, saved, loaded,
explained and resumed like ours, through the public door alone."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from extra_trees import ExtraTrees, FittedExtraTrees
from rich.console import Console
from small_runs import in_few_folds

import mixfit
from mixfit.cli import main
from mixfit.models import Rows

OURS = ExtraTrees(trees=40, sees=frozenset({"table"}))
SETTINGS: dict[str, Any] = {
    "target": "y",
    "data": mixfit.DataConfig(cache_gb=0.0),
    "model": mixfit.ModelConfig(tabular="mlp", tabular_hidden=(8,), encoding_dim=4, numbers="plain"),
    "train": mixfit.TrainConfig(preset="quick", epochs=1, report=False),
    "console": Console(quiet=True),
}


def spiral(folder: Path, *, classes: bool = False) -> Path:
    """A target that follows the arms of a spiral, which trees with splits at random follow best of all."""
    x, z = np.random.default_rng(0).normal(size=(2, 160))
    y = np.sin(2 * np.arctan2(x, z) + 3 * np.hypot(x, z))
    folder.mkdir()
    frame = pd.DataFrame({"x": x, "z": z, "y": np.where(y > 0, "on", "between") if classes else y})
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture(scope="module", autouse=True)
def few_folds() -> Iterator[None]:
    """Two are enough for all that is looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        in_few_folds(patch)
        yield


@pytest.fixture(scope="module", params=[False, True], ids=["number", "classes"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> mixfit.Run:
    folder = tmp_path_factory.mktemp("own")
    return mixfit.fit(spiral(folder / "spiral", classes=request.param), out=folder / "runs", models=[OURS], **SETTINGS)


def frame_of(run: mixfit.Run) -> pd.DataFrame:
    return pd.read_csv(run.folder.parents[1] / "spiral" / "table.csv", dtype=str)


def test_it_is_in_the_leaderboard_and_has_a_share_of_the_blend(run: mixfit.Run) -> None:
    assert run.contest is not None
    (line,) = [line for line in run.contest.leaderboard if line.model == "extra trees"]
    assert line.loss < min(one.loss for one in run.contest.leaderboard if one.model.startswith("linear"))
    assert line.share == run.predictor.shares["extra trees"] > 0.1  # type: ignore[attr-defined]
    assert not line.photos


def test_it_predicts_the_same_when_it_was_loaded_and_only_with_the_model(run: mixfit.Run) -> None:
    frame = frame_of(run)
    expected = run.predictor.predict(frame)
    loaded = mixfit.Predictor.load(run.folder / "model", models=[OURS])
    pd.testing.assert_frame_equal(loaded.predict(frame), expected, check_exact=True)
    with pytest.raises(
        mixfit.DataError, match=r"has the model 'extra trees', which is not one of mixfit's own and can"
    ):
        mixfit.Predictor.load(run.folder / "model")


COMMANDS = {
    "predict": ["{table}", "-o", "p.csv"],
    "evaluate": ["{table}", "--split", "all"],
    "explain": ["--n", "2", "--table", "{table}"],
    "compare": ["{run}"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_say_how_it_is_used_in_python(
    command: str, run: mixfit.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"table": run.folder.parents[1] / "spiral" / "table.csv", "run": run.folder}
    with pytest.raises(SystemExit) as stop:
        main([command, str(run.folder), *(word.format(**places) for word in COMMANDS[command])])
    assert stop.value.code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "has the model 'extra trees', which is not one of mixfit's own and can only be used in Python: pass" in line
    assert not list(tmp_path.iterdir())


def test_what_commands_do_is_done_in_python_with_the_model(run: mixfit.Run, tmp_path: Path) -> None:
    table, quiet = run.folder.parents[1] / "spiral" / "table.csv", SETTINGS["console"]
    given: dict[str, Any] = {"models": [OURS], "console": quiet}
    assert len(mixfit.predict_table(run, table, **given)) == 160
    scores = mixfit.evaluate_table(run, table, out=tmp_path / "m.json", **given)
    assert scores == pytest.approx(run.scores["test"][run.result.ours])
    assert len(mixfit.explain_run(run, n=2, out=tmp_path, **given).rows) == 2
    assert mixfit.compare_runs([run, run], out=tmp_path / "c.html", **given).scores.differences[0].finding == "equal"


def test_it_is_explained(run: mixfit.Run) -> None:
    predictor, frame = mixfit.Predictor.load(run.folder, models=[OURS]), frame_of(run)
    found = mixfit.explain(predictor, frame, rows=range(6), background=12)
    np.testing.assert_allclose(found.parts.sum(axis=1), found.value - found.base, atol=1e-9)
    assert found.columns == ("x", "z")
    assert (found.importance[0] > 0.05).all()


def test_a_resumed_run_reads_it_and_fits_another_one_again(run: mixfit.Run, tmp_path: Path) -> None:
    def resumed(name: str, model: ExtraTrees) -> mixfit.Run:
        folder = Path(shutil.copytree(run.folder, tmp_path / name))
        shutil.rmtree(folder / "model")
        return mixfit.resume(folder, models=[model], console=SETTINGS["console"])

    def weights(folder: Path) -> bytes:
        return (folder / "model" / "model.safetensors").read_bytes()

    class NotFittedAgain(ExtraTrees):
        def fit(self, *_: Any) -> FittedExtraTrees:
            raise AssertionError("it was kept")

    NotFittedAgain.__name__ = NotFittedAgain.__qualname__ = "ExtraTrees"
    same = resumed("same", NotFittedAgain(**vars(OURS)))
    assert weights(same.folder) == weights(run.folder)
    assert weights(resumed("other", replace(OURS, trees=41)).folder) != weights(run.folder)
    with pytest.raises(
        mixfit.ConfigError, match=r"was started with other custom models \(extra trees\): pass the same"
    ):
        mixfit.resume(run.folder, console=SETTINGS["console"])


def test_photos_are_seen_by_their_features(demo_table: Path, tmp_path: Path) -> None:
    model = ExtraTrees(trees=20)
    data, train = mixfit.DataConfig(image_size=32), mixfit.TrainConfig(preset="quick", epochs=1, report=False)
    settings = SETTINGS | {"target": "price", "data": data, "train": train}
    run = mixfit.fit(demo_table, out=tmp_path, models=[model], **settings)
    assert run.contest is not None
    (line,) = [line for line in run.contest.leaderboard if line.model == "extra trees"]
    assert line.photos


class OneColumn(ExtraTrees):
    """Gives something else than predictions."""

    def load(self, *arguments: Any) -> FittedExtraTrees:
        class Wrong(FittedExtraTrees):
            def predict(self, rows: Rows) -> np.ndarray:
                return super().predict(rows)[:, None]

        return Wrong(*super().load(*arguments).state())


REFUSED: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "shape": (
        [OneColumn(trees=2, sees=OURS.sees)],
        {},
        r"'extra trees' returns predictions of shape \(\d+, 1\) instead of",
    ),
    "twice": ([OURS, OURS], {}, "Two models have the name 'extra trees'"),
    "ours": ([replace(OURS, name="linear, table")], {}, "Two models have the name 'linear, table'"),
    "name": ([replace(OURS, name="../x")], {}, "'../x' is not a valid model name"),
    "class": ([ExtraTrees], {}, "is not a model: it needs name, sees, fit and load"),
    "sees": ([replace(OURS, sees=frozenset({"sound"}))], {}, "must be a frozenset of table, text, photos, pixels"),  # type: ignore[arg-type]
    "network": ([OURS], {"preset": "network"}, r"models=\[...\] cannot be used with the preset network"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_join_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    models, train, text = REFUSED[case]
    settings = SETTINGS | {"train": replace(SETTINGS["train"], **train)}
    with pytest.raises(mixfit.ConfigError, match=text):
        mixfit.fit(spiral(tmp_path / "spiral"), out=tmp_path / "runs", models=models, **settings)


def test_what_cannot_learn_from_the_table_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS | {"console": None}
    mixfit.fit(spiral(tmp_path / "spiral"), out=tmp_path / "runs", models=[ExtraTrees()], **settings)
    assert "skipped: extra trees: there are no photos" in capsys.readouterr().out
