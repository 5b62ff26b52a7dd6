"""Dataclasses as JSON and back: every value that is read is checked before it is used.

In: a dataclass of plain values. Out: what ``json`` can write, and from that the same dataclass again. What a file says
is checked against the types of the fields: numbers are finite, whole numbers are no switches, ranges are those of
``Within``. Imports nothing but errors."""

import math
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mixfit.errors import ConfigError, DataError

_LARGEST_WHOLE = 2**63 - 1  # as int64 holds it
_LARGEST = 1.7976931348623157e308


@dataclass(frozen=True, slots=True)
class Within:
    """The range of a number, both ends included: ``Annotated[int, Within(1, 1024)]``."""

    low: float | int
    high: float | int = math.inf


Count = Annotated[int, Within(0)]
"""A whole number from 0."""
Share = Annotated[float, Within(0, 1)]
"""A number in [0, 1]."""


def to_plain(value: Any) -> Any:
    """Dicts, lists, texts, numbers; None stands for nan and infinity, which JSON has not."""
    if is_dataclass(value):
        return {one.name: to_plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_plain(kind: Any, value: Any, where: str = "it", *, finite: bool = False) -> Any:
    """Read what ``to_plain`` gave. Keys that the dataclass does not know are passed over.

    Args:
        kind: a dataclass, or the type of one of its fields.
        where: place of the value, for messages.
        finite: refuse the None that stands for nan.
    Raises:
        DataError: the value is something else, or out of its range; the sentence has the place.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        found = from_plain(inner[0], value, where, finite=finite)
        for limit in inner[1:]:
            if isinstance(limit, Within) and not (math.isnan(found) or limit.low <= found <= limit.high):
                ends = f"at least {limit.low:g}" if limit.high == math.inf else f"from {limit.low:g} to {limit.high:g}"
                raise DataError(f"{where} must be {ends}.")
        return found
    if is_dataclass(kind):
        return _dataclass(kind, value, where, finite=finite)
    if origin in (Union, UnionType):
        chosen = [one for one in inner if one is not NoneType]
        return None if value is None else from_plain(chosen[0], value, where, finite=finite)
    if origin is Literal and isinstance(value, str):
        if value not in inner:
            raise DataError(f"{where} must be one of {', '.join(map(str, inner))}.")
        return value
    if origin is list and isinstance(value, list):
        return [from_plain(inner[0], part, f"{where}[{place}]", finite=finite) for place, part in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if inner[1:] == (Ellipsis,) else list(inner)
        if len(kinds) == len(value):
            parts = enumerate(zip(kinds, value, strict=True))
            return tuple(from_plain(one, part, f"{where}[{place}]", finite=finite) for place, (one, part) in parts)
    if origin is dict and isinstance(value, dict):
        return {
            from_plain(inner[0], key, where): from_plain(inner[1], part, f"{where}.{shown(key)}", finite=finite)
            for key, part in value.items()
        }
    if kind is float and value is None and not finite:
        return math.nan
    if kind is float and _is_number(value):
        if not abs(value) <= _LARGEST:
            raise DataError(f"{where} must be a finite number.")
        return float(value)
    if kind in (str, bool) and isinstance(value, kind):
        return value
    if kind is int and _is_number(value) and isinstance(value, int):
        if abs(value) > _LARGEST_WHOLE:
            raise DataError(f"{where} must be from -2**63 to 2**63.")
        return value
    if kind is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    if kind is Any:
        return value
    raise DataError(f"{where} is {type(value).__name__}, which it cannot be.")


def shown(text: object) -> str:
    """A name out of a file, for a message of one line."""
    said = str(text)[:80]
    return said if said.isprintable() else ascii(said)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _dataclass(kind: Any, value: Any, where: str, *, finite: bool) -> Any:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {type(value).__name__}, which it cannot be.")
    hints, found = _hints(kind), {}
    for one in fields(kind):
        if one.name in value:
            found[one.name] = from_plain(hints[one.name], value[one.name], f"{where}.{one.name}", finite=finite)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise DataError(f"{where} lacks {one.name!r}.")
    try:
        return kind(**found)
    except ConfigError as error:  # a configuration checks its own settings
        raise DataError(f"{where} is damaged: {error}") from error
