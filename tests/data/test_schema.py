"""Schemas on disk, and roles found in tables."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixfit.data.columns.infer import SUSPICIOUS, infer_schema
from mixfit.data.columns.schema import ROLES, TASKS, Column, Schema
from mixfit.errors import ConfigError, DataError

ROWS = 40
RNG = np.random.default_rng(0)
PRICE = RNG.lognormal(10, 1, ROWS).round(2)


def table(**columns: Any) -> pd.DataFrame:
    """A table with a number, its target and whatever else is given."""
    return pd.DataFrame({"area": RNG.normal(size=ROWS), **columns, "price": PRICE})


def column_of(schema: Schema, name: str) -> Column:
    return next(column for column in schema.columns if column.name == name)


def guess(cells: Any, name: str = "x") -> Column:
    return column_of(infer_schema(table(**{name: cells}), "price"), name)


def cycle(*cells: Any) -> list[Any]:
    return [cells[i % len(cells)] for i in range(ROWS)]


# Schema


@given(
    st.lists(
        st.builds(
            Column,
            name=st.text(),
            role=st.sampled_from([role for role in ROLES if role not in ("target", "group", "split", "weight")]),
            reason=st.text(),
            missing=st.integers(0, 10**9),
            note=st.text(),
        ),
        unique_by=lambda column: column.name,
        max_size=5,
    ),
    st.sampled_from(TASKS),
)
def test_schemas_survive_json(columns: list[Column], task: Any) -> None:
    free = "target" + "".join(column.name for column in columns)
    target = Column(name=free, role="target", reason="", missing=0)
    schema = Schema(columns=(*columns, target), task=task, task_reason="why", rows=3)
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    assert schema.target == free


def saved() -> dict[str, Any]:
    return infer_schema(table(split=cycle("train", "train", "valid", "test")), "price").to_dict()


def edit(state: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
    inner: Any = state
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([], "the schema must be a JSON object, not list"),
        ({}, "the schema lacks 'task', 'task_reason', 'rows', 'columns'"),
        (edit(saved(), "task", value="regresion"), "has the task 'regresion'; it must be one of regression"),
        (edit(saved(), "rows", value=True), "'rows' must be int, got bool"),
        (edit(saved(), "rows", value=-1), "'rows' must be at least 0, got -1"),
        (edit(saved(), "columns", 0, value="area"), "column 0 of the schema must be a JSON object"),
        (
            edit(saved(), "columns", 0, "role", value="numbr"),
            "'area', has the unknown role 'numbr'. Did you mean 'number'",
        ),
        (edit(saved(), "columns", 0, "rol", value="x"), "column 0 of the schema has the unknown key 'rol'"),
        (edit(saved(), "columns", 0, "name", value="split"), "1 duplicate column names, the first is 'split'"),
        (
            edit(saved(), "columns", 0, "role", value="target"),
            "2 columns with role target: 'area', 'price'; it needs exactly",
        ),
        (
            edit(saved(), "columns", 0, "role", value="split"),
            "2 columns with role split: 'area', 'split'; it needs at most",
        ),
        (edit(saved(), "columns", 2, "role", value="ignored"), "0 columns with role target; it needs exactly one"),
    ],
)
def test_a_wrong_schema_is_refused(state: Any, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("(", r"\(").replace("?", r"\?")):
        Schema.from_dict(state)


def test_schema_files(tmp_path: Path) -> None:
    schema = infer_schema(table(größe=cycle("S", "M", "L")), "price")
    schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == schema
    assert "größe" in (tmp_path / "schema.json").read_text(encoding="utf-8")
    (tmp_path / "schema.json").write_text("{")
    with pytest.raises(DataError, match=r"schema\.json is damaged: "):
        Schema.load(tmp_path / "schema.json")
    (tmp_path / "schema.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match=r"schema\.json is damaged: "):
        Schema.load(tmp_path / "schema.json")
    with pytest.raises(DataError, match=r"no\.json cannot be read: No such file"):
        Schema.load(tmp_path / "no.json")
    (tmp_path / "schema.json").write_text("{}")
    with pytest.raises(DataError, match=r"schema\.json: the schema lacks"):
        Schema.load(tmp_path / "schema.json")


# Roles


@pytest.mark.parametrize(
    ("name", "cells", "role", "evidence"),
    [
        ("x", RNG.normal(size=ROWS), "number", "floats"),
        ("rooms", cycle(1, 2, 3), "number", "integers, 3 distinct; could be a category"),
        ("flag", cycle(0, 1, 1), "number", "integers, 2 distinct"),
        ("year", cycle("2019", "2020", "n/a"), "number", "integers, 2 distinct"),
        (
            "x",
            [*cycle(1.5, 2.5)[1:], 1e6],
            "number",
            "the largest, 1e+06, is 6.2 standard deviations from the mean; it is kept",
        ),
        ("x", [*RNG.normal(size=ROWS - 1), np.inf], "number", "1 of 40 cells are infinite, treated as missing"),
        ("x", cycle(True, False), "category", "true or false"),
        ("city", cycle("Rome", "Oslo", "Bonn"), "category", "text, 3 distinct"),
        ("x", pd.Categorical(cycle(1, 2)), "category", "text, 2 distinct"),
        ("zip_code", cycle(12345, 54321), "category", "integers that look like codes"),
        ("x", cycle("001", "022"), "category", "digits with leading zeros"),
        ("x", cycle("12345678901234567890", "12345678901234567891"), "category", "integers too long for a number"),
        ("x", cycle("yes", None), "category", "'yes' or empty"),
        ("phone", list(range(5550000, 5550000 + ROWS)), "ignored", "every cell is different"),
        ("house_id", list(range(7, 7 + ROWS)), "ignored", "unique integer, name ends in _id"),
        ("HouseID", [f"h{i}" for i in range(ROWS)], "ignored", "unique text, name ends in _id"),
        ("Unnamed: 0", list(range(ROWS)), "ignored", "numbers the rows; to use it: --set Unnamed: 0=number"),
        ("x", cycle(5), "ignored", "one value only, '5'"),
        ("x", cycle(None), "ignored", "no values at all"),
        ("x", cycle("NA", "null"), "ignored", "no values at all"),
        ("x", [f"words {i % 30}" for i in range(ROWS)], "ignored", "text with 30 distinct values"),
        ("x", [f"{'long ' * 30}{i % 21}" for i in range(ROWS)], "ignored", "long text with 21 distinct"),
        ("x", cycle({"a": 1}, {}), "ignored", "cells are of type dict, not plain values"),
        ("x", cycle("a.jpg", "b/c.PNG;d.webp", None), "image", "paths that end in .jpg; 13 cells name several photos"),
        ("x", cycle("a.doc", "b.jpg"), "category", "text, 2 distinct"),
        ("Fold", cycle("train", "Val", "TEST"), "split", "values train/valid/test; used as given"),
        ("set", cycle("a", "train"), "category", "text, 2 distinct"),
        ("sold", cycle("2020-01-31", "2019-05-01"), "date", "dates such as '2020-01-31'"),
        ("sold", [*cycle("1/31/2020")[1:], "2020-02-30"], "date", "1 of 40 cells are not dates, treated as missing"),
        ("sale_date", cycle(20200131, 20190501), "date", "digits such as 20200131"),
        ("sold", pd.to_datetime(cycle("2020-01-31", "2019-05-01")), "date", "typed as dates"),
    ],
)
def test_roles_and_their_evidence(name: str, cells: Any, role: str, evidence: str) -> None:
    found = guess(cells, name)
    assert found.role == role
    assert evidence in "; ".join(filter(None, [found.reason, found.note]))


def test_a_column_has_the_same_role_in_a_text_file_and_typed() -> None:
    typed = table(
        rooms=cycle(1, 2, None), city=cycle("a", "b"), yes=cycle(True, False), day=pd.date_range("2020", periods=ROWS)
    )
    text = typed.map(lambda cell: None if pd.isna(cell) else str(cell)).astype("str")
    roles = [[(c.name, c.role, c.missing) for c in infer_schema(frame, "price").columns] for frame in (typed, text)]
    assert roles[0] == roles[1]


def test_repeated_ids_are_the_natural_group() -> None:
    ids = [f"p{i % 20}" for i in range(ROWS)]
    assert guess(ids, "patient_id").role == "group"
    assert guess(ids, "patient_id").note == (
        "20 ids repeat; each stays on one side of the split and of every fold; if rows of one id do not belong "
        "together: --set patient_id=ignored"
    )
    assert infer_schema(table(patient_id=ids), "price", roles={"patient_id": "ignored"}).names("group") == []
    assert infer_schema(table(patient_id=ids), "price", ignore=["patient_id"]).names("group") == []
    kept = infer_schema(table(patient_id=ids, split=["train"] * 20 + ["train"] * 19 + ["test"]), "price")
    assert "suspicious: 1 of 20 ids are on two sides of the split 'split'" in column_of(kept, "patient_id").note
    apart = infer_schema(table(patient_id=ids, split=cycle("train", "test")), "price")
    assert column_of(apart, "patient_id").note.startswith(
        "20 ids repeat; the split keeps each on one side, and so do the folds"
    )


def test_few_ids_and_an_id_of_many_rows_are_no_groups() -> None:
    few = guess(cycle(1, 2, 3, 4), "store_id")
    assert few.role == "ignored"
    assert "4 ids repeat, too few or in too many rows to be groups: --set store_id=group for one" in few.note
    assert "could be category: --set store_id=category" in few.note
    assert guess([0] * 30 + list(range(ROWS - 30)), "store_id").role == "ignored"


def test_a_second_id_that_would_tie_everything_to_everything_is_no_group() -> None:
    rng = np.random.default_rng(0)
    frame = table(buyer_id=rng.permutation(ROWS) // 2, seller_id=rng.permutation(ROWS) // 2)
    schema = infer_schema(frame, "price")
    assert schema.names("group") == ["buyer_id"]
    assert "but with those of buyer_id they would join" in column_of(schema, "seller_id").note
    nested = table(house_id=np.arange(ROWS) // 2, street_id=np.arange(ROWS) // 4)
    assert infer_schema(nested, "price").names("group") == ["house_id", "street_id"]


def test_roles_that_are_set_win_and_only_one_split_is_used() -> None:
    frame = table(a=cycle("train", "test"), split=cycle("train", "test"), b=cycle("1", "2", "x"), w=cycle(1, 2))
    schema = infer_schema(frame, "price", roles={"a": "split", "b": "number", "w": "weight"}, ignore=["area"])
    assert schema.names("split") == ["a"]
    assert column_of(schema, "split").reason == "words of a split, but another column is the split"
    assert column_of(schema, "b").note == "13 of 40 cells are not numbers, treated as missing, such as 'x'"
    assert schema.names("ignored") == ["area", "split"]
    assert schema.names("weight") == ["w"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "prise"}, "no column 'prise'. Did you mean 'price'"),
        ({"roles": {"aera": "number"}}, "no column 'aera'. Did you mean 'area'"),
        ({"ignore": ["aera"]}, "no column 'aera'. Did you mean 'area'"),
        (
            {"roles": {"area": "number"}, "ignore": ["area"]},
            "column 'area' is both ignored and set to number; choose one",
        ),
        ({"roles": {"area": "target"}}, "2 columns have the role target: 'area', 'price'; only one can"),
        ({"roles": {"area": "weight", "x": "weight"}}, "2 columns have the role weight: 'area', 'x'"),
        ({"roles": {"price": "number"}}, "column 'price' is the target, so it cannot be number too"),
        ({"ignore": ["price"]}, "column 'price' is the target, so it cannot be ignored too"),
        (
            {"roles": {"x": "image"}},
            "column 'x' cannot have the role image: 40 of 40 cells are not paths of image files",
        ),
        (
            {"roles": {"x": "number"}},
            "column 'x' cannot have the role number: 40 of 40 cells are not numbers .* the first in row 0 is 'a'",
        ),
        ({"roles": {"x": "date"}}, "column 'x' cannot have the role date: 40 of 40 cells are not dates"),
        ({"roles": {"x": "weight"}}, "column 'x' cannot have the role weight"),
        (
            {"roles": {"nested": "category"}},
            "column 'nested' cannot have the role category: its cells are of type list",
        ),
        ({"target": "x", "task": "binary"}, "task binary needs 2 classes, the target 'x' has 3"),
        ({"target": "nested"}, "the target 'nested' holds cells of type list"),
        ({"target": "name"}, "'name' has 40 distinct values in 40 rows: neither numbers nor classes that repeat"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    frame = table(x=cycle("a", "b", "c"), nested=cycle([1]), name=[f"n{i}" for i in range(ROWS)])
    with pytest.raises(ConfigError, match=message):
        infer_schema(frame, **{"target": "price", **settings})


def test_tables_that_cannot_be_described_are_refused() -> None:
    with pytest.raises(DataError, match="1 column names are not text, the first is 3"):
        infer_schema(table().rename(columns={"area": 3}), "price")
    with pytest.raises(DataError, match="2 columns named 'price'"):
        infer_schema(table().rename(columns={"area": "price"}), "price")
    with pytest.raises(DataError, match="the table has no rows"):
        infer_schema(table().iloc[:0], "price")
    with pytest.raises(DataError, match="none of the 1 columns beside the target 'price' is left"):
        infer_schema(table(), "price", ignore=["area"])


# Task


@pytest.mark.parametrize(
    ("cells", "task", "reason"),
    [
        (RNG.normal(size=ROWS), "regression", "floats, 40 distinct -> regression"),
        (list(range(ROWS)), "regression", "integers, 40 distinct -> regression"),
        (cycle(*range(100, 121)), "regression", "integers, 21 distinct -> regression"),
        (cycle("1.5", "2.5"), "regression", "floats, 2 distinct -> regression"),
        (cycle(0, 1), "binary", "integers, 2 classes -> binary"),
        (cycle(1.0, 2.0, 3.0), "multiclass", "floats, 3 classes -> multiclass"),
        (cycle("yes", "no", None), "binary", "text, 2 classes -> binary"),
        (cycle(True, False), "binary", "true or false, 2 classes -> binary"),
        (cycle("a", "b", "NA"), "multiclass", "text, 3 classes -> multiclass"),
        ([*map(str, RNG.normal(size=ROWS - 2)), "x", "inf"], "regression", "floats, 38 distinct -> regression"),
    ],
)
def test_the_task_follows_from_the_cells(cells: Any, task: str, reason: str) -> None:
    schema = infer_schema(table(y=cells), "y")
    assert (schema.task, schema.task_reason) == (task, reason)


def test_a_short_table_of_amounts_is_a_regression() -> None:
    frame = pd.DataFrame({"x": RNG.normal(size=12), "y": range(100, 112)})
    assert infer_schema(frame, "y").task == "regression"


def test_the_task_can_be_set() -> None:
    assert infer_schema(table(y=cycle(1, 2, 3)), "y", task="regression").task == "regression"
    assert infer_schema(table(y=cycle(*range(30))), "y", task="multiclass").task == "multiclass"
    with pytest.raises(DataError, match=r"regression needs numbers, but 40 of 40 .* the first in row 0 is 'a'"):
        infer_schema(table(y=cycle("a", "b")), "y", task="regression")


def test_notes_of_the_target() -> None:
    schema = infer_schema(table(), "price")
    assert column_of(schema, "price").note.endswith("fitted on log scale")
    schema = infer_schema(table(y=[*cycle("a", "NA")[1:], "b"]), "y")
    assert (
        column_of(schema, "y").note
        == "1 of 3 classes have one row only, kept in train; 'NA' is taken as a class of its own"
    )


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ((1, 2, 3), "could be ordered from '1' to '3': --task ordered, or a number: --task regression"),
        (("poor", "good", "excellent", "fair"), "could be ordered from 'poor' to 'excellent': --task ordered"),
        (("stage 2", "stage 10", "stage 1"), "could be ordered from 'stage 1' to 'stage 10': --task ordered"),
        (("cat", "dog", "hen"), ""),
        (("low", "high"), ""),
    ],
)
def test_classes_that_may_have_an_order_are_told(values: tuple[Any, ...], note: str) -> None:
    found = infer_schema(table(y=cycle(*values)), "y")
    assert column_of(found, "y").note == note
    if note:
        assert infer_schema(table(y=cycle(*values)), "y", task="ordered").task == "ordered"


# Real tables

REAL = pytest.mark.skipif("MIXFIT_DATA" not in os.environ, reason="MIXFIT_DATA is not set")
EXPECTED: dict[str, tuple[str, str, dict[str, str]]] = {
    "houses": (
        "price",
        "regression",
        {
            "ignored": "house_id",
            "number": "bedrooms bathrooms area",
            "category": "zipcode",
            "image": "frontal_image bedroom_image bathroom_image kitchen_image",
        },
    ),
    "fashion_products": (
        "gender",
        "multiclass",
        {
            "ignored": "product_id",
            "number": "year",
            "category": "master_category sub_category article_type base_colour season usage",
            "image": "image",
        },
    ),
    "covid_xray": (
        "covid19",
        "binary",
        {
            "ignored": "x_id",
            "group": "patient_id",
            "number": "age days_since_onset temperature po2_saturation leukocyte_count neutrophil_count "
            "lymphocyte_count",
            "category": "sex view",
            "image": "image",
        },
    ),
    "leaf99": (
        "species",
        "multiclass",
        {
            "ignored": "leaf_id",
            "image": "image",
            "number": " ".join(f"{kind}{i}" for kind in ("margin", "shape", "texture") for i in range(1, 65)),
        },
    ),
    "movies": (
        "imdb_rating",
        "regression",
        {
            "ignored": "movie_id",
            "text": "title",
            "image": "image",
            "number": "year release_month production_budget us_gross running_time_min is_action is_childrens is_comedy "
            "is_drama is_horror is_romance is_scifi is_thriller",
            "category": "mpaa_rating distributor source major_genre creative_type director",
        },
    ),
}


@REAL
@pytest.mark.parametrize("folder", EXPECTED)
@pytest.mark.parametrize("typed", [False, True], ids=["text", "typed"])
def test_roles_of_real_tables(folder: str, typed: bool) -> None:
    target, task, roles = EXPECTED[folder]
    path = Path(os.environ["MIXFIT_DATA"]) / folder / "table.csv"
    frame = pd.read_csv(path) if typed else pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""])
    schema = infer_schema(frame, target)
    assert schema.task == task
    assert schema.target == target
    found = {role: " ".join(schema.names(role)) for role in ROLES}
    assert {role: names for role, names in found.items() if names} == {**roles, "split": "split", "target": target}
    assert not any(SUSPICIOUS in column.note for column in schema.columns)


@REAL
def test_evidence_in_real_tables() -> None:
    root = Path(os.environ["MIXFIT_DATA"])
    schema = infer_schema(pd.read_csv(root / "covid_xray" / "table.csv", dtype="str"), "covid19")
    assert column_of(schema, "patient_id").note.startswith("145 ids repeat; the split keeps each on one side, and so")
    schema = infer_schema(pd.read_csv(root / "houses" / "table.csv", dtype="str"), "price")
    assert column_of(schema, "zipcode").note == "49 levels, 31 in fewer than 5 rows"
    assert column_of(schema, "house_id").reason == "unique integer, name ends in _id"
    schema = infer_schema(pd.read_csv(root / "movies" / "table.csv", dtype="str"), "imdb_rating")
    assert column_of(schema, "director").reason == "text, 320 distinct"
