"""Fault cases of whole tables as a user meets them: on the command line, in what ``mixfit inspect`` says."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixfit.cli import main

Inspect = Callable[..., tuple[int, dict, str]]
ROWS = 120


@pytest.fixture
def inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inspect:
    """Run ``mixfit inspect --json`` on a frame or a text; the exit code, the object printed, and the errors."""
    monkeypatch.chdir(tmp_path)

    def run(table: pd.DataFrame | str | bytes, target: str = "y", *flags: str) -> tuple[int, dict, str]:
        if isinstance(table, pd.DataFrame):
            table = table.to_csv(index=False)
        Path("t.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
        with pytest.raises(SystemExit) as stop:
            main(["inspect", "t.csv", "--target", target, "--json", *flags])
        output, errors = capsys.readouterr()
        return int(str(stop.value.code)), json.loads(output) if output else {}, errors

    return run


def plain_table(rows: int = ROWS) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    area = rng.normal(100, 20, rows).round(3)
    return pd.DataFrame({"area": area, "kind": rng.choice(["flat", "house"], rows), "y": area * 3 + rng.normal(0, 9, rows)})  # fmt: skip  # noqa: E501


def with_photos(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """One small photo a row, bright where the area is large."""
    rng = np.random.default_rng(1)
    names = []
    for row, area in enumerate(frame["area"]):
        grid = (rng.integers(0, 130, (4, 5, 3)) + min(max(area - 40, 0), 120)).astype(np.uint8)
        names.append(f"{row}.png")
        Image.fromarray(grid).resize((30, 24), Image.Resampling.BICUBIC).save(folder / names[-1])
    return frame.assign(photo=names)


def texts(found: dict, level: str | None = None) -> list[str]:
    return [check["text"] for check in found["checks"] if level in (None, check["level"])]


def test_a_table_in_order_gives_no_alarm(inspect: Inspect, tmp_path: Path) -> None:
    code, found, errors = inspect(with_photos(tmp_path, plain_table()))
    assert (code, errors) == (0, "")
    assert found["counts"] == {"note": 1, "warning": 0, "error": 0}
    assert texts(found)[0].startswith("photo: the photos match their rows; image colours are associated with the table")
    assert found["photos"] == [{"column": "photo", "readable": ROWS, "broken": 0, "missing": 0}]
    assert {column["name"]: column["role"] for column in found["columns"]}["photo"] == "image"
    assert Path(found["page"]).is_file()


@pytest.mark.parametrize("table", ["", "a,y\n"], ids=["empty", "header only"])
def test_f01_a_table_without_rows_ends_with_3_and_nothing_on_stdout(inspect: Inspect, table: str) -> None:
    code, found, errors = inspect(table)
    assert (code, found) == (3, {})
    assert "t.csv" in errors


def test_f04_inspect_shows_the_signs_it_found(inspect: Inspect) -> None:
    rows = "\n".join(f"{i % 3};{1000 + i}.{i}".replace(".", ",") for i in range(40))
    _, found, _ = inspect(f"a;y\n{rows}\n")
    assert found["format"] == "utf-8, semicolon, decimal comma"
    _, found, _ = inspect("a\ty\n" + "\n".join(f"{i % 3}\t{i / 8}" for i in range(40)))
    assert found["format"] == "utf-8, tab"


def test_f10_a_single_class_or_number_ends_with_3(inspect: Inspect) -> None:
    code, _, errors = inspect(plain_table().assign(y="yes"))
    assert code == 3
    assert "the target 'y' has only one class, 'yes', in 120 rows: nothing to learn" in errors
    code, _, errors = inspect(plain_table().assign(y=1.5), "y", "--task", "regression")
    assert code == 3
    assert "the target 'y' is 1.5 in all rows: nothing to learn" in errors


def test_f10_rare_and_unbalanced_classes_are_named(inspect: Inspect) -> None:
    labels = ["a"] * 100 + ["b"] * 17 + ["c"] * 2 + ["d"]
    code, found, _ = inspect(plain_table().assign(y=np.random.default_rng(0).permutation(labels)))
    assert code == 0
    warnings = texts(found, "warning")
    assert "classes are unbalanced: 'a' has 100 rows, 'd' 1 (100 to 1); judge by balanced accuracy" in warnings
    assert "2 of 4 classes have under 5 training rows: 'c', 'd'" in warnings
    assert any("classes have no test row: " in text and "'d'" in text for text in texts(found, "note"))


def test_f10_training_on_a_single_class_ends_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain_table().assign(y="yes").to_csv("t.csv", index=False)
    with pytest.raises(SystemExit) as stop:
        main(["train", "t.csv", "--target", "y"])
    assert stop.value.code == 3
    assert "only one class, 'yes'" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("cell", [-999.0, 9e9])
def test_f14_values_far_from_all_others_are_named(inspect: Inspect, cell: float) -> None:
    frame = plain_table()
    frame.loc[[5, 70], "area"] = cell
    _, found, _ = inspect(frame)
    (text,) = texts(found, "warning")
    assert text.startswith("area: 2 values are far outside the others (")
    assert f"such as {cell:g} in row 5: a slip, another unit, or a word for missing?" in text


def test_skewed_amounts_are_no_outliers(inspect: Inspect) -> None:
    for seed in range(8):
        amounts = np.random.default_rng(seed).lognormal(8, 1.2, 1000)
        _, found, _ = inspect(plain_table(1000).assign(amount=amounts))
        assert texts(found, "warning") == []


def test_f15_copied_rows_are_counted_and_those_across_the_split_are_a_warning(inspect: Inspect) -> None:
    frame = plain_table().assign(split=["train"] * 80 + ["valid"] * 20 + ["test"] * 20)
    within = pd.concat([frame, frame.iloc[[3]]])
    _, found, _ = inspect(within)
    assert texts(found) == ["1 row is a copy of an earlier row, the first is row 120, of row 3"]
    across = pd.concat([frame, frame.iloc[[3, 4]].assign(split="test")])
    _, found, _ = inspect(across)
    (text,) = texts(found, "warning")
    assert text.startswith(
        "2 rows are copies of earlier rows, the first is row 120, of row 3; 2 of the copied rows are"
    )
    assert "on two sides of the split, so the scores will look too good" in text


def test_f15_copies_with_ids_of_their_own_are_found_but_chance_is_not_blamed(inspect: Inspect) -> None:
    frame = plain_table()
    doubled = pd.concat([frame, frame.iloc[[9]]], ignore_index=True)
    doubled.insert(0, "house_id", np.arange(len(doubled)) + 500)
    _, found, _ = inspect(doubled)
    assert any(
        "a copy of an earlier row but for ignored columns, the first is row 120, of row 9" in t for t in texts(found)
    )
    few_levels = pd.DataFrame({"a": ["x", "y"] * 60, "b": list("uvw") * 40, "y": ["n", "m"] * 60})
    few_levels.insert(0, "house_id", np.random.default_rng(0).permutation(120) + 500)
    _, found, _ = inspect(few_levels)
    assert not [text for text in texts(found) if "cop" in text]


def test_f15_equal_and_nearly_equal_photos_across_the_split(inspect: Inspect, tmp_path: Path) -> None:
    frame = with_photos(tmp_path, plain_table()).assign(split=["train"] * 80 + ["valid"] * 20 + ["test"] * 20)
    (tmp_path / "100.png").write_bytes((tmp_path / "7.png").read_bytes())
    Image.open(tmp_path / "8.png").resize((60, 48), Image.Resampling.BICUBIC).save(tmp_path / "101.png")
    _, found, _ = inspect(frame)
    equal, near = texts(found, "warning")
    assert equal.startswith(
        "1 photo is used (equal bytes) by 2 rows, the first by rows 7 and 100; 1 of these photos come"
    )
    assert "1 of these photos are on two sides of the split" in equal
    assert near.startswith(
        "1 pairs of photos look nearly the same: 8.png (row 8) and 101.png (row 101); 1 of these pairs"
    )


def test_f16_copies_of_the_target_are_suspicious_however_they_are_disguised(inspect: Inspect) -> None:
    frame = plain_table()
    frame["copy"], frame["rounded"], frame["order"] = frame["y"], frame["y"].round(), -np.exp(frame["y"] / 100)
    _, found, _ = inspect(frame)
    for name in ("copy", "rounded", "order"):
        assert any(text.startswith(f"{name}: suspicious: this column alone gives the target") for text in texts(found))
    assert not any(text.startswith("area") for text in texts(found, "warning"))


def test_f17_the_same_house_in_train_and_test_is_suspicious_and_as_a_group_an_error(inspect: Inspect) -> None:
    frame = plain_table().assign(house_id=np.arange(ROWS) // 3, split=["train", "train", "test"] * 40)
    code, found, _ = inspect(frame)
    assert code == 0
    assert any(
        "house_id: suspicious: 40 of 40 ids are on two sides of the split" in text for text in texts(found, "warning")
    )
    code, found, _ = inspect(frame, "y", "--set", "house_id=group")
    assert code == 3
    assert any("40 groups of column 'house_id' are in more than one part" in text for text in texts(found, "error"))
    code, found, _ = inspect(frame, "y", "--set", "house_id=group", "--ignore", "split")
    assert (code, texts(found, "error")) == (0, [])


def test_photos_that_slipped_by_one_row_are_noticed(inspect: Inspect, tmp_path: Path) -> None:
    frame = with_photos(tmp_path, plain_table())
    _, found, _ = inspect(frame.assign(photo=np.roll(frame["photo"], 1)))
    (text,) = texts(found, "warning")
    assert text.startswith("photo: the photos match the row before theirs (p = 0.001) but not their own")
    _, found, _ = inspect(frame.assign(photo=np.random.default_rng(3).permutation(frame["photo"])))
    (text,) = texts(found, "note")
    assert "no association between image colours and the table was found" in text


def test_f21_photos_cut_off_anywhere_are_found_by_inspect(inspect: Inspect, tmp_path: Path) -> None:
    frame = with_photos(tmp_path, plain_table())
    for row, share in ((3, 0.5), (60, 0.95), (119, 0.02)):
        buffer = BytesIO()
        Image.open(tmp_path / f"{row}.png").resize((90, 90)).save(buffer, "JPEG")
        (tmp_path / f"{row}.png").write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    (tmp_path / "77.png").unlink()
    code, found, _ = inspect(frame)
    assert code == 0
    assert sorted(record["row"] for record in found["bad_inputs"]) == [3, 60, 77, 119]
    assert found["photos"][0] == {"column": "photo", "readable": ROWS - 4, "broken": 4, "missing": 0}


def test_f19_not_one_photo_is_an_error_that_names_the_folder(inspect: Inspect, tmp_path: Path) -> None:
    frame = with_photos(tmp_path, plain_table())
    (tmp_path / "elsewhere").mkdir()
    code, found, errors = inspect(frame, "y", "--images", "elsewhere")
    assert (code, errors) == (3, "")
    (text,) = texts(found, "error")
    assert text.startswith("none of the 120 photos named in cells was found in the folder elsewhere; set the folder")
    assert text.endswith("--images DIR")
    assert found["photos"] == [{"column": "photo", "readable": 0, "broken": ROWS, "missing": 0}]


def test_f19_broken_and_readable_are_both_counts_of_files(inspect: Inspect, tmp_path: Path) -> None:
    frame = with_photos(tmp_path, plain_table())
    (tmp_path / "5.png").write_bytes(b"no photo")
    frame.loc[[6, 7, 8], "photo"] = "5.png"
    frame.loc[[9, 10], "photo"] = "none.png"
    _, found, _ = inspect(frame)
    assert len(found["bad_inputs"]) == 6
    assert found["photos"] == [{"column": "photo", "readable": ROWS - 6, "broken": 2, "missing": 0}]


@pytest.mark.parametrize(
    ("changed", "flags", "text"),
    [
        (
            {"w": np.where(np.arange(ROWS) == 7, -1.0, 1.0)},
            ("--set", "w=weight"),
            "have a weight in column 'w' that is",
        ),
        ({"y": ["a"] * 80 + ["b"] * 40}, (), "the 80 training rows have only the class 'a' in the target 'y'"),
        ({"y": ["a", "b"] * 40 + ["c", "d"] * 20}, (), "validation rows have a class that no training row has"),
        ({"y": [1.5] * 80 + [2.5, 3.0] * 20}, (), "the target 'y' is 1.5 in all 80 training rows"),
    ],
    ids=["negative weight", "one class", "unknown classes", "constant number"],
)
def test_f10_what_training_refuses_is_an_error_of_inspect(
    inspect: Inspect, changed: dict, flags: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    split = ["train"] * 80 + ["valid"] * 20 + ["test"] * 20
    code, found, _ = inspect(plain_table().assign(split=split, **changed), "y", *flags)
    assert code == 3
    (error,) = texts(found, "error")
    assert text in error
    with pytest.raises(SystemExit) as stop:
        main(["train", "t.csv", "--target", "y", *flags])
    assert stop.value.code == 3
    assert capsys.readouterr().err == f"mixfit: {error}\n"


def test_f10_rare_classes_are_not_blamed_on_a_split_that_could_not_be_made(inspect: Inspect) -> None:
    frame = plain_table().assign(y=["a", "b"] * 60, split=["train", "holiday"] * 60)
    code, found, _ = inspect(frame, "y", "--set", "split=split")
    assert code == 3
    assert "are not train, valid or test" in texts(found, "error")[0]
    assert not [text for text in texts(found) if "training rows" in text]


def test_f15_equal_rows_of_a_few_categories_are_no_leak(inspect: Inspect) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.choice(list("uvw"), ROWS) for name in "abc"}).assign(y=rng.choice(["n", "m"], ROWS))
    _, found, _ = inspect(frame)
    assert texts(found, "warning") == []
    assert any("equal an earlier row; with so few different cells that may be chance" in t for t in texts(found))


def test_f15_exact_copies_do_not_hide_copies_with_ids_of_their_own(inspect: Inspect) -> None:
    frame = plain_table()
    doubled = pd.concat([frame, frame.iloc[[9]]], ignore_index=True)
    doubled.insert(0, "house_id", np.arange(len(doubled)) + 500)
    twice = pd.concat([doubled, doubled.iloc[[30]]], ignore_index=True)
    _, found, _ = inspect(twice)
    told = [text for text in texts(found) if "a copy of" in text]
    assert len(told) == 2
    assert told[0].startswith("1 row is a copy of an earlier row, the first is row 121, of row 30")
    assert told[1].startswith(
        "1 row is a copy of an earlier row but for ignored columns, the first is row 120, of row 9"
    )


def test_f17_ids_that_a_drawn_split_tears_are_a_warning_until_they_are_a_group(inspect: Inspect) -> None:
    frame = plain_table().assign(house_id=np.arange(ROWS) // 3 + 500)
    code, found, _ = inspect(frame, "y", "--set", "house_id=ignored")
    assert code == 0
    (text,) = texts(found, "warning")
    assert text.startswith("house_id: ")
    assert "of 40 ids are on two sides of the split, the first is '5" in text
    assert text.endswith("--set house_id=group keeps each on one side")
    for settings in (("--set", "house_id=group"), ()):  # an id that repeats is a group by itself
        _, found, _ = inspect(frame, "y", *settings)
        assert texts(found, "warning") == []
