"""Expressions of ONNX operators that read like NumPy, over spox.

In: variables of a graph, and arrays. Out: variables. Within ``arithmetic()``, ``+ - * /`` work on variables of one type
and plain numbers. Everything here is an operator of a fixed version that onnxruntime has for these types."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import spox.opset.ai.onnx.v20 as op
from spox import Tensor, Var

from mixfit.errors import ConfigError

OPSET = 20
"""Of ai.onnx; trees are of version 5 of ai.onnx.ml."""
FLOAT, DOUBLE, INT = np.float32, np.float64, np.int64


class NotExportable(ConfigError):  # noqa: N818 - named for what is said of a part
    """A part of a model that has no counterpart in the file; the message says which and what to do."""


class _Operators:
    """What spox's variables do for Python's operators: those of ONNX; plain numbers take the type of the variable."""

    def __init__(self) -> None:
        self.add, self.sub, self.mul, self.truediv = (_binary(one) for one in (op.add, op.sub, op.mul, op.div))


def _binary(make: Any) -> Any:
    def of(a: Any, b: Any) -> Var:
        known = dtype_of(a if isinstance(a, Var) else b)
        return make(*(one if isinstance(one, Var) else const(one, known) for one in (a, b)))

    return of


@contextmanager
def arithmetic() -> Iterator[None]:
    """Let ``+ - * /`` work on variables inside the block.

    Variables of spox look their operators up in one place of their class, which is empty outside of such a block."""
    before = Var._operator_dispatcher
    Var._operator_dispatcher = _Operators()
    try:
        yield
    finally:
        Var._operator_dispatcher = before


def const(values: Any, dtype: Any = None) -> Var:
    """A constant."""
    return op.const(np.asarray(values, dtype=dtype))


def as_type(x: Var, dtype: Any) -> Var:
    """Converted; rounding as NumPy's."""
    return op.cast(x, to=dtype)


def columns(parts: Sequence[Var]) -> Var:
    """Vectors ``(rows,)`` side by side, ``(rows, parts)``."""
    return op.concat([op.unsqueeze(part, const([1])) for part in parts], axis=1)


def beside(parts: Sequence[Var]) -> Var:
    """Matrices side by side."""
    return parts[0] if len(parts) == 1 else op.concat(list(parts), axis=1)


def column(x: Var, place: int) -> Var:
    """One column, ``(rows,)``."""
    return op.gather(x, const(place), axis=1)


def take(table: Any, places: Var) -> Var:
    """Entries or rows of an array by number."""
    return op.gather(const(table), places, axis=0)


def upright(x: Var) -> Var:
    """``(rows,)`` as ``(rows, 1)``."""
    return op.unsqueeze(x, const([1]))


def total(x: Var, axis: int = 1, *, keep: bool = False) -> Var:
    """Sum over an axis."""
    return op.reduce_sum(x, const([axis]), keepdims=int(keep))


def clip(x: Var, low: float, high: float) -> Var:
    """Within bounds."""
    dtype = dtype_of(x)
    return op.clip(x, const(low, dtype), const(high, dtype))


def at_least(x: Var, low: Any) -> Var:
    """The larger of each entry and a bound."""
    return op.max([x, const(low, dtype_of(x))])


def where(condition: Var, yes: Any, no: Any) -> Var:
    """One or the other; plain numbers take the type of the variable."""
    dtype = dtype_of(yes if isinstance(yes, Var) else no)
    return op.where(condition, *(part if isinstance(part, Var) else const(part, dtype) for part in (yes, no)))


def softmax(x: Var) -> Var:
    """Over the columns."""
    return op.softmax(x, axis=1)


def log1p(x: Var) -> Var:
    """``log(1 + x)`` for x of at least 0, exact for small ones too: the rounding of 1 + x is divided out (Goldberg
    1991, ACM Computing Surveys 23, 5-48, theorem 4)."""
    one_more = x + 1.0
    difference = one_more - 1.0
    none = op.equal(difference, const(0.0, DOUBLE))
    return where(none, x, op.log(one_more) * (x / where(none, 1.0, difference)))


def floor_divided(x: Var, by: int) -> tuple[Var, Var]:
    """Quotient and remainder of integers, rounded down as Python does."""
    rest = op.mod(x, const(by, INT))
    return op.div(x - rest, const(by, INT)), rest


def dtype_of(x: Var) -> Any:
    """NumPy's type of a variable."""
    assert isinstance(x.type, Tensor)
    return x.type.dtype


def rows_of(x: Var) -> Var:
    """Number of rows, int64 ``(1,)``."""
    return op.shape(x, start=0, end=1)


def repeated(values: Any, rows: Var) -> Var:
    """A constant vector for each row, ``(rows, ...)``."""
    row = np.asarray(values)
    size = op.concat([rows, const(row.shape, INT)], axis=0) if row.ndim else rows
    return op.expand(const(row), size)
