"""Tables that come after the training and are written in another way, or hold rows of the training."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from small_runs import small_fit

from mixfit.config import DataConfig, TextConfig, TrainConfig
from mixfit.data.columns.cells import Table
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.target import ClassTarget, with_labels_of_training
from mixfit.data.fingerprint import row_prints
from mixfit.errors import DataError
from mixfit.runs.scoring import evaluate_table, predict_table

ROWS = 80
NETWORK = TrainConfig(preset="network", epochs=3)
TOWNS = np.array(["Köln", "Łódź", "Bern"])


def sales(seed: int = 0, rows: int = ROWS) -> pd.DataFrame:
    """A price in euros that area and town decide, and whether it is high."""
    rng = np.random.default_rng(seed)
    area, town = rng.uniform(20, 200, rows).round(2), rng.choice(TOWNS, rows)
    price = (10 * area + 300 * (town == "Bern") + rng.normal(size=rows)).round(2)
    return pd.DataFrame({"area": area, "town": town, "price": price, "y": price, "dear": price > 1200})


def german(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers with a decimal comma."""
    return frame.assign(
        **{name: frame[name].map(lambda cell: f"{cell:.2f}".replace(".", ",")) for name in ("area", "y")}
    )


def written(path: Path, frame: pd.DataFrame, *, sep: str = ";", encoding: str = "utf-8") -> Path:
    path.write_bytes(frame.to_csv(index=False, sep=sep).encode(encoding))
    return path


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a table with semicolons, decimal commas and UTF-8, whose target has no unit."""
    folder = tmp_path_factory.mktemp("prices")
    table = written(folder / "sales.csv", german(sales()[["area", "town", "y"]]))
    return small_fit(table, folder / "runs", train=NETWORK).folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a table with commas, whose classes are True and False."""
    folder = tmp_path_factory.mktemp("classes")
    table = written(folder / "sales.csv", sales()[["area", "town", "dear"]].rename(columns={"dear": "y"}), sep=",")
    return small_fit(table, folder / "runs", train=NETWORK).folder


def evaluated(run: Path, table: Path, tmp_path: Path) -> tuple[dict[str, float], str]:
    out = StringIO()
    metrics = evaluate_table(run, table, out=tmp_path / "metrics.json", console=Console(file=out, width=1000))
    return metrics, out.getvalue()


def predicted(run: Path, table: Path, text: TextConfig | None = None) -> tuple[pd.DataFrame, str]:
    out = StringIO()
    return predict_table(run, table, text=text, console=Console(file=out, width=1000)), out.getvalue()


SEPARATORS = [("\t", "tabs"), ("|", "pipes"), (",", "commas")]


@pytest.mark.parametrize(("sep", "name"), SEPARATORS)
def test_another_separator_is_read_and_said(prices: Path, tmp_path: Path, sep: str, name: str) -> None:
    later = german(sales(1))
    same, quiet = predicted(prices, written(tmp_path / "same.csv", later))
    found, told = predicted(prices, written(tmp_path / "later.csv", later, sep=sep))
    assert found["prediction"].tolist() == same["prediction"].tolist()
    assert set(found["status"]) == {"ok"}
    was = "and was separated by semicolons in training: if that is wrong, say --sep"
    note = f" note: the table is separated by {name}, {was}\n"
    assert note in told
    assert "note:" not in quiet
    metrics, told = evaluated(prices, tmp_path / "later.csv", tmp_path)
    assert metrics == evaluated(prices, tmp_path / "same.csv", tmp_path)[0]
    assert note in told


@pytest.mark.parametrize(
    "encoding",
    ["cp1250", pytest.param("utf-16", marks=pytest.mark.long), pytest.param("utf-8-sig", marks=pytest.mark.long)],
)
def test_another_encoding_is_read_and_said(tmp_path: Path, encoding: str) -> None:
    table = written(tmp_path / "sales.csv", german(sales()[["area", "town", "y"]]), encoding="cp1250")
    run = small_fit(
        table, tmp_path / "runs", train=NETWORK, data=DataConfig(cache_gb=0.0, text=TextConfig(encoding="cp1250"))
    ).folder
    same, quiet = predicted(run, written(tmp_path / "same.csv", german(sales(1)), encoding="cp1250"))
    assert "note:" not in quiet
    found, told = predicted(run, written(tmp_path / "later.csv", german(sales(1)), encoding=encoding))
    assert found.equals(same)
    name = encoding.removesuffix("-sig")
    was = "and was encoded as cp1250 in training: if that is wrong, say --encoding"
    note = f" note: the table is encoded as {name}, {was}\n"
    assert (note in told) == (encoding != "cp1250")
    plain, told = predicted(run, written(tmp_path / "plain.csv", german(sales(1)).assign(town="Bern")))
    assert "note:" not in told  # ASCII is the same in both
    assert set(plain["status"]) == {"ok"}
    assert evaluated(run, tmp_path / "later.csv", tmp_path)[0] == evaluated(run, tmp_path / "same.csv", tmp_path)[0]


def test_separator_and_encoding_are_said_in_one_note_and_not_where_they_are_named(prices: Path, tmp_path: Path) -> None:
    later = written(tmp_path / "later.csv", german(sales(1)).assign(town="Köln"), sep="\t", encoding="cp1252")
    _, told = predicted(prices, later)
    assert told.count("note:") == 1
    assert (
        " note: the table is separated by tabs and encoded as cp1252, and was separated by semicolons and encoded as "
        "utf-8 in training: if that is wrong, say --sep or --encoding\n"
    ) in told
    _, told = predicted(prices, later, TextConfig(sep="tab", encoding="cp1252"))
    assert "note:" not in told


def test_a_separator_that_the_training_was_told_does_not_bind_later_tables(tmp_path: Path) -> None:
    frame = sales()[["area", "town", "y"]]
    table = written(tmp_path / "sales.txt", frame, sep="^")
    run = small_fit(
        table, tmp_path / "runs", train=NETWORK, data=DataConfig(cache_gb=0.0, text=TextConfig(sep="^"))
    ).folder
    later = [written(tmp_path / f"later{place}.txt", sales(1), sep=sep) for place, sep in enumerate("^,")]
    first, second = (evaluated(run, path, tmp_path) for path in later)
    assert first[0] == second[0]
    assert "note:" not in first[1]
    assert "note: the table is separated by commas, and was separated by '^' in training" in second[1]
    sales(1).to_parquet(tmp_path / "later.parquet")
    typed, told = evaluated(run, tmp_path / "later.parquet", tmp_path)
    assert typed == pytest.approx(first[0])
    assert "note:" not in told
    assert "test rows" in evaluated(run, table, tmp_path)[1]


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (
            lambda cell: f"{cell:.2f}",
            "a decimal point in 80 of 80 cells, the first in row 0: '.*', and had a decimal comma",
        ),
        (lambda cell: f"€{cell:.2f}".replace(".", ","), "another unit in 80 of 80 cells, .* and had nothing beside"),
        (lambda cell: f"{cell:.2f} CHF".replace(".", ","), "another unit in 80 of 80 cells"),
        (lambda cell: f"{cell / 1000:.3f} Mio".replace(".", ","), "another unit in 80 of 80 cells"),
    ],
    ids=["point", "euro", "code", "millions"],
)
def test_a_target_that_is_written_another_way_is_refused_in_a_sentence(
    prices: Path, tmp_path: Path, write: Callable[[float], str], said: str
) -> None:
    later = german(sales(1)).assign(y=sales(1)["y"].map(write))
    with pytest.raises(
        DataError, match=f"^the target cannot be read: column 'y' has {said}.* in training; write it as it"
    ):
        evaluated(prices, written(tmp_path / "later.csv", later), tmp_path)


def test_a_target_that_says_the_same_in_another_way_is_read(prices: Path, tmp_path: Path) -> None:
    later = german(sales(1))
    expected, _ = evaluated(prices, written(tmp_path / "later.csv", later), tmp_path)
    grouped = later.assign(y=sales(1)["y"].map(lambda cell: f"{cell:,.2f}".translate(str.maketrans(",.", ".,"))))
    assert evaluated(prices, written(tmp_path / "grouped.csv", grouped), tmp_path)[0] == expected
    later.assign(y=sales(1)["y"]).to_parquet(tmp_path / "typed.parquet")
    assert evaluated(prices, tmp_path / "typed.parquet", tmp_path)[0] == expected
    one = later.assign(y=["n/a", "12.5.1", *later["y"][2:]])  # a few slips are rows without a target
    _, told = evaluated(prices, written(tmp_path / "one.csv", one), tmp_path)
    assert f"all rows: {ROWS - 2}\n" in told


@pytest.mark.parametrize(
    ("true", "false"),
    [("yes", "no"), ("TRUE", "FALSE"), ("1", "0"), ("Y", "N"), ("ja", "nein"), (" true ", "False"), ("On", "off")],
)
def test_classes_in_another_spelling_are_read_and_said(classes: Path, tmp_path: Path, true: str, false: str) -> None:
    later = sales(1).drop(columns="y").rename(columns={"dear": "y"})
    expected, quiet = evaluated(classes, written(tmp_path / "later.csv", later, sep=","), tmp_path)
    assert "note:" not in quiet
    later["y"] = np.where(later["y"], true, false)
    metrics, told = evaluated(classes, written(tmp_path / "spelt.csv", later, sep=","), tmp_path)
    assert metrics == expected
    if true.strip() in ("true", "TRUE") and false in ("False", "FALSE"):  # as capitals of a spreadsheet are in training
        assert f"all rows: {ROWS}\n" in told
    else:
        assert " note: the classes of 'y' are read as in training: " in told
        assert f"{true!r} as 'True'" in told
        assert f"{false!r} as 'False'" in told


def test_classes_that_no_training_row_has_are_named_beside_those_of_the_model(classes: Path, tmp_path: Path) -> None:
    later = sales(1).drop(columns="y").assign(y=["dear", "cheap"] * (ROWS // 2))
    known = r"it has 'dear', 'cheap', and the model knows 'False', 'True'\.$"
    match = f"later.csv has no all rows with a target that the model knows: {known}"
    with pytest.raises(DataError, match=match):
        evaluated(classes, written(tmp_path / "later.csv", later, sep=","), tmp_path)


@pytest.mark.parametrize(
    ("known", "label", "read"),
    [
        (("red", "green"), "RED", "red"),
        (("dark red", "green"), "Dark  Red", "dark red"),
        (("Straße", "Weg"), "STRASSE", "Straße"),
        (("yes", "no"), "True", "yes"),
        (("0", "1"), "no", "0"),
        (("1", "2"), "yes", "yes"),  # 2 is not false
        (("yes", "no", "maybe"), "True", "True"),  # not two classes
        (("yes", "no"), "maybe", "maybe"),
        (("A", "a"), "Á", "Á"),
        (("yes", "true"), "1", "1"),  # both are true
    ],
)
def test_a_label_is_read_as_a_class_only_where_it_can_be_no_other(
    known: tuple[str, ...], label: str, read: str
) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=60), "y": [known[place % len(known)] for place in range(60)]})
    schema = infer_schema(frame, "y", task="binary" if len(known) == 2 else "multiclass")
    target = ClassTarget.fit(schema.table(frame)["y"])
    later = schema.table(pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [label, known[0], None]}))
    found, said = with_labels_of_training(later, schema, target)
    assert found["y"].keys.tolist()[:2] == [read, known[0]]
    assert found["y"].keys.isna().tolist() == [False, False, True]
    assert (found is later) == (not said) == (read == label)
    assert target.truth(found["y"])[0] == (target.classes.index(read) if read in known else -1)


WARNING = "rows are training rows of this run, with equal cells in all columns that the model knows"


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.assign(area=frame["area"] + "0"),
        lambda frame: frame.sample(frac=1, random_state=0),
        lambda frame: frame.assign(remark=[f"row {place}" for place in range(len(frame))]),
        lambda frame: frame[["y", "town", "area"]],
        lambda frame: pd.concat([frame, german(sales(7)[["area", "town", "y"]])]),
    ],
    ids=["other digits", "other order", "one more column", "other columns first", "with new rows"],
)
def test_a_copy_of_the_training_table_is_known_by_its_rows(
    prices: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    table = pd.read_csv(prices.parent.parent / "sales.csv", sep=";", dtype=str)
    later = change(table)
    part = pd.read_parquet(prices / "split.parquet")["part"].astype(str)
    trained = int(part.isin(["train", "valid"]).sum())
    for path in (written(tmp_path / "copy.csv", later), written(tmp_path / "tabs.csv", later, sep="\t")):
        _, told = evaluated(prices, path, tmp_path)
        assert f" warning: {trained} of {len(later)} {WARNING}" in told
    typed = later.assign(**{name: later[name].str.replace(",", ".").astype(float) for name in ("area", "y")})
    typed.to_parquet(tmp_path / "typed.parquet")
    assert (
        f" warning: {trained} of {len(later)} {WARNING}" in evaluated(prices, tmp_path / "typed.parquet", tmp_path)[1]
    )
    tested = table[(part == "test").to_numpy()]
    assert WARNING not in evaluated(prices, written(tmp_path / "tested.csv", tested), tmp_path)[1]


def test_new_rows_are_no_training_rows(prices: Path, classes: Path, tmp_path: Path) -> None:
    assert WARNING not in evaluated(prices, written(tmp_path / "new.csv", german(sales(2))), tmp_path)[1]
    later = sales(3).drop(columns="y").rename(columns={"dear": "y"})
    assert WARNING not in evaluated(classes, written(tmp_path / "new.csv", later, sep=","), tmp_path)[1]
    one = sales(0)[["area", "town", "dear"]].rename(columns={"dear": "y"})
    known = evaluated(
        classes, written(tmp_path / "known.csv", pd.concat([later[one.columns], one]), sep=","), tmp_path
    )[1]
    assert WARNING in known


def test_rows_that_are_equal_by_chance_are_no_training_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame({"a": rng.choice([*"uvw"], 80), "b": rng.choice([*"xyz"], 80), "y": rng.choice(["n", "j"], 80)})
        for _ in range(2)
    ]
    run = small_fit(written(tmp_path / "first.csv", frames[0]), tmp_path / "runs").folder
    assert WARNING not in evaluated(run, written(tmp_path / "second.csv", frames[1]), tmp_path)[1]


def test_prints_differ_where_a_value_does_and_nowhere_else() -> None:
    frame = sales()
    schema = infer_schema(frame, "y", roles={"town": "category", "price": "ignored"})
    prints = row_prints(schema.table(frame), schema)
    assert len(set(prints)) == ROWS
    order = np.random.default_rng(0).permutation(ROWS)
    assert row_prints(schema.table(frame.iloc[order]), schema).tolist() == prints[order].tolist()
    assert row_prints(Table(frame.assign(price=0.0)[[*frame.columns[::-1]]]), schema).tolist() == prints.tolist()
    for name, value in (("area", 1.5), ("town", "Bonn"), ("y", np.nan), ("dear", None)):
        changed = frame.astype({"dear": object})
        changed.loc[4, name] = value
        differ = row_prints(schema.table(changed), schema) != prints
        assert np.flatnonzero(differ).tolist() == [4], name
    swapped = frame.assign(area=frame["y"], y=frame["area"])
    assert not set(row_prints(schema.table(swapped), schema)) & set(prints)
