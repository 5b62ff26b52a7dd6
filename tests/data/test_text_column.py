"""Which columns are taken for texts, which only look like some, and what inspection says of them."""

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mixfit.auto.inspection import Inspection, inspect_table
from mixfit.config import DataConfig
from mixfit.data.checks.table import parts_of
from mixfit.data.checks.texts import one_line, text_findings, text_statistics
from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.infer import SUSPICIOUS, infer_schema
from mixfit.data.columns.kinds import KINDS
from mixfit.data.columns.schema import Column, Schema
from mixfit.data.columns.text import Text, text_lengths
from mixfit.data.columns.words import MOST_CHARACTERS
from mixfit.data.split import Split
from mixfit.errors import ConfigError, DataError

ROWS = 120


def column_of(cells: Sequence[object], name: str = "x", role: str | None = None) -> Column:
    """What a column is taken for beside a number and a target of numbers."""
    rows = len(cells)
    frame = pd.DataFrame({name: list(cells), "size": np.arange(rows) % 7 * 1.5, "y": np.arange(rows) ** 1.5})
    return infer_schema(frame, "y", roles={name: role} if role else None).columns[0]


POOLS = {
    "goods": "bag coat phone lamp desk rug cup pan hat tie sock shoe table mirror candle kettle",
    "judged": "great awful cheap lovely broken useless perfect solid fine flimsy",
    "first": (
        "Ana Ben Carla Dmitri Emma Felix Greta Hana Ivan Joan Karl Lena Marco Nina Omar Paula Rosa Sven Tara Uri Vera "
        "Will Xenia Yusuf Zoe Adele Boris Clara Dora Elias Fatima Gino Heidi Ines Jonas Klara Lars Mina Noor Otto Pia"
    ),
    "last": (
        "Smith Okafor Meyer Rossi Silva Tanaka Novak Lund Park Kowalski Ibarra Haddad Fischer Dubois Moreau Jensen "
        "Berg Conti Costa Weber Ortiz Petrov Ivanova Nagy Horvat Kaya Demir Nguyen Singh Patel Khan Abebe Diallo Walsh"
    ),
}


def made(pattern: str, rows: int = ROWS) -> list[str]:
    """Different cells of one pattern: ``{goods}`` is a word of a pool, ``[a b]`` one of several, ``9`` a digit."""
    draw, found = random.Random(0), dict[str, None]()
    pools = POOLS | {name.title(): words.title() for name, words in POOLS.items()}

    def one(place: re.Match[str]) -> str:
        word = place.group()
        if word == "9":
            return draw.choice("123456789")
        return draw.choice((pools[word[1:-1]] if word[0] == "{" else word[1:-1]).split())

    for _ in range(100 * rows):
        if len(found) < rows:
            found[re.sub(r"\{\w+\}|\[[^]]*\]|9", one, pattern)] = None
    assert len(found) == rows
    return list(found)


TEXTS = {
    "reviews": made("The {goods} was {judged} and the {goods} came too late for us."),
    "tweets": made("@{goods}_shop this {goods} is {judged}!!! #{judged} 😀 https://t.co/{goods}"),
    "titles of films": made("The {Judged} {Goods} of {last}"),
    "titles of goods": made("{last} [Men Women Kids] [Blue Red Black Green] {Goods} [Slim Wide]"),
    "titles with models": made("{last} {Goods} [XS M XL]99"),
    "sentence case": made("{Judged} {goods} {goods}"),
    "German": made("[Winter Sommer Kinder][jacke stiefel mütze] für [Damen Herren] mit {goods}"),
    "German compounds": made(
        "[Winter Sommer Kinder Damen Herren Regen][jacken stiefel mützen schuh][halter verkauf kasten schrank lager]"
    ),
    "French": made("très [bon beau vieux] [sac lit lampe] pour [la le] [maison cour salle ville] de {first}"),
    "Chinese": made("[红色 黑色 蓝色 新款][真皮 纯棉 加厚][休闲 时尚 百搭][连衣裙 手提包 运动鞋 衬衫]"),
    "Japanese": made(
        "この[部屋 商品 店 料理]は[とても すこし かなり][良い 高い 古い 静か]と[思います 感じた 聞いた]。"
    ),
    "Thai": made(
        "[ห้องพัก อาหาร บริการ][สะอาดมาก ดีมาก ถูก][ใกล้ชายหาด ไกลเมือง ในเมือง][พนักงานเป็นมิตร ราคาแพง ราคาถูก ไม่มีใคร ครับ]"
    ),
    "Arabic": made(
        "الفندق [نظيف صغير قديم رائع] و [الغرفة الخدمة المدينة] [ممتازة بعيدة قريبة كبيرة] من [البحر المطار السوق]"
    ),
    "Hebrew": made(
        "הדירה [נקייה קטנה יפה ישנה] מאוד [והמיקום והשכן והנוף] [מצוין רועש שקט נחמד] קרוב [לים לעיר לתחנה]"
    ),
    "Korean": made(
        "[방이 음식이 집이] [정말 아주 조금] [깨끗하고 좋고 비싸고] [역에서 공항에서] [가깝고 멀고 예쁘고] 다시 가고"
    ),
    "ingredients": made("{goods} oil (45 %), {judged} {goods} powder, salt, E999, may contain {goods}"),
    "SQL": made("SELECT {goods}, {judged} FROM {goods} WHERE {judged} = 99 ORDER BY {goods}"),
    "log lines": made("[Retry Connected Refused] to host 10.0.99.9 after 999 ms by {goods}"),
    "card payments": made("POS PURCHASE [AMZN SHELL UBER ALDI] [MKTP OIL TRIP STORE] 9999 [LONDON PARIS OSLO]"),
    "abstracts": made("We study {goods} under {judged} conditions and show that the {goods} is {judged} (p < 0.99)."),
}

NAMES = {
    "persons or places": made("{first} {last}"),
    "persons or places in Dutch": made("{first} [de van ter] {last}"),
    "persons or places, last name first": made("{last}, {first}"),
    "persons or places with initials": made("{first} [A B C D E F]. {last}-{last}"),
    "companies": made("{last} [Ltd Inc LLC Group GmbH]"),
    "companies in Chinese": made(
        "[昊嘉 佳禾 晖来 菊风 天成 华远][科技 传媒 网络 信息 电子][上海 北京 广州 深圳]有限公司"
    ),
    "addresses": made("999 {last} [St Ave Road Lane], {last}ville"),
    "addresses in Germany": made("{last}straße 99, 99999 [Bonn Köln Trier]"),
    "addresses in France": made("99 rue {last}, 79999 [Paris Lyon Nice]"),
    "addresses in Spain": made("Calle {last} 99, 29999 [Madrid Sevilla Jaén]"),
    "addresses in Poland": made("ul. {last} 99, 99-999 [Łódź Gdynia Opole]"),
    "addresses in Japan": made("[東京都 大阪府][渋谷区 港区 北区][丸の内 芝浦 千塚]9丁目9番9号"),
    "e-mail addresses": made("{first}.{last}@[example.org mail.example.com]"),
    "names of files": made("[docs/ notes/ /tmp/]{goods}_99.[pdf docx csv]"),
    "single words": made("{last}[burg ville ton stad sen son]"),
}

OTHERS = {
    "codes": made("[AB CX QZ]-9999"),
    "codes with blanks": made("[AB CX QZ] 9999 [XL M S]"),
    "plates": made("[A B C D E F G H][A B C D E F G H][A B C D E F G H] 999 [K L M]"),
    "telephones": made("+49 (999) 999-9999"),
    "telephones with words": made("tel. 999999 ext. 99"),
    "hashes": made("[a b c d e f 0 1][a b c d e f 0 1]9999[a b c d e f 0 1][a b c d e f 0 1]9999"),
    "urls": made("https://example.org/{goods}/9999"),
    "emoji": made("[😀 😂 👍 🔥 🎉 🙏 🎈][😀 😂 👍 🔥 🎉 🙏 🎈][😀 😂 👍 🔥 🎉 🙏 🎈]"),
    "numbered": [f"Part No. {row}" for row in range(ROWS)],
    "sizes": made("99 x 99 x 9 cm"),
    "dates in words": made("[1 2 3 5 8 13 21] [January March May July] [2001 2004 2012 2020 2021]"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_any_language_and_kind_are_texts(name: str) -> None:
    found = column_of(TEXTS[name])
    assert found.role == "text", found.reason
    assert "a cell, 100 % distinct" in found.reason


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_texts_and_it_is_said_how_to_use_them(name: str) -> None:
    found = column_of(NAMES[name])
    assert found.role == "ignored", found.reason
    assert found.reason.startswith("looks like ")
    assert name.split(" in ")[0].split(",")[0].removesuffix(" with initials") in found.reason
    assert found.note == "use: --set x=text"


@pytest.mark.parametrize("name", OTHERS)
def test_codes_and_the_like_stay_what_they_were(name: str) -> None:
    without = tuple(kind for kind in KINDS if kind.role != "text")
    frame = pd.DataFrame({"x": OTHERS[name], "size": np.arange(ROWS) % 7 * 1.5, "y": np.arange(ROWS) ** 1.5})
    with_texts, before = (infer_schema(frame, "y", kinds=kinds).columns[0] for kinds in (KINDS, without))
    assert with_texts == before
    assert with_texts.role != "text"


@pytest.mark.parametrize(
    "cells",
    [
        ["Entire home/apt", "Private room", "Shared room", "Hotel room"],
        ["very good condition", "like new, no scratches at all", "used but still fully working", "for parts or repair"],
        ["a level of a category that takes as many words as a sentence does", "and another one of the same length"],
    ],
)
def test_levels_that_repeat_stay_categories_however_many_words_they_have(cells: list[str]) -> None:
    assert column_of(cells * 30).role == "category"


def test_models_with_many_repeats_stay_a_category() -> None:
    models = made("[Ford Kia Audi Fiat] [Focus Rio Panda Uno Ibiza X5 Polo Up]", rows=30)
    assert column_of(models * 4).role == "category"


def test_lists_of_tags_stay_tags_and_prose_with_commas_is_no_list() -> None:
    draw, there = random.Random(0), ["wifi", "pool", "garden", "sauna", "parking", "lift"]
    tags = [", ".join(draw.sample(there, draw.randint(2, 5))) for _ in range(99)]
    assert column_of(tags).role == "tags"
    prose = made("A {judged}, {judged} {goods}, as {last} said, and we liked it")
    assert column_of(prose).role == "text"


@pytest.mark.parametrize(("name", "role"), [("owner", "ignored"), ("title", "text"), ("job_title", "text")])
def test_the_name_of_a_column_decides_where_the_words_do_not(name: str, role: str) -> None:
    titles = made("[Senior Junior Lead Chief] [Engineer Analyst Nurse Cook Teacher Driver]", rows=24)
    assert column_of(titles, name).role == role


def test_the_name_decides_nothing_of_prose_and_codes() -> None:
    assert column_of(TEXTS["reviews"], "owner").role == "text"
    assert column_of(OTHERS["codes"], "title").role == "ignored"
    assert column_of(TEXTS["reviews"], "review_id").reason == "unique text, name ends in _id"


def test_few_rows_of_prose_are_texts_and_long_texts_that_repeat_are_too() -> None:
    assert column_of(TEXTS["reviews"][:4]).role == "text"
    often = column_of(TEXTS["reviews"][:30] * 20)
    assert often.role == "category"
    long = [f"{one} {two} {three}" for one, two, three in zip(*[iter(TEXTS["reviews"])] * 3, strict=True)]
    found = column_of(long * 20)
    assert (found.role, found.note) == ("text", "could be category: --set x=category")


def test_empty_cells_are_counted_and_the_share_is_of_those_that_are_there() -> None:
    found = column_of([*TEXTS["reviews"], *TEXTS["reviews"][:1], *[None] * 40, "  "])
    assert (found.role, found.missing) == ("text", 41)
    assert found.reason == "prose: 12 words a cell, 99 % distinct"


@given(
    st.permutations(TEXTS["titles of films"][:40]),
    st.sampled_from([str.upper, str.lower, "{} ".format, "\n{}\t".format, "“{}”".format]),
)
@settings(deadline=None, max_examples=25)
def test_neither_order_nor_case_nor_blanks_decide(cells: list[str], change: Callable[[str], str]) -> None:
    assert column_of([change(cell) for cell in cells]).role == "text"


@given(st.lists(st.text(max_size=60), min_size=2, max_size=40))
@settings(deadline=None, max_examples=60)
def test_any_text_has_a_role_a_length_and_a_line(cells: list[str]) -> None:
    column = pd.Series(cells, dtype="str", name="x")
    found = column_of(cells)
    assert found.role in {"text", "category", "ignored", "number", "date", "tags", "image"}
    unit, lengths = text_lengths(Cells(column))
    assert unit in ("words", "characters")
    assert ((lengths == 0) | (Cells(column).levels.codes >= 0)).all()
    share, said = Text().describe(Cells(column))
    assert 0 <= share <= 1
    assert said
    for cell in cells:
        line = one_line(cell)
        assert len(line) <= 80
        assert all(sign.isprintable() or sign in "\u200c\u200d" for sign in line)


@pytest.mark.parametrize(
    ("text", "unit", "length"),
    [
        ("A vase, signed.", "words", 3),
        ("don't  stop\n\nnow", "words", 3),
        ("😀 👍", "words", 0),
        ("room 12 - 3rd floor", "words", 4),
        ("红色连衣裙", "characters", 5),
        ("iPhone 手机壳新款", "characters", 6),
        ("ห้องพักสะอาด", "characters", 12),
        ("정말 좋아요", "words", 2),
        ("نظيف جدا", "words", 2),
        ("", "words", 0),
    ],
)
def test_words_are_counted_and_characters_where_there_are_no_blanks(text: str, unit: str, length: int) -> None:
    assert text_lengths(Cells(pd.Series([text], dtype="str"))) == (unit, [length])


# Set by hand


def test_any_plain_cells_may_be_set_to_texts() -> None:
    assert column_of(["red", "blue"] * 30, role="text").note == "only 2 different texts: could be category"
    assert column_of(NAMES["companies"], role="text").note == ""
    numbers = "its cells are numbers, read as words: --set x=number reads them as numbers"
    assert column_of(np.arange(30), role="text").note == numbers
    assert column_of(["2020-01-31", "2021-02-03", "2022-05-06"] * 9, role="text").note.startswith("its cells are dates")
    truth = column_of([True, False] * 9, role="text").note
    assert truth == "its cells are truth values, read as words: --set x=category reads them as truth values"
    empty = column_of([None] * 9, role="text")
    assert (empty.role, empty.missing, empty.note) == ("text", 9, "all cells are empty")


@pytest.mark.parametrize("cell", [{"a": 1}, b"bytes", ["a", "b"]])
def test_cells_that_are_no_plain_values_are_no_texts(cell: object) -> None:
    told = r"column 'x' cannot have the role text: its cells are of type \w+, not plain values"
    with pytest.raises(ConfigError, match=told):
        column_of([cell] * 20, role="text")


def test_a_text_may_be_the_only_column_beside_the_target() -> None:
    frame = pd.DataFrame({"x": TEXTS["reviews"], "y": np.arange(ROWS) ** 1.5})
    schema = infer_schema(frame, "y")
    assert schema.inputs == ["x"]
    assert schema.features == []
    with pytest.raises(DataError, match="none of the 1 columns beside the target"):
        infer_schema(frame.assign(x=NAMES["e-mail addresses"]), "y")


def test_empty_texts_that_give_the_target_away_are_suspicious() -> None:
    sold = np.arange(ROWS) % 2
    texts = np.where(sold == 1, TEXTS["reviews"], None)
    column = infer_schema(pd.DataFrame({"x": texts, "size": np.arange(ROWS) % 7 * 1.5, "y": sold}), "y").columns[0]
    assert (column.role, column.note) == ("text", SUSPICIOUS)


def test_the_kind_is_shown_and_learns_nothing() -> None:
    cells = Cells(pd.Series(["one", "two words", None, "two words", "a b c d"], dtype="str"))
    assert Text().describe(cells) == (pytest.approx(0.2), "1 to 4 words, median 2")
    assert Text().missing(cells) == 1
    assert Text().values(cells).tolist() == [0, 1, -1, 1, 2]
    assert Text().describe(Cells(pd.Series([None, None], dtype="str"))) == (1.0, "no texts")
    with pytest.raises(TypeError, match="learnt by an encoder of texts"):
        Text().fit(cells, None)


def test_a_schema_with_texts_is_saved_and_read(tmp_path: Path) -> None:
    schema = infer_schema(pd.DataFrame({"x": TEXTS["Chinese"], "y": np.arange(ROWS) ** 1.5}), "y")
    schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == schema
    assert schema.columns[0].reason == "short texts: 9 characters a cell, 100 % distinct"


# Faults


@pytest.mark.parametrize(
    "odd",
    [
        "😀" * 40,
        "word " * 200_000,
        "\x00\x01\x02 a cell \x1b[31m with \x7f control characters",
        "a cell\x00with\x00NUL",
        "\u202ereversed text of a cell\u202c",
        "نص من اليمين إلى اليسار",
        "word" * 100_000,
        "\n\n\t\r\n",
        "\ufeff\u200b\ufffd",
    ],
)
def test_odd_cells_among_texts_change_nothing_and_are_shown_on_one_line(odd: str) -> None:
    cells = [odd, *TEXTS["reviews"]]
    frame = pd.DataFrame({"x": cells, "y": np.arange(len(cells)) ** 1.5})
    schema = infer_schema(frame, "y")
    assert schema.columns[0].role == "text"
    (found,) = text_statistics(frame, schema)
    assert len(found.sample) <= 80
    assert found.sample.isprintable()
    assert found.copies == 0


def test_half_a_surrogate_pair_is_refused_with_a_sentence_or_kept_as_it_is() -> None:
    frame = pd.DataFrame({"x": pd.Series([*TEXTS["reviews"], "half \ud83d"], dtype=object), "y": np.arange(ROWS + 1)})
    with pytest.raises(DataError, match="not valid Unicode"):
        inspect_table(frame, target="y", console=Console(quiet=True))


@pytest.mark.parametrize("cells", [[None] * 30, ["the same text of some words"] * 30, ["", " "] * 15])
def test_empty_and_equal_cells_are_no_texts(cells: list[str | None]) -> None:
    assert column_of(cells).role == "ignored"


def test_one_row_may_be_a_text_by_hand() -> None:
    frame = pd.DataFrame({"x": ["one text only"], "size": [1.0], "y": [2.0]})
    assert text_lengths(Table.of(frame)["x"]) == ("words", [3])
    assert Text().describe(Table.of(frame)["x"]) == (0.0, "3 words, median 3")


# Inspection


LONG = [" ".join(TEXTS["reviews"][row : row + 2]) for row in range(0, ROWS, 2)]


def findings(cells: Sequence[str | None], parts: Sequence[str]) -> list[str]:
    frame = pd.DataFrame({"x": list(cells), "y": np.arange(len(cells)) ** 1.5})
    schema = infer_schema(frame, "y", roles={"x": "text"})
    rows = {name: np.flatnonzero(np.array(parts) == name) for name in ("train", "valid", "test")}
    return [f"{one.level}: {one.text}" for one in text_findings(frame, schema, parts_of(Split(**rows), len(cells)))]


def test_long_texts_of_a_training_row_and_a_test_row_are_told() -> None:
    cells = [*LONG[:40], *LONG[38:40], LONG[0], *LONG[40:45]]
    parts = ["train"] * 40 + ["test"] * 2 + ["valid"] + ["test"] * 5
    assert findings(cells, parts) == [
        (
            "warning: x: 2 test rows have the same text as a training row, so the scores will look too good: rows "
            "38 (train) and 40 (test); 39 (train) and 41 (test)"
        ),
        (
            "warning: x: 1 validation row has the same text as a training row, so the scores will look too good: rows "
            "0 (train) and 42 (validation)"
        ),
    ]


@pytest.mark.parametrize(
    ("cells", "parts"),
    [
        (["a short text"] * 20, ["train"] * 10 + ["test"] * 10),
        ([*LONG[:10], *LONG[:10]], ["train"] * 20),
        ([*LONG[:10], *LONG[:10]], ["test"] * 10 + ["valid"] * 10),
        ([None] * 20, ["train"] * 10 + ["test"] * 10),
        (LONG[:20], ["train"] * 10 + ["test"] * 10),
        ([*LONG[:10], *LONG[:10]], ["train"] * 10 + [""] * 10),
    ],
)
def test_short_texts_and_those_within_a_part_are_not_told(cells: list[str], parts: list[str]) -> None:
    assert findings(cells, parts) == []


@given(st.integers(1, 30), st.integers(0, 9), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=20)
def test_as_many_rows_are_told_as_share_a_text_with_a_training_row(
    train: int, shared: int, draw: random.Random
) -> None:
    test = [*(draw.choice(LONG[:train]) for _ in range(shared)), *LONG[30:40]]
    told = findings([*LONG[:train], *test], ["train"] * train + ["test"] * len(test))
    assert len(told) == (shared > 0)
    if shared:
        assert told[0].startswith(f"warning: x: {shared} test row")


def test_cells_that_are_too_long_to_be_read_whole_are_told() -> None:
    cells = [*LONG[:20], "word " * MOST_CHARACTERS, "a" * MOST_CHARACTERS, "b" * (MOST_CHARACTERS + 1)]
    assert findings(cells, ["train"] * len(cells)) == [
        (
            "note: x: 2 cells have more than 50,000 characters, of which only the first 50,000 are read; the "
            "first is in row 20"
        )
    ]


def test_the_statistics_are_those_of_the_cells() -> None:
    cells = ["\tOne  two\nthree", None, "four five", "four five", "six", ""]
    frame = pd.DataFrame({"x": cells, "y": np.arange(6) ** 1.5})
    (found,) = text_statistics(frame, infer_schema(frame, "y", roles={"x": "text"}))
    assert (found.sample, found.unit, found.median, found.longest) == ("One two three", "words", 2, 3)
    assert (found.empty, found.copies, found.cut) == (2, 2, 0)
    assert found.describe() == "median 2 words, longest 3; 2 empty, 2 are equal to another"


@pytest.fixture
def inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Inspection, str]:
    """A table with texts, inspected: what is known, and what was printed."""
    frame = pd.DataFrame({"story": [*LONG[:50], *LONG[:10]], "y": np.arange(60) ** 1.5})
    frame.loc[0, "story"] = "<script>alert(1)</script> " + LONG[0]
    frame["split"] = ["train"] * 40 + ["valid"] * 10 + ["test"] * 10
    found = inspect_table(frame, target="y", config=DataConfig(), out=tmp_path / "out")
    return found, capsys.readouterr().out


def test_inspection_shows_texts_on_the_terminal_on_the_page_and_to_programs(inspected: tuple[Inspection, str]) -> None:
    found, printed = inspected
    assert "texts in story: median 24 words, longest 25; 0 empty, 18 are equal to another\n" in printed
    assert "   <script>alert(1)</script> The" in printed
    assert "9 test rows have the same text as a training row" in printed.replace("\n", " ")
    page = (found.folder / "inspect.html").read_text(encoding="utf-8")
    assert '<a href="#texts">Texts</a>' in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert "24 words" in page
    (told,) = json.loads(json.dumps(found.to_dict()))["texts"]
    assert (told["column"], told["copies"], told["unit"]) == ("story", 18, "words")


def test_a_table_without_texts_has_no_such_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"size": np.arange(60) % 7 * 1.5, "y": np.arange(60) ** 1.5})
    found = inspect_table(frame, target="y", out=tmp_path / "out")
    assert "texts in" not in capsys.readouterr().out
    assert "Texts" not in (found.folder / "inspect.html").read_text(encoding="utf-8")
    assert found.to_dict()["texts"] == []
