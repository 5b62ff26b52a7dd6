"""Columns of texts: titles, descriptions, reviews. Their words are read by an encoder of texts, not by an array here.

In: a column, and how its cells are worded. Out: whether they are texts, or only look like some: names of persons,
addresses, file names, codes. Counts words in any script; those written without blanks between words are counted by
characters."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from mixfit.choices import Role
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import TEXT_LEVELS, UNIQUE_ROWS, Facts, id_reason, name_words, url_share
from mixfit.data.columns.kind import ColumnState, Guess, Weight, empty_cells, refuse_nested
from mixfit.data.columns.words import ALPHABETS, MOST_CHARACTERS, UNSPACED, Words, to_words

PROSE_WORDS = 6
"""A median of so many words makes texts of cells that are not addresses, even where some cells repeat."""

_SAMPLE, _READ = 300, 2_000  # different cells, and characters of each, that tell how a column is worded
_ROWS = 2_000  # are enough for a median
_LONG, _FEW_COPIES, _VARIED = 100, 0.2, 0.5  # characters at the median; shares of the cells that differ
_MOST = 0.8  # of the cells
_SHORTEST = 1.5  # words a cell
_TEMPLATE = 0.3  # of the cells differ in more than their numbers
_WORDED = 0.1  # of the cells have a word that no name has
_FIRM_SHARE = 0.25  # of names of companies
_NUMBERED = 0.15  # of short texts; persons have no numbers
_COME_BACK, _ALL_BACK = 0.75, 0.9  # of the words are in other cells too; where the cells may as well be persons
_COMPOUND, _LETTERS = 12, 12  # letters of a word at the median, and different ones in a column
_CHUNK = 6  # letters of a part of a compound word

_CHARACTERS, _LETTER = re.compile(UNSPACED), re.compile(f"[{ALPHABETS}]")
_PARTS = re.compile(r"[\s/,;|\u3001\u30fb\uff0c\uff1b]+")
_EDGES = re.compile(r"^\W+|\W+$")
_CODE = re.compile(r"[@_\\=]|://|\w\.\w{2,}")
_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_FILE = re.compile(r"(?:\S+|.*\w)\.[a-zA-Z][a-z0-9A-Z]{1,4}|(?:/|[A-Za-z]:\\)[^\n]+")
_POSTCODE = re.compile(r"\b(?:[0-9]{2,4}[ -][0-9]{2,4}|[A-Z]{1,2}[0-9][0-9A-Z]? [0-9][A-Z]{2})\b")  # 61-668, S6 3DX
_HOUSE = re.compile(
    r"(?!(?:19|20)[0-9]{2}\b)[0-9]{1,5}[a-z]?\b.*|.*\s(?!(?:19|20)[0-9]{2}$)[0-9]{1,4}[a-z]?[.]?", re.DOTALL
)
_RUN = re.compile("[0-9]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that running text and titles have and names of persons have not, in a few languages.
_FUNCTION = _words(
    "the an of and in to for with on at from by is not or der die das und mit für im aus et les un une pour dans en "
    "los por con para una il per com med на для"
)
_ARTICLES = _words("the an der die das le la les el los las il lo os as")  # before a title, not a name
_PARTICLES = _words("de del della di da dos du des la van von der den ter zu af bin ibn al el ben y e")
_FIRMS = _words(
    "inc ltd ltda llc llp plc corp co company group holdings sons limited gmbh mbh ag kg ohg sa sas sarl srl spa bv nv "
    "ab hb oy as aps sl slu pty pvt "
    "şti aş oo spj sc sro doo jdoo kft zrt snc asa tbk оао ооо зао αε οε"  # noqa: RUF001
)
_FIRM_SIGNS = re.compile(r"有限公司|株式会社|有限会社|合同会社|주식회사|유한회사|\(주\)|บริษัท|(?i:công ty|tập đoàn)")
_STREETS = _words(
    "st street ave avenue rd road blvd boulevard ln lane dr drive court way hwy highway square apt rue chemin via "
    "viale piazza corso calle avenida plaza paseo carrer rua travessa praça largo ul ulica aleja plac ул вул пр nagar "
    "utca tér jl bulevardul đường phố phường"
)
_STREET_ENDS = (
    *("straße", "strasse", "str", "weg", "platz", "allee", "gasse", "straat", "laan", "gatan", "vägen", "veien"),
    *("vej", "시", "구", "로", "길"),
)
_STREET_SIGNS = re.compile("[路街號号丁目番區区縣県市省]|ถนน|ตำบล|อำเภอ|[ถตอจซ][.]")
# Names of columns that say what a short text is where the cells could be either.
_NAMES = _words(
    "owner host seller author writer director artist actor composer customer client user person employee agent contact "
    "player driver teacher doctor patient first last full surname firstname lastname company brand vendor supplier "
    "manufacturer city town place location region county district street address neighbourhood neighborhood"
)
_TITLES = _words(
    "title headline heading subject caption text summary description comment comments review note notes remarks "
    "question answer message body content feedback opinion tweet post product item dish recipe job position occupation"
)


@dataclass(frozen=True, slots=True)
class _Wording:
    """How the different cells of a column are worded; shares are of the cells."""

    cells: int
    words: float
    """Words of letters at the median; two characters of a script without blanks are one."""
    unspaced: float
    """Cells in such a script."""
    patterns: int
    """Different cells but for their digits."""
    mails: float
    files: float
    numbers: float
    """Cells with a number, or with a word that has digits."""
    codes: float
    """Of all words: those that have digits, or signs as codes have them."""
    initials: float
    """Of the words of letters: those of up to three capitals."""
    addresses: float
    """Cells with a number and a street, or two numbers and a comma."""
    houses: float
    """Cells that begin or end with a number that is no year."""
    function: float
    """Cells with a word that titles have and names have not."""
    cased: float
    """Cells with a capital letter, and small ones."""
    capitalised: float
    """Of these: every word begins with a capital, up to particles."""
    two_or_three: float
    """Cells of two or three words, particles aside."""
    firms: float
    """Cells that begin or end as names of companies do."""
    come_back: float
    """Of the words, particles aside: those that several cells have."""

    @property
    def is_address(self) -> bool:
        """Streets with numbers: told by their words, or by a number at an edge of words that hardly come back."""
        if self.numbers < _MOST:
            return False
        names = self.function < _WORDED and self.come_back < _COME_BACK and self.capitalised > 1 - _TEMPLATE
        return self.addresses >= _MOST / 2 or (names and self.words < PROSE_WORDS and self.houses >= _MOST)


class Text:
    """Prose and titles, in any language."""

    role: Role = "text"
    state = None
    nested = orders = levels = False

    def parse(self, cells: Cells) -> Words:
        """As words."""
        return cells.read_levels(to_words)

    def guess(self, fact: Facts) -> Guess | None:
        """Words that differ from cell to cell; names, addresses and the like are told from them, and ignored."""
        if not _may_be_texts(fact):
            return None
        texts = _some(fact)
        found = _wording(texts)
        if found.mails >= _MOST:
            return self._ignored(fact, "e-mail addresses")
        if found.files >= _MOST and found.function < _WORDED:
            return self._ignored(fact, "names of files")
        if found.patterns == 1 or (found.words <= 3 and found.patterns <= _TEMPLATE * found.cells):
            return None  # they differ in their numbers alone
        if found.words < PROSE_WORDS and max(found.codes, found.initials) > _VARIED:
            return None
        if found.is_address:
            return self._ignored(fact, "addresses") if _is_varied(fact) else None
        if found.words < _SHORTEST:
            return self._guess_words(fact, texts, found)
        if found.firms >= _FIRM_SHARE and found.words < PROSE_WORDS + 2:
            return self._ignored(fact, "names of companies") if _is_varied(fact) else None
        if found.words >= PROSE_WORDS:
            could = (
                f"could be category: --set {fact.name}=category" if fact.distinct <= _FEW_COPIES * fact.count else ""
            )
            return Guess(self.role, self._reason(fact, "prose"), could)
        if not _is_varied(fact):
            return None
        return self._guess_short(fact, found)

    def _guess_words(self, fact: Facts, texts: list[str], found: _Wording) -> Guess | None:
        """Single words: texts only where they are put together of others."""
        if not _is_varied(fact) or found.words < 1 or found.numbers > _VARIED:
            return None
        if _are_compounds(texts):
            return Guess(self.role, self._reason(fact, "compound words"))
        return self._ignored(fact, "single words, perhaps names")

    def _guess_short(self, fact: Facts, found: _Wording) -> Guess:
        """Titles of a few words, or names: by their words, and by the name of the column where these are alike."""
        says = next((word for word in name_words(fact.name)[::-1] if word in _TITLES | _NAMES), "")
        text = Guess(self.role, self._reason(fact, "short texts"))
        numbered = found.numbers >= _NUMBERED and found.come_back >= _TEMPLATE
        if found.function >= _WORDED or numbered or says in _TITLES:
            return text
        if found.cased >= _VARIED and found.capitalised < 1 - _TEMPLATE:
            return text
        if says in _NAMES:
            return self._ignored(fact, "names")
        if found.unspaced >= _VARIED:
            return text if found.words >= 4 else self._ignored(fact, "names")
        least = _ALL_BACK if found.two_or_three >= _ALL_BACK else _COME_BACK
        if found.come_back >= least or found.words >= PROSE_WORDS - 1:
            return text
        if found.cased < _VARIED and found.two_or_three < _MOST:
            return text
        return self._ignored(fact, "names of persons or places")

    def _ignored(self, fact: Facts, what: str) -> Guess:
        every = "every cell is different" if fact.all_different else f"{fact.distinct} distinct values"
        return Guess("ignored", f"looks like {what}: {every}", f"use: --set {fact.name}=text")

    def _reason(self, fact: Facts, what: str) -> str:
        there = np.flatnonzero(fact.cells.levels.codes >= 0)
        unit, lengths = text_lengths(fact.cells.select(there[:: max(1, len(there) // _ROWS)]))
        middle = int(np.median(lengths[lengths > 0])) if (lengths > 0).any() else 0
        noun = unit if middle != 1 else unit.removesuffix("s")
        return f"{what}: {middle:,} {noun} a cell, {_percent(fact.distinct, fact.count)} distinct"

    def check(self, fact: Facts) -> str:
        """Any plain cells may be texts; numbers are read as words, which is seldom meant."""
        refuse_nested(fact, self.role)
        if fact.count and (fact.numeric or fact.boolean or fact.date_reason):
            what, other = ("dates", "date") if fact.date_reason else ("numbers", "number")
            what, other = ("truth values", "category") if fact.boolean else (what, other)
            return f"its cells are {what}, read as words: --set {fact.name}={other} reads them as {what}"
        if 1 < fact.distinct <= TEXT_LEVELS:
            return f"only {fact.distinct} different texts: could be category"
        return "" if fact.count else "all cells are empty"

    def missing(self, cells: Cells) -> int:
        """Empty cells."""
        return empty_cells(cells)

    def fit(self, cells: Cells, weight: Weight) -> ColumnState:
        """Texts have no state here.

        Raises:
            TypeError: always.
        """
        raise TypeError("a column of texts is learnt by an encoder of texts, not by the preprocessing of a table")

    def describe(self, cells: Cells) -> tuple[float, str]:
        """How many words the cells have."""
        unit, lengths = text_lengths(cells)
        there = cells.levels.codes >= 0
        if not there.any():
            return 1.0, "no texts"
        found = lengths[there]
        shortest, longest, middle = int(found.min()), int(found.max()), int(np.median(found))
        span = f"{shortest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
        return float(1 - there.mean()), f"{span} {unit}, median {middle:,}"

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """By cell."""
        return cells.levels.codes


def text_lengths(cells: Cells) -> tuple[str, Int64[np.ndarray, " rows"]]:
    """The words of each cell, 0 where it is empty; its characters where most cells have no blanks between words.

    >>> import pandas as pd
    >>> text_lengths(Cells(pd.Series(["A vase, signed.", None], dtype="str")))
    ('words', array([3, 0]))
    >>> text_lengths(Cells(pd.Series(["红色连衣裙"], dtype="str")))
    ('characters', array([5]))
    """
    levels = cells.levels
    used, codes = np.unique(levels.codes, return_inverse=True)
    texts = pa.array(levels.names[used[used >= 0]].astype("str"), pa.large_string())
    texts = pc.utf8_slice_codeunits(texts, 0, MOST_CHARACTERS)
    signs = _counted(texts, UNSPACED)
    words = _counted(pc.replace_substring_regex(texts, UNSPACED, " "), r"\S*[\p{L}\p{N}]\S*")
    rows = np.bincount(codes, minlength=len(used))[used >= 0]
    by_characters = rows[signs > words].sum() * 2 > rows.sum()
    counts = signs + words if by_characters else words + (signs + 1) // 2
    counts = np.append(np.zeros(int((used < 0).any()), dtype=np.int64), counts)
    return ("characters" if by_characters else "words"), counts[codes]


def _counted(texts: pa.Array | pa.ChunkedArray, pattern: str) -> Int64[np.ndarray, " texts"]:
    return np.asarray(pc.count_substring_regex(texts, pattern).to_numpy(zero_copy_only=False), dtype=np.int64)


def _percent(part: int, whole: int) -> str:
    """A share, which is said to be all only where it is."""
    return f"{min(round(100 * part / whole), 100 if part == whole else 99)} %"


def _may_be_texts(fact: Facts) -> bool:
    """Whether a look at the words could make texts of a column: cells differ, and are nothing that has a kind."""
    if fact.cells.nested is not None or not fact.cells.holds_texts or fact.distinct < 2:
        return False
    varied = fact.distinct > _FEW_COPIES * fact.count and fact.distinct > TEXT_LEVELS
    if not (varied or fact.distinct > _VARIED * fact.count or _is_varied(fact)):
        return False
    if fact.numeric or fact.boolean or fact.mostly_numeric or fact.date_reason or id_reason(fact.name):
        return False
    return url_share(fact) <= _VARIED


def _is_varied(fact: Facts) -> bool:
    """Too many different cells to be levels of a category, or long ones."""
    if fact.text_like or (fact.all_different and fact.count >= UNIQUE_ROWS):
        return True
    return fact.distinct > TEXT_LEVELS and bool(fact.keys.str.len().median() > _LONG)


def _some(fact: Facts) -> list[str]:
    """Some of the different cells."""
    levels = fact.cells.levels
    used = np.unique(levels.codes[levels.codes >= 0])
    chosen = levels.names[used[np.unique(np.linspace(0, len(used) - 1, _SAMPLE).astype(np.int64))]]
    return [str(text)[:_READ] for text in chosen]


def _wording(texts: Sequence[str]) -> _Wording:
    """Read some cells word by word."""
    count, rows = len(texts), [_Cell.of(text) for text in texts]
    cells_of = Counter(word for row in rows for word in set(row.small))
    every = [word for row in rows for word in row.small]
    told = [word for word in every if word not in _PARTICLES]
    codes, words = sum(row.codes for row in rows), sum(len(row.words) + row.numbers for row in rows)
    cased = [row for row in rows if any(word != word.lower() for word in row.words)]
    mixed = [row for row in cased if any(word != word.upper() for word in row.words)]
    return _Wording(
        cells=count,
        words=float(np.median([row.length for row in rows])),
        unspaced=sum(row.unspaced for row in rows) / count,
        patterns=len({_RUN.sub("0", text) for text in texts}),
        mails=sum(_MAIL.fullmatch(text) is not None for text in texts) / count,
        files=sum(_FILE.fullmatch(text) is not None for text in texts) / count,
        numbers=sum(any(sign.isdigit() for sign in text) for text in texts) / count,
        codes=codes / max(codes + words, 1),
        initials=sum(len(word) < 4 and word.isupper() for row in rows for word in row.words) / max(len(every), 1),
        addresses=sum(map(_is_address, texts, rows)) / count,
        houses=sum(_HOUSE.fullmatch(text) is not None for text in texts) / count,
        function=sum(row.titled for row in rows) / count,
        cased=len(mixed) / count,
        capitalised=sum(row.capitalised for row in mixed) / max(len(mixed), 1),
        two_or_three=sum(2 <= len(row.content) <= 3 for row in rows) / count,
        firms=sum(map(_is_firm, texts, rows)) / count,
        come_back=sum(cells_of[word] > (2 if count > _SAMPLE / 3 else 1) for word in told) / max(len(told), 1),
    )


@dataclass(frozen=True, slots=True)
class _Cell:
    """The words of a cell."""

    words: list[str]
    """Of letters alone, as they are written; of a script without blanks each two characters."""
    small: list[str]
    length: float
    numbers: int
    codes: int
    unspaced: bool

    @classmethod
    def of(cls, text: str) -> "_Cell":
        """Take a cell apart."""
        words, numbers, codes, length, signs = list[str](), 0, 0, 0.0, 0
        for part in _PARTS.split(text):
            token = _EDGES.sub("", part)
            if not token:
                continue
            if found := len(_CHARACTERS.findall(token)):
                signs, length = signs + found, length + found / (5 if _LETTER.search(token) else 2)
                words += [token[place : place + 2] for place in range(max(len(token) - 1, 1))]
                continue
            digit, letter = any(sign.isdigit() for sign in token), any(sign.isalpha() for sign in token)
            if (digit and letter) or _CODE.search(token):
                codes += 1
            elif digit:
                numbers += 1
            elif letter:
                words.append(token)
                length += 1
        return cls(words, [_folded(word) for word in words], length, numbers, codes, signs > len(text) / 3)

    @property
    def content(self) -> list[str]:
        """Words but for particles and single letters."""
        pairs = zip(self.words, self.small, strict=True)
        return [word for word, small in pairs if small not in _PARTICLES and len(small) > 1]

    @property
    def capitalised(self) -> bool:
        """Whether each word begins with a capital."""
        return all(word[:1] != word[:1].lower() or word[:1] == word[:1].upper() for word in self.content)

    @property
    def titled(self) -> bool:
        """Whether there is a word that titles have and names have not."""
        return (bool(self.small) and self.small[0] in _ARTICLES) or not (_FUNCTION - _PARTICLES).isdisjoint(self.small)


def _folded(word: str) -> str:
    """In small letters, without dots: S.A. is sa."""
    return word.lower().replace(".", "")


def _is_firm(text: str, cell: _Cell) -> bool:
    """A name that begins or ends as those of companies do."""
    return not _FIRMS.isdisjoint({*cell.small[:1], *cell.small[-1:]}) or _FIRM_SIGNS.search(text) is not None


def _is_address(text: str, cell: _Cell) -> bool:
    """A number with a street, or a number with a code of five digits or so beside a comma."""
    runs = _RUN.findall(text)
    if not runs or cell.length > 4 * PROSE_WORDS:
        return False
    street = any(word in _STREETS or word.endswith(_STREET_ENDS) for word in cell.small)
    if street or (cell.unspaced and len(_STREET_SIGNS.findall(text)) > 1):
        return True
    code = _POSTCODE.search(text) or any(len(run) > 3 and not 1900 <= int(run[:9]) <= 2100 for run in runs)
    return len(runs) > 1 and bool(code) and "," in text and not cell.titled


def _are_compounds(texts: Sequence[str]) -> bool:
    """Whether long words share their parts, as German compounds do."""
    words = [text.lower() for text in texts if not text.isupper()]
    if len(words) < _VARIED * len(texts) or np.median([len(word) for word in words]) < _COMPOUND:
        return False
    if len({sign for word in words for sign in word if sign.isalpha()}) < _LETTERS:
        return False
    cells_of = Counter(chunk for word in words for chunk in set(_chunks(word)))
    return sum(any(cells_of[chunk] > 2 for chunk in _chunks(word)) for word in words) >= _MOST * len(texts)


def _chunks(word: str) -> Iterator[str]:
    return (word[place : place + _CHUNK] for place in range(len(word) - _CHUNK + 1))
