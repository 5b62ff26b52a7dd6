"""How columns are written is learnt from the whole of them, kept in the schema, and applied to later tables."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.config import TextConfig
from mixfit.data.columns.cells import Table
from mixfit.data.columns.form import Form, TextForm
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.target import ClassTarget, fit_target
from mixfit.data.columns.values import to_numbers
from mixfit.data.table.read import read_as_configured
from mixfit.errors import DataError

ROWS = 60
RNG = np.random.default_rng(0)
AMOUNTS = RNG.integers(10, 99_000, ROWS)


def schema_of(cells: list[str], *, separator: str | None = None, **settings: str) -> Schema:
    """Of a table with a column ``x``, as it comes back from a file."""
    y, z = RNG.normal(size=(2, len(cells)))
    table = pd.DataFrame({"x": pd.Series(cells, dtype="str"), "y": y, "z": z})
    roles = {"x": settings["role"]} if "role" in settings else {}
    found = infer_schema(Table(table, TextForm(separator=separator)), "y", roles=roles)
    return Schema.from_dict(json.loads(json.dumps(found.to_dict())))


def numbers(schema: Schema, cells: list[str | None]) -> list[float]:
    """What later cells of ``x`` are read as."""
    table = schema.table(pd.DataFrame({"x": pd.Series(cells, dtype="str")}))
    schema.require_written(table)
    return [float(value) for value in table["x"].numbers.values]


@pytest.mark.parametrize(
    ("write", "unit"),
    [
        (lambda n: f"${n:,}", "$"),
        (lambda n: f"{n} %", "%"),
        (lambda n: f"{n} sqft", "sqft"),
        (lambda n: f"{n} bed", "bed"),
        (lambda n: f"{n:,}.50 €".translate(str.maketrans(",.", " ,")), "€"),
        # not in any list of examples
        (lambda n: f"£{n:,}.00", "£"),
        (lambda n: f"CHF {n}.-", "CHF"),
        (lambda n: f"US$ {n:,}", "US$"),
        (lambda n: f"{n:,} zł".replace(",", "\u202f"), "zł"),
        (lambda n: f"{n:,} kr.".replace(",", "."), "kr."),
        (lambda n: f"{n}m²", "m²"),
        (lambda n: f"{n} Zimmer", "Zimmer"),
        (lambda n: f"₹{n:,}", "₹"),
        (lambda n: f"{n} km/h", "km/h"),
        (lambda n: f"€{n} / month", "€ / month"),
        (lambda n: f"{n}°C", "°C"),
        (lambda n: f"{n:,}".replace(",", "\u2019"), ""),
        (lambda n: f"+{n}", ""),
    ],
)
def test_numbers_are_read_as_people_write_them(write: object, unit: str) -> None:
    cells = [write(int(n)) for n in AMOUNTS]  # type: ignore[operator]
    schema = schema_of(cells)
    column = schema.columns[0]
    assert (column.role, column.form.unit, column.note) == ("number", unit, "")
    assert f"in {unit}" in column.reason or not unit
    half = 0.5 if ".50" in cells[0] or ",50" in cells[0] else 0.0
    assert numbers(schema, [*cells[:5], "n/a"])[:5] == [float(n) + half for n in AMOUNTS[:5]]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["$1.2k", "$3M", "$950"], [1200.0, 3e6, 950.0]),
        (["(1,250.50)", "300.25", "-5"], [-1250.5, 300.25, -5.0]),
        (["\u22125,5", "3,25", "+1"], [-5.5, 3.25, 1.0]),
        (["1,20,000.5", "5,00,000", "99"], [120000.5, 500000.0, 99.0]),
        (["3 bed", "1 beds", "2 Bed"], [3.0, 1.0, 2.0]),
        (["4/5", "3/5", "1/5"], [4.0, 3.0, 1.0]),
        (["12 m2", "13 m²", "14m2"], [12.0, 13.0, 14.0]),
        (["-$5", "$-6", "$7"], [-5.0, -6.0, 7.0]),
        # units that differ, codes, dates, ranges, times and lists are no numbers
        (["12 a", "13 b", "14 c"], [np.nan] * 3),
        (["A12", "A7", "A3"], [np.nan] * 3),
        (["1.5 baths", "1 shared bath", "2 private baths"], [np.nan] * 3),
        (["3-4", "5-6", "7-9"], [np.nan] * 3),
        (["1,2,3", "4,5", "6,7,8,9"], [np.nan] * 3),
        (["12x30", "4x5", "7x8"], [np.nan] * 3),
        (["10.0.0.1", "10.0.0.2", "10.0.0.3"], [np.nan] * 3),
        (["(12", "12)", "7"], [np.nan, np.nan, 7.0]),
    ],
)
def test_what_is_a_number_is_decided_for_the_column(cells: list[str], values: list[float]) -> None:
    np.testing.assert_array_equal(to_numbers(pd.Series(cells, dtype="str")).values, values)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-(10**9), 10**9).map(lambda n: n / 100), min_size=1, max_size=20),
    st.sampled_from([".", ","]),
    st.sampled_from(["$", "", "EUR ", "₺"]),
    st.sampled_from([" kg", "", "%", " pro Nacht"]),
)
def test_amounts_come_back_whatever_stands_around_them(
    amounts: list[float], decimal: str, before: str, after: str
) -> None:
    swap = str.maketrans(",.", ".,") if decimal == "," else {}
    cells = [f"{before}{amount:,.2f}".translate(swap) + after for amount in amounts]
    found = to_numbers(pd.Series(cells, dtype="str"))
    assert found.values.tolist() == amounts
    assert not found.unparsable.any()


def test_a_few_words_among_amounts_are_missing_and_named_and_no_row_is_lost() -> None:
    cells = [f"${n:,}" for n in AMOUNTS]
    cells[3] = cells[9] = "auf Anfrage"
    cells[20] = "two hundred"
    schema = schema_of(cells)
    column = schema.columns[0]
    assert column.role == "number"
    assert column.note == "3 of 60 cells are not numbers, treated as missing, such as 'auf Anfrage'"
    assert column.form.missing == ("auf anfrage",)
    table = schema.table(pd.DataFrame({"x": ["$5", "Auf Anfrage", "three"]}))
    assert table["x"].numbers.unparsable.tolist() == [False, False, True]  # a known word is a missing value
    often = schema_of([f"{n:,} %" if n % 7 else "k. A." for n in AMOUNTS]).columns[0]
    assert (often.role, often.form.missing, often.form.unit) == ("number", ("k. a.",), "%")
    assert " of 60 cells are not numbers, treated as missing, such as 'k. A.'" in often.note
    assert not often.note.startswith(("1 ", "2 ", "3 "))
    many = ["ask" if i % 4 == 0 else cell for i, cell in enumerate(cells)]
    column = schema_of(many).columns[0]
    assert column.role == "category" or "--set x=number" in column.note
    column = schema_of(many, role="number").columns[0]
    assert column.note.startswith("17 of 60 cells are not numbers")


GERMAN = [f"{n:,}".replace(",", ".") for n in AMOUNTS]


def test_a_later_table_is_read_as_the_first_was() -> None:
    schema = schema_of([*GERMAN[:-1], "82,5"], separator=";")
    assert numbers(schema, ["1.500", "80", "7,25", None, "1.500.000,5"])[:3] == [1500.0, 80.0, 7.25]
    point = schema_of(["82.5", *(str(n) for n in AMOUNTS[1:])], separator=";")
    assert numbers(point, ["1.500", "1,500"]) == [1.5, 1500.0]


@pytest.mark.parametrize(
    ("first", "later", "said"),
    [
        (["82,5", "7,25"], ["82.5", "1"], "has a decimal point in 1 of 2 cells, the first in row 0: '82.5'"),
        (["82.5", "7.25"], ["1", "82,55"], "has a decimal comma in 1 of 2 cells, the first in row 1: '82,55'"),
        (["12 km", "7 km"], ["12 mi", "5 mi"], "has another unit in 2 of 2 cells.*and had 'km' beside its numbers"),
        (["$12", "$7"], ["€12"], "has another unit in 1 of 1 cells"),
        (
            ["12.5", "7"],
            ["12.5 kg"],
            "has another unit in 1 of 1 cells.* and had nothing beside its numbers in training",
        ),
    ],
)
def test_a_later_table_that_is_written_another_way_is_refused_in_a_sentence(
    first: list[str], later: list[str], said: str
) -> None:
    schema = schema_of((first * ROWS)[:ROWS])
    with pytest.raises(DataError, match=f"column 'x' {said}"):
        numbers(schema, list(later))


def test_a_single_slip_in_a_later_table_is_a_missing_cell() -> None:
    schema = schema_of((["82,5", "7,25"] * ROWS)[:ROWS], separator=";")
    found = numbers(schema, ["1,5", "2,5", "82.5"])
    assert found[:2] == [1.5, 2.5]
    assert np.isnan(found[2])


def test_a_sign_that_is_named_for_a_later_table_is_believed() -> None:
    schema = schema_of((["82,5", "7,25"] * ROWS)[:ROWS], separator=";")
    later = Table(pd.DataFrame({"x": ["82.5", "1.500"]}), TextForm(decimal="."))
    assert schema.table(later)["x"].numbers.values.tolist() == [82.5, 1.5]


def test_typed_numbers_are_not_written_in_any_way() -> None:
    schema = schema_of([*GERMAN[:-1], "82,5"], separator=";")
    assert schema.table(pd.DataFrame({"x": [1.5, 80]}))["x"].numbers.values.tolist() == [1.5, 80.0]
    typed = infer_schema(pd.DataFrame({"x": AMOUNTS, "y": RNG.normal(size=ROWS)}), "y")
    assert typed.columns[0].form.decimal == ""  # the first table of texts shows it
    assert numbers(typed, ["82,5", "1.500"]) == [82.5, 1500.0]


def test_the_order_of_dates_is_kept() -> None:
    days = [f"{1 + i % 28}/{1 + i % 12}/2020" for i in range(ROWS)]
    schema = schema_of(days)
    assert schema.columns[0].form.day_first is True
    later = schema.table(pd.DataFrame({"x": ["2/3/2021"]}))
    assert later["x"].dates().times[0] == np.datetime64("2021-03-02")


def test_encoding_and_separator_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("x;y\nŁódź;1\nżaba;2\n".encode("cp1250"))
    table, found = read_as_configured(tmp_path / "a.csv", TextConfig(encoding="cp1250"))
    schema = infer_schema(table, "y", task="binary")
    assert schema.text == TextForm(encoding="cp1250", separator=";")
    (tmp_path / "b.csv").write_bytes("x;y\nŁódź,a;1\nGdańsk,b;2\n".encode("cp1250"))
    table, found = read_as_configured(tmp_path / "b.csv", TextConfig(), schema.text)
    assert (found.encoding, found.separator, found.guessed) == ("cp1250", ";", False)
    assert table.frame["x"].tolist() == ["Łódź,a", "Gdańsk,b"]
    (tmp_path / "c.csv").write_text("x,y\nŁódź,1\n", encoding="utf-8")  # a mark or valid UTF-8 is believed
    table, found = read_as_configured(tmp_path / "c.csv", TextConfig(), schema.text)
    assert (found.encoding, found.separator, table.frame["x"].tolist()) == ("utf-8", ",", ["Łódź"])


@pytest.mark.parametrize(
    "labels",
    [
        ("2E1", "20"),
        ("TRUE", "FALSE"),
        ("1.10", "1.1", "7"),
        ("007", "7"),
        ("1E3", "5"),
        ("5.0", "6.0"),
    ],
)
def test_labels_come_back_as_written(labels: tuple[str, ...]) -> None:
    cells = pd.Series([labels[i % len(labels)] for i in range(ROWS)], dtype="str", name="y")
    frame = pd.DataFrame({"x": RNG.normal(size=ROWS), "y": cells})
    schema = infer_schema(frame, "y", task="binary" if len(labels) == 2 else "multiclass")
    target = fit_target(schema.table(frame)["y"], schema.task)
    assert isinstance(target, ClassTarget)
    assert sorted(target.classes) == sorted(labels)
    codes = target.encode(schema.table(frame)["y"])
    assert [target.classes[code] for code in codes] == cells.tolist()


def test_a_level_is_found_again_however_a_later_table_types_it() -> None:
    frame = pd.DataFrame({"x": ["7.0", "8.5", "9.0"] * 20, "y": RNG.normal(size=ROWS)})
    schema = infer_schema(frame, "y", roles={"x": "category"})
    fitted = TablePreprocessor.fit(frame, schema)
    for later in (pd.Series([7.0, 8.5]), pd.Series(["7.0", "8.5"]), pd.Series(["7", "8.50"])):
        assert fitted.transform(pd.DataFrame({"x": later})).categorical.ravel().tolist() == [1, 2]
    codes = pd.DataFrame({"x": ["1.1", "1.10", "2E1"] * 20, "y": RNG.normal(size=ROWS)})
    schema = infer_schema(codes, "y", roles={"x": "category"})
    fitted = TablePreprocessor.fit(codes, schema)
    # one cell of a later table does not decide anew
    assert fitted.transform(pd.DataFrame({"x": ["1.10"]})).categorical.tolist() == [[2]]
    assert fitted.transform(pd.DataFrame({"x": ["20"]})).categorical.tolist() == [[0]]


def test_a_schema_of_an_earlier_mixfit_reads_each_cell_for_itself() -> None:
    said = schema_of(["a", "b"] * 30).to_dict()
    for column in said["columns"]:
        column.pop("form", None)
    schema = Schema.from_dict(said)
    assert all(column.form == Form() for column in schema.columns)
    assert schema.table(pd.DataFrame({"x": ["1.10", "x", "TRUE"]}))["x"].keys.tolist() == ["1.1", "x", "True"]


def test_advice_never_makes_categories_of_prose_or_addresses() -> None:
    prose = [f"A bright flat number {i} near the river" for i in range(ROWS)]
    urls = [f"https://example.org/rooms/{i}" for i in range(ROWS)]
    for cells, reason in ((prose, "every cell is different"), (urls, "every cell is different, URLs")):
        column = schema_of(cells).columns[0]
        assert (column.role, column.reason, column.note) == ("ignored", reason, "")
