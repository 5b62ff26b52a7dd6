"""The data path on all rows of the five shared data sets, against computations that share no code with it."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import skew
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from mixfit.data.checks.copies import COPY_LEFT_OUT, equal_photos, row_copies, without_copies
from mixfit.data.checks.photos import equal_files
from mixfit.data.checks.table import parts_of
from mixfit.data.columns.category import CategoryColumn
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.number import NumberColumn
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.target import RegressionTarget, fit_target
from mixfit.data.photos.find import find_photos
from mixfit.data.split import Split, split_rows
from mixfit.data.table.read import read_table

SETS = {
    "houses": "price",
    "fashion_products": "gender",
    "covid_xray": "covid19",
    "leaf99": "species",
    "movies": "imdb_rating",
}

pytestmark = pytest.mark.skipif("MIXFIT_DATA" not in os.environ, reason="MIXFIT_DATA is not set")
each_set = pytest.mark.parametrize("name", SETS)


def the_smaller(*large: str) -> pytest.MarkDecorator:
    """Each set, of which some take so long that they are left to the long tests."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[pytest.mark.long] * (name in large)) for name in SETS]
    )


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A set as mixfit reads and fits it, and the cells as pandas reads them."""

    folder: Path
    frame: pd.DataFrame
    cells: pd.DataFrame
    schema: Schema
    split: Split
    fitted: TablePreprocessor


@cache
def loaded(name: str) -> Loaded:
    folder = Path(os.environ["MIXFIT_DATA"]) / name
    frame = read_table(folder / "table.csv")
    schema = infer_schema(frame, SETS[name])
    split = split_rows(frame, schema)
    return Loaded(
        folder=folder,
        frame=frame,
        cells=pd.read_csv(folder / "table.csv", dtype=object, keep_default_na=False, na_values=[""]),
        schema=schema,
        split=split,
        fitted=TablePreprocessor.fit(frame.iloc[split.train], schema),
    )


def numbers_of(fitted: TablePreprocessor) -> list[NumberColumn]:
    return [column for column in fitted.columns if isinstance(column, NumberColumn)]


def categories_of(fitted: TablePreprocessor) -> list[CategoryColumn]:
    return [column for column in fitted.columns if isinstance(column, CategoryColumn)]


def training_rows(found: Loaded) -> np.ndarray:
    """By the words of the file alone."""
    return np.flatnonzero(found.cells["split"].to_numpy() == "train")


# Statistics of the training rows


@the_smaller("leaf99")
def test_scales_of_numbers_are_those_of_scikit_learn_on_the_training_rows(name: str) -> None:
    found = loaded(name)
    train = training_rows(found)
    assert found.split.train.tolist() == train.tolist()
    numeric = found.fitted.transform(found.frame).numeric
    outputs = list(found.fitted.numeric_names)
    differs = 0
    for column in numbers_of(found.fitted):
        values = found.cells[column.name].astype(float).to_numpy()[:, None]
        seen = values[train][~np.isnan(values[train])]
        before, after = skew(seen), skew(np.log1p(np.abs(seen)))
        log = bool(seen.min() >= 0 and before > 2 and abs(after) < before)
        scaled = np.sign(values) * np.log1p(np.abs(values)) if log else values
        imputer = SimpleImputer(strategy="median").fit(scaled[train])
        scaler = StandardScaler().fit(imputer.transform(scaled[train]))
        state = column.scale
        assert state.log == log, column.name
        assert (state.fill, state.mean, state.std) == pytest.approx(
            (imputer.statistics_[0], scaler.mean_[0], np.sqrt(scaler.var_[0])), rel=1e-9
        ), column.name
        expected = np.clip(scaler.transform(imputer.transform(scaled)), -10, 10)[:, 0]
        np.testing.assert_allclose(numeric[:, outputs.index(column.name)], expected, rtol=1e-5, atol=1e-5)
        flag = f"{column.name} is missing"
        assert (flag in outputs) == bool(np.isnan(values[train]).any())
        if flag in outputs:
            assert numeric[:, outputs.index(flag)].tolist() == np.isnan(values[:, 0]).tolist()
        differs += StandardScaler().fit(imputer.transform(scaled)).mean_[0] != pytest.approx(state.mean, rel=1e-9)
    assert [column.name for column in numbers_of(found.fitted)] == found.schema.names("number")
    assert differs, "no column would tell statistics of all rows from those of the training rows"


@each_set
def test_levels_are_those_counted_in_the_training_rows(name: str) -> None:
    found = loaded(name)
    train = training_rows(found)
    categorical = found.fitted.transform(found.frame).categorical
    assert [column.name for column in categories_of(found.fitted)] == found.schema.names("category")
    for place, column in enumerate(categories_of(found.fitted)):
        texts = found.cells[column.name].str.strip()
        counts = Counter(texts.iloc[train].dropna())
        often = sorted(text for text, count in counts.items() if count >= 2)
        assert list(column.levels) == often, column.name
        assert list(column.rare) == sorted(text for text, count in counts.items() if count == 1), column.name
        encoder = OrdinalEncoder(
            categories=[often], handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1
        ).fit(np.array(often, dtype=object)[:, None])
        expected = encoder.transform(texts.fillna("\0").to_numpy(dtype=object)[:, None])[:, 0] + 1
        assert categorical[:, place].tolist() == expected.tolist(), column.name


@each_set
def test_the_target_is_scaled_by_the_training_rows(name: str) -> None:
    found = loaded(name)
    column = found.cells[SETS[name]].iloc[training_rows(found)]
    target = fit_target(found.frame[SETS[name]].iloc[found.split.train], found.schema.task)
    if isinstance(target, RegressionTarget):
        values = column.astype(float).to_numpy()
        log = bool(values.min() > 0 and skew(values) > 1 and abs(skew(np.log(values))) < skew(values))
        scaled = np.log(values) if log else values
        assert (target.log, target.mean, target.std) == (log, pytest.approx(scaled.mean()), pytest.approx(scaled.std()))
    else:
        assert list(target.classes) == sorted(set(column))


# Codes of categories


@the_smaller("fashion_products", "leaf99")
def test_a_cell_has_the_same_code_in_csv_parquet_and_json_lines(name: str, tmp_path: Path) -> None:
    found = loaded(name)
    typed = pd.read_csv(found.folder / "table.csv", keep_default_na=False, na_values=[""])
    typed.to_parquet(tmp_path / "t.parquet")
    typed.to_json(tmp_path / "t.jsonl", orient="records", lines=True, double_precision=15)
    arrays = found.fitted.transform(found.frame)
    for path in (tmp_path / "t.parquet", tmp_path / "t.jsonl"):
        frame = read_table(path)
        assert infer_schema(frame, SETS[name]).names("category") == found.schema.names("category")
        other = found.fitted.transform(frame)
        assert other.categorical.tobytes() == arrays.categorical.tobytes()
        np.testing.assert_allclose(other.numeric, arrays.numeric, rtol=1e-6, atol=1e-6)
        again = TablePreprocessor.fit(frame.iloc[found.split.train], found.schema)
        assert categories_of(again) == categories_of(found.fitted)


@each_set
def test_one_text_is_one_code_and_what_is_unseen_or_empty_is_0(name: str) -> None:
    found = loaded(name)
    if not categories_of(found.fitted):
        assert name == "leaf99"
        return
    codes = found.fitted.transform(found.frame).categorical
    for place, column in enumerate(categories_of(found.fitted)):
        texts = found.cells[column.name].str.strip()
        pairs = set(zip(texts.fillna(""), codes[:, place].tolist(), strict=True))
        assert len({text for text, _ in pairs}) == len(pairs), "a text has two codes"
        known = [code for _, code in pairs if code]
        assert sorted(known) == list(range(1, len(column.levels) + 1)), "a code has two texts, or none"
        unknown = ~texts.isin(column.levels).to_numpy()
        assert (codes[unknown, place] == 0).all()
    unseen = found.frame.head(50).assign(**{column.name: "never seen" for column in categories_of(found.fitted)})
    arrays = found.fitted.transform(unseen)
    assert not arrays.categorical.any()
    assert Counter(
        record.column for record in arrays.repaired if record.action == "treated as unknown"
    ) == dict.fromkeys(found.schema.names("category"), 50)


@the_smaller("leaf99")
def test_codes_do_not_depend_on_the_order_of_rows(name: str) -> None:
    found = loaded(name)
    order = np.random.default_rng(0).permutation(len(found.frame))
    shuffled = found.frame.iloc[order]
    in_train = np.isin(order, found.split.train)
    again = TablePreprocessor.fit(shuffled[in_train], found.schema)
    assert categories_of(again) == categories_of(found.fitted)
    assert [(c.scale.fill, c.flag) for c in numbers_of(again)] == [
        (c.scale.fill, c.flag) for c in numbers_of(found.fitted)
    ]
    expected = found.fitted.transform(found.frame)
    arrays = again.transform(shuffled)
    assert arrays.categorical.tobytes() == expected.categorical[order].tobytes()
    np.testing.assert_allclose(arrays.numeric, expected.numeric[order], rtol=1e-5, atol=1e-6)


# Copies


@cache
def rows_of_photos(name: str) -> dict[str, list[int]]:
    """Sorted rows that name each content, by its sha256, of contents that several rows name."""
    found = loaded(name)
    rows: dict[str, set[int]] = defaultdict(set)
    for column in found.schema.names("image"):
        for row, cell in enumerate(found.cells[column]):
            if isinstance(cell, str):
                content = (found.folder / cell).read_bytes()
                rows[hashlib.sha256(content).hexdigest()].add(row)
    return {content: sorted(users) for content, users in rows.items() if len(users) > 1}


def is_torn(found: Loaded, rows: list[int]) -> bool:
    return len(set(found.cells["split"].iloc[rows])) > 1


def has_one_target(found: Loaded, name: str, rows: list[int]) -> bool:
    return len(set(found.cells[SETS[name]].iloc[rows])) == 1


@the_smaller("fashion_products")
def test_equal_photos_are_those_of_brute_force(name: str) -> None:
    found = loaded(name)
    shared = rows_of_photos(name)
    photos = find_photos(found.frame, found.schema.names("image"), found.folder)
    parts = parts_of(found.split, len(found.frame))
    findings = equal_photos(found.frame, found.schema, photos, equal_files(photos.files), parts)
    if not shared:
        assert findings == []
        return
    (finding,) = findings
    numbers = [int(text.replace(",", "")) for text in re.findall(r"[0-9][0-9,]*", finding.text)]
    users = {row for rows in shared.values() for row in rows}
    mixed = sum(not has_one_target(found, name, rows) for rows in shared.values())
    torn = sum(is_torn(found, rows) for rows in shared.values())
    first = min(shared.values())[:2]
    expected = [len(shared), len(users), *first, *([mixed] if mixed else []), *([torn] if torn else [])]
    assert numbers[: len(expected)] == expected, finding.text  # pairs of rows follow, each once
    pairs = re.findall(r"[0-9]+ \([a-z]+\) and [0-9]+ \([a-z]+\)", finding.text)
    assert bool(pairs) == bool(torn)
    assert len(set(pairs)) == len(pairs)
    assert finding.level == ("warning" if torn else "note")
    if name == "houses":
        assert (len(shared), torn) == (9, 5)


@the_smaller("fashion_products")
def test_rows_that_dedup_leaves_out_are_those_of_brute_force(name: str) -> None:
    found = loaded(name)
    photos = find_photos(found.frame, found.schema.names("image"), found.folder)
    split, records = without_copies(found.frame, found.schema, found.split, photos)
    parts = found.cells["split"]
    shared = [rows for rows in rows_of_photos(name).values() if has_one_target(found, name, rows)]
    judging = {"train": {"valid", "test"}, "valid": {"test"}, "test": set()}
    expected = {
        row
        for rows in [*shared, *equal_rows(found)]
        for row in rows
        if set(parts.iloc[rows]) & judging[parts.iloc[row]]  # type: ignore[operator]
    }
    assert [record.row for record in records] == sorted(expected)
    assert {record.action for record in records} <= {COPY_LEFT_OUT}
    assert split.train.tolist() == sorted(set(training_rows(found).tolist()) - expected)
    assert split.valid.tolist() == sorted(set(found.split.valid.tolist()) - expected)
    assert split.test.tolist() == found.split.test.tolist()


def equal_rows(found: Loaded) -> list[list[int]]:
    """Rows that are equal but for ignored columns and the split; without a photo they may be so by chance."""
    used = [column.name for column in found.schema.columns if column.role not in ("ignored", "group", "split")]
    with_photo = found.cells[found.schema.names("image")].notna().any(axis=1)
    rows: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for row, cells in zip(found.cells.index, found.cells[used].fillna("").itertuples(index=False), strict=True):
        if with_photo[row]:
            rows[tuple(cells)].append(row)
    return [group for group in rows.values() if len(group) > 1]


@the_smaller("fashion_products", "leaf99")
def test_copied_rows_are_those_of_brute_force(name: str) -> None:
    """As the sets are, and with rows copied under new ids: one twice, and one from train into test."""
    found = loaded(name)
    used = found.cells[found.schema.names("image")].notna().all(axis=1).to_numpy()
    train, test = (np.flatnonzero(used & (found.cells["split"] == part).to_numpy()) for part in ("train", "test"))
    sources = np.array([train[5], train[5], train[9], test[2]])
    ids = [*found.schema.names("ignored"), *found.schema.names("group")]
    changes = {column: [f"new {number}" for number in range(4)] for column in ids}
    changes["split"] = ["train", "train", "test", "test"]
    cells, frame = (
        pd.concat([rows, rows.iloc[sources].assign(**changes)], ignore_index=True)
        for rows in (found.cells, found.frame.astype(object))
    )
    planted = replace(found, cells=cells, frame=frame, split=split_rows(frame, found.schema))
    for case, least in ((found, 0), (planted, 4)):
        groups = equal_rows(case)
        copies, torn = sum(len(group) - 1 for group in groups), sum(is_torn(case, group) for group in groups)
        assert copies >= least
        findings = row_copies(case.frame, case.schema, parts_of(case.split, len(case.frame)))
        told = [re.match(r"([0-9,]+) rows? (?:are copies|is a copy)", finding.text) for finding in findings]
        assert sum(int(match[1].replace(",", "")) for match in told if match) == copies
        leaks = [re.search(r"; ([0-9,]+) of the copied rows are on two sides", finding.text) for finding in findings]
        assert sum(int(match[1].replace(",", "")) for match in leaks if match) == torn
    _, records = without_copies(planted.frame, planted.schema, planted.split, None)
    assert train[9] in [record.row for record in records]
