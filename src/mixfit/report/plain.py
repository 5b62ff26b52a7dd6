"""Dataclasses as JSON and back, checked field by field.

In: a dataclass of plain values. Out: what ``json`` can write, and from that the same dataclass again."""

import math
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mixfit.errors import DataError


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


def from_plain(kind: Any, value: Any, where: str = "it") -> Any:
    """Read what ``to_plain`` gave.

    Args:
        kind: a dataclass, or the type of one of its fields.
        where: place of the value, for messages.
    Raises:
        DataError: the value is something else; the sentence has the place.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin in (Union, UnionType):
        chosen = [one for one in inner if one is not NoneType]
        return None if value is None else from_plain(chosen[0], value, where)
    if origin is Literal and value in inner:
        return value
    if origin is list and isinstance(value, list):
        return [from_plain(inner[0], part, f"{where}[{place}]") for place, part in enumerate(value)]
    if origin is tuple and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[1:] == (Ellipsis,) else list(inner)
        if len(kinds) == len(value):
            return tuple(from_plain(one, part, where) for one, part in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {
            from_plain(inner[0], key, where): from_plain(inner[1], part, f"{where}.{key}")
            for key, part in value.items()
        }
    if kind is float and (value is None or _is_number(value)):
        return math.nan if value is None else float(value)
    if kind in (str, bool) and isinstance(value, kind):
        return value
    if kind is int and _is_number(value) and isinstance(value, int):
        return value
    raise DataError(f"{where} is {type(value).__name__}, which it cannot be.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {type(value).__name__}, which it cannot be.")
    hints, found = get_type_hints(kind), {}
    for one in fields(kind):
        if one.name in value:
            found[one.name] = from_plain(hints[one.name], value[one.name], f"{where}.{one.name}")
        elif one.default is MISSING and one.default_factory is MISSING:
            raise DataError(f"{where} lacks {one.name!r}.")
    return kind(**found)
