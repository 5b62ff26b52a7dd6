"""What each column of a table is for, found out from its name and its cells.

In: a DataFrame, the name of the target, and whatever the user has set. Out: ``Schema``, each role with its evidence.
Guesses only what can be seen: an id that repeats is a group, weights are never guessed. Fits nothing that predictions
depend on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64

from mixfit.choices import NUMBER_TASKS, TASKS, Role, Task
from mixfit.data.columns.cells import Table
from mixfit.data.columns.facts import Facts, id_reason, short, words_for_missing
from mixfit.data.columns.form import MISSING_WORDS, Form
from mixfit.data.columns.kind import Guess, Kind, empty_cells, joined, missing_numbers, refuse_if, refuse_nested
from mixfit.data.columns.kinds import KINDS
from mixfit.data.columns.number import FEW_VALUES
from mixfit.data.columns.objects import Pairs, differing, listed, near_within, object_name, same_within, set_role
from mixfit.data.columns.ordered import ORDERED, order_of
from mixfit.data.columns.schema import REPEATED_IDS, SINGLE_ROLES, SUSPICIOUS_MARK, Column, Schema, roles_of
from mixfit.data.columns.target import is_count, no_count, wants_log
from mixfit.data.columns.values import moments
from mixfit.data.photos.cells import content_share, no_photos_reason
from mixfit.data.photos.rule import PhotoRule
from mixfit.data.split import SPLIT_ALIASES, groups_on_two_sides, joined_codes
from mixfit.errors import ConfigError, DataError, did_you_mean, unknown_column

SPLIT_NAMES = frozenset(["split", "fold", "set", "subset", "partition"])
OTHER_TASKS = "could be"
"""How the note of a target begins that names other tasks for it."""
SUSPICIOUS = "suspicious: this column alone gives the target away"

_CATEGORY_SHARE = 0.5  # of the rows; a class or level that does not repeat teaches nothing
_STRAY_TARGETS = 0.05
_SHOWN_LEVELS = 12  # of an order
_ZEROS, _LEAST_SPREAD, _MOST_SPREAD = 0.02, 0.5, 20.0  # of counts, see ``looks_like_counts``
_FUNCTIONS, _WITH_DIGITS = 2, 0.9  # columns that are the same within an object of words; share of codes
_LEVEL_SHARE = 0.1  # ids that come back ten times each can be learnt as levels
_LEAST_GROUPS, _LARGEST_GROUP = 5, 0.5  # ids, share of the rows: fewer and larger ones could fill no folds
_LARGEST_CHAIN = 0.2  # of the rows, that ids of several columns may join beyond the largest of one


def infer_schema(
    table: pd.DataFrame | Table,
    target: str,
    *,
    roles: Mapping[str, Role] | None = None,
    ignore: Sequence[str] = (),
    task: Task | None = None,
    orders: Mapping[str, Sequence[str]] | None = None,
    photos: Sequence[PhotoRule] = (),
    kinds: tuple[Kind, ...] = KINDS,
) -> Schema:
    """Find the role of every column and the task.

    Args:
        table: all of it; text cells and typed cells are understood alike.
        target: name of the column to predict.
        roles: roles that are set by hand.
        ignore: columns to leave out.
        task: by default told from the target: regression for floats and for integers with more than 20 distinct values,
            or count if such integers look like counts, see ``looks_like_counts``.
        orders: levels of ordered columns, the lowest first, where they cannot be known from the cells.
        photos: how cells of some columns name photos, which makes them image columns.
        kinds: what columns can be.
    Raises:
        ConfigError: a name, role or task does not exist, settings contradict each other, or a role cannot be had from
            the cells of its column.
        DataError: the target has no values, or only one; no column is left to predict from.
    """
    table = Table.of(table)
    roles = dict(roles or {})
    if roles.get(target) == ORDERED:
        if task not in (None, "ordered"):
            raise ConfigError(f"the target {target!r} is set to ordered, but the task to {task}: choose one.")
        task = "ordered"
        del roles[target]
    chosen = _chosen_roles(table, target, roles, ignore, roles_of(kinds))
    orders = _checked_orders(table, {} if orders is None else orders, chosen, target if task == "ordered" else "")
    goal = Facts(table[target])
    task, task_reason, task_note = _find_task(goal, task)
    facts = {name: Facts(table[name]) for name in table.names}
    split = _find_split(facts, chosen, target)
    by_role = {kind.role: kind for kind in kinds}
    naming = {rule.column: Guess("image", rule.reason) for rule in photos}
    columns = []
    for name, fact in facts.items():
        if name == target:
            guess = Guess("target", task_reason, task_note)
        elif name in naming:
            guess = naming[name]
        elif name in chosen:
            guess = _check_role(fact, chosen[name], by_role)
        else:
            guess = _guess(fact, facts[split] if split is not None else None, kinds)
        kind = by_role.get(guess.role)
        if kind is not None and (kind.state is not None or not kind.nested) and gives_away(fact, kind, goal, task):
            guess = guess._replace(note=joined(SUSPICIOUS, guess.note))
        numbers = name == target and task in NUMBER_TASKS
        missing = (
            missing_numbers(fact.cells)
            if numbers
            else empty_cells(fact.cells)
            if kind is None
            else kind.missing(fact.cells)
        )
        form = _form(fact, guess.role, numbers=numbers)
        if guess.role == ORDERED or (name == target and task == "ordered"):
            form = replace(form, order=order_of(fact, orders.get(name)))
            guess = guess._replace(reason=f"{guess.reason}: {' < '.join(map(short, form.order[:_SHOWN_LEVELS]))}")
        columns.append(
            Column(name=name, role=guess.role, reason=guess.reason, missing=missing, note=guess.note, form=form)
        )
    if not any(role == "group" for role in chosen.values()):
        columns = _with_objects(table, columns, facts, facts[split] if split is not None else None, by_role, chosen)
    columns = _without_chains(table, columns)
    if not any(column.role in by_role for column in columns):
        raise DataError(
            f"none of the {len(columns) - 1} columns beside the target {target!r} is left to predict from; "
            "set a role with --set COLUMN=number or --set COLUMN=category."
        )
    return Schema(
        columns=tuple(columns),
        task=task,
        task_reason=task_reason,
        rows=len(table),
        text=table.file,
        photos=tuple(photos),
        kinds=kinds,
    )


def _checked_orders(
    table: Table, orders: Mapping[str, Sequence[str]], chosen: Mapping[str, Role], target: str
) -> Mapping[str, Sequence[str]]:
    """Refuse orders of columns that do not exist or are not ordered.

    Args:
        target: with ordered classes, or "".
    """
    for name in orders:
        if name not in table.names:
            raise unknown_column(name, table.names)
        if name != target and chosen.get(name) != ORDERED:
            raise ConfigError(f"there is an order of column {name!r}, which is not ordered: add --set {name}=ordered.")
    return orders


def _form(fact: Facts, role: Role, *, numbers: bool) -> Form:
    """How a column is written, with what a later table need not show again."""
    form = fact.cells.form
    if numbers or role in ("number", "weight"):
        return replace(form, missing=words_for_missing(fact))
    if role == "date":
        return replace(form, day_first=fact.cells.order_of_dates, clock=fact.cells.clock)
    return form


def _chosen_roles(
    table: Table, target: str, roles: Mapping[str, Role], ignore: Sequence[str], known: Sequence[Role]
) -> dict[str, Role]:
    """Roles set by hand, ignored columns included; all contradictions are refused here."""
    names = table.names
    strange = [name for name in names if not isinstance(name, str)]
    if strange:
        raise DataError(f"{len(strange)} column names are not text, the first is {strange[0]!r}; rename the columns.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the table has {names.count(twice)} columns named {twice!r}; rename or remove them.")
    for name in (target, *roles, *ignore):
        if name not in names:
            raise unknown_column(name, names)
    if not len(table):
        raise DataError("the table has no rows.")
    for name, role in roles.items():
        if role not in known:
            raise ConfigError(
                f"column {name!r}: no role {role!r}.{did_you_mean(role, known)} roles: {', '.join(known)}"
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
    nested = goal.cells.nested
    if nested is not None:
        raise ConfigError(
            f"the target {goal.name!r} holds cells of type {nested}, not plain values; choose another target."
        )
    if not goal.count:
        raise DataError(f"the target {goal.name!r} has no values in {len(goal.column)} rows.")
    if task == "count" or (task is None and _is_amount(goal) and looks_like_counts(goal)):
        return "count", *_count_reason(goal, chosen=task is not None)
    if task == "regression" or (task is None and _is_amount(goal)):
        return "regression", *_regression_reason(goal, chosen=task is not None)
    counts = goal.counts
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
    if task == "ordered" and len(counts) < 3:
        raise ConfigError(f"the task ordered needs 3 classes or more, the target {goal.name!r} has {len(counts)}.")
    found = task or ("binary" if len(counts) == 2 else "multiclass")
    numeric = goal.stray == 0 and bool(len(goal.finite)) and not goal.boolean
    kind = "true or false" if goal.boolean else goal.number_kind if numeric else "text"
    reason = f"{kind}, {len(counts)} classes -> {found}"
    single = int((counts == 1).sum())
    notes = [f"{single} of {len(counts)} classes have one row only, kept in train"] if single else []
    words = [key for key in counts.index if key.lower() in MISSING_WORDS]
    notes += [f"{words[0]!r} is taken as a class of its own"] if words else []
    if found == "multiclass":
        other = "a count: --task count" if looks_like_counts(goal) else "a number: --task regression"
        possible = [*_ordered_task(goal), *([other] if numeric and len(counts) > 2 else [])]
        notes += [f"{OTHER_TASKS} {', or '.join(possible)}"] if possible else []
    return found, reason, "; ".join(notes)


def _ordered_task(goal: Facts) -> list[str]:
    """How to have the classes ordered, if their order is known."""
    try:
        order = order_of(goal)
    except ConfigError:
        return []
    return [f"ordered from {order[0]!r} to {order[-1]!r}: --task ordered"] if len(order) > 2 else []


def _is_amount(goal: Facts) -> bool:
    """Numbers, with few stray cells, that are more than names of classes."""
    if isinstance(goal.column.dtype, pd.CategoricalDtype) or goal.boolean:
        return False
    if not len(goal.finite) or goal.stray > _STRAY_TARGETS * goal.count:
        return False
    distinct = goal.distinct_numbers
    few_rows = distinct > 5 and distinct > _CATEGORY_SHARE * len(goal.finite)
    return not goal.whole or distinct > FEW_VALUES or few_rows


def looks_like_counts(goal: Facts) -> bool:
    """Whether numbers look like counts of events, not like amounts, ranks or codes.

    All are whole and none is below 0; 0 to 3 all occur; the variance is at least ``_LEAST_SPREAD`` and at most
    ``_MOST_SPREAD`` times the mean: 1 for a Poisson distribution, more for rows of different rates, far more for
    amounts such as prices, whose unit is arbitrary; and the share of zeros, at least ``_ZEROS``, is within a factor of
    two of that of a negative binomial distribution with the same mean and variance."""
    values = goal.finite
    if goal.boolean or not len(values) or not goal.whole or values.min() < 0 or goal.stray:
        return False
    if not np.isin([0, 1, 2, 3], values).all():
        return False
    mean, spread, zeros = values.mean(), values.var() / values.mean(), (values == 0).mean()
    if not _LEAST_SPREAD <= spread <= _MOST_SPREAD or zeros < _ZEROS:
        return False
    size = mean / max(spread - 1, 1e-9)  # of the negative binomial distribution; large for that of Poisson
    expected = np.exp(-size * np.log1p(mean / size))
    return bool(expected / 2 <= zeros <= 2 * expected)


def _count_reason(goal: Facts, *, chosen: bool) -> tuple[str, str]:
    """The reason for a count, and a note."""
    values, bad = goal.finite, np.flatnonzero(goal.numbers.unparsable)
    if chosen and len(values):
        numbers = goal.numbers.values
        wrong = np.flatnonzero(np.isfinite(numbers) & ~is_count(numbers))
        if len(wrong):
            raise ConfigError(no_count(goal.cells, wrong))
    _regression_reason(goal, chosen=chosen)  # the same checks
    how = "(set by hand)" if chosen else "(--task regression for an amount)"
    spread = values.var() / values.mean()
    reason = (
        f"whole numbers from {values.min():g} to {values.max():g}, {(values == 0).mean():.0%} zeros, variance "
        f"{spread:.2g} times the mean -> count {how}"
    )
    return reason, f"{len(bad)} of {len(goal.column)} cells are not finite numbers" if len(bad) else ""


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
    if fact.name.strip().lower() not in SPLIT_NAMES or fact.cells.nested is not None:
        return False
    words = fact.keys.dropna().str.lower().unique()
    return len(words) > 1 and all(word in SPLIT_ALIASES for word in words)


def _guess(fact: Facts, split: Facts | None, kinds: Sequence[Kind]) -> Guess:
    """By what the column is for the rows, or by the kind that takes it for its own."""
    nested = fact.cells.nested
    if nested is not None:
        found = next((guess for kind in reversed(kinds) if kind.nested and (guess := kind.guess(fact))), None)
        return found or Guess("ignored", no_photos_reason(nested, content_share(fact.column)[0]))
    if split is not None and fact.name == split.name:
        parts = [
            part for part in ("train", "valid", "test") if (fact.keys.str.lower().map(SPLIT_ALIASES) == part).any()
        ]
        return Guess("split", f"values {'/'.join(parts)}", "used as given")
    if _looks_like_split(fact):
        return Guess("ignored", "words of a split, but another column is the split")
    if not fact.count or (
        not fact.typed_numbers and not len(fact.finite) and fact.counts.index.str.lower().isin(MISSING_WORDS).all()
    ):
        return Guess("ignored", "no values at all")
    if fact.distinct == 1 and fact.count == len(fact.column):
        return Guess("ignored", f"one value only, {short(str(fact.counts.index[0]))}")
    kind, guess = next((kind, guess) for kind in reversed(kinds) if (guess := kind.guess(fact)))
    id_name = id_reason(fact.name)
    may_be_id = kind.levels and fact.distinct > 1 and not fact.boolean and (fact.whole or not fact.numeric)
    return _guess_id(fact, split, "integer" if fact.numeric else "text", id_name) if id_name and may_be_id else guess


def _guess_id(fact: Facts, split: Facts | None, kind: str, id_name: str) -> Guess:
    if fact.all_different:
        return Guess(
            "ignored", f"unique {kind}, {id_name}", f"use: {set_role(fact.name, 'number')}" if kind == "integer" else ""
        )
    counts = fact.counts
    repeated = int((counts > 1).sum())
    ids = f"{fact.distinct} {REPEATED_IDS} {fact.count} rows, {id_name}"
    torn = [] if split is None else groups_on_two_sides(fact.keys, split.keys.str.lower().map(SPLIT_ALIASES).to_numpy())
    level = (
        f"could be category: {set_role(fact.name, 'category')}" if fact.distinct <= _LEVEL_SHARE * fact.count else ""
    )
    few = fact.distinct < _LEAST_GROUPS or counts.iloc[0] > _LARGEST_GROUP * len(fact.column)
    if torn and split is not None:
        note = (
            f"{SUSPICIOUS_MARK} {len(torn)} of {fact.distinct} ids are on two sides of the split {split.name!r}, so "
            f"the test scores may look too good; --ignore {split.name} splits anew, each id on one side"
        )
    elif few:
        note = (
            f"{repeated} ids repeat, too few or in too many rows to be groups: {set_role(fact.name, 'group')} for one"
        )
    elif split is not None:
        note = f"{repeated} ids repeat; the split keeps each on one side, and so do the folds"
    else:
        note = f"{repeated} ids repeat; each stays on one side of the split and of every fold"
    if not few:
        note += f"; if rows of one id do not belong together: {set_role(fact.name, 'ignored')}"
    return Guess("ignored" if few else "group", ids, "; ".join(filter(None, [note, level])))


def _with_objects(
    table: Table,
    columns: list[Column],
    facts: Mapping[str, Facts],
    split: Facts | None,
    kinds: Mapping[Role, Kind],
    chosen: Mapping[str, Role],
) -> list[Column]:
    """Columns, but that one is a group which is named as an object is, repeats, and has other columns for a function.

    A noun with a word for number ("patient no") needs no such column, as "patient_id" does not."""
    target = next(column.name for column in columns if column.role == "target")
    compared = [
        column.name
        for column in columns
        if column.role in ("number", "category", "ordered", "date") and facts[column.name].cells.nested is None
    ]
    found = []
    for column in columns:
        fact = facts[column.name]
        name = object_name(column.name)
        if name is None or column.name in chosen or column.role not in ("number", "category", "text"):
            found.append(column)
            continue
        kind, counts = kinds[column.role], fact.counts
        few = fact.distinct < _LEAST_GROUPS or counts.iloc[0] > _LARGEST_GROUP * len(fact.column)
        if few or fact.all_different or fact.boolean or counts.iloc[0] < 2 or (fact.numeric and not fact.whole):
            found.append(column)
            continue
        pairs = Pairs.of(table[column.name].levels.codes)
        others = [one for one in (*compared, target) if one != column.name]
        codes = {one: table[one].levels.codes for one in others}
        pairs = differing(pairs, list(codes.values()))
        numbers = {one: facts[one].numbers.values for one in others if facts[one].numeric}
        same = [one for one in same_within(pairs, codes, numbers) if one != target]
        if name.certain or len(same) >= (1 if _like_codes(fact) else _FUNCTIONS):
            within = f", {listed(same)} the same in all rows of one" if same else ""
            guess = _guess_id(fact, split, "integer" if fact.numeric else "text", f"{name.reason}{within}")
            known = f"if all new rows are of known ones: {set_role(column.name, 'category')}"
            note = guess.note if "=category" in guess.note else f"{guess.note}; {known}"
            found.append(replace(column, role=guess.role, reason=guess.reason, note=note, form=fact.cells.form))
        elif kind.levels and len(pairs) and near_within(pairs, codes[target], numbers.get(target)):
            note = (
                f"{SUSPICIOUS_MARK} {name.reason}, and the target differs far less within its values than between "
                f"them: if new rows have new values, {set_role(column.name, 'group')}, for scores that hold for those"
            )
            found.append(replace(column, note=joined(note, column.note)))
        else:
            found.append(column)
    return found


def _like_codes(fact: Facts) -> bool:
    """Whether the values are numbers or have digits, as codes of objects do and names of kinds do not."""
    return fact.numeric or bool(fact.counts.index.str.contains("[0-9]").mean() > _WITH_DIGITS)


def _without_chains(table: Table, columns: list[Column]) -> list[Column]:
    """Columns, but that a found group is ignored which with those before it joins too many rows (seller, buyer)."""
    kept: list[Column] = [column for column in columns if column.role == "group" and not column.found_group]
    found = []
    for column in columns:
        if column.found_group:
            codes = [table[one.name].levels.codes for one in (*kept, column)]
            largest = np.bincount(joined_codes(codes)).max()
            alone = max((int(np.bincount(code + 1)[1:].max(initial=0)) for code in codes), default=0)
            if kept and largest - alone > _LARGEST_CHAIN * len(table):
                others = ", ".join(one.name for one in kept)
                note = f"its ids repeat, but with those of {others} they would join {largest:,} of {len(table):,} rows"
                column = replace(column, role="ignored", note=f"{note}: --set {column.name}=group to have it so")
            else:
                kept.append(column)
        found.append(column)
    return found


def _check_role(fact: Facts, role: Role, kinds: Mapping[Role, Kind]) -> Guess:
    """A role that was set by hand; refused when the cells cannot fill it."""
    kind, reason = kinds.get(role), "set by hand"
    if role != "ignored" and not (kind and kind.nested):
        refuse_nested(fact, role)
    text = kinds["text"].guess(fact) if "text" in kinds and role not in ("text", "target", "group", "split") else None
    reads = f"it reads as {text.reason}: --set {fact.name}=text" if text and text.role == "text" else ""
    try:
        if role == "weight":
            refuse_if(not len(fact.finite), fact, role, "numbers", fact.numbers.unparsable)
        note = "" if kind is None else kind.check(fact)
    except ConfigError as error:
        raise ConfigError(f"{error} {reads[0].upper()}{reads[1:]}." if reads else str(error)) from None
    return Guess(role, reason, joined(reads, note))


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


def gives_away(fact: Facts, kind: Kind, goal: Facts, task: Task) -> bool:
    """True when the column alone says the target: by its order, its levels, or what it leaves empty."""
    rows = slice(None, None, max(1, len(fact.cells) // _ROWS))
    codes = fact.cells.levels.codes[rows]
    if task in NUMBER_TASKS:
        values = goal.numbers.values[rows]
        if kind.orders and abs(_rank_correlation(fact.numbers.values[rows], values)) > ORDER:
            return True
        return kind.levels and _levels_tell_number(codes + 1, values)
    classes = goal.cells.levels.codes[rows]
    known = classes >= 0
    empty = codes[known] < 0
    codes, labels = _codes(codes)[known], _codes(classes)[known]
    if len(labels) < _LEAST:
        return False
    if kind.orders and task == "binary":
        area = _area_under_roc(fact.numbers.values[rows][known], labels == labels.max())
        if max(area, 1 - area) > ORDER:
            return True
    if _tells_class(empty, labels) or _tells_class(~empty, labels):
        return True
    return kind.levels and (_is_renamed(codes[~empty], labels[~empty]) or _are_pure(codes, labels))


def _codes(codes: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
    """Levels numbered by first appearance; empty cells are a level too."""
    return np.asarray(pd.factorize(codes)[0], dtype=np.int64)


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
    codes = codes[known]
    counts = np.bincount(codes)
    levels, rows = int((counts > 1).sum()), int(counts[counts > 1].sum())
    if rows < max(_LEAST, _REPEATED * len(codes)) or not 1 < levels <= _LEVELS * len(codes):
        return False
    repeated = counts[codes] > 1
    ranks = _ranks(values[known][repeated])
    level = codes[repeated]
    within = ranks - (np.bincount(level, weights=ranks) / np.maximum(np.bincount(level), 1))[level]
    total = ((ranks - ranks.mean()) ** 2).sum() / (rows - 1)
    # Each level has taken a mean from its own rows, so there are fewer degrees of freedom.
    return bool(total > 0 and 1 - (within**2).sum() / (rows - levels) / total > NUMBER_SHARE)


def _rank_correlation(left: Float[np.ndarray, " rows"], right: Float[np.ndarray, " rows"]) -> float:
    """Spearman's, 0 where it cannot be told."""
    both = np.isfinite(left) & np.isfinite(right)
    if both.sum() < _LEAST:
        return 0.0
    first, second = (_ranks(values[both]) - (both.sum() + 1) / 2 for values in (left, right))
    spread = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / spread) if spread else 0.0


def _ranks(values: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """From 1; equal values share the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    ends = np.append(starts[1:], len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return ranks


def _area_under_roc(score: Float[np.ndarray, " rows"], positive: Bool[np.ndarray, " rows"]) -> float:
    """Area under the ROC curve from ranks, 0.5 where it cannot be told."""
    known = np.isfinite(score)
    ranks, hit = _ranks(score[known]), positive[known]
    hits, misses = int(hit.sum()), int((~hit).sum())
    if hits + misses < _LEAST or min(hits, misses) < 2:
        return 0.5
    return float((ranks[hit].sum() - hits * (hits + 1) / 2) / (hits * misses))
