"""Text tables read in pieces: the cells of the whole table, or no pieces at all."""

import gzip
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mixfit.config import TextConfig
from mixfit.data.columns.form import TextForm
from mixfit.data.table import text_pieces
from mixfit.data.table.pieces import TablePieces, table_pieces
from mixfit.data.table.read import read_as_configured, read_table
from mixfit.errors import DataError

ROWS = 1_000


def table(separator: str = ",", *, quoted: bool = False) -> str:
    """Numbers, words, empty cells; with ``quoted`` also separators, line breaks and quotes within cells."""
    rng = np.random.default_rng(0)
    words = np.array(["plain", "", "ünïcode", 'say "x"' if quoted else "say x", f"a{separator}\nb" if quoted else "ab"])
    frame = pd.DataFrame(
        {
            "number": np.where(rng.random(ROWS) < 0.2, np.nan, rng.normal(size=ROWS).round(3)),
            "word": words[rng.integers(0, 5, ROWS)],
            "row": np.arange(ROWS),
        }
    )
    return frame.to_csv(index=False, sep=separator)


def opened(path: Path, *, least: int = 1_000, size: int = 64, undecided: tuple[str, ...] = ()) -> TablePieces:
    return table_pieces(path, TextConfig(), most_rows=size, most_bytes=least, undecided=undecided)


def written(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("end", ["", "\n", "\n\n \n\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.csv.gz", ";"), ("t.tsv", "\t"), ("t.txt", "|")])
def test_pieces_are_the_rows_of_the_whole_table(
    name: str,
    separator: str,
    quoted: bool,
    mark: bytes,
    end: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_pieces, "CHUNK_BYTES", 7_000)
    text = table(separator, quoted=quoted).removesuffix("\n") + end
    path = written(tmp_path, mark + text.encode(), name)
    pieces = opened(path)
    assert pieces.table is None
    assert pieces.rows == ROWS
    found = list(pieces)
    assert {len(piece) for piece in found[:-1]} == {pieces.size}
    whole, _ = read_as_configured(path, TextConfig())
    pd.testing.assert_frame_equal(pd.concat(found, ignore_index=True), whole.frame)
    assert pieces.file == whole.file


@pytest.mark.parametrize(
    "text",
    [
        table().replace("plain", 'pl"ain', 1),
        table().replace("\n", "\n,,\n", 300),
        table().encode("cp1252"),
        table().encode("utf-16"),
        table().replace("\n", "\r"),
        "one\n" + "1\n" * ROWS,
    ],
    ids=["quote", "empty rows", "cp1252", "utf-16", "old line ends", "one column"],
)
def test_what_needs_the_whole_file_is_read_whole(text: str | bytes, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    pieces = opened(path)
    assert pieces.table is not None
    pd.testing.assert_frame_equal(pd.concat(list(pieces), ignore_index=True), read_table(path))


@pytest.mark.parametrize("text", [table().replace("\n", "\n\n", 300), table().replace("ünïcode", "\x00", 1)])
def test_what_cannot_be_read_is_refused_as_of_the_whole_table(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DataError) as whole:
        read_table(path)
    with pytest.raises(DataError, match=re.escape(str(whole.value))):
        opened(path)


def test_a_ragged_row_is_told_as_of_the_whole_table(tmp_path: Path) -> None:
    path = written(tmp_path, table() + "1,2\n" + table().split("\n", 1)[1])
    with pytest.raises(DataError, match=r"1 of 2001 rows do not have 3 cells like the header: line 1002 has 2"):
        opened(path)


def test_a_torn_archive_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, table(), "t.csv.gz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="is not a complete gzip file"):
        opened(path)


def test_a_small_table_is_read_whole(tmp_path: Path) -> None:
    assert opened(written(tmp_path, table()), least=10**6).table is not None


@pytest.mark.parametrize(
    ("separator", "cell", "whole"), [(",", "1.5", False), (",", "n/a", False), (",", '"1,5"', True), (";", "1.5", True)]
)
def test_numbers_that_may_be_written_in_two_ways_are_seen_as_a_whole(
    separator: str, cell: str, whole: bool, tmp_path: Path
) -> None:
    text = table(separator) + separator.join([cell, "word", "3"]) + "\n"
    pieces = opened(written(tmp_path, text), undecided=("number",))
    assert (pieces.table is not None) == whole


@pytest.mark.parametrize("cut", range(1, 9))
def test_quotes_are_paired_whatever_the_chunks(cut: int) -> None:
    text = table(quoted=True)
    broken = text.replace('""', '" "', 1)
    for one, right in ((text, True), (broken, False)):
        quotes = text_pieces._Quotes(",")
        data = one.encode()
        parts = [data[start : start + cut] for start in range(0, len(data), cut)]
        added = [quotes.add(part) for part in parts]
        assert (all(added) and quotes.paired()) == right


def test_the_encoding_of_training_names_plain_ascii(tmp_path: Path) -> None:
    path = written(tmp_path, table().replace("ünïcode", "ascii"))
    learnt = TextForm(encoding="cp1252", separator=",")
    pieces = table_pieces(path, TextConfig(), most_rows=64, most_bytes=1_000, learnt=learnt)
    whole, _ = read_as_configured(path, TextConfig(), learnt)
    assert pieces.table is None
    assert pieces.file == whole.file
