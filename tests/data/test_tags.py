"""Lists of tags: how they are written, told from other texts, learnt from and kept."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.data.columns.cells import Table
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.preprocess import TableArrays, TablePreprocessor
from mixfit.data.columns.schema import Column, Schema
from mixfit.data.columns.tags import LEAST_ROWS, MOST_TAGS, tags_of
from mixfit.errors import ConfigError, DataError

ROWS = 200
WORDS = ["wifi", "hot tub", "Küche", "lift (2)", "24h check-in", "pets: yes", "TV", "it's quiet", "e-charger"]


def drawn(rows: int = ROWS, words: Sequence[str] = WORDS) -> list[list[str]]:
    """Some tags for each row, at least one."""
    random = np.random.default_rng(0)
    shares = np.linspace(0.8, 0.05, len(words))
    picked = [[word for word, share in zip(words, shares, strict=True) if random.random() < share] for _ in range(rows)]
    return [tags or [words[0]] for tags in picked]


def schema_of(cells: Any, **roles: str) -> Schema:
    frame = pd.DataFrame({"x": np.arange(len(cells)) * 7 % 11 / 3, "y": np.arange(len(cells)) % 13 / 7})
    frame["extras"] = pd.Series(list(cells), dtype=object if any(isinstance(c, list) for c in cells) else None)
    return infer_schema(frame, "y", roles=roles)


def column_of(cells: Any, **roles: str) -> Column:
    return next(column for column in schema_of(cells, **roles).columns if column.name == "extras")


def arrays_of(train: Any, cells: Any | None = None) -> tuple[TablePreprocessor, TableArrays]:
    """What is learnt of a column that is set to be tags, and what a model sees."""
    schema = schema_of(train, extras="tags", x="ignored")
    frame = pd.DataFrame({"extras": pd.Series(list(train)), "y": 0.0})
    fitted = TablePreprocessor.fit(frame, schema)
    return fitted, fitted.transform(pd.DataFrame({"extras": pd.Series(list(train if cells is None else cells))}))


SPELLINGS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "array": np.array,
    "JSON": json.dumps,
    "JSON in ASCII with spaces": lambda tags: f" {json.dumps(tags, separators=(' , ', ':'))} ",
    "Python": str,
    "Python's tuple": lambda tags: str(tuple(tags)),
    "Python's set": lambda tags: str(set(tags)),
    "NumPy": lambda tags: str(np.array(tags, dtype=object)),
    "PostgreSQL": lambda tags: "{" + ",".join(f'"{tag}"' if " " in tag else tag for tag in tags) + "}",
    "brackets only": lambda tags: f"[{', '.join(tags)}]",
    "comma": ",".join,
    "comma and blank": ", ".join,
    "pipe": " | ".join,
    "semicolon at the end": lambda tags: "; ".join(tags) + ";",
    "lines": "\n".join,
    "dots": " · ".join,
    "slashes": "/".join,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_found_and_is_the_same(spelling: str) -> None:
    tags = drawn()
    cells = [SPELLINGS[spelling](row) for row in tags]
    found = column_of(cells)
    assert found.role == "tags", found.reason
    assert "9 tags, most frequent: 'wifi' (153), 'hot tub' (141)" in found.reason
    names, arrays = arrays_of(cells)
    wanted, numbers = arrays_of(tags)
    assert names.numeric_names == wanted.numeric_names
    np.testing.assert_array_equal(arrays.numeric, numbers.numeric)
    assert not arrays.repaired


@settings(deadline=None, max_examples=60)
@given(
    tags=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\\"), min_size=1).map(str.strip), max_size=4)
)
def test_json_and_python_give_back_any_tag(tags: list[str]) -> None:
    wanted = [tag for tag in tags if tag]
    assert tags_of(json.dumps(tags), "list") == wanted
    assert tags_of(json.dumps(tags, ensure_ascii=False), ",") == wanted  # as real lists come to a column of texts


@settings(deadline=None, max_examples=60)
@given(
    tags=st.lists(st.from_regex(r"[A-Za-zé][A-Za-z0-9é' ()-]{0,8}[a-z0-9]", fullmatch=True), min_size=1, max_size=5),
    sign=st.sampled_from(["|", ";", "\n", "•", "·", ",", "/"]),
    blanks=st.sampled_from(["", " "]),
)
def test_any_sign_parts_tags(tags: list[str], sign: Any, blanks: str) -> None:
    assert tags_of(f"{blanks}{sign}{blanks}".join(tags), sign) == tags


@pytest.mark.parametrize("text", ['{"a": 1}', "{'a': [1]}", '[["a"]]', '[{"a": 1}]', "{a: 1}", "[['a'], ['b']]"])
def test_objects_are_no_tags(text: str) -> None:
    assert tags_of(text, "list") is None


RANDOM = np.random.default_rng(1)
FIRST, LAST = ["Ann", "Bob", "Cleo", "Dev", "Eli", "Fay", "Gus"], ["Roe", "Poe", "Coe", "Noe", "Loe", "Zoe", "Moe"]
NO_TAGS: dict[str, list[Any]] = {
    "towns": [f"{LAST[i % 7]}, {FIRST[i % 5]}" for i in RANDOM.integers(0, 35, ROWS)],
    "names": [f"{RANDOM.choice(LAST)}; {RANDOM.choice(FIRST)}" for _ in range(ROWS)],
    "addresses": [f"{i} Oak Road, Springfield, {RANDOM.choice(['IL', 'OH'])}" for i in range(ROWS)],
    "prose": [f"Bright rooms, {RANDOM.choice(LAST)} lived here in {i}, near the park" for i in range(ROWS)],
    "thousands": [f"{RANDOM.integers(1, 999)},{RANDOM.integers(100, 999)}" for _ in range(ROWS)],
    "decimals": [f"{RANDOM.integers(1, 99)},{RANDOM.integers(1, 9)}" for _ in range(ROWS)],
    "coordinates": [f"{RANDOM.integers(1, 9)}.5, {RANDOM.integers(1, 9)}.25" for _ in range(ROWS)],
    "sizes": [f"{RANDOM.integers(1, 9)}/{RANDOM.integers(1, 9)}" for _ in range(ROWS)],
    "dates": [f"{RANDOM.integers(1, 28)}/{RANDOM.integers(1, 12)}/2020" for _ in range(ROWS)],
    "photos": [",".join(f"{RANDOM.choice(LAST)}{n}.png" for n in range(i % 3 + 1)) for i in range(ROWS)],
    "addresses in the web": [f"https://a.org/{RANDOM.choice(LAST)}/{RANDOM.choice(FIRST)}/x" for _ in range(ROWS)],
    "levels with a sign": [("red, white", "blue", "green, gold")[i % 3] for i in range(ROWS)],
    "one sign in a hundred": [("plain", "other")[i % 2] if i % 100 else "plain, other" for i in range(ROWS)],
    "vectors": [list(RANDOM.normal(size=3)) for _ in range(ROWS)],
    "vectors as text": [str(list(RANDOM.normal(size=3))) for _ in range(ROWS)],
    "objects as text": [json.dumps({"a": i % 3, "b": [1]}) for i in range(ROWS)],
    "ids": [f"a{i},b{i}" for i in range(ROWS)],
    "ids in braces": [f"{{{RANDOM.choice(LAST)}-{RANDOM.choice(FIRST)}}}" for _ in range(ROWS)],
    "lists of photo names": [str([f"{i}.jpg", f"{i}b.jpg"]) for i in range(ROWS)],
    "remarks in brackets": [("[sic]", "plain")[i % 4 > 0] for i in range(ROWS)],
}


@pytest.mark.parametrize("name", NO_TAGS)
def test_other_texts_are_no_tags(name: str) -> None:
    assert column_of(NO_TAGS[name]).role != "tags"


def test_a_few_cells_that_are_no_tags_are_missing_and_told() -> None:
    cells = [json.dumps(tags) for tags in drawn()]
    cells[3] = cells[8] = '{"a": 1}'
    found = column_of(cells)
    assert (found.role, found.note) == ("tags", "2 of 200 cells are not tags, treated as missing")
    fitted, arrays = arrays_of(cells)
    assert [(record.row, record.problem) for record in arrays.repaired] == [
        (3, "not a list of tags"),
        (8, "not a list of tags"),
    ]
    assert fitted.numeric_names[-1] == "extras is missing"
    assert np.flatnonzero(arrays.numeric[:, -1]).tolist() == [3, 8]


def test_models_see_the_frequent_tags_the_number_and_what_is_missing() -> None:
    train = [["a", "b"], ["b"], ["b", "c"], ["a"], None, []] * LEAST_ROWS + [["rare", "b"]]
    fitted, _ = arrays_of(train)
    assert fitted.numeric_names == (
        "extras: b",
        "extras: a",
        "extras: c",
        "extras: number of tags",
        "extras is missing",
    )
    assert set(fitted.numeric_sources) == {"extras"}  # one player of an explanation
    found = fitted.transform(pd.DataFrame({"extras": [["c", "a", "a"], ["new", "b"], [], None, ["rare"]]}))
    np.testing.assert_array_equal(
        found.numeric[:, [0, 1, 2, 4]],
        [[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
    )
    number = found.numeric[:, 3]
    assert number[0] == number[1] > number[4] > number[2]
    assert number[3] == number[4]  # the median of the training rows
    told = [(record.row, record.problem, record.action) for record in found.repaired]
    assert told == [(1, "tag 'new' not seen in training", "tag left out")]


def test_a_tag_of_all_rows_or_of_few_is_not_seen_by_itself() -> None:
    fitted, _ = arrays_of([["all", *(["few"] if i < LEAST_ROWS - 1 else []), *(["half"] * (i % 2))] for i in range(40)])
    assert fitted.numeric_names == ("extras: half", "extras: number of tags")


def test_of_many_tags_the_most_frequent_are_seen() -> None:
    words = [f"w{i:03}" for i in range(120)]
    fitted, _ = arrays_of([words[: 5 + i] for i in range(100)])
    assert len(fitted.numeric_names) == MOST_TAGS + 1
    assert fitted.numeric_names[0] == "extras: w005"  # all rows have w000 to w004


def test_only_training_rows_are_learnt_from() -> None:
    cells = drawn()
    schema = schema_of(cells, extras="tags", x="ignored")
    table = Table(pd.DataFrame({"extras": [*cells, *[["late", "wifi"]] * 50], "y": 0.0}))
    of_part = TablePreprocessor.fit(table.select(np.arange(ROWS)), schema)
    assert of_part.to_dict() == TablePreprocessor.fit(pd.DataFrame({"extras": cells, "y": 0.0}), schema).to_dict()
    assert "late" not in json.dumps(of_part.to_dict())


@pytest.mark.parametrize("spelling", ["list", "JSON", "pipe", "comma and blank"])
def test_the_state_is_saved_and_reads_every_spelling(spelling: str) -> None:
    fitted, wanted = arrays_of([SPELLINGS[spelling](tags) for tags in drawn()])
    loaded = TablePreprocessor.from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False)))
    assert loaded == fitted
    for other in {"list", "JSON", spelling}:
        cells = pd.Series([SPELLINGS[other](tags) for tags in drawn()])
        np.testing.assert_array_equal(loaded.transform(pd.DataFrame({"extras": cells})).numeric, wanted.numeric)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tags": ["a", "a"]}, "a tag occurs twice"),
        ({"tags": ["a"], "others": ["a"]}, "a tag occurs twice"),
        ({"tags": "ab"}, "wrong type"),
        ({"between": "and"}, r"must be one of list"),
        ({"flag": 1}, "wrong type"),
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, Any], text: str) -> None:
    saved = arrays_of(drawn())[0].to_dict()
    saved["tags"][0] |= change
    with pytest.raises(DataError, match=text):
        TablePreprocessor.from_dict(saved)


def test_what_stands_between_tags_is_kept_for_a_table_that_does_not_show_it() -> None:
    fitted, _ = arrays_of([" | ".join(tags) for tags in drawn()])
    found = fitted.transform(pd.DataFrame({"extras": ["wifi|TV", "wifi, TV", "TV"]}))
    assert [record.row for record in found.repaired] == [1]
    has = dict(zip(fitted.numeric_names, found.numeric.T, strict=True))
    assert has["extras: TV"].tolist() == [1, 0, 1]


def test_rows_in_pieces_are_read_as_the_whole() -> None:
    cells = [None if i % 9 == 0 else tags for i, tags in enumerate(drawn())]
    fitted, wanted = arrays_of(cells)
    frame = pd.DataFrame({"extras": cells})
    table = Table.of_pieces([frame.iloc[start : start + 60] for start in range(0, ROWS, 60)], [])
    np.testing.assert_array_equal(fitted.transform(table).numeric, wanted.numeric)


def test_a_role_by_hand_says_what_it_finds_or_refuses() -> None:
    assert column_of(["a", "b"] * 20, extras="tags").note == "2 tags, most frequent: 'a' (20), 'b' (20)"
    with pytest.raises(
        ConfigError, match=r"'extras' cannot have the role tags: 0 of 40 cells are not tags and 0 are empty"
    ):
        schema_of([[]] * 40, extras="tags")
    with pytest.raises(
        ConfigError, match=r"'extras' cannot have the role tags: 40 of 40 cells are not tags .* row 0 is '\[\["
    ):
        schema_of([[["a"]]] * 40, extras="tags")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([f"{20 + place / 7:.1f} cm" for place in range(60)], r"numbers such as '20.0 cm' \(in cm\).*: --set x=number"),
        ([f"${1000 + place:,}" for place in range(60)], r"numbers such as '\$1,000' \(in \$\).*: --set x=number"),
        ([f"{place / 8:.3f}".replace(".", ",") for place in range(60)], r"numbers such as .* \(decimal comma\)"),
        ([str(place % 7) for place in range(60)], r"numbers such as '0', no lists of tags: --set x=number"),
        ([f"2021-03-{1 + place % 28:02d}" for place in range(60)], "dates such as '2021-03-01', no lists of tags"),
        ([f"House, number {place}" for place in range(60)], r"60 of 61 tags are in one row only"),
    ],
    ids=["unit", "money", "comma", "codes", "dates", "addresses"],
)
def test_tags_that_are_set_by_hand_where_there_are_none_are_doubted_in_a_sentence(cells: list[str], said: str) -> None:
    frame = pd.DataFrame({"x": cells, "y": np.arange(60.0) ** 2})
    column = infer_schema(frame, "y", roles={"x": "tags"}).columns[0]
    assert column.role == "tags"
    assert re.search(said, column.note), column.note


def test_tags_that_are_set_by_hand_and_are_some_are_not_doubted() -> None:
    frame = pd.DataFrame({"x": ["wifi; pool", "pool", "pets; wifi"] * 20, "y": np.arange(60.0) ** 2})
    column = infer_schema(frame, "y", roles={"x": "tags"}).columns[0]
    assert column.note == "3 tags, most frequent: 'pool' (40), 'wifi' (40), 'pets' (20)"


TAILS = [
    "close to the park",
    "frisch renoviert",
    "sea view",
    "ruhig gelegen",
    "with a lift",
    "two minutes from the bus",
]


@pytest.mark.parametrize("sign", [", ", "; ", " / "])
@pytest.mark.parametrize("end", ["", ".", "!", "\u3002", '."'])
def test_running_text_whose_parts_come_back_is_no_list_of_tags(sign: str, end: str) -> None:
    """Sentences from a template repeat as tags do; they end as sentences, or their parts have many words."""
    rng = np.random.default_rng(0)
    start = "A flat in the city of" if not end else "Flat in"
    cells = [
        f"{start} {rng.choice(['Rome', 'Oslo'])}{sign}{sign.join(rng.choice(TAILS, 3, replace=False))}"
        for _ in range(200)
    ]
    frame = pd.DataFrame({"x": [cell + end for cell in cells], "y": rng.normal(size=200)})
    assert infer_schema(frame, "y").columns[0].role == "text"


def test_tags_of_several_words_stay_tags() -> None:
    rng = np.random.default_rng(0)
    tags = [
        "Wifi",
        "Hot tub",
        "Free parking on premises",
        "Air conditioning",
        "St. John",
        "Long term stays allowed",
        "TV",
    ]
    cells = [", ".join(rng.choice(tags, 4, replace=False)) for _ in range(200)]
    assert infer_schema(pd.DataFrame({"x": cells, "y": rng.normal(size=200)}), "y").columns[0].role == "tags"
