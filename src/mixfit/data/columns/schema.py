"""What each column of a table is for, and what kind of answer is wanted.

In: names, roles and reasons, or a ``schema.json``. Out: ``Schema``, the same at training and prediction.
Does not look at data: how roles are found out is in ``infer``."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mixfit.choices import ROLES, TASKS, Role, Task
from mixfit.errors import DataError, did_you_mean
from mixfit.files import read_json

SUSPICIOUS_MARK = "suspicious:"
"""How the note of a column begins that may give the target away."""
REPEATED_IDS = "ids in"
"""Part of the reason of a group that was found, not set: its ids repeat."""
SINGLE_ROLES: tuple[Role, ...] = ("target", "split", "weight")
"""At most one column of a table can have each of these."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its role, the evidence for it, and what else to know."""

    name: str
    role: Role
    reason: str
    """Short evidence: "integers, 9 distinct", "set by hand"."""
    missing: int
    """Number of cells without a value."""
    note: str = ""
    """"could be category", "max 9583 = 6.1 sd (kept)"; empty when there is nothing to say."""

    @property
    def found_group(self) -> bool:
        """A group only because its ids repeat: where a given split or time contradicts it, that is told, no mistake."""
        return self.role == "group" and REPEATED_IDS in self.reason


@dataclass(frozen=True, kw_only=True)
class Schema:
    """All columns in the order of the table, and the task."""

    columns: tuple[Column, ...]
    task: Task
    task_reason: str
    rows: int
    """Number of rows of the table that the roles were found in."""

    @property
    def target(self) -> str:
        """Name of the column to predict."""
        return self.names("target")[0]

    def names(self, role: Role) -> list[str]:
        """Names of the columns with this role, in the order of the table."""
        return [column.name for column in self.columns if column.role == role]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, texts and integers, ready for JSON."""
        return {
            "task": self.task,
            "task_reason": self.task_reason,
            "rows": self.rows,
            "columns": [asdict(column) for column in self.columns],
        }

    @classmethod
    def from_dict(cls, data: Any) -> "Schema":
        """Read what ``to_dict`` gave, possibly edited by hand.

        Raises:
            DataError: a key is missing, unknown or of the wrong type, a role or task does not exist, two columns have
                the same name, or there is not exactly one target.
        """
        _check_keys(data, {"task": str, "task_reason": str, "rows": int, "columns": list}, where="the schema")
        if data["task"] not in TASKS:
            raise DataError(f"the schema has the task {data['task']!r}; it must be one of {', '.join(TASKS)}.")
        columns = tuple(_column_from_dict(entry, place) for place, entry in enumerate(data["columns"]))
        twice = [name for name, count in Counter(column.name for column in columns).items() if count > 1]
        if twice:
            raise DataError(f"the schema has {len(twice)} column names more than once, the first is {twice[0]!r}.")
        for role in SINGLE_ROLES:
            names = [column.name for column in columns if column.role == role]
            if len(names) > 1 or (role == "target" and not names):
                listed = f": {', '.join(map(repr, names))}" if names else ""
                wanted = "exactly" if role == "target" else "at most"
                raise DataError(f"the schema has {len(names)} columns with role {role}{listed}; it needs {wanted} one.")
        return cls(columns=columns, task=data["task"], task_reason=data["task_reason"], rows=data["rows"])

    def save(self, path: str | Path) -> None:
        """Write the schema as JSON, made to be read and edited."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Schema":
        """Read a ``schema.json``.

        Raises:
            DataError: the file cannot be read, is no JSON, or is not a schema.
        """
        data = read_json(Path(path))
        try:
            return cls.from_dict(data)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


def _column_from_dict(entry: Any, place: int) -> Column:
    where = f"column {place} of the schema"
    _check_keys(entry, {"name": str, "role": str, "reason": str, "missing": int, "note": str}, where=where)
    if entry["role"] not in ROLES:
        hint = did_you_mean(entry["role"], ROLES)
        raise DataError(
            f"{where}, {entry['name']!r}, has the unknown role {entry['role']!r}.{hint} roles: {', '.join(ROLES)}"
        )
    return Column(**entry)


def _check_keys(data: Any, kinds: Mapping[str, type], *, where: str) -> None:
    if not isinstance(data, dict):
        raise DataError(f"{where} must be a JSON object, not {type(data).__name__}.")
    missing, unknown = [key for key in kinds if key not in data], [key for key in data if key not in kinds]
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
    """Columns that may give the target away, each with what is known of it."""
    return [f"{column.name}: {column.note}" for column in schema.columns if column.note.startswith(SUSPICIOUS_MARK)]
