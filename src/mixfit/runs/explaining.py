"""``mixfit explain``: explain predictions of a finished run, as a page and JSON."""

import json
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import NoneType

import numpy as np
from jaxtyping import Int64
from rich.console import Console

from mixfit.config import TextConfig
from mixfit.console import PlainConsole, print_wrapped
from mixfit.data.columns.cells import Table
from mixfit.data.columns.target import usable_rows
from mixfit.data.fingerprint import Fingerprint, read_fingerprint
from mixfit.data.photos.records import Cache
from mixfit.data.photos.rule import images_root
from mixfit.data.split import split_labels
from mixfit.errors import ConfigError, check_type
from mixfit.evaluation.explain import (
    BACKGROUND,
    Explanation,
    check_positions,
    check_rows,
    explain,
    part_text,
    size_text,
    typical_rows,
)
from mixfit.evaluation.photo_heat import PhotoHeat, photo_heat
from mixfit.evaluation.word_effects import MOST_WORDS, WordEffects, word_effects
from mixfit.files import check_new_folder, explained, write_file
from mixfit.models.model import Model
from mixfit.predictor import Predictor
from mixfit.predictor.blend import BlendPredictor
from mixfit.runs.report.explain_page import (
    SHOWN_ROWS,
    SHOWN_WORDS,
    ExplainContent,
    about_row,
    error_text,
    reading,
    share_text,
    write_explain,
)
from mixfit.runs.scoring import load_run, no_photos_warning, read_table_of_run, run_settings, split_of_run

LEAST_SHARE = 0.1
"""Smallest share of a column of photos or text in a row's total contribution for which heat maps or words are shown."""
_LISTED = 10
_MOST_PAGES = 1000
_LONGEST_WORD = 30
_OF_SIDES = "shares of the total contribution, each side taken as a whole: {}"
_WORDS = (
    f"Words of a text are left out one at a time, the first {MOST_WORDS} different ones, for texts with a share of at "
    f"least {LEAST_SHARE} in the contributions to a row; the effect of a word is the prediction minus that without it."
)
_HEAT = (
    "Heat maps show the regions that drive the prediction (Grad-CAM{}), for photos with a share of at least "
    f"{LEAST_SHARE} in the contributions to a row."
)
_LITTLE = f"have a share of less than {LEAST_SHARE} in the contributions to each of these rows, so no"


def explain_run(
    run: str | PathLike[str],
    *,
    rows: Sequence[int] | None = None,
    n: int | None = None,
    table: str | Path | None = None,
    images: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    text: TextConfig | None = None,
    cache: Cache | None = None,
    console: Console | None = None,
    models: Sequence[Model] = (),
    text_model: str | Path | None = None,
) -> Explanation:
    """Explain rows of a run's table, print which columns matter most, and write ``explain.html`` and ``explain.json``;
    where there are such already, ``explain-002.html`` and so on.

    Args:
        run: run folder, or model folder if ``table`` is given.
        rows: row numbers, from 0.
        n: instead of ``rows``: number of random test rows, of validation rows if the run has no test rows, or of
            all rows of another table without a split.
        table: by default that of the run.
        images: folder that photo paths are relative to; by default that of the run, or the table's folder.
        out: folder for both files, by default the run folder.
        text: format of a text table, by default as in training.
        cache: cache of image features; by default none.
        models: your own models, as passed to ``fit``.
        text_model: folder of the text model that the training was given; not needed for ``minilm``.
    Raises:
        ConfigError: both or neither of ``rows`` and ``n`` are given, a row is not in the table, the table is unknown,
            or ``seed`` is negative.
        DataError: the table cannot be read, or lacks a column that the model needs.
        ResourceError: the folder or the files cannot be written.
    """
    check_type("run", run, (str, PathLike), "a run or the path of its folder")
    for name, path in (("table", table), ("images", images), ("out", out)):
        check_type(name, path, (str, PathLike, NoneType), "a path")
    run, console = Path(run), console or PlainConsole()
    table, images, out = (None if path is None else Path(path) for path in (table, images, out))
    check_positions(rows)
    check_type("n", n, (int, NoneType), "a number of rows")
    if (rows is None) == (n is None):
        raise ConfigError("Choose rows with --rows 3,17, or a number of rows with --n 200.")
    if n is not None and n < 1:
        raise ConfigError(f"--n must be at least 1, got {n}.")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}.")
    if rows is not None and min(rows, default=0) < 0:
        raise ConfigError(f"Rows are numbered from 0, got {min(rows)}.")
    folder = run if out is None else out
    check_new_folder(folder)
    predictor = load_run(run, models, text_model)
    if table is None:
        table = run_settings(run).table
        if table is None:
            raise ConfigError(f"{run} does not name its table: give one with --table.")
        if not table.is_file():
            raise ConfigError(f"The run's table {table} does not exist: give its new path with --table.")
    images_root(images, table.parent)
    cells = predictor.schema.table(read_table_of_run(run, table, text, predictor.schema.text))
    then = read_fingerprint(run / "environment.json")
    same_table = then is not None and then.table_sha256 == Fingerprint.of(table, None).table_sha256
    images = images_root(images or (run_settings(run).data.images if same_table else None), table.parent)
    train, test, part = _train_and_test(run, cells, predictor, same_table=same_table)
    if rows is not None:
        check_rows(rows, len(cells))
        chosen, how = list(rows), "given by number"
    else:
        assert n is not None
        drawn = np.random.default_rng(seed).permutation(test)[:n]
        chosen, how = np.sort(drawn).tolist(), f"drawn from {len(test):,} {part}"
    photos = predictor.raw_rows(cells.select(np.array(chosen, dtype=np.int64)), images=images).photos
    if photos is not None and photos.bad and not (photos.slots >= 0).any():
        console.print(no_photos_warning(len(photos.bad), images), markup=False)
    with explained(folder, None):  # fail before the computation, not after it
        folder.mkdir(parents=True, exist_ok=True)
    background = cells.select(train[typical_rows(cells.select(train), predictor, BACKGROUND, seed=seed)])
    found = explain(
        predictor,
        cells,
        images=images,
        rows=chosen,
        background=background,
        seed=seed,
        cache=cache,
        progress=console.is_terminal and not console.quiet,
    )
    heat, note = _heat_of(predictor, cells, found, images)
    started = time.perf_counter()
    progress = console.is_terminal and not console.quiet
    words, words_note = _words_of(predictor, cells, found, images, cache, progress=progress)
    seconds = time.perf_counter() - started
    _say(console, table, found, how, listed=rows is not None)
    _say_words(console, words, found, seconds, listed=rows is not None)
    for told in [*([] if heat else [note]), *([] if words else [words_note])]:
        print_wrapped(console, told)
    content = ExplainContent(
        run_name=run.resolve().name,
        table_name=table.name,
        explanation=found,
        chosen=how,
        heat={one.row: one for one in heat},
        heat_note=note,
        words=words,
        words_note=words_note,
    )
    name = _free_name(folder)
    said = found.to_dict()
    for row in said["rows"]:
        row |= {"words": _plain_words(words[row["row"]])} if row["row"] in words else {}
    write_file(folder / f"{name}.json", json.dumps(said, indent=1, allow_nan=False) + "\n")
    write_explain(content, folder / f"{name}.html")
    console.print(f" page    {folder / f'{name}.html'}", markup=False)
    return found


def background_of_run(run: Path, predictor: Predictor, *, seed: int = 0) -> tuple[Table, Path] | None:
    """The training rows that ``explain_run`` compares with, and the folder of their photos.

    Returns:
        None if the table of the run is unknown, is gone, or has changed.
    Raises:
        DataError: it cannot be read any more, or its photos are gone.
    """
    table = run_settings(run).table
    if table is None or not table.is_file():
        return None
    then = read_fingerprint(run / "environment.json")
    if then is None or then.table_sha256 != Fingerprint.of(table, None).table_sha256:
        return None
    cells = predictor.schema.table(read_table_of_run(run, table, None, predictor.schema.text))
    train, _, _ = _train_and_test(run, cells, predictor, same_table=True)
    chosen = train[typical_rows(cells.select(train), predictor, BACKGROUND, seed=seed)]
    return cells.select(chosen), images_root(run_settings(run).data.images, table.parent)


def _free_name(folder: Path) -> str:
    """The next name of a page: an earlier one, of other rows perhaps, stays."""
    names = ("explain", *(f"explain-{number:03d}" for number in range(2, _MOST_PAGES)))
    taken = {path.stem for path in folder.glob("explain*")}
    return next((name for name in names if name not in taken), names[-1])


def _train_and_test(
    run: Path, table: Table, predictor: Predictor, *, same_table: bool
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " test"], str]:
    """Background rows, rows to draw from, and the name of the latter; both are all rows without a split."""
    schema, every = predictor.schema, np.arange(len(table))
    if schema.target not in table:
        return every, every, "rows"
    if same_table:
        usable, _ = usable_rows(table, schema, 1.0)
        split = split_of_run(run, table, schema, usable)
        if len(split.test):
            return split.train, split.test, "test rows"
        # These rows are out-of-fold rows for a blend.
        return (
            split.train,
            split.valid,
            "out-of-fold rows" if isinstance(predictor, BlendPredictor) else "validation rows",
        )
    given = [name for name in schema.names("split") if name in table]
    if not given:
        return every, every, "rows"
    labels = split_labels(table[given[0]])
    train, test = np.flatnonzero(labels == "train"), np.flatnonzero(labels == "test")
    train = train if len(train) else every
    return (train, test, "test rows") if len(test) else (train, every, "rows")


def _heat_of(predictor: Predictor, table: Table, found: Explanation, images: Path) -> tuple[list[PhotoHeat], str]:
    """Heat maps of the photos with a large enough share, and a caption or the reason why there are none."""
    if not found.is_photo.any():
        return [], ""
    matters = _matters(found, found.is_photo)
    asked = [row for row, columns in matters.items() if columns]
    if not asked:
        return [], f"The photos {_LITTLE} heat maps are shown."
    try:
        heat = photo_heat(predictor, table, images=images, rows=asked)
    except ConfigError as error:
        return [], str(error)
    kept = [one.of_columns(matters[one.row]) for one in heat]
    return kept, _HEAT.format(", of the networks of the blend" if isinstance(predictor, BlendPredictor) else "")


def _matters(found: Explanation, kind: np.ndarray) -> dict[int, list[str]]:
    """For each row of the page, the columns of a kind that have a large enough share of it."""
    sizes = np.abs(found.parts[:SHOWN_ROWS])
    share = sizes / np.maximum(sizes.sum(axis=1, keepdims=True), 1e-300)
    large = (share >= LEAST_SHARE) & kind
    names = [[name for name, yes in zip(found.columns, row, strict=True) if yes] for row in large]
    return dict(zip(found.rows[:SHOWN_ROWS].tolist(), names, strict=True))


def _words_of(
    predictor: Predictor, table: Table, found: Explanation, images: Path, cache: Cache | None, *, progress: bool
) -> tuple[dict[int, list[WordEffects]], str]:
    """The effects of the words of the texts with a large enough share, by row, and a caption."""
    if not found.is_text.any():
        return {}, ""
    matters = _matters(found, found.is_text)
    asked = {row: columns for row, columns in matters.items() if columns}
    classes = dict(zip(found.rows.tolist(), found.explained, strict=True))
    effects = word_effects(
        predictor,
        table,
        images=images,
        rows=list(asked),
        columns=list(asked.values()),
        explained=[classes[row] for row in asked] if found.scale == "probability" else (),
        cache=cache,
        progress=progress,
    )
    by_row: dict[int, list[WordEffects]] = {}
    for one in effects:
        by_row.setdefault(one.row, []).append(one)
    empty = "The texts of these rows have no words, so none are marked."
    return by_row, _WORDS if by_row else empty if asked else f"The texts {_LITTLE} words are marked."


def _plain_words(texts: Sequence[WordEffects]) -> dict[str, list[dict[str, object]]]:
    """Words and effects of each text for JSON, the strongest first."""
    return {one.column: [{"word": word, "effect": effect} for word, effect in one.strongest] for one in texts}


def _say_words(
    console: Console, words: Mapping[int, Collection[WordEffects]], found: Explanation, seconds: float, *, listed: bool
) -> None:
    """Print the strongest words of each text, and how long it took to find them."""
    texts = [one for of_row in words.values() for one in of_row]
    if not texts:
        return
    for one in texts if listed else ():
        strongest = [(word, effect) for word, effect in one.strongest[:SHOWN_WORDS] if effect]
        said = ", ".join(f"{_cut(word)} {part_text(effect, found.scale)}" for word, effect in strongest)
        said = said or "no single word changes the prediction"
        console.print(f"   row {one.row}, {one.column}: {said}", markup=False, highlight=False, soft_wrap=True)
    tried = sum(len(one.words) for one in texts)
    texts_shown = "1 text" if len(texts) == 1 else f"{len(texts):,} texts"
    console.print(f" words   left out one at a time: {tried:,} words of {texts_shown}, {seconds:.1f} s", markup=False)


def _cut(word: str) -> str:
    return word if len(word) <= _LONGEST_WORD else word[: _LONGEST_WORD - 1] + "…"


def _say(console: Console, table: Path, found: Explanation, how: str, *, listed: bool) -> None:
    """Print what is explained, and the most important columns."""
    kind = "exact" if found.exact else f"from {found.orders * found.background} orders"
    counts = f"{len(found.rows)} rows {how}, relative to {found.background} background rows"
    console.print(f" {table}   {counts}; Shapley values, {kind}", markup=False)
    if listed:
        for place, row in enumerate(found.rows[:SHOWN_ROWS].tolist()):
            console.print(f"   row {row}: {about_row(found, place)}", markup=False, highlight=False)
    elif found.scale == "probability":
        counts = ", ".join(f"{name} {count}" for name, count in Counter(found.explained).most_common())
        print_wrapped(console, f"Explained is the probability of the predicted class of each row: {counts}.")
    print_wrapped(console, reading(found.target, found.scale))
    mean, error = found.importance
    if len(mean) > _LISTED:
        console.print(f"   the {_LISTED} largest of {len(mean)} columns; the page has more", markup=False)
    for place in np.argsort(-mean, kind="stable")[:_LISTED]:
        size, wrong = float(mean[place]), error_text(float(mean[place]), float(error[place]), found.scale)
        kind = " (photos)" if found.is_photo[place] else " (text)" if found.is_text[place] else ""
        name = f"{found.columns[place]}{kind}"
        about = f" +- {wrong}" if wrong else ""
        console.print(f"   {name:<36}{size_text(size, found.scale):>14}{about}", markup=False, highlight=False)
    shares = found.shares
    if len(shares) < 2 or np.isnan(found.photo_share[0]):
        return
    # The two shares of two sides have the same error.
    errors = {side: wrong for side, (_, wrong) in shares.items() if side != "table" and not np.isnan(wrong)}
    said = ", ".join(
        f"{side} {share_text(share)}{f' (+- {share_text(errors[side])})' if side in errors else ''}"
        for side, (share, _) in shares.items()
    )
    console.print(f"   {_OF_SIDES.format(said)}", markup=False, highlight=False)
