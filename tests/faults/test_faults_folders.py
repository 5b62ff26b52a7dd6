"""Run folders and model folders that are damaged, or made to do harm: refused in one sentence, whatever the command."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import mixfit
from folder_faults import Subject, change, commands_for, copy_of, end_of, files_of, one_change
from folder_runs import make_subjects
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_runs import in_few_folds

from mixfit.data.columns.kinds import KINDS
from mixfit.errors import DataError
from mixfit.files import read_csv, read_file, read_json, read_toml
from mixfit.models.encoding import RowEncoder
from mixfit.models.model import Layout, as_arrays, model_named
from mixfit.models.ours import our_models
from mixfit.predictor import Predictor

FILES = (
    "model/mixfit.json",
    "model/model.safetensors",
    "config.toml",
    "schema.json",
    "environment.json",
    "report.json",
    "results.json",
    "report_files/",
    "history.csv",
    "bad_inputs.csv",
    "predictions_",
    "split.parquet",
    "checkpoints/",
)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    with pytest.MonkeyPatch.context() as patch:
        in_few_folds(patch)
        return make_subjects(tmp_path_factory.mktemp("subjects"))


@pytest.fixture
def run(subjects: list[Subject], tmp_path: Path) -> Path:
    """A copy of the run with a blend of every kind of model."""
    return copy_of(subjects[3].run, tmp_path)


def changed(name: str, subjects: list[Subject], folder: Path, rng: random.Random) -> None:
    having = [one for one in subjects if any(file.startswith(name) for file in files_of(one.run))]
    how, endings = one_change(having, folder, rng, only=name)
    for ending in endings:
        assert not ending.fault, (how, ending)


SETTINGS: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": [Phase.generate],  # what was changed is named; an error of a smaller change would tell no more
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=3, **SETTINGS)
@given(rng=st.randoms(use_true_random=False))
def test_a_changed_file_is_read_or_refused_in_one_sentence(
    name: str, subjects: list[Subject], tmp_path: Path, rng: random.Random
) -> None:
    changed(name, subjects, tmp_path, rng)


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
@settings(max_examples=7, **SETTINGS)
@given(rng=st.randoms(use_true_random=False))
def test_many_changes_of_a_file(name: str, subjects: list[Subject], tmp_path: Path, rng: random.Random) -> None:
    changed(name, subjects, tmp_path, rng)


def test_every_file_of_a_run_is_changed(subjects: list[Subject]) -> None:
    found = {name for subject in subjects for name in files_of(subject.run)}
    # What a training leaves of each of its models is read by resuming alone, whose tests are elsewhere, as are those of
    # the checksums.
    rest = [name for name in found if not name.startswith((*FILES, "candidates/", "metrics.jsonl", "mixfit.sha256"))]
    assert not rest


@pytest.mark.parametrize("name", [*(name for name in FILES if not name.endswith("/")), "predictions_test.parquet"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(name: str, subjects: list[Subject], tmp_path: Path) -> None:
    subject = subjects[2]
    for command in commands_for(name):
        run = copy_of(subject.run, tmp_path)
        path = next(run / file for file in files_of(run) if file.startswith(name))
        path.unlink()
        os.mkfifo(path)
        ending = end_of(command, subject, run, tmp_path)
        assert not ending.fault
        # Some predictions belong to another part, and an environment that cannot be read is one that is not known.
        if name not in ("predictions_", "environment.json"):
            assert isinstance(ending.error, DataError), command


def rewrite(run: Path, *keys: str | int, value: object) -> None:
    """Replace a value in mixfit.json."""
    path = run / "model" / "mixfit.json"
    said = json.loads(path.read_text())
    said.pop("description_sha256")
    inner = said
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.unlink()
    path.write_text(json.dumps(said))


NETWORK = ("folds", 0, "models", "network, table")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("image_size",), float("inf")),
        (("image_size",), 10**400),
        (("image_size",), True),
        (("schema",), []),
        (("shares", "constant"), "0.1"),
        (("temperatures", "constant"), 0),
        (("uncertainty", "kind"), "class"),
        (("uncertainty", "encoder"), []),
        (("target", "std"), 0),
        (("preprocessor", "numbers", 0, "name"), "other"),
        (("folds", 0, "encoder", "preprocessor", "categories", 0, "levels"), ["a"]),
        (("folds", 0, "encoder", "prefixes", 0, "name"), "x"),
        (("folds", 0, "encoder", "prefixes", 0, "levels"), []),
        ((*NETWORK, "shape", "numeric"), 2**40),
        ((*NETWORK, "shape", "cardinalities", 0), 10**8),
        ((*NETWORK, "shape", "outputs"), 3),
        ((*NETWORK, "model", "encoding_dim"), 2**16),
        ((*NETWORK, "model", "members"), 2**16),
        (("photo_encoder", "backbone"), "../../etc/passwd"),
        (("photo_encoder", "encoding_dim"), 2**60),
        (("folds", 0, "models", "linear, table", "tensors"), "fold0.model2."),
        (("folds", 0, "models", "linear, table", "tensors"), 0),
        (("folds", 0, "models", "kernel ridge, table", "tensors"), "fold0.model0."),
        (("folds", 0, "models", "boosted trees, table", "tensors"), "fold"),
        ((*NETWORK, "table"), False),
        ((*NETWORK, "own_backbone"), True),
        ((*NETWORK, "tuned"), True),
        (("photo_encoder", "backbone"), "resnet18"),
        (("photos",), False),
    ],
)
def test_values_that_do_not_fit_the_rest_are_refused(keys: tuple[str | int, ...], value: object, run: Path) -> None:
    rewrite(run, *keys, value=value)
    with pytest.raises(DataError):
        Predictor.load(run)


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("constant", ["value"]),
        ("linear, table and photos", ["knots", "model.weights", "model.bias", "components.mean", "components.axes"]),
        ("kernel ridge, table and photos", ["model.numbers", "model.levels", "model.photos", "model.dual"]),
        ("boosted trees, table", ["text"]),
        ("boosted trees, table and photos", ["components.mean", "components.axes", "text"]),
        ("network, table", ["head.weight", "head.bias"]),
    ],
)
def test_a_tensor_cut_to_half_or_not_finite_is_refused(name: str, tensors: list[str], run: Path) -> None:
    fold = json.loads((run / "model" / "mixfit.json").read_text())["folds"][0]
    described, tensors_of_all = fold["models"][name], load_file(run / "model" / "model.safetensors")
    encoder = RowEncoder.from_dict(fold["encoder"], KINDS, as_arrays(tensors_of_all, "fold0."))
    prefix = described["tensors"]
    assert encoder.photos is not None
    whole = {key.removeprefix(prefix): tensor for key, tensor in tensors_of_all.items() if key.startswith(prefix)}
    layout = Layout.of(encoder, features=len(encoder.photos.projection), image_columns=1, classes=0)

    def read(changed: dict[str, torch.Tensor]) -> None:
        model_named(name, our_models()).load(as_arrays(whole | changed), described, layout)

    read({})
    for tensor in tensors:
        harms = {
            "half": whole[tensor][: len(whole[tensor]) // 2],
            "flat": whole[tensor][None],
            "empty": whole[tensor].flatten()[:0],
            "number": torch.full_like(whole[tensor], float("nan"))
            if whole[tensor].is_floating_point()
            else whole[tensor].long() - 10**6,
            "kind": whole[tensor].half(),
        }
        for harm, changed in harms.items():
            try:
                read({tensor: changed})
            except DataError:
                continue
            pytest.fail(f"{tensor} is read: {harm}")


@pytest.mark.parametrize("command", ["predict", "evaluate", "explain", "compare"])
def test_a_bug_of_ours_is_not_told_as_a_damaged_folder(
    command: str, subjects: list[Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("a bug")

    for place in ("RowEncoder.from_dict", "model_named", "uncertainty_from_dict", "our_models"):
        with monkeypatch.context() as patch:
            patch.setattr(f"mixfit.predictor.blend.{place}", broken)
            ending = end_of(command, subjects[0], subjects[0].run, tmp_path)
        assert isinstance(ending.error, TypeError), place


def test_the_command_line_says_it_in_one_line(
    subjects: list[Subject], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(subjects[0].run, tmp_path)
    change(run, "model/mixfit.json", random.Random(3))
    (run / "model" / "mixfit.json").write_text("[" * 100_000)
    code, printed = mixfit(capsys, "predict", run, subjects[0].few, "-o", tmp_path / "out.csv")
    assert code == 3
    assert printed.count("\n") == 1
    assert printed.startswith("mixfit: ")


@pytest.mark.parametrize(
    ("column", "value"), [("lower", "x"), ("truth", None), ("row", -1), ("row", 0), ("prediction", np.inf)]
)
def test_predictions_that_are_none_are_refused(
    column: str, value: object, subjects: list[Subject], tmp_path: Path
) -> None:
    run = copy_of(subjects[0].run, tmp_path)
    path = run / "predictions_test.parquet"
    frame = pd.read_parquet(path)
    frame[column] = pd.Series([value] * len(frame))
    path.unlink()
    frame.to_parquet(path)
    for command in ("report", "compare") if column != "lower" else ("report",):
        assert isinstance(end_of(command, subjects[0], run, tmp_path).error, DataError)


@pytest.mark.parametrize(
    ("read", "content", "text"),
    [
        (read_json, b"[" * 100_000, "is damaged"),
        (read_json, b"[" * 41 + b"]" * 41, "nested more than 40 levels deep"),
        (read_json, b'{"a": NaN}', "it contains NaN"),
        (read_json, b"[-Infinity]", "it contains -Infinity"),
        (read_json, b"9" * 5_000, "is damaged"),
        (read_json, b"\xff", "is not UTF-8"),
        (read_toml, b"a = " + b"[" * 5_000, "is damaged"),
        (read_toml, b"a = " + b"9" * 5_000, "is damaged"),
        (read_toml, b"a = ", "is damaged"),
        (read_csv, b"a,b\n1\n", "row 0 has 1 cells for 2 columns"),
        (read_csv, b"a,a\n1,2\n", "a column name is repeated"),
        (read_csv, b'a,b\n1,"2\n', "is damaged"),
    ],
)
def test_texts_that_are_none_are_one_sentence(
    read: Callable[[Path], object], content: bytes, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=text) as found:
        read(path)
    assert "\n" not in str(found.value)


def test_only_regular_files_of_a_folder_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "file").write_text("content")
    (folder / "inside").symlink_to("file")
    assert read_file(folder / "inside") == b"content"
    moved = tmp_path / "moved"
    moved.symlink_to(folder)
    assert read_file(moved / "file") == b"content"
    (folder / "outside").symlink_to("../secret")
    (folder / "circle").symlink_to("circle")
    (folder / "device").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    for name, text in {
        "outside": "is a link out of its folder",
        "circle": "cannot be read",
        "device": "is a link out of its folder",
        "pipe": "is not a regular file",
        "none": "No such file",
        ".": "regular file|link out of",
    }.items():
        with pytest.raises(DataError, match=text):
            read_file(folder / name)
    with pytest.raises(DataError, match="has 7 bytes, more than the limit of 6"):
        read_file(folder / "file", most=6)


def test_a_folder_that_was_moved_is_read(subjects: list[Subject], tmp_path: Path) -> None:
    moved = Path(shutil.copytree(subjects[3].run / "model", tmp_path / "model"))
    assert Predictor.load(moved).shares  # type: ignore[attr-defined]
