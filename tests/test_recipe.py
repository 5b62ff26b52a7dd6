import json
import shutil
import tomllib
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from quick_runs import QUICK_DATA, quick_fit
from rich.console import Console

from mixfit.auto.recipe import Run, fit
from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.table.read import read_table
from mixfit.demo import DEMO_TARGET
from mixfit.errors import ConfigError, DataError
from mixfit.files import SUMS, unseal
from mixfit.nn.backbones import make_backbone
from mixfit.runs.folder import new_run_folder, read_split, run_name
from mixfit.runs.scoring import evaluate_table, load_run, predict_table

OURS = "mixfit, table and photos"
FILES = {
    "config.toml",
    "schema.json",
    "environment.json",
    "metrics.jsonl",
    "history.csv",
    "checkpoints",
    "model",
    "predictions_valid.parquet",
    "predictions_test.parquet",
    "report.json",
    "results.json",
    "report_files",
    "report.html",
    "bad_inputs.csv",
    SUMS,
}


def test_the_run_folder_holds_everything(quick_run: Run) -> None:
    assert {path.name for path in quick_run.folder.iterdir()} >= FILES
    assert quick_run.folder.name == "vases-price-001"
    config = tomllib.loads((quick_run.folder / "config.toml").read_text())
    assert config["target"] == DEMO_TARGET
    assert config["train"]["epochs"] == 3
    assert config["data"]["image_size"] == 32
    history = pd.read_csv(quick_run.folder / "history.csv")
    lines = [json.loads(line) for line in (quick_run.folder / "metrics.jsonl").read_text().splitlines()]
    records = [line for line in lines if "epoch" in line]
    assert history["epoch"].tolist() == [record["epoch"] for record in records] == [1, 2, 3]
    assert history["valid_loss"].tolist() == [record["valid_loss"] for record in records]


def test_the_same_seed_writes_the_same_bytes(quick_run: Run, demo_table: Path, tmp_path: Path) -> None:
    again = quick_fit(demo_table, DEMO_TARGET, tmp_path)
    for name in ("model.safetensors", "mixfit.json"):
        assert (again.folder / "model" / name).read_bytes() == (quick_run.folder / "model" / name).read_bytes(), name


def test_predictions_of_the_validation_rows_give_the_scores(quick_run: Run) -> None:
    table = pd.read_parquet(quick_run.folder / "predictions_valid.parquet")
    mape = np.mean(np.abs(table["prediction"] / table["truth"] - 1))
    assert quick_run.scores["valid"][OURS]["mape"] == pytest.approx(mape, rel=1e-9)


def test_evaluate_gives_the_scores_of_training(quick_run: Run, demo_table: Path, tmp_path: Path) -> None:
    for split in ("valid", "test"):
        out = tmp_path / f"{split}.json"
        found = evaluate_table(quick_run.folder, demo_table, split=split, out=out, console=Console(quiet=True))
        assert found == pytest.approx(quick_run.scores[split][OURS], rel=1e-5)
        assert json.loads(out.read_text())["mape"] == found["mape"]


def test_the_table_of_a_run_that_was_changed_is_told(quick_run: Run, demo_table: Path, tmp_path: Path) -> None:
    run, table = tmp_path / "run", tmp_path / "table.csv"
    shutil.copytree(quick_run.folder, run)
    settings = (run / "config.toml").read_text(encoding="utf-8")
    (run / "config.toml").write_text(settings.replace(str(demo_table), str(table)), encoding="utf-8")
    rows = demo_table.read_text(encoding="utf-8").splitlines(keepends=True)
    warnings = ("rows are training rows of this run", "is the table of this run, but was changed")
    for count, warning in ((len(rows), None), (40, 0), (40, 1)):
        table.write_text("".join(rows[:count]), encoding="utf-8")
        if warning == 1:
            (run / "split.parquet").unlink()  # as in a run of before rows were told apart
        output = StringIO()
        evaluate_table(
            run, table, images=demo_table.parent, out=tmp_path / "m.json", console=Console(file=output, width=300)
        )
        assert [text in output.getvalue() for text in warnings] == [warning == 0, warning == 1]


def test_settings_that_do_not_say_the_split_are_refused(quick_run: Run, demo_table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(quick_run.folder, run)
    unseal(run)
    (run / "config.toml").write_text("[model]\n", encoding="utf-8")
    (run / "split.parquet").unlink()  # as in a run of before there was such a file
    with pytest.raises(DataError, match=r"config\.toml lacks valid and test and seed, so the rows cannot"):
        evaluate_table(run, demo_table, split="test", console=Console(quiet=True))


def test_predict_gives_the_metrics_of_evaluate(quick_run: Run, demo_table: Path, tmp_path: Path) -> None:
    frame = read_table(demo_table)
    frame.to_csv(tmp_path / "new.csv", index=False)
    predict_table(
        quick_run.folder,
        tmp_path / "new.csv",
        out=tmp_path / "out.csv",
        images=demo_table.parent,
        console=Console(quiet=True),
    )
    written = read_table(tmp_path / "out.csv")
    assert written[list(frame)].equals(frame)
    truth, prediction = written[DEMO_TARGET].astype(float), written["prediction"].astype(float)
    found = evaluate_table(
        quick_run.folder, demo_table, split="all", out=tmp_path / "all.json", console=Console(quiet=True)
    )
    assert found["mae"] == pytest.approx(float((truth - prediction).abs().mean()), rel=1e-5)


def test_bad_inputs_are_listed_counted_and_do_not_stop_the_run(demo_table: Path, tmp_path: Path) -> None:
    frame = read_table(demo_table)
    images = demo_table.parent / "images"
    folder = tmp_path / "dirty"
    (folder / "images").mkdir(parents=True)
    for photo in images.iterdir():
        (folder / "images" / photo.name).write_bytes(photo.read_bytes())
    (folder / "images" / "text.jpg").write_text("no photo")
    Image.new("1", (14_000, 14_000)).save(folder / "images" / "bomb.png")
    frame.loc[0, "photos"] = "images/text.jpg"
    frame.loc[1, "photos"] = "images/gone.jpg"
    frame.loc[2, "photos"] = "../../etc/passwd"
    frame.loc[3, DEMO_TARGET] = np.nan
    frame.loc[4, "photos"] = "images/bomb.png"
    frame.loc[5, "photos"] = np.nan
    frame.to_csv(folder / "table.csv", index=False)
    output = StringIO()
    run = quick_fit(folder / "table.csv", DEMO_TARGET, tmp_path / "runs")
    bad = pd.read_csv(run.folder / "bad_inputs.csv")
    assert bad["row"].tolist() == [3, 1, 2, 0, 4]
    assert bad["action"].tolist() == ["row left out", *["photo treated as missing"] * 4]
    assert bad["problem"][1] == "is missing"
    assert "outside" in bad["problem"][2]
    assert "text.jpg is not a JPEG" in bad["problem"][3]
    assert "bomb.png has 14000 x 14000 pixels; at most" in bad["problem"][4]
    assert "text.jpg" in (run.folder / "report.html").read_text()
    predict_table(run.folder, folder / "table.csv", out=tmp_path / "out.csv", console=Console(file=output, width=200))
    assert "90 rows" in output.getvalue()
    assert "4 with broken cells or photos" in output.getvalue()


def test_a_table_without_photos_is_trained_too(demo_table: Path, tmp_path: Path) -> None:
    frame = read_table(demo_table).drop(columns="photos")
    frame.to_csv(tmp_path / "plain.csv", index=False)
    run = quick_fit(tmp_path / "plain.csv", DEMO_TARGET, tmp_path)
    assert "mixfit, table only" in run.scores["test"]


@pytest.mark.parametrize("target", ["maker", "cracked"])
def test_classes_are_trained_and_predicted(target: str, demo_table: Path, tmp_path: Path) -> None:
    frame = read_table(demo_table)
    frame["cracked"] = (pd.to_numeric(frame["price"]) < 60).map({True: "yes", False: "no"})
    folder = tmp_path / "classes"
    folder.mkdir()
    (folder / "images").symlink_to(demo_table.parent / "images")
    frame.to_csv(folder / "table.csv", index=False)
    data = replace(QUICK_DATA, images=demo_table.parent)
    run = quick_fit(folder / "table.csv", target, tmp_path / "runs", data=data)
    predictions = pd.read_parquet(run.folder / "predictions_valid.parquet")
    probabilities = predictions.filter(like="probability_")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    accuracy = float((predictions["truth"] == predictions["prediction"]).mean())
    assert run.scores["valid"][OURS]["accuracy"] == pytest.approx(accuracy)


def test_bad_rows_are_marked_dropped_or_refused_and_new_categories_are_not_bad(
    quick_run: Run, demo_table: Path, tmp_path: Path
) -> None:
    frame = read_table(demo_table)[:6]
    frame.loc[0, "maker"] = "somebody new"
    frame.loc[1, "height_cm"] = "tall"
    frame.loc[2, "photos"] = "images/gone.jpg"
    frame.to_csv(tmp_path / "new.csv", index=False)
    settings = {"images": demo_table.parent, "console": Console(quiet=True)}
    predict_table(quick_run.folder, tmp_path / "new.csv", out=tmp_path / "marked.csv", **settings)
    assert len(read_table(tmp_path / "marked.csv")) == 6
    predict_table(quick_run.folder, tmp_path / "new.csv", out=tmp_path / "kept.csv", bad_rows="drop", **settings)
    assert read_table(tmp_path / "kept.csv")["vase_id"].tolist() == frame["vase_id"][[0, 3, 4, 5]].tolist()
    with pytest.raises(DataError, match="2 of 6 rows are broken"):
        predict_table(quick_run.folder, tmp_path / "new.csv", out=tmp_path / "x.csv", bad_rows="fail", **settings)
    for again in ("again", "third"):
        predict_table(quick_run.folder, tmp_path / "marked.csv", out=tmp_path / f"{again}.csv", **settings)
        (tmp_path / f"{again}.csv").rename(tmp_path / "marked.csv")
    assert "prediction_mixfit_mixfit" in read_table(tmp_path / "marked.csv")


def test_a_wrong_folder_of_photos_is_told(quick_run: Run, demo_table: Path, tmp_path: Path) -> None:
    output = StringIO()
    predict_table(
        quick_run.folder,
        demo_table,
        out=tmp_path / "o.csv",
        images=tmp_path,
        console=Console(file=output, width=250),
    )
    assert f"photos was found in {tmp_path}; set the folder with --images" in output.getvalue()


@pytest.mark.parametrize("parts", [["train"] * 3, ["valid", "test", ""]], ids=["no validation", "no training"])
def test_a_file_of_the_split_that_lacks_a_part_is_damaged(parts: list[str], tmp_path: Path) -> None:
    pd.DataFrame({"part": parts, "print": [1, 1, 1]}).to_parquet(tmp_path / "split.parquet")
    with pytest.raises(DataError, match=r"split\.parquet is damaged: it lists \d training and \d validation rows, but"):
        read_split(tmp_path, 3)


def test_held_back_rows_alone_can_be_evaluated(tmp_path: Path, demo_table: Path) -> None:
    frame = read_table(demo_table).drop(columns="photos")
    frame["split"] = np.repeat(["train", "valid", "test"], 30)
    frame["kind"] = np.tile(["a", "b"], 45)
    frame.loc[70, "kind"] = "only to judge"
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame[60:].to_csv(tmp_path / "later.csv", index=False)
    frame[60:].drop(columns="split").to_csv(tmp_path / "plain.csv", index=False)
    run = quick_fit(tmp_path / "table.csv", "kind", tmp_path / "runs")
    quiet = Console(quiet=True)
    whole = evaluate_table(run.folder, tmp_path / "table.csv", split="test", console=quiet)
    assert whole == pytest.approx(run.scores["test"]["mixfit, table only"], rel=1e-5)
    assert evaluate_table(run.folder, tmp_path / "later.csv", split="test", console=quiet) == whole
    output, out = StringIO(), tmp_path / "all.json"
    said = Console(file=output, width=200)
    assert evaluate_table(run.folder, tmp_path / "plain.csv", split="all", out=out, console=said) == whole
    assert "rows: 29" in output.getvalue()
    assert "1 more row has a class that the model does not know: it counts in no figure below" in output.getvalue()
    assert json.loads(out.read_text())["unknown_class_rows"] == 1
    with pytest.raises(ConfigError, match="no column 'split'"):
        evaluate_table(run.folder, tmp_path / "plain.csv", split="test", console=quiet)


@pytest.mark.parametrize("backbone", ["small_resnet", pytest.param("tf_efficientnet_lite0", marks=pytest.mark.long)])
def test_the_image_network_can_be_trained_on_pixels(backbone: str, demo_table: Path, tmp_path: Path) -> None:
    model = ModelConfig(backbone=backbone, freeze_backbone=False, tabular_hidden=(16,), encoding_dim=8)
    frame = read_table(demo_table)[:40]
    frame.to_csv(tmp_path / "few.csv", index=False)
    run = fit(
        tmp_path / "few.csv",
        target=DEMO_TARGET,
        data=replace(QUICK_DATA, images=demo_table.parent),
        model=model,
        train=TrainConfig(preset="network", epochs=1, report=False),
        out=tmp_path,
        console=Console(quiet=True),
    )
    before = make_backbone(backbone).module.state_dict()
    after = run.predictor.model.image.backbone.state_dict()  # type: ignore[union-attr]
    assert not all(torch.equal(after[name], tensor) for name, tensor in before.items())
    loaded = load_run(run.folder).predict(frame, images=demo_table.parent)
    np.testing.assert_array_equal(
        loaded["prediction"], run.predictor.predict(frame, images=demo_table.parent)["prediction"]
    )


def test_run_folders_are_numbered_and_never_used_twice(tmp_path: Path) -> None:
    assert run_name(Path("houses/table.csv"), "price") == "houses-price"
    assert run_name(Path("a b/sales 2020.csv"), "x/y") == "sales_2020-x_y"
    assert new_run_folder(tmp_path, "a-b").name == "a-b-001"
    (tmp_path / "a-b-007").mkdir()
    (tmp_path / "a-b-inspect-009").mkdir()
    assert new_run_folder(tmp_path, "a-b").name == "a-b-008"


def test_a_class_that_no_training_row_has_is_left_out_and_told(demo_table: Path, tmp_path: Path) -> None:
    frame = read_table(demo_table).drop(columns="photos")
    frame["kind"] = np.tile(["a", "b"], 45)
    frame["split"] = np.repeat(["train", "valid", "test"], 30)
    frame.loc[[40, 80], "kind"] = "only to judge"
    frame.to_csv(tmp_path / "table.csv", index=False)
    run = quick_fit(tmp_path / "table.csv", "kind", tmp_path / "runs")
    left_out = [record for record in run.bad if record.column == "kind"]
    assert [(record.row, record.problem) for record in left_out] == [
        (row, "class not in the training rows") for row in (40, 80)
    ]
    assert len(pd.read_parquet(run.folder / "predictions_valid.parquet")) == 29
