"""Runs with a sentence encoder: that it helps, that it is not saved, and that the same one must be there again."""

import json
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_encoder import BAD, FILLER, GOOD, MadeEncoder, described, made_folder, with_made_encoders
from rich.console import Console
from small_runs import MODEL, QUIET, TRAIN, model_bytes, small_fit, small_table

import mixfit
from mixfit.auto import recipe
from mixfit.cli import main
from mixfit.config import DataConfig, TrainConfig
from mixfit.ensemble.blend import row_losses
from mixfit.ensemble.cross_fit import cross_fit, fit_folds
from mixfit.evaluation.explain import explain
from mixfit.evaluation.word_effects import word_effects
from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Linear
from mixfit.models.model import TABLE, TEXT
from mixfit.nn import sentence
from mixfit.predictor import Predictor
from mixfit.runs.comparison import compare_runs
from mixfit.runs.results import Run
from mixfit.runs.scoring import evaluate_table, predict_table

ROWS = 140
NETWORK = TrainConfig(preset="network", epochs=1)


@pytest.fixture(scope="module", autouse=True)
def loaded() -> Iterator[list[MadeEncoder]]:
    """Every made encoder that was loaded."""
    with pytest.MonkeyPatch.context() as patch:
        yield with_made_encoders(patch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_folder(tmp_path_factory.mktemp("models") / "someones-model")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_table(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def run(table: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return with_model(table, tmp_path_factory.mktemp("runs"), folder, report=True)


def text_table(path: Path, rows: int = ROWS, seed: int = 0) -> Path:
    """A number and a text decide the target; a row in twenty has no text."""
    rng = np.random.default_rng(seed)
    quality, x = rng.normal(size=rows), rng.normal(size=rows)
    frame = pd.DataFrame({"x": x.round(3), "notes": described(quality, seed), "y": (quality + x).round(3)})
    frame.loc[::20, "notes"] = None
    path.mkdir(exist_ok=True)
    frame.to_csv(path / "table.csv", index=False)
    return path / "table.csv"


def with_model(table: Path, out: Path, text_model: Path | str, **settings: Any) -> Run:
    return small_fit(table, out, data=DataConfig(cache_gb=0.0, text_model=str(text_model)), **settings)


def test_a_text_model_helps_where_each_word_is_rare_and_reads_each_text_once(
    table: Path, folder: Path, loaded: list[MadeEncoder]
) -> None:
    losses = []
    loaded.clear()
    for text_model in (None, mixfit.TextModel.load(folder)):
        data = mixfit.load_data(table, target="y", text_model=text_model)
        assert data.schema.names("text") == ["notes"]
        folds = fit_folds(data, 5, seed=0)
        losses.append(row_losses(folds.truth, cross_fit(Linear(sees=TABLE | TEXT), folds).predictions))
    better = losses[0] - losses[1]
    assert better.mean() > 2 * better.std() / np.sqrt(len(better))
    (encoder,) = loaded
    assert sorted(encoder.read) == sorted(pd.read_csv(table)["notes"].dropna().unique())


def test_a_saved_run_predicts_the_same_with_the_same_text_model(run: Run, table: Path, folder: Path) -> None:
    frame = pd.read_csv(table)
    before = run.predictor.predict(frame)
    again = Predictor.load(run.folder, text_model=folder)
    pd.testing.assert_frame_equal(again.predict(frame), before)
    other = frame.assign(notes=frame["notes"].sample(frac=1, random_state=0).to_numpy())
    assert np.abs(again.predict(other)["prediction"] - before["prediction"]).mean() > 0.1
    evaluated = evaluate_table(run.folder, table, split="test", text_model=folder, console=QUIET)
    assert evaluated["mae"] == pytest.approx(run.scores["test"]["mixfit, blend"]["mae"], rel=1e-6)


def test_a_model_folder_has_neither_the_encoder_nor_its_place(run: Run, folder: Path) -> None:
    saved = (run.folder / "model" / "mixfit.json").read_text()
    assert '"digest": "0123456789abcdef"' in saved
    for path in (run.folder / "model").iterdir():
        assert folder.name.encode() not in path.read_bytes(), path
    assert "it needs the text model that the training was given" in (run.folder / "model" / "README.md").read_text()
    report = (run.folder / "report.html").read_text()
    assert str(folder) not in report
    assert folder.name in report


def test_the_text_model_must_be_there_for_the_first_text_and_only_then(
    run: Run, table: Path, folder: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(table)
    absent, empty = Predictor.load(run.folder), frame.assign(notes=None).astype({"notes": "str"})
    pd.testing.assert_frame_equal(absent.predict(empty), run.predictor.predict(empty))
    with pytest.raises(mixfit.ConfigError, match="from a folder, which is not saved with it: give that folder"):
        absent.predict(frame)
    other = Predictor.load(run.folder, text_model=made_folder(tmp_path / "other", "fedcba9876543210"))
    with pytest.raises(mixfit.ConfigError, match=r"is not the one that .* \(sha256 fedcba987654, not 0123456789ab\)"):
        other.predict(frame)
    nowhere = Predictor.load(run.folder, text_model=tmp_path / "nowhere")
    with pytest.raises(mixfit.ConfigError, match=r"tokenizers|There is no folder .*nowhere with a text model"):
        nowhere.predict(frame)
    plain = small_fit(small_table(tmp_path / "plain"), tmp_path / "runs")
    with pytest.raises(mixfit.ConfigError, match="uses no text model: leave out text_model"):
        Predictor.load(plain.folder, text_model=folder)


def test_folds_of_different_text_models_are_refused(
    table: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KernelRidge, "of_all_rows", False)  # so that the blend has several folds
    run = with_model(table, tmp_path / "runs", folder)
    copy = Path(shutil.copytree(run.folder / "model", tmp_path / "model"))
    said = json.loads((copy / "mixfit.json").read_text())
    said["folds"][1]["encoder"]["text"]["embedder"]["digest"] = "other"
    del said["description_sha256"]
    (copy / "mixfit.json").write_text(json.dumps(said))
    with pytest.raises(mixfit.DataError, match="the folds have different text models"):
        Predictor.load(copy)


def test_words_and_columns_are_explained_through_the_text_model(run: Run, table: Path) -> None:
    frame = pd.read_csv(table).head(12)
    frame.loc[1, "notes"] = f"{GOOD[0]} {GOOD[1]} {BAD[0]} {FILLER[0]} {GOOD[2]}"
    (effects,) = word_effects(run.predictor, frame, rows=[1])
    found = dict(zip(effects.words, effects.effects, strict=True))
    assert min(found[word] for word in GOOD[:3]) > 0 > found[BAD[0]]
    explained = explain(run.predictor, frame, rows=[1, 2, 3], background=6)
    np.testing.assert_allclose(explained.parts.sum(axis=1), explained.value - explained.base, atol=1e-6)
    assert np.abs(explained.parts[:, explained.columns.index("notes")]).mean() > 0.05


def test_only_the_texts_of_chosen_rows_are_read(run: Run, table: Path, folder: Path, loaded: list[MadeEncoder]) -> None:
    predictor, frame = Predictor.load(run.folder, text_model=folder), pd.read_csv(table)
    loaded.clear()
    cells = predictor.schema.table(frame)
    predictor.predict(cells.select(np.array([3, 7])))
    assert sorted(loaded[0].read) == sorted(frame["notes"][[3, 7]])


def test_a_resumed_run_is_the_same_and_needs_the_same_text_model(
    run: Run, table: Path, folder: Path, tmp_path: Path
) -> None:
    again = Path(shutil.copytree(run.folder, tmp_path / "again"))
    shutil.rmtree(again / "model")
    for path in (again / "candidates").glob("linear-*2*"):
        path.unlink()
    recipe.resume(again, console=QUIET)
    assert model_bytes(again) == model_bytes(run.folder)
    other = made_folder(tmp_path / "other", "fedcba9876543210")
    config = again / "config.toml"
    config.write_text(config.read_text().replace(str(folder), str(other)))
    with pytest.raises(mixfit.DataError, match="the text model has changed since this run: its files differ"):
        recipe.resume(again, console=QUIET)
    moved = made_folder(tmp_path / "moved")
    config.write_text(config.read_text().replace(str(other), str(moved)))
    shutil.rmtree(again / "model")
    recipe.resume(again, console=QUIET)
    assert model_bytes(again) == model_bytes(run.folder)


def test_a_single_network_is_trained_saved_and_explained_with_it(table: Path, folder: Path, tmp_path: Path) -> None:
    run = with_model(table, tmp_path / "runs", folder, train=TrainConfig(preset="network", epochs=20))
    frame = pd.read_csv(table)
    loaded = Predictor.load(run.folder, text_model=folder)
    pd.testing.assert_frame_equal(loaded.predict(frame), run.predictor.predict(frame))
    with pytest.raises(mixfit.ConfigError, match="which is not saved with it"):
        Predictor.load(run.folder).predict(frame)
    explained = explain(loaded, frame, rows=[1, 2], background=4)
    np.testing.assert_allclose(explained.parts.sum(axis=1), explained.value - explained.base, atol=1e-5)


def test_classes_are_predicted_with_it(table: Path, folder: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    frame["y"] = pd.qcut(frame["y"], 2, labels=["low", "high"])
    frame.to_csv(tmp_path / "table.csv", index=False)
    run = with_model(tmp_path / "table.csv", tmp_path / "runs", folder)
    again = Predictor.load(run.folder, text_model=folder)
    pd.testing.assert_frame_equal(again.predict(frame), run.predictor.predict(frame))


def test_the_next_run_takes_embeddings_from_the_cache(
    table: Path, folder: Path, tmp_path: Path, loaded: list[MadeEncoder]
) -> None:
    loaded.clear()
    for _ in range(2):
        data = DataConfig(cache=tmp_path / "cache", text_model=str(folder))
        last = small_fit(table, tmp_path / "runs", data=data, train=NETWORK)
    assert [len(encoder.read) > 0 for encoder in loaded] == [True, False]
    cache = mixfit.Cache(folder=tmp_path / "cache", limit_bytes=10**8)
    predict_table(last.folder, table, out=tmp_path / "p.csv", text_model=folder, cache=cache, console=QUIET)
    assert not loaded[-1].read
    assert (tmp_path / "p.csv").is_file()


def test_commands_take_the_folder_of_the_text_model(
    run: Run, table: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--text-model", str(folder), "--cache-gb", "0"]
    commands = {
        "predict": [str(run.folder), str(table), "--out", str(tmp_path / "p.csv")],
        "evaluate": [str(run.folder), str(table), "--out", str(tmp_path / "m.json")],
        "explain": [str(run.folder), "--n", "2", "--out", str(tmp_path / "e")],
    }
    for name, arguments in commands.items():
        for given in (place, place[2:]):
            with pytest.raises(SystemExit) as ended:
                main([name, *arguments, *given])
            told = capsys.readouterr().err
            assert (ended.value.code or 0) == (0 if given == place else 2), (name, told)
            assert ("or --text-model DIR" in told) == (given != place)
            assert "Traceback" not in told


def test_runs_with_and_without_a_text_model_are_compared(
    run: Run, table: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = small_fit(table, tmp_path / "runs")
    expected = compare_runs([plain, run], out=tmp_path / "a.html", console=QUIET)
    assert expected.settings["data.text_model"] == ("none", folder.name)
    again = Path(shutil.copytree(run.folder, tmp_path / "again"))
    (again / "predictions_test.parquet").unlink()  # so the rows are predicted again
    with pytest.raises(mixfit.ConfigError, match="or --text-model DIR"):
        compare_runs([plain, again], out=tmp_path / "b.html", console=QUIET)
    found = compare_runs([plain, again], out=tmp_path / "b.html", console=QUIET, text_model=folder)
    for one, other in zip(found.scores.scores, expected.scores.scores, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-5)
    with pytest.raises(mixfit.ConfigError, match="None of the runs uses a text model from a folder"):
        compare_runs([plain, plain], out=tmp_path / "c.html", console=QUIET, text_model=folder)
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(plain.folder), str(again), "--text-model", str(folder), "--out", str(tmp_path / "d.html")])
    assert not ended.value.code
    assert "data.text_model" in capsys.readouterr().out


def test_what_is_not_installed_is_told_before_the_table_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(sentence, "distribution", missing)
    with pytest.raises(mixfit.ConfigError, match=r"pip install 'mixfit\[text\]'"):
        with_model(tmp_path / "no-such-table.csv", tmp_path / "runs", "minilm")
    with pytest.raises(mixfit.ConfigError, match=r"pip install 'mixfit\[text\]'|There is no folder nowhere"):
        with_model(tmp_path / "no-such-table.csv", tmp_path / "runs", "nowhere")
    assert not (tmp_path / "runs").exists()


def test_settings_of_the_text_model_are_checked(table: Path) -> None:
    with pytest.raises(mixfit.ConfigError, match="text_model must be none, minilm, or a folder"):
        DataConfig(text_model="")
    with pytest.raises(mixfit.ConfigError, match=r"text_model=mixfit.TextModel.load\('minilm'\)"):
        mixfit.load_data(table, target="y", config=DataConfig(text_model="minilm"))


def test_a_text_model_without_texts_is_told(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "told").open("w") as file:
        data = DataConfig(cache_gb=0.0, text_model=str(folder))
        console = Console(file=file, width=300)
        small_fit(small_table(tmp_path / "plain"), tmp_path / "runs", data=data, console=console)
    assert "has no effect, as no column has the role text" in (tmp_path / "told").read_text()


def test_a_model_of_sentence_transformers_is_used_from_its_folder(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra is not installed: pip install 'mixfit[text]'")
    from sentence_models import TEXTS, write_model

    model = write_model(tmp_path / "model")
    frame = pd.read_csv(table).head(60)
    kinds = np.arange(60) % len(TEXTS)
    frame["notes"] = [f"{TEXTS[kind]} and the {number}" for number, kind in enumerate(kinds)]
    frame["y"] += 3 * kinds
    frame.to_csv(tmp_path / "table.csv", index=False)
    run = with_model(tmp_path / "table.csv", tmp_path / "runs", model, model=MODEL, train=TRAIN)
    again = Predictor.load(run.folder, text_model=model)
    pd.testing.assert_frame_equal(again.predict(frame), run.predictor.predict(frame))
    other = Predictor.load(run.folder, text_model=write_model(tmp_path / "other", seed=1))
    with pytest.raises(mixfit.ConfigError, match="as its files differ"):
        other.predict(frame)


def test_minilm_is_found_again_in_its_package(table: Path, tmp_path: Path) -> None:
    try:
        sentence.load_sentence_encoder()
    except mixfit.ConfigError as error:
        pytest.skip(str(error))
    frame = pd.read_csv(table).head(60)
    frame.to_csv(tmp_path / "table.csv", index=False)
    run = with_model(tmp_path / "table.csv", tmp_path / "runs", "minilm", train=TrainConfig(preset="network", epochs=1))
    again = Predictor.load(run.folder)
    wanted = run.predictor.predict(frame)
    pd.testing.assert_frame_equal(again.predict(frame), wanted)
    pytest.importorskip("spox", reason="needs the extra onnx")
    from mixfit.export.exporting import export_run
    from mixfit.export.onnx_predict import OnnxModel
    from mixfit.export.page import require_possible

    file = export_run(run, tmp_path / "model.onnx")
    assert file.agreement is not None
    assert file.agreement.largest <= 1e-5
    assert file.agreement.same_status == file.agreement.checked_status
    found = mixfit.onnx_predict(tmp_path / "model.onnx", frame)
    np.testing.assert_allclose(found["prediction"], wanted["prediction"], rtol=0, atol=1e-5 * frame["y"].std())
    model = OnnxModel.load(tmp_path / "model.onnx")
    assert any(one["holds"] == "embedding" for one in model.meta["inputs"])
    with pytest.raises(mixfit.ConfigError, match="A page cannot make the sentence embeddings"):
        require_possible(model.meta)
