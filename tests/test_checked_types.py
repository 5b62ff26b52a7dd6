"""The check of types and shapes that all tests rely on finds what is wrong, in each kind of function."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from checked_types import check
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import mixfit
from mixfit.nn.image import ImageEncoder
from mixfit.weighted import weighted_mean

WRONG = (BeartypeCallHintViolation, TypeCheckError)


@check
def plain(a: int, *, b: "str | NotImported" = "x") -> int:  # noqa: F821
    return a if a else "zero"


@check
def shaped(a: Float[Tensor, "rows columns"], b: Float[Tensor, " rows"] | None = None) -> Float[Tensor, " columns"]:
    return a[0] if b is None else b


@check
def with_function(give: Callable[[Float[Tensor, " rows"]], Any], a: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    return give(a)


@check
def numbers(count: int) -> Iterator[int]:
    yield from range(count)


@check
def rows_of(a: Float[Tensor, "rows columns"], b: Float[Tensor, " columns"]) -> Iterator[Float[Tensor, " columns"]]:
    yield from a


@check
@dataclass(frozen=True, slots=True)
class Pair:
    a: Float[Tensor, " rows"]
    b: Float[Tensor, " rows"]
    size: int = 2

    @check
    def sized(self, a: Tensor) -> Float[Tensor, "{self.size}"]:  # noqa: F821
        return a


def inner(of: Any, shift: Any) -> Any:
    """A function with another hint or another value from outside at each call."""

    @check
    def shifted(a: of) -> of:
        return a + shift

    return shifted


X, Y = torch.zeros(2, 3), torch.zeros(2)
PAIR = Pair(Y, Y)
RIGHT_AND_WRONG: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "argument": (lambda: plain(1), lambda: plain("1")),
    "result": (lambda: plain(1), lambda: plain(0)),
    "number of axes": (lambda: shaped(X), lambda: shaped(Y)),
    "kind of numbers": (lambda: shaped(X), lambda: shaped(X.long())),
    "axes of two arguments": (lambda: shaped(X[:, :2], Y), lambda: shaped(X, torch.zeros(3))),
    "axes of argument and result": (lambda: shaped(X[:, :2], Y), lambda: shaped(X, Y)),
    "beside a function": (lambda: with_function(torch.abs, Y), lambda: with_function(torch.sum, Y)),
    "generator": (lambda: list(numbers(2)), lambda: list(numbers("2"))),
    "generator of shapes": (lambda: list(rows_of(X, X[0])), lambda: list(rows_of(X, Y))),
    "fields": (lambda: Pair(Y, Y), lambda: Pair(Y, X[0])),
    "type of a field": (lambda: Pair(Y, Y, size=3), lambda: Pair(Y, Y, size="3")),
    "axis of a field": (lambda: PAIR.sized(Y), lambda: PAIR.sized(X[0])),
    "defined in a call": (lambda: inner(int, 1)(2), lambda: inner(int, 1)(2.0)),
    "defined in another call": (lambda: inner(int, 1)(2), lambda: inner(int, 0.5)(2)),
    "defined with another hint": (lambda: inner(float, 1.0)(2.0), lambda: inner(float, 1.0)("2")),
    "of mixfit": (lambda: weighted_mean(np.ones(2), np.ones(2)), lambda: weighted_mean(np.ones(2), np.ones(3))),
    "settings of mixfit": (lambda: mixfit.TrainConfig(epochs=1), lambda: mixfit.TrainConfig(epochs="one")),
}


@pytest.mark.parametrize("kind", RIGHT_AND_WRONG)
def test_a_call_that_does_not_fit_its_hints_is_refused_and_one_that_does_is_not(kind: str) -> None:
    right, wrong = RIGHT_AND_WRONG[kind]
    right()
    with pytest.raises(WRONG):
        wrong()


def test_a_scope_ends_with_its_call() -> None:
    for rows in (2, 5):
        shaped(torch.zeros(rows, 3), None)
        with pytest.raises(WRONG):
            shaped(torch.zeros(rows, rows + 1), torch.zeros(rows))


def test_functions_of_mixfit_are_checked_and_say_what_they_said() -> None:
    assert all(hasattr(function, "__wrapped__") for function in (weighted_mean, ImageEncoder.forward))
    assert plain.__annotations__["b"] == "str | NotImported"


def test_a_function_that_is_defined_anew_has_what_its_own_call_gave_it() -> None:
    assert [inner(int, shift)(2) for shift in (1, 5, 7)] == [3, 7, 9]
