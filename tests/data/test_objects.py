"""Columns that name the object of a row without saying "id", and objects that no column names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixfit.data.checks.objects import repeated_objects
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.schema import Schema, suspicious_columns


def measurements(name: str | None, *, objects: int = 60, each: int = 5, texts: bool = False) -> pd.DataFrame:
    """Rows of objects; mass, length and width are those of the object, and dose is that of the row."""
    rng = np.random.default_rng(7)
    of_row = np.repeat(np.arange(objects), each)
    codes = rng.permutation(900)[:objects][of_row] + 100
    columns = {} if name is None else {name: [f"P{code}" for code in codes] if texts else codes}
    constants = {"mass": rng.normal(50, 9, objects).round(1)[of_row]}
    constants |= {one: rng.normal(size=objects).round(2)[of_row] for one in ("length", "width")}
    rows = {one: rng.normal(size=len(of_row)).round(3) for one in ("dose", "y")}
    return pd.DataFrame({**columns, **constants, **rows}).sample(frac=1, random_state=0).reset_index(drop=True)


def role_of(schema: Schema, name: str) -> str:
    return next(column.role for column in schema.columns if column.name == name)


NAMES = ("patient no", "Subject", "household", "cow_nr", "CustomerNumber", "Kundennummer", "Probe Nr.", "sku")


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("name", [*NAMES, "Zähler-Nr", "n° client", "被験者番号", "numero paciente", "teilnehmer"])
def test_an_object_of_any_name_is_a_group_where_other_columns_are_functions_of_it(name: str, *, texts: bool) -> None:
    schema = infer_schema(measurements(name, texts=texts), "y")
    assert role_of(schema, name) == "group"
    column = next(column for column in schema.columns if column.name == name)
    assert "60 ids in 300 rows" in column.reason
    assert "'mass'" in column.reason
    assert "=category" in column.note
    assert role_of(infer_schema(measurements(name), "y", roles={name: "category"}), name) == "category"


@pytest.mark.parametrize("name", ["store", "town", "thing", "code"])
def test_a_name_that_tells_nothing_gets_a_warning_with_the_setting(name: str) -> None:
    table = measurements(name)
    schema = infer_schema(table, "y")
    assert role_of(schema, name) != "group"
    (finding,) = repeated_objects(table, schema)
    assert finding.level == "warning"
    assert f"--set {name}=group" in finding.text
    assert not repeated_objects(table, infer_schema(table, "y", roles={name: "group"}))
    assert not repeated_objects(table, infer_schema(table, "y", roles={name: "category"}))


@pytest.mark.parametrize("digits", [0, 1])
def test_rows_that_are_equal_in_several_columns_are_of_objects_that_no_column_names(digits: int) -> None:
    table = measurements(None, objects=120, each=4)
    table["mass"] = table["mass"].round(digits)
    (finding,) = repeated_objects(table, infer_schema(table, "y"))
    assert "no column identifies" in finding.text
    assert "'length'" in finding.text
    assert "'dose'" not in finding.text


def test_a_noun_alone_is_no_group_but_a_warning_where_only_the_target_is_alike() -> None:
    rng = np.random.default_rng(0)
    effect = rng.normal(size=50)[np.repeat(np.arange(50), 6)]
    noise = rng.normal(size=300)
    table = pd.DataFrame({"animal": [f"a{one}" for one in effect], "dose": noise, "y": 3 * effect + noise})
    schema = infer_schema(table, "y")
    assert role_of(schema, "animal") == "category"
    assert "--set animal=group" in suspicious_columns(schema)[0]
    assert not suspicious_columns(infer_schema(table.assign(y=rng.normal(size=300)), "y"))


@pytest.mark.parametrize(
    ("kinds", "role"), [(["oak", "elm", "ash", "fir", "yew", "box"], "category"), (range(9), "group")]
)
def test_words_of_kinds_with_one_constant_column_are_no_objects_and_codes_are(kinds: Sequence[Any], role: str) -> None:
    rng = np.random.default_rng(0)
    place = rng.integers(0, len(kinds), 200)
    table = pd.DataFrame({"tree": [kinds[one] for one in place], "density": rng.normal(size=9).round(2)[place]})
    table = table.assign(girth=rng.normal(size=200), y=rng.normal(size=200))
    assert role_of(infer_schema(table, "y"), "tree") == role


def ordinary_tables() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(1)
    rows = 900
    brand, hour, price = rng.integers(0, 40, rows), rng.integers(0, 24, rows), rng.integers(100, 400, rows)
    age, x = rng.normal(50, 12, rows).round(), rng.normal(size=rows)
    noise = {"z": rng.normal(size=rows).round(2), "y": rng.normal(size=rows).round(3)}
    each = {
        "brand": {"brand": [f"b{one}" for one in brand], "land": [f"l{one % 7}" for one in brand], "lux": brand % 3},
        "clock": {"slot": hour, "sine": np.sin(hour / 24 * 2 * np.pi), "cosine": np.cos(hour / 24 * 2 * np.pi)},
        "price": {"price": price, "tax": (price * 0.19).round(2), "gross": (price * 1.19).round(2)},
        "work": {"age": age, "worked": (age - 20 + x).round(), "income": (age * 10 + 3 * x).round()},
        "levels": {f"k{one}": rng.integers(0, 6, rows) for one in range(8)},
        "alike": {f"k{one}": (3 * x + rng.normal(size=rows) * 0.3).round() for one in range(6)},
    }
    return {name: pd.DataFrame({**columns, **noise}) for name, columns in each.items()}


@pytest.mark.parametrize("name", ordinary_tables())
def test_ordinary_columns_raise_no_alarm(name: str) -> None:
    table = ordinary_tables()[name]
    schema = infer_schema(table, "y")
    assert not schema.names("group")
    assert not repeated_objects(table, schema)
    doubled = pd.concat([table, table], ignore_index=True)
    assert not repeated_objects(doubled, infer_schema(doubled, "y"))
