"""Which words of a text move a prediction: each is left out in turn.

In: a predictor and rows with texts. Out: for each text the change of the prediction by each of its words. The whole
model is asked, not a model of it: what changes is what it would predict without the word, all else as it is."""

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from mixfit.console import tracked
from mixfit.data.columns.cells import Table
from mixfit.data.columns.words import MOST_CHARACTERS
from mixfit.data.photos.records import Cache
from mixfit.errors import ConfigError
from mixfit.evaluation.explain import check_explained, check_rows, explained_columns, explained_texts
from mixfit.models.mixed import Mixture
from mixfit.predictor import Predictor
from mixfit.training.device import default_device

MOST_WORDS = 100
"""Different words of a text that are left out, those that come first: each needs a prediction."""
_BATCH = 200_000
"""Characters of texts that are predicted together, at most but for a single text."""
_ALONE = ("CJK ", "HIRAGANA ", "KATAKANA ")
"""How the names of characters begin that are each a word: no blanks stand between words of these scripts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordEffects:
    """The words of one text, and what the prediction would lose without each."""

    row: int
    """Position in the table."""
    column: str
    text: str
    spans: tuple[tuple[int, int, int], ...]
    """Start and end of each place of a word in ``text``, and its number among ``words``."""
    words: tuple[str, ...]
    """In lower case, by first place."""
    effects: Float[np.ndarray, " words"]
    """The prediction minus that without the word, in the scale of explanations; above 0, the word raises it."""
    left_out: int
    """Words that were not tried, beyond ``MOST_WORDS``."""

    @property
    def strongest(self) -> list[tuple[str, float]]:
        """Words with their effects, the largest first."""
        order = np.argsort(-np.abs(self.effects), kind="stable")
        return [(self.words[place], float(self.effects[place])) for place in order]


def word_effects(
    predictor: Predictor,
    frame: pd.DataFrame | Table,
    *,
    images: str | Path | None = None,
    rows: Sequence[int],
    columns: Sequence[Collection[str]] | None = None,
    explained: Sequence[str] = (),
    device: torch.device | str | None = None,
    cache: Cache | None = None,
    progress: bool = False,
) -> list[WordEffects]:
    """The effects of the words of some rows' texts, text by text; nothing for empty cells and a model without texts.

    Args:
        images: folder that photo paths are relative to.
        rows: positions in ``frame``.
        columns: the columns to look at, for each of ``rows``; by default all columns of text.
        explained: for classes, the class of each of ``rows`` whose probability is explained; by default the predicted
            one.
        device, cache: as for ``Predictor.predictions``.
        progress: show a bar on a terminal: a sentence encoder takes seconds for a long text.
    Raises:
        ConfigError: a row is not in ``frame``, ``explained`` is not a class for each row, or the model uses photos and
            ``images`` is missing.
        DataError: a column that the model needs is missing.
    """
    check_explained(predictor, frame, rows)
    table = predictor.schema.table(frame)
    check_rows(rows, len(table))
    asked = _texts(predictor, table, rows, columns)
    place = default_device() if device is None else torch.device(device)
    classes = predictor.target.classes
    if explained and (len(explained) != len(rows) or not set(explained) <= set(classes or ())):
        known = "none" if classes is None else ", ".join(classes)
        raise ConfigError(
            f"explained must name a class for each of the {len(rows)} rows, got {list(explained)!r:.80}; the classes "
            f"of the model: {known:.80}."
        )
    found = []
    batches = list(_batches(asked))
    for batch in tracked(batches, total=len(batches), description="leaving out words") if progress else batches:
        values = _values(predictor, table, batch, images=images, device=place, cache=cache)
        ends = np.cumsum([0, *(len(one.tried) + 1 for one in batch)])
        for one, start, stop in zip(batch, ends, ends[1:], strict=False):
            own = values[start:stop]
            if classes is not None:
                fixed = classes.index(explained[one.number]) if explained else int(predictor.decide(own[:1])[0])
                own = own[:, fixed]
            found.append(
                WordEffects(
                    row=one.row,
                    column=one.column,
                    text=one.text,
                    spans=tuple(span for span in one.spans if span[2] < len(one.tried)),
                    words=tuple(one.tried),
                    effects=own[0] - own[1:],
                    left_out=one.words - len(one.tried),
                )
            )
    return found


@dataclass(frozen=True, slots=True)
class _Text:
    """A text whose words are left out."""

    number: int
    """Of the row among those asked for."""
    row: int
    column: str
    text: str
    spans: list[tuple[int, int, int]]
    tried: list[str]
    words: int
    """Number of its different words."""

    @property
    def variants(self) -> list[str]:
        """The text, then the text without each word."""
        return [self.text, *(_without(self.text, self.spans, word) for word in range(len(self.tried)))]


def _texts(
    predictor: Predictor, table: Table, rows: Sequence[int], columns: Sequence[Collection[str]] | None
) -> list[_Text]:
    """The texts of the rows that have words."""
    found = []
    for name in explained_texts(predictor):
        cells = table[name].column
        for number, row in enumerate(rows):
            if (columns is not None and name not in columns[number]) or pd.isna(cells.iloc[row]):
                continue
            text = str(cells.iloc[row])[:MOST_CHARACTERS]
            words, spans = _words(text)
            if words:
                found.append(_Text(number, int(row), name, text, spans, words[:MOST_WORDS], len(words)))
    return sorted(found, key=lambda one: one.number)


def _batches(texts: Sequence[_Text]) -> Iterator[list[_Text]]:
    """Texts that are predicted together: the photos of a row are then read once."""
    batch, held = list[_Text](), 0
    for one in texts:
        size = len(one.text) * (len(one.tried) + 1)
        if batch and held + size > _BATCH:
            yield batch
            batch, held = [], 0
        batch.append(one)
        held += size
    if batch:
        yield batch


def _words(text: str) -> tuple[list[str], list[tuple[int, int, int]]]:
    """The different words of a text, and where each is."""
    numbers: dict[str, int] = {}
    found = [(start, stop, text[start:stop].lower()) for start, stop in _spans(text)]
    places = [(start, stop, numbers.setdefault(word, len(numbers))) for start, stop, word in found]
    return list(numbers), places


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each word: letters, digits and their marks; or one symbol beyond ASCII, such as an emoji.

    Blanks, punctuation, control and format characters are in no word."""
    start = 0
    inside = alone = False
    for place, sign in enumerate(text):
        kind = unicodedata.category(sign)[0]
        if kind == "M" and inside:
            continue
        begins = kind in "LN" or (kind == "S" and not sign.isascii())
        single = kind == "S" or (begins and unicodedata.name(sign, "").startswith(_ALONE))
        if inside and not (begins and not single and not alone):
            yield start, place
            inside = False
        if begins and not inside:
            start, inside, alone = place, True, single
    if inside:
        yield start, len(text)


def _without(text: str, spans: Sequence[tuple[int, int, int]], word: int) -> str:
    """The text without a word, wherever it stands."""
    parts, end = [], 0
    for start, stop, number in spans:
        if number == word:
            parts.append(text[end:start])
            end = stop
    return "".join([*parts, text[end:]])


def _values(
    predictor: Predictor,
    table: Table,
    batch: Sequence[_Text],
    *,
    images: str | Path | None,
    device: torch.device,
    cache: Cache | None,
) -> np.ndarray:
    """Predictions of each text's row with each of its variants, in the scale of explanations."""
    variants = [one.variants for one in batch]
    text_of = np.repeat(np.arange(len(batch)), [len(texts) for texts in variants])
    row_of = np.array([one.row for one in batch])[text_of]
    frame = table.select(row_of).frame.reset_index(drop=True)
    for name in {one.column for one in batch}:
        cells = [None if pd.isna(cell) else str(cell) for cell in frame[name]]
        start = 0
        for one, texts in zip(batch, variants, strict=True):
            if one.column == name:
                cells[start : start + len(texts)] = texts
            start += len(texts)
        frame[name] = pd.array(cells, dtype="str")
    mix = predictor.mixer(predictor.raw_rows(frame, images=images), device=device, cache=cache)
    columns, photos = explained_columns(predictor)
    every = np.arange(len(row_of))
    _, first, photos_of = np.unique(row_of, return_index=True, return_inverse=True)
    return mix(
        Mixture(
            cells=np.repeat(every[:, None], len(columns), axis=1),
            columns=columns,
            photos=np.repeat(first[:, None], len(photos), axis=1),
            table_of=every,
            photos_of=photos_of,
        )
    )
