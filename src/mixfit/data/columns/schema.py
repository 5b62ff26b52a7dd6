"""The schema: the role of each column of a table, and the task.

In: names, roles and reasons, or a ``schema.json``. Out: ``Schema``, the same for training and prediction.
Does not access data; roles are inferred in ``infer``."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mixfit.choices import NUMBER_TASKS, OTHER_ROLES, TASKS, Role, Task
from mixfit.data.columns.cells import Table, Typed
from mixfit.data.columns.form import UNKNOWN, UNKNOWN_TEXT, Form, Sign, TextForm
from mixfit.data.columns.kind import Kind
from mixfit.data.columns.kinds import KINDS
from mixfit.data.columns.values import Numbers
from mixfit.data.photos.rule import PhotoRule
from mixfit.errors import DataError, did_you_mean
from mixfit.files import from_plain, read_json
from mixfit.html import Grid, card

SUSPICIOUS_MARK = "suspicious:"
"""Prefix of the note on a column that may leak the target."""
REPEATED_IDS = "ids in"
"""Part of the reason of an inferred group: its ids repeat."""
SINGLE_ROLES: tuple[Role, ...] = ("target", "split", "weight")
"""Roles that at most one column of a table can have."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its role, the evidence for it, and notes."""

    name: str
    role: Role
    reason: str
    """Short evidence: "integers, 9 distinct", "set by hand"."""
    missing: int
    """Number of cells without a value."""
    note: str = ""
    """"could be a category", "1 of 200 cells is infinite"; empty if there is nothing to note."""
    form: Form = UNKNOWN
    """The format of its cells, in this and in all later tables."""

    @property
    def found_group(self) -> bool:
        """A group inferred from repeated ids: if a given split contradicts it, that is a warning, not an error."""
        return self.role == "group" and REPEATED_IDS in self.reason


@dataclass(frozen=True, kw_only=True)
class Schema:
    """All columns in the order of the table, and the task."""

    columns: tuple[Column, ...]
    task: Task
    task_reason: str
    rows: int
    """Number of rows of the table from which the roles were inferred."""
    photos: tuple[PhotoRule, ...] = ()
    """How cells of image columns name photos, unless they are just paths separated by ";"."""
    text: TextForm = UNKNOWN_TEXT
    """The format of the text file from which the roles were inferred."""
    kinds: tuple[Kind, ...] = field(default=KINDS, repr=False, compare=False)
    """The available kinds of columns."""

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        title = f"Schema: predict {self.target}, {self.task} ({self.task_reason})"
        return card(title, facts={"rows": f"{self.rows:,}", "columns": self.counts}, grids=[self.grid()])

    @property
    def counts(self) -> str:
        """The number of columns of each role, in words: "4 number, 2 category"."""
        roles = Counter(column.role for column in self.columns)
        return ", ".join(f"{count:,} {role}" for role, count in roles.items())

    def grid(self, *, folded: bool = False) -> Grid:
        """The columns with their roles, as a table of a card."""
        rows = [(one.name, one.role, one.reason, one.missing, one.note) for one in self.columns]
        return Grid(heading="columns", head=("column", "role", "because", "missing", "note"), rows=rows, folded=folded)

    @property
    def target(self) -> str:
        """Name of the column to predict."""
        return self.names("target")[0]

    def names(self, role: Role) -> list[str]:
        """Names of the columns with this role, in the order of the table."""
        return [column.name for column in self.columns if column.role == role]

    @property
    def table_columns(self) -> list[tuple[Kind, str]]:
        """The columns that models receive as arrays, with their kinds, in the order of the arrays."""
        return [(kind, name) for kind in self.kinds if kind.state is not None for name in self.names(kind.role)]

    @property
    def inputs(self) -> list[str]:
        """Names of all columns that models use, photos included, by kind."""
        return [name for kind in self.kinds for name in self.names(kind.role)]

    @property
    def features(self) -> list[str]:
        """Names of the columns that models receive as arrays, in the order of the table."""
        found = {name for _, name in self.table_columns}
        return [column.name for column in self.columns if column.name in found]

    def kind_of(self, name: str) -> Kind | None:
        """The kind of a column; None for a column that models do not use."""
        role = next((column.role for column in self.columns if column.name == name), "ignored")
        return next((kind for kind in self.kinds if kind.role == role), None)

    @property
    def used(self) -> list[str]:
        """Names of the columns that are not ignored, without the target, in the order of the table."""
        return [column.name for column in self.columns if column.role not in ("ignored", "target")]

    def table(self, table: pd.DataFrame | Table) -> Table:
        """The table with its columns parsed in the same format as those from which the roles were inferred.

        A decimal mark that the user sets for this table overrides the one of that format."""
        table = Table.of(table)
        forms = {column.name: column.form for column in self.columns}
        if table.file.decimal in (".", ",") and table.file.decimal != self.text.decimal:
            named: Sign = "," if table.file.decimal == "," else "."
            forms = {name: replace(form, decimal=named) if form.decimal else form for name, form in forms.items()}
        return table.written(forms)

    def require_written(self, table: Table) -> None:
        """Check that numbers are written in the same format as in training.

        Raises:
            DataError: they are not; the message names the column and the first such cell.
        """
        for _, name in self.table_columns:
            typed = self.typed(table, name) if name in table else None
            if isinstance(typed, Numbers) and typed.contradiction:
                raise DataError(typed.contradiction)

    def typed(self, table: Table, name: str) -> Typed:
        """A column as parsed by its kind; a numeric target and weights as numbers, other columns as levels."""
        kind, cells = self.kind_of(name), table[name]
        if kind is not None:
            return kind.parse(cells)
        numbers = (*self.names("weight"), *([self.target] if self.task in NUMBER_TASKS else []))
        return cells.numbers if name in numbers else cells.levels

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain dicts, lists, strings and integers, for JSON."""
        text = _told(self.text)
        return {
            "task": self.task,
            "task_reason": self.task_reason,
            "rows": self.rows,
            **({"text": text} if text else {}),
            "columns": [_column_to_dict(column) for column in self.columns],
            **({"photos": [rule.to_dict() for rule in self.photos]} if self.photos else {}),
        }

    @classmethod
    def from_dict(cls, data: Any, kinds: tuple[Kind, ...] | None = KINDS) -> "Schema":
        """Restore the result of ``to_dict``, possibly edited by the user.

        Args:
            kinds: the available kinds of columns; None accepts any role, for a schema that is only displayed.

        Raises:
            DataError: a key is missing, unknown or of the wrong type, a role or task does not exist, two columns have
                the same name, or there is not exactly one target.
        """
        data = dict(data) if isinstance(data, dict) else data
        photos = data.pop("photos", []) if isinstance(data, dict) else []
        known = {"task": str, "task_reason": str, "rows": int, "columns": list}
        _check_keys(data, known, {"text": dict}, where="the schema")
        if data["task"] not in TASKS:
            raise DataError(f"the schema has the task {data['task']!r}; it must be one of {', '.join(TASKS)}.")
        columns = tuple(_column_from_dict(entry, place, kinds) for place, entry in enumerate(data["columns"]))
        twice = [name for name, count in Counter(column.name for column in columns).items() if count > 1]
        if twice:
            raise DataError(f"the schema has {len(twice)} duplicate column names, the first is {twice[0]!r}.")
        for role in SINGLE_ROLES:
            names = [column.name for column in columns if column.role == role]
            if len(names) > 1 or (role == "target" and not names):
                listed = f": {', '.join(map(repr, names))}" if names else ""
                wanted = "exactly" if role == "target" else "at most"
                raise DataError(f"the schema has {len(names)} columns with role {role}{listed}; it needs {wanted} one.")
        return cls(
            columns=columns,
            task=data["task"],
            task_reason=data["task_reason"],
            rows=data["rows"],
            photos=_photo_rules(photos, columns),
            text=from_plain(TextForm, data.get("text", {}), "the text of the schema"),
            kinds=kinds or KINDS,
        )

    def save(self, path: str | Path) -> None:
        """Write the schema as JSON that can be read and edited."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, kinds: tuple[Kind, ...] | None = KINDS) -> "Schema":
        """Read a ``schema.json``; ``kinds`` as for ``from_dict``.

        Raises:
            DataError: the file cannot be read, is not JSON, or is not a schema.
        """
        data = read_json(Path(path))
        try:
            return cls.from_dict(data, kinds)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


def _photo_rules(entries: Any, columns: tuple[Column, ...]) -> tuple[PhotoRule, ...]:
    """Rules of image columns, from JSON."""
    if not isinstance(entries, list):
        raise DataError(f"the schema: 'photos' must be list, got {type(entries).__name__}.")
    rules = tuple(PhotoRule.from_dict(entry) for entry in entries)
    image = [column.name for column in columns if column.role == "image"]
    for rule in rules:
        if rule.column not in image:
            raise DataError(f"the schema has a photo rule for {rule.column!r}, which is not an image column.")
        if rule.column not in rule.columns:
            raise DataError(f"the schema's photo rule {rule.pattern!r} does not name its column {rule.column!r}.")
    return rules


def roles_of(kinds: tuple[Kind, ...]) -> tuple[Role, ...]:
    """Every role that a column can have."""
    return (*(kind.role for kind in kinds), *OTHER_ROLES)


ROLES = roles_of(KINDS)
"""The roles available by default."""


def _column_from_dict(entry: Any, place: int, kinds: tuple[Kind, ...] | None) -> Column:
    where = f"column {place} of the schema"
    known = {"name": str, "role": str, "reason": str, "missing": int, "note": str}
    _check_keys(entry, known, {"form": dict}, where=where)
    roles = roles_of(kinds or ())
    if kinds is not None and entry["role"] not in roles:
        hint = did_you_mean(entry["role"], roles)
        raise DataError(
            f"{where}, {entry['name']!r}, has the unknown role {entry['role']!r}.{hint} roles: {', '.join(roles)}"
        )
    form = from_plain(Form, entry.get("form", {}), f"the form of {where}")
    return Column(**{**entry, "form": form})


def _column_to_dict(column: Column) -> dict[str, Any]:
    """Without unknown parts of its format, to keep the schema short."""
    found = asdict(column)
    form = _told(column.form)
    del found["form"]
    return found | ({"form": form} if form else {})


def _told(form: Form | TextForm) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    nothing = type(form)()
    return {
        one.name: list(told) if isinstance(told, tuple) else told
        for one in fields(form)
        if (told := getattr(form, one.name)) != getattr(nothing, one.name)
    }


def _check_keys(data: Any, needed: Mapping[str, type], optional: Mapping[str, type], *, where: str) -> None:
    if not isinstance(data, dict):
        raise DataError(f"{where} must be a JSON object, not {type(data).__name__}.")
    kinds = {**needed, **{key: kind for key, kind in optional.items() if key in data}}
    missing = [key for key in needed if key not in data]
    unknown = [key for key in data if key not in kinds]
    if missing or unknown:
        problems = [f"lacks {', '.join(map(repr, missing))}"] if missing else []
        problems += (
            [f"has the unknown key {unknown[0]!r}{did_you_mean(str(unknown[0]), kinds)}".rstrip("?")] if unknown else []
        )
        raise DataError(f"{where} {' and '.join(problems)}; its keys are {', '.join(kinds)}.")
    for key, kind in kinds.items():
        if not isinstance(data[key], kind) or isinstance(data[key], bool):
            raise DataError(f"{where}: {key!r} must be {kind.__name__}, got {type(data[key]).__name__}.")
        if kind is int and data[key] < 0:
            raise DataError(f"{where}: {key!r} must be at least 0, got {data[key]}.")


def suspicious_columns(schema: Schema) -> list[str]:
    """Columns that may leak the target, each with the evidence."""
    return [f"{column.name}: {column.note}" for column in schema.columns if column.note.startswith(SUSPICIOUS_MARK)]
