"""Which words of a text move a prediction: each is left out in turn.

In: a predictor and rows with texts. Out: for each text the change of the prediction by each of its words. The whole
model is asked, not a model of it: what changes is what it would predict without the word, all else as it is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from mixfit.data.columns.cells import Table
from mixfit.data.columns.words import MOST_CHARACTERS
from mixfit.data.photos.records import Cache
from mixfit.evaluation.explain import explained_columns
from mixfit.models.mixed import Mixture
from mixfit.predictor import Predictor
from mixfit.training.device import default_device

MOST_WORDS = 100
"""Different words of a text that are left out, those that come first: each needs a prediction."""
_WORD = re.compile(r"[^\W_]+|[^\w\s!-/:-@\[-`{-~]")  # letters and digits, or a sign beyond ASCII, such as an emoji


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
    explained: Sequence[str] = (),
    device: torch.device | str | None = None,
    cache: Cache | None = None,
) -> list[WordEffects]:
    """The effects of the words of some rows' texts, text by text; nothing for empty cells and a model without texts.

    Args:
        images: folder that photo paths are relative to.
        rows: positions in ``frame``.
        explained: for classes, the class of each of ``rows`` whose probability is explained; by default the predicted
            one.
        device, cache: as for ``Predictor.predictions``.
    """
    table = predictor.schema.table(frame)
    if not predictor.uses_text:
        return []
    place = default_device() if device is None else torch.device(device)
    classes = predictor.target.classes
    found = []
    for number, row in enumerate(rows):
        fixed = classes.index(explained[number]) if classes is not None and explained else None
        one = table.select(np.array([row], dtype=np.int64)).frame
        for column in predictor.schema.names("text"):
            cell = one[column].iloc[0]
            if pd.isna(cell):
                continue
            text = str(cell)[:MOST_CHARACTERS]
            words, spans = _words(text)
            tried = words[:MOST_WORDS]
            if not tried:
                continue
            texts = [text, *(_without(text, spans, which) for which in range(len(tried)))]
            values = _values(predictor, one, column, texts, images=images, device=place, cache=cache)
            if values.ndim == 2:
                values = values[:, int(values[0].argmax()) if fixed is None else fixed]
            found.append(
                WordEffects(
                    row=int(row),
                    column=column,
                    text=text,
                    spans=tuple(span for span in spans if span[2] < len(tried)),
                    words=tuple(tried),
                    effects=values[0] - values[1:],
                    left_out=len(words) - len(tried),
                )
            )
    return found


def _words(text: str) -> tuple[list[str], list[tuple[int, int, int]]]:
    """The different words of a text, and where each is."""
    numbers: dict[str, int] = {}
    places = [(*one.span(), numbers.setdefault(one.group().lower(), len(numbers))) for one in _WORD.finditer(text)]
    return list(numbers), places


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
    row: pd.DataFrame,
    column: str,
    texts: list[str],
    *,
    images: str | Path | None,
    device: torch.device,
    cache: Cache | None,
) -> np.ndarray:
    """Predictions of a row with each of some texts in place of its own, in the scale of explanations."""
    frame = row.iloc[np.zeros(len(texts), dtype=np.int64)].reset_index(drop=True)
    frame[column] = pd.array(texts, dtype="str")
    mix = predictor.mixer(predictor.raw_rows(frame, images=images), device=device, cache=cache)
    columns, photos = explained_columns(predictor)
    every = np.arange(len(texts))
    return mix(
        Mixture(
            cells=np.repeat(every[:, None], len(columns), axis=1),
            columns=columns,
            photos=np.zeros((1, len(photos)), dtype=np.int64),
            table_of=every,
            photos_of=np.zeros(len(texts), dtype=np.int64),
        )
    )
