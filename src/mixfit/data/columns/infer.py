"""What each column of a table is for, found out from its name and its cells.

In: a DataFrame, the name of the target, and whatever the user has set. Out: ``Schema``, each role with its evidence.
Guesses only what can be seen: an id that repeats is a group, weights are never guessed. Fits nothing that predictions
depend on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64

from mixfit.choices import ROLES, TASKS, Role, Task
from mixfit.data.columns.facts import (
    TEXT_LEVELS,
    Facts,
    code_reason,
    date_share,
    id_reason,
    image_share,
    name_words,
)
from mixfit.data.columns.schema import REPEATED_IDS, SINGLE_ROLES, SUSPICIOUS_MARK, Column, Schema
from mixfit.data.columns.target import wants_log
from mixfit.data.columns.values import MISSING_WORDS, moments, plain_cells_problem, to_keys
from mixfit.data.photos.cells import content_share, no_photos_reason
from mixfit.data.split import SPLIT_ALIASES, groups_on_two_sides, joined_keys
from mixfit.errors import ConfigError, DataError, did_you_mean, unknown_column

SPLIT_NAMES = frozenset(["split", "fold", "set", "subset", "partition"])
SUSPICIOUS = "suspicious: this column alone gives the target away"

_IMAGE_SHARE = 0.9  # of the cells must name an image file
_DATE_SHARE = 0.9  # of the cells must be dates
_LONG_TEXT = 100  # characters
_REGRESSION_LEVELS = 20  # integers with more distinct values are amounts rather than classes
_CATEGORY_SHARE = 0.5  # of the rows; a class or level that does not repeat teaches nothing
_STRAY_TARGETS = 0.05
_LEVEL_SHARE = 0.1  # ids that come back ten times each can be learnt as levels
_LEAST_GROUPS, _LARGEST_GROUP = 5, 0.5  # ids, share of the rows: fewer and larger ones could fill no folds
_LARGEST_CHAIN = 0.2  # of the rows, that ids of several columns may join beyond the largest of one
_UNIQUE_ROWS = 10  # with fewer rows, "all cells differ" says nothing
_OUTLIER = 6.0  # standard deviations


class Guess(NamedTuple):
    """A role with its evidence."""

    role: Role
    reason: str
    note: str = ""


def infer_schema(
    frame: pd.DataFrame,
    target: str,
    *,
    roles: Mapping[str, Role] | None = None,
    ignore: Sequence[str] = (),
    task: Task | None = None,
) -> Schema:
    """Find the role of every column and the task.

    Args:
        frame: the whole table; text cells and typed cells are understood alike.
        target: name of the column to predict.
        roles: roles that are set by hand.
        ignore: columns to leave out.
        task: by default told from the target: regression for floats and for integers with more than 20 distinct values.
    Raises:
        ConfigError: a name, role or task does not exist, settings contradict each other, or a role cannot be had from
            the cells of its column.
        DataError: the target has no values, or only one; no column is left to predict from.
    """
    chosen = _chosen_roles(frame, target, {} if roles is None else roles, ignore)
    goal = Facts(target, frame[target])
    task, task_reason, task_note = _find_task(goal, task)
    facts = {name: Facts(name, frame[name]) for name in frame.columns}
    split = _find_split(facts, chosen, target)
    columns = []
    for name, fact in facts.items():
        if name == target:
            guess = Guess("target", task_reason, task_note)
        elif name in chosen:
            guess = _check_role(fact, chosen[name])
        else:
            guess = _guess(fact, facts[split] if split is not None else None)
        if guess.role in ("number", "category", "date") and gives_away(fact, guess.role, goal, task):
            guess = guess._replace(note="; ".join(filter(None, [SUSPICIOUS, guess.note])))
        missing = _count_missing(fact, "number" if name == target and task == "regression" else guess.role)
        columns.append(Column(name=name, role=guess.role, reason=guess.reason, missing=missing, note=guess.note))
    columns = _without_chains(frame, columns)
    if not any(column.role in ("number", "category", "date", "image") for column in columns):
        raise DataError(
            f"none of the {len(columns) - 1} columns beside the target {target!r} is left to predict from; "
            "set a role with --set COLUMN=number or --set COLUMN=category."
        )
    return Schema(columns=tuple(columns), task=task, task_reason=task_reason, rows=len(frame))


def _chosen_roles(
    frame: pd.DataFrame, target: str, roles: Mapping[str, Role], ignore: Sequence[str]
) -> dict[str, Role]:
    """Roles set by hand, ignored columns included; all contradictions are refused here."""
    names = list(frame.columns)
    strange = [name for name in names if not isinstance(name, str)]
    if strange:
        raise DataError(f"{len(strange)} column names are not text, the first is {strange[0]!r}; rename the columns.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the table has {names.count(twice)} columns named {twice!r}; rename or remove them.")
    for name in (target, *roles, *ignore):
        if name not in names:
            raise unknown_column(name, names)
    if not len(frame):
        raise DataError("the table has no rows.")
    for name, role in roles.items():
        if role not in ROLES:
            raise ConfigError(
                f"column {name!r}: no role {role!r}.{did_you_mean(role, ROLES)} roles: {', '.join(ROLES)}"
            )
    chosen: dict[str, Role] = {**roles}
    for name in ignore:
        if chosen.setdefault(name, "ignored") != "ignored":
            raise ConfigError(f"column {name!r} is both ignored and set to {chosen[name]}; choose one.")
    if chosen.setdefault(target, "target") != "target":
        raise ConfigError(f"column {target!r} is the target, so it cannot be {chosen[target]} too; choose one.")
    for role in SINGLE_ROLES:
        same = [name for name, other in chosen.items() if other == role]
        if len(same) > 1:
            listed = ", ".join(map(repr, same))
            raise ConfigError(f"{len(same)} columns have the role {role}: {listed}; only one can.")
    return chosen


def _find_task(goal: Facts, task: Task | None) -> tuple[Task, str, str]:
    """The task, its reason and a note about the target."""
    if task is not None and task not in TASKS:
        raise ConfigError(f"no task {task!r}.{did_you_mean(task, TASKS)} tasks: {', '.join(TASKS)}")
    nested = plain_cells_problem(goal.column)
    if nested is not None:
        raise ConfigError(
            f"the target {goal.name!r} holds cells of type {nested}, not plain values; choose another target."
        )
    if not goal.count:
        raise DataError(f"the target {goal.name!r} has no values in {len(goal.column)} rows.")
    if task == "regression" or (task is None and _is_amount(goal)):
        return "regression", *_regression_reason(goal, chosen=task is not None)
    counts = goal.keys.value_counts()
    if len(counts) < 2:
        raise DataError(
            f"the target {goal.name!r} has only one class, {counts.index[0]!r}, in {goal.count} rows: nothing to learn."
        )
    if task is None and len(counts) > max(2, _CATEGORY_SHARE * goal.count):
        raise ConfigError(
            f"the target {goal.name!r} has {len(counts)} distinct values in {goal.count} rows: neither numbers nor "
            f"classes that repeat, {goal.stray} cells are not numbers; choose another target, or set the task."
        )
    if task == "binary" and len(counts) != 2:
        raise ConfigError(f"the task binary needs 2 classes, the target {goal.name!r} has {len(counts)}.")
    found = task or ("binary" if len(counts) == 2 else "multiclass")
    numeric = goal.stray == 0 and bool(len(goal.finite)) and not goal.boolean
    kind = "true or false" if goal.boolean else goal.number_kind if numeric else "text"
    reason = f"{kind}, {len(counts)} classes -> {found}"
    single = int((counts == 1).sum())
    notes = [f"{single} of {len(counts)} classes have one row only, kept in train"] if single else []
    words = [key for key in counts.index if key.lower() in MISSING_WORDS]
    notes += [f"{words[0]!r} is taken as a class of its own"] if words else []
    notes += ["could be a number: --task regression"] if numeric and len(counts) > 2 else []
    return found, reason, "; ".join(notes)


def _is_amount(goal: Facts) -> bool:
    """Numbers, with few stray cells, that are more than names of classes."""
    if isinstance(goal.column.dtype, pd.CategoricalDtype) or goal.boolean:
        return False
    if not len(goal.finite) or goal.stray > _STRAY_TARGETS * goal.count:
        return False
    distinct = goal.distinct_numbers
    few_rows = distinct > 5 and distinct > _CATEGORY_SHARE * len(goal.finite)
    return not goal.whole or distinct > _REGRESSION_LEVELS or few_rows


def _regression_reason(goal: Facts, *, chosen: bool) -> tuple[str, str]:
    bad = np.flatnonzero(goal.numbers.unparsable)
    if not len(goal.finite) or len(bad) > 0.5 * goal.count:
        first = f", the first in row {goal.column.index[bad[0]]} is {goal.keys.iloc[bad[0]]!r}" if len(bad) else ""
        raise DataError(
            f"regression needs numbers, but {len(bad)} of {len(goal.column)} cells of the target {goal.name!r} are none"
            f"{first}; choose another target or task."
        )
    if (goal.finite == goal.finite[0]).all():
        raise DataError(f"the target {goal.name!r} is {goal.finite[0]:g} in all rows: nothing to learn.")
    reason = f"{goal.number_kind}, {goal.distinct_numbers} distinct -> regression{' (set by hand)' if chosen else ''}"
    notes = [f"{len(bad)} of {len(goal.column)} cells are not finite numbers"] if len(bad) else []
    if wants_log(goal.finite):
        notes.append(f"skew {moments(goal.finite).skew:.1f}, fitted on log scale")
    return reason, "; ".join(notes)


def _find_split(facts: Mapping[str, Facts], chosen: Mapping[str, Role], target: str) -> str | None:
    """The column that was set to be the split, else the first that is one by name and cells."""
    for name, role in chosen.items():
        if role == "split":
            return name
    free = (fact for name, fact in facts.items() if name != target and name not in chosen)
    return next((fact.name for fact in free if _looks_like_split(fact)), None)


def _looks_like_split(fact: Facts) -> bool:
    if fact.name.strip().lower() not in SPLIT_NAMES or plain_cells_problem(fact.column) is not None:
        return False
    words = fact.keys.dropna().str.lower().unique()
    return len(words) > 1 and all(word in SPLIT_ALIASES for word in words)


def _guess(fact: Facts, split: Facts | None) -> Guess:
    """The first rule that fits."""
    nested = plain_cells_problem(fact.column)
    if nested is not None:
        share, kind = content_share(fact.column)
        return Guess("image", kind) if share >= _IMAGE_SHARE else Guess("ignored", no_photos_reason(nested, share))
    if split is not None and fact.name == split.name:
        parts = [
            part for part in ("train", "valid", "test") if (fact.keys.str.lower().map(SPLIT_ALIASES) == part).any()
        ]
        return Guess("split", f"values {'/'.join(parts)}", "used as given")
    if _looks_like_split(fact):
        return Guess("ignored", "words of a split, but another column is the split")
    if not fact.count or fact.keys.dropna().str.lower().isin(MISSING_WORDS).all():
        return Guess("ignored", "no values at all")
    if fact.distinct == 1 and fact.count == len(fact.column):
        return Guess("ignored", f"one value only, {_short(fact.keys.iloc[0])}")
    share, kind = content_share(fact.column)
    if share >= _IMAGE_SHARE:
        return Guess("image", kind)
    share, ending = image_share(fact)
    if share >= _IMAGE_SHARE:
        several = int(fact.keys.str.contains(";", regex=False).sum())
        return Guess("image", f"paths that end in {ending}", f"{several} cells name several photos" if several else "")
    if fact.distinct == 1:
        return Guess("category", f"{_short(fact.keys.dropna().iloc[0])} or empty")
    if pd.api.types.is_datetime64_any_dtype(fact.column.dtype) or isinstance(fact.column.dtype, pd.PeriodDtype):
        return Guess("date", "typed as dates")
    if fact.boolean:
        return Guess("category", "true or false")
    if len(fact.finite) and fact.stray == 0 and not isinstance(fact.column.dtype, pd.CategoricalDtype):
        return _guess_number(fact, split)
    return _guess_text(fact, split)


def _guess_number(fact: Facts, split: Facts | None) -> Guess:
    id_name, code = id_reason(fact.name), code_reason(fact)
    if fact.whole and id_name:
        return _guess_id(fact, split, "integer", id_name)
    if _counts_rows(fact):
        return Guess("ignored", "counts the rows", f"use: --set {fact.name}=number")
    if _digits_of_dates(fact):
        return Guess("date", "digits such as 20200131")
    if fact.whole and code:
        return _category_unless_text_like(fact, code)
    notes = [_infinite_note(fact)]
    scale = moments(fact.finite)
    extreme = fact.finite[np.argmax(np.abs(fact.finite / 2 - scale.mean / 2))]
    distance = abs(extreme / 2 - scale.mean / 2) / (scale.std / 2) if scale.std else 0.0
    if distance > _OUTLIER:
        notes.append(f"{'max' if extreme > scale.mean else 'min'} {extreme:.6g} = {distance:.1f} sd (kept)")
    if fact.whole and 2 < fact.distinct_numbers <= _REGRESSION_LEVELS:
        notes.append("could be category")
    detail = (
        f", {fact.distinct_numbers} distinct" if fact.whole and fact.distinct_numbers <= len(fact.finite) / 2 else ""
    )
    return Guess("number", f"{fact.number_kind}{detail}", "; ".join(filter(None, notes)))


def _counts_rows(fact: Facts) -> bool:
    if len(fact.column) < _UNIQUE_ROWS or len(fact.finite) < len(fact.column):
        return False
    return bool(fact.finite[0] in (0, 1) and (np.diff(fact.finite) == 1).all())


def _digits_of_dates(fact: Facts) -> bool:
    """8 digits each, which a date could be written as, and the name says that it is."""
    if not fact.whole or "date" not in name_words(fact.name):
        return False
    return bool(fact.keys.dropna().str.fullmatch("[12][0-9]{7}").all()) and not fact.times[1].any()


def _guess_text(fact: Facts, split: Facts | None) -> Guess:
    numeric = len(fact.finite) > fact.stray and not isinstance(fact.column.dtype, pd.CategoricalDtype)
    if not numeric and date_share(fact) >= _DATE_SHARE:
        unparsable = int(fact.times[1].sum())
        note = f"{unparsable} of {len(fact.column)} cells are not dates, treated as missing" if unparsable else ""
        example = next(key for key in fact.keys.dropna() if key.lower() not in MISSING_WORDS)
        return Guess("date", f"dates such as {_short(example)}", note)
    if id_name := id_reason(fact.name):
        return _guess_id(fact, split, "text", id_name)
    guess = _category_unless_text_like(fact, f"text, {fact.distinct} distinct")
    if numeric:
        stray = f"{fact.stray} of {len(fact.column)} cells are not numbers: --set {fact.name}=number makes them missing"
        return guess._replace(note="; ".join(filter(None, [stray, guess.note if guess.role == "category" else ""])))
    return guess


def _guess_id(fact: Facts, split: Facts | None, kind: str, id_name: str) -> Guess:
    if fact.all_different:
        return Guess(
            "ignored", f"unique {kind}, {id_name}", f"use: --set {fact.name}=number" if kind == "integer" else ""
        )
    counts = fact.keys.value_counts()
    repeated = int((counts > 1).sum())
    ids = f"{fact.distinct} {REPEATED_IDS} {fact.count} rows, {id_name}"
    torn = [] if split is None else groups_on_two_sides(fact.keys, split.keys.str.lower().map(SPLIT_ALIASES).to_numpy())
    level = f"could be category: --set {fact.name}=category" if fact.distinct <= _LEVEL_SHARE * fact.count else ""
    few = fact.distinct < _LEAST_GROUPS or counts.iloc[0] > _LARGEST_GROUP * len(fact.column)
    if torn and split is not None:
        note = (
            f"{SUSPICIOUS_MARK} {len(torn)} of {fact.distinct} ids are on two sides of the split {split.name!r}, so "
            f"the test scores may look too good; --ignore {split.name} splits anew, each id on one side"
        )
    elif few:
        note = f"{repeated} ids repeat, too few or in too many rows to be groups: --set {fact.name}=group for one"
    elif split is not None:
        note = f"{repeated} ids repeat; the split keeps each on one side, and so do the folds"
    else:
        note = f"{repeated} ids repeat; each stays on one side of the split and of every fold"
    if not few:
        note += f"; if rows of one id do not belong together: --set {fact.name}=ignored"
    return Guess("ignored" if few else "group", ids, "; ".join(filter(None, [note, level])))


def _without_chains(frame: pd.DataFrame, columns: list[Column]) -> list[Column]:
    """Columns, but that a found group is ignored which with those before it joins too many rows (seller, buyer)."""
    kept: list[Column] = [column for column in columns if column.role == "group" and not column.found_group]
    found = []
    for column in columns:
        if column.found_group:
            codes = [to_keys(frame[one.name]) for one in (*kept, column)]
            largest = np.bincount(joined_keys(codes)).max()
            alone = max((int(keys.value_counts().max()) for keys in codes), default=0)
            if kept and largest - alone > _LARGEST_CHAIN * len(frame):
                others = ", ".join(one.name for one in kept)
                note = f"its ids repeat, but with those of {others} they would join {largest:,} of {len(frame):,} rows"
                column = replace(column, role="ignored", note=f"{note}: --set {column.name}=group to have it so")
            else:
                kept.append(column)
        found.append(column)
    return found


def _category_unless_text_like(fact: Facts, reason: str) -> Guess:
    """A category, or ignored when nearly every row has a level of its own or the cells are prose."""
    use = f"use: --set {fact.name}=category"
    if fact.all_different and fact.count >= _UNIQUE_ROWS:
        return Guess("ignored", "every cell is different", use)
    long = fact.distinct > TEXT_LEVELS and fact.keys.str.len().median() > _LONG_TEXT
    if fact.text_like or long:
        return Guess("ignored", f"{'long ' if long else ''}text with {fact.distinct} distinct values", use)
    return Guess("category", reason, _levels_note(fact))


def _check_role(fact: Facts, role: Role) -> Guess:
    """A role that was set by hand; refused when the cells cannot fill it."""
    nested = plain_cells_problem(fact.column)
    rows, reason = len(fact.column), "set by hand"
    if role == "image" and content_share(fact.column)[0] >= 0.5:
        return Guess(role, reason)
    if nested is not None and role != "ignored":
        raise ConfigError(f"column {fact.name!r} cannot be {role}: its cells are of type {nested}, not plain values.")
    match role:
        case "number":
            bad = fact.stray
            _refuse_if(not len(fact.finite), fact, role, "numbers", fact.numbers.unparsable)
            notes = [f"{bad} of {rows} cells are not numbers, treated as missing" if bad else "", _infinite_note(fact)]
            return Guess(role, reason, "; ".join(filter(None, notes)))
        case "date":
            times, unparsable = fact.times
            _refuse_if(bool(np.isnat(times).all()), fact, role, "dates", unparsable)
            bad = int(unparsable.sum())
            return Guess(role, reason, f"{bad} of {rows} cells are not dates, treated as missing" if bad else "")
        case "image":
            _refuse_if(image_share(fact)[0] < 0.5, fact, role, "paths of image files", fact.keys.notna().to_numpy())
        case "weight":
            _refuse_if(not len(fact.finite), fact, role, "numbers", fact.numbers.unparsable)
        case "category":
            return Guess(role, reason, _levels_note(fact))
        case _:
            pass
    return Guess(role, reason)


def _refuse_if(wrong: bool, fact: Facts, role: Role, wanted: str, bad: Bool[np.ndarray, " rows"]) -> None:  # noqa: FBT001
    if wrong:
        place = int(bad.argmax())
        first = f", the first in row {fact.column.index[place]} is {_short(fact.keys.iloc[place])}" if bad.any() else ""
        raise ConfigError(
            f"column {fact.name!r} cannot be {role}: {bad.sum()} of {len(bad)} cells are not {wanted} "
            f"and {len(bad) - fact.count} are empty{first}."
        )


def _count_missing(fact: Facts, role: Role) -> int:
    """Cells without a value, as the role reads them; cells that hold something unusable are not counted."""
    if role == "number":
        return int((np.isnan(fact.numbers.values) & ~fact.numbers.unparsable).sum())
    if role == "date":
        times, unparsable = fact.times
        return int((np.isnat(times) & ~unparsable).sum())
    return int(fact.column.isna().sum()) if plain_cells_problem(fact.column) else len(fact.column) - fact.count


def _levels_note(fact: Facts) -> str:
    seldom = int((fact.keys.value_counts() < 5).sum())
    return f"{fact.distinct} levels, {seldom} seen < 5x" if seldom else ""


def _infinite_note(fact: Facts) -> str:
    infinite = int(fact.numbers.infinite.sum())
    return f"{infinite} of {len(fact.column)} cells are infinite, treated as missing" if infinite else ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


ORDER = 0.999
"""Rank correlation with a number, or area under the ROC curve of two classes."""
NUMBER_SHARE = 0.98
"""Share of the variance of a number's ranks that lies between levels; rounding to a fifth of the spread leaves it."""
CLASS_SHARE = 0.5
"""Of the rows of a class that empty (or filled) cells must cover to give it away."""

_ROWS = 20_000  # are enough
_LEAST = 10  # rows
_REPEATED = 0.9  # of the rows must be in levels that repeat
_LEVELS = 0.2  # levels per row; with more of them each is pure by chance
_CHANCE = np.log(1e-6)


def gives_away(fact: Facts, role: Role, goal: Facts, task: Task) -> bool:
    """True when the column alone says the target: by its order, its levels, or what it leaves empty."""
    rows = np.arange(0, len(fact.column), max(1, len(fact.column) // _ROWS))
    keys = fact.keys.iloc[rows].to_numpy(dtype=object)
    if task == "regression":
        values = goal.numbers.values[rows]
        if role == "number" and abs(_rank_correlation(fact.numbers.values[rows], values)) > ORDER:
            return True
        return role in ("number", "category") and _levels_tell_number(_codes(keys), values)
    classes = goal.keys.iloc[rows]
    known = classes.notna().to_numpy(dtype=bool)
    codes, labels = _codes(keys)[known], _codes(classes.to_numpy(dtype=object))[known]
    empty = pd.isna(keys)[known]
    if len(labels) < _LEAST:
        return False
    if role == "number" and task == "binary":
        area = _area_under_roc(fact.numbers.values[rows][known], labels == labels.max())
        if max(area, 1 - area) > ORDER:
            return True
    if _tells_class(empty, labels) or _tells_class(~empty, labels):
        return True
    return role in ("number", "category") and (_is_renamed(codes[~empty], labels[~empty]) or _are_pure(codes, labels))


def _codes(cells: np.ndarray) -> Int64[np.ndarray, " rows"]:
    """A number for each level; empty cells are a level too."""
    return np.asarray(pd.factorize(pd.Series(cells, dtype=object), use_na_sentinel=False)[0], dtype=np.int64)


def _is_renamed(codes: Int64[np.ndarray, " rows"], labels: Int64[np.ndarray, " rows"]) -> bool:
    """One level for each class and one class for each level."""
    pairs = np.unique(np.stack([codes, labels]), axis=1).shape[1]
    levels, classes = len(np.unique(codes)), len(np.unique(labels))
    return len(codes) >= _LEAST and classes > 1 and pairs == levels == classes


def _are_pure(codes: Int64[np.ndarray, " rows"], labels: Int64[np.ndarray, " rows"]) -> bool:
    """Every level that repeats has rows of one class only, and that can be no chance."""
    sizes = np.bincount(codes)
    repeated = sizes > 1
    if sizes[repeated].sum() < _REPEATED * len(codes) or repeated.sum() > _LEVELS * len(codes):
        return False
    inside = repeated[codes]
    pairs = np.unique(codes[inside] * (labels.max() + 1) + labels[inside])
    if len(pairs) > repeated.sum() or len(np.unique(labels[inside])) < 2:
        return False
    shares = np.bincount(labels) / len(labels)
    # Were rows dealt out at random, a level of n rows would be pure with the chance sum(share ** n).
    with np.errstate(under="ignore"):
        chances = (shares[None] ** sizes[repeated][:, None]).sum(axis=1)
    return bool(np.log(np.maximum(chances, np.finfo(np.float64).tiny)).sum() < _CHANCE)


def _tells_class(chosen: Bool[np.ndarray, " rows"], labels: Int64[np.ndarray, " rows"]) -> bool:
    """The chosen rows are all of one class, are most of that class, and that can be no chance."""
    found = labels[chosen]
    if not len(found) or (found != found[0]).any():
        return False
    size = int((labels == found[0]).sum())
    share = size / len(labels)
    enough = len(found) >= max(_LEAST, CLASS_SHARE * size)
    return bool(share < 1 and enough and len(found) * np.log(share) < _CHANCE)


def _levels_tell_number(codes: Int64[np.ndarray, " rows"], values: Float[np.ndarray, " rows"]) -> bool:
    """Nearly all of the variance of the number's ranks lies between levels that repeat."""
    known = np.isfinite(values)
    codes, counts = np.unique(codes[known], return_inverse=True, return_counts=True)[1:]
    repeated = counts[codes] > 1
    levels, rows = int((counts > 1).sum()), int(repeated.sum())
    if rows < max(_LEAST, _REPEATED * len(codes)) or not 1 < levels <= _LEVELS * len(codes):
        return False
    ranks = pd.Series(values[known][repeated]).rank().to_numpy()
    within = ranks - pd.Series(ranks).groupby(codes[repeated]).transform("mean").to_numpy()
    total = ((ranks - ranks.mean()) ** 2).sum() / (rows - 1)
    # Each level has taken a mean from its own rows, so there are fewer degrees of freedom.
    return bool(total > 0 and 1 - (within**2).sum() / (rows - levels) / total > NUMBER_SHARE)


def _rank_correlation(left: Float[np.ndarray, " rows"], right: Float[np.ndarray, " rows"]) -> float:
    """Spearman's, 0 where it cannot be told."""
    both = np.isfinite(left) & np.isfinite(right)
    ranks = np.stack([pd.Series(values[both]).rank().to_numpy() for values in (left, right)])
    if both.sum() < _LEAST or (ranks.std(axis=1) == 0).any():
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def _area_under_roc(score: Float[np.ndarray, " rows"], positive: Bool[np.ndarray, " rows"]) -> float:
    """Area under the ROC curve from ranks, 0.5 where it cannot be told."""
    known = np.isfinite(score)
    ranks, hit = pd.Series(score[known]).rank().to_numpy(), positive[known]
    hits, misses = int(hit.sum()), int((~hit).sum())
    if hits + misses < _LEAST or min(hits, misses) < 2:
        return 0.5
    return float((ranks[hit].sum() - hits * (hits + 1) / 2) / (hits * misses))
