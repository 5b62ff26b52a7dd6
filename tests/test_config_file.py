"""Settings in a TOML file: what is accepted, what is refused, and how flags win."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
from test_cli import in_process

from mixfit.auto.recipe import Run
from mixfit.config import DataConfig, ModelConfig, TextConfig, TrainConfig
from mixfit.config_file import describe_settings, field_sentences, read_config
from mixfit.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_says_what_it_says_and_the_rest_has_its_default(tmp_path: Path) -> None:
    text = """
    table = "some/table.csv"
    target = "price"
    schema = "runs/x/schema.json"
    [data]
    ignore = ["a", "b"]
    images = "photos"
    valid = 0.2
    [data.roles]
    zipcode = "category"
    [data.text]
    sep = ";"
    [model]
    tabular_hidden = [32, 16]
    dropout = 0
    [train]
    lr = 1e-3
    """
    found = read_config(written(tmp_path, text))
    assert (found.table, found.target, found.schema) == (Path("some/table.csv"), "price", Path("runs/x/schema.json"))
    assert found.data == DataConfig(
        ignore=("a", "b"),
        images=Path("photos"),
        valid=0.2,
        roles={"zipcode": "category"},
        text=TextConfig(sep=";"),
    )
    assert found.model == ModelConfig(tabular_hidden=(32, 16), dropout=0.0)
    assert type(found.model.dropout) is float
    assert found.train == TrainConfig(lr=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trian]\n", r"unknown section \[trian\]\. Did you mean 'train'\? Known are: table, target, schema, data"),
        ("tabel = 'x'\n", "unknown key 'tabel'. Did you mean 'table'?"),
        ("epochs = 3\n", r"unknown key 'epochs'\. It belongs to \[train\]"),
        (
            "[train]\nepoch = 3\n",
            r"unknown key 'epoch' in \[train\]\. Did you mean 'epochs'\? Known are: preset, ep",
        ),
        ("[model]\nepochs = 3\n", r"unknown key 'epochs' in \[model\]\. It belongs to \[train\]"),
        ("[data.text]\nsepp = 'x'\n", r"unknown key 'sepp' in \[data\.text\]\. Did you mean 'sep'\?"),
        ("[train]\nepochs = 'many'\n", r"\[train\] epochs must be a whole number, got 'many'"),
        ("[train]\nepochs = 3.5\n", r"\[train\] epochs must be a whole number, got 3\.5"),
        ("[train]\nepochs = true\n", r"\[train\] epochs must be a whole number, got True"),
        ("[train]\nlr = 'fast'\n", r"\[train\] lr must be a number, got 'fast'"),
        ("[data]\ndedup = 1\n", r"\[data\] dedup must be true or false, got 1"),
        ("[data]\nimages = 1\n", r"\[data\] images must be a path, got 1"),
        ("[data]\nignore = 'a'\n", r"\[data\] ignore must be a list, got 'a'"),
        ("[data]\nignore = [1]\n", r"\[data\] ignore must be a text, got 1"),
        ("[data]\nroles = 1\n", r"\[data\] roles must be a section, got 1"),
        ("[data.roles]\na = 1\n", r"\[data\] roles\.a must be a text, got 1"),
        ("[train]\noptimizer = 'adamv'\n", r"\[train\] optimizer must be one of adamw, .*Did you mean 'adam"),
        ("[train]\nepochs = 0\n", r"\[train\] epochs must be at least 1, got 0"),
        ("train = 3\n", r"train must be a section \[train\], got 3"),
        ("target = 3\n", "target must be a text, got 3"),
        ("[train\n", "is damaged: "),
        ("a = '\xff'", "is damaged: it is not UTF-8"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_file_and_the_key(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as found:
        read_config(path)
    assert str(path) in str(found.value)
    code, output, errors = in_process(capsys, "train", "t.csv", "--target", "y", "--config", path)
    assert (code, output) == (2, "")
    assert errors == f"mixfit: {found.value}\n"


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = in_process(capsys, "train", "--config", tmp_path / "none.toml")
    assert code == 2
    assert errors == f"mixfit: The configuration file {tmp_path}/none.toml cannot be read: No such file or directory.\n"


def test_all_settings_are_printed_with_their_defaults_and_their_sentence() -> None:
    text = describe_settings()
    for config in (DataConfig, ModelConfig, TrainConfig, TextConfig):
        sentences = field_sentences(config)
        for field in dataclasses.fields(config):
            assert f"# {sentences[field.name]}" in text
            assert any(f"{prefix}{field.name}" in text for prefix in ("\n", "\n#: ", "\n[data.", "\n#: [data."))


def test_what_is_printed_can_be_read_with_all_its_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = in_process(capsys, "config")
    assert code == 0
    found = read_config(written(tmp_path, text))
    assert (found.data, found.model, found.train) == (DataConfig(), ModelConfig(), TrainConfig())


class Called(Exception):  # noqa: N818 - ends the command where the recipe would begin
    pass


def settings_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> dict[str, Any]:
    """What the recipe gets when this is typed."""
    found: dict[str, Any] = {}

    def fit(table: Path, **settings: Any) -> None:
        found.update(settings, table=table)

    monkeypatch.setattr("mixfit.auto.recipe.fit", fit)
    assert in_process(capsys, "train", *arguments)[::2] == (0, "")
    return found


FILE = """
table = "from-file.csv"
target = "price"
[data]
ignore = ["a", "b"]
dedup = true
images = "photos"
[data.roles]
zipcode = "category"
"x=y" = "number"
[data.text]
sep = ";"
decimal = ","
[model]
tabular_hidden = [32, 16]
fusion = "film"
freeze_backbone = false
[train]
epochs = 7
lr = 0.001
augment = "flip"
"""


def test_all_of_a_file_reaches_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, FILE)
    expected = read_config(path)
    found = settings_of(monkeypatch, capsys, "--config", path)
    assert (found["table"], found["target"]) == (Path("from-file.csv"), "price")
    assert (found["data"], found["model"], found["train"]) == (expected.data, expected.model, expected.train)


def test_flags_win_also_with_their_default_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--epochs", "60", "--fusion", "concat", "--no-dedup", "--ignore", "c", "--sep", "tab", "--target", "rent"]
    flags += ["--tabular-hidden", "8", "--set", "zipcode=number", "--freeze-backbone"]
    found = settings_of(monkeypatch, capsys, "typed.csv", "--config", written(tmp_path, FILE), *flags)
    assert (found["table"], found["target"]) == (Path("typed.csv"), "rent")
    assert found["data"] == DataConfig(
        ignore=("c",),
        images=Path("photos"),
        roles={"zipcode": "number", "x=y": "number"},
        text=TextConfig(sep="tab", decimal=","),
    )
    assert found["model"] == ModelConfig(tabular_hidden=(8,), freeze_backbone=True)
    assert found["train"] == TrainConfig(epochs=60, lr=0.001, augment="flip")


def test_without_a_file_nothing_changes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = settings_of(monkeypatch, capsys, "t.csv", "--target", "y", "--set", "a=number")
    assert (found["data"], found["model"], found["train"]) == (DataConfig(roles={"a": "number"}), None, None)


def test_a_file_without_a_table_still_asks_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = in_process(
        capsys, "train", "--target", "y", "--config", written(tmp_path, "[train]\nepochs = 1\n")
    )
    assert code == 2
    assert "needs a table and --target COLUMN" in errors


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def test_the_file_of_a_run_folder_repeats_the_run(
    quick_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert in_process(capsys, "train", "--config", quick_run.folder / "config.toml")[0] == 0
    again = tmp_path / "runs" / "vases-price-001"
    assert digest(again) == digest(quick_run.folder)
    assert (again / "config.toml").read_bytes() == (quick_run.folder / "config.toml").read_bytes()


def test_a_run_with_a_schema_is_repeated_with_it(
    demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--target", "price", "--set", "age_years=category", "--set", "photos=ignored"]
    assert in_process(capsys, "inspect", demo_table, *flags, "--out", "looked")[0] == 0
    small = ["--preset", "network", "--epochs", 1, "--encoding-dim", 8, "--tabular-hidden", 8, "--tabular", "mlp"]
    arguments = [demo_table, "--target", "price", "--schema", "looked/schema.json", *small]
    assert in_process(capsys, "train", *arguments)[0] == 0
    Path("looked/schema.json").unlink()
    assert in_process(capsys, "train", "--config", "runs/vases-price-001/config.toml")[0] == 0
    first, second = (tmp_path / "runs" / f"vases-price-00{number}" for number in (1, 2))
    assert digest(first) == digest(second)
    assert (first / "schema.json").read_bytes() == (second / "schema.json").read_bytes()


IN_TABLE: dict[str, tuple[str, str]] = {
    "role": (
        "[data.roles]\nmaker = 'categry'\n",
        "[data.roles] maker: Unknown role 'categry'. Did you mean 'category'?",
    ),
    "cells": ("[data.roles]\nmaker = 'number'\n", "[data.roles] maker: column 'maker' cannot have the role number"),
    "column of a role": ("[data.roles]\nmakr = 'category'\n", "[data.roles] makr: no column 'makr'. Did you mean"),
    "ignored": ("[data]\nignore = ['maker', 'makr']\n", "[data] ignore: no column 'makr'. Did you mean 'maker'?"),
    "target": ("", "target: no column 'prise'. Did you mean 'price'?"),
    "time": ("[data]\nsplit_time = 'listd_on'\n", "[data] split_time: no column 'listd_on'. Did you mean"),
    "images": ("[data]\nimages = 'nowhere'\n", "[data] images: The images folder nowhere does not exist"),
    "task": ("[data]\ntask = 'binary'\n", "target and [data] task: the task binary needs 2 classes"),
    "loss": ("[train]\nloss = 'focal'\n", "[train] loss: --loss focal is for classes"),
    "augment": ("[train]\naugment = 'flip'\n", "[train] augment: --augment flip needs an image network"),
    "backbone": ("[model]\nbackbone = 'resnet1'\n", "[model] backbone: Unknown backbone 'resnet1'"),
    "weights": ("[model]\nbackbone_weights = 'w.bin'\n", "[model] backbone_weights: There is no file of weights w.bin"),
    "schema": ("schema = 'no.json'\n", "schema: no.json cannot be read"),
    "sep": ("[data.text]\nsep = 'ab'\n", "[data.text] sep must be one ASCII character"),
    "encoding": ("[data.text]\nencoding = 'utf9'\n", "[data.text] encoding: 'utf9' is not a text encoding"),
    "gap": ("[data]\nsplit_time = 'listed_on'\ngap = 'zz'\n", "[data] The gap of a split by time must be a duration"),
    "limit": ("[train]\ntime = '3d'\n", "[train] time: A duration is a number above 0"),
}


@pytest.mark.parametrize("case", IN_TABLE)
def test_a_setting_that_the_table_contradicts_is_told_with_its_file_and_key(
    case: str, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = IN_TABLE[case]
    target = "prise" if case == "target" else "price"
    path = written(tmp_path, f"table = '{demo_table}'\ntarget = '{target}'\n{text}")
    code, _, errors = in_process(capsys, "train", "--config", path, "--out", tmp_path / "runs")
    assert code in (2, 3)
    assert errors.startswith(f"mixfit: {path}: {message}")
    assert len(errors.splitlines()) == 1


def test_a_flag_that_overrides_a_file_is_not_told_as_the_file(
    demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, f"table = '{demo_table}'\ntarget = 'prise'\n")
    code, _, errors = in_process(capsys, "train", "--config", path, "--target", "pricce", "--out", tmp_path / "runs")
    assert code == 2
    assert errors.startswith("mixfit: no column 'pricce'. Did you mean 'price'?")
