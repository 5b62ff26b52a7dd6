"""In the tests each call of a function of mixfit is checked against its hints, shapes in them against each other too.

The import hook of jaxtyping puts a decorator on all functions and classes. Its own one binds the arguments of each call
to the signature and checks them twice, which doubles the time of the suite. This one leaves the check to beartype, and
gives a call a scope for the names of axes only where a hint has a shape."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import beartype

real_jaxtyped = jaxtyping.jaxtyped
_STAND_INS: dict[Any, Callable[..., Any]] = {}
"""What beartype makes of a function that is defined anew at each call of another one, by its code and hints; without
what that call has given it, which would be kept alive."""


def install() -> None:
    """Check all that is imported of mixfit from now on."""
    jaxtyping.install_import_hook("mixfit", typechecker=None)
    jaxtyping.jaxtyped = lambda *, typechecker: check  # what the hook writes above each function and class


def check(subject: Any) -> Any:
    """A function that checks its arguments and its result; of a class the ``__init__`` that a dataclass has made."""
    if not isinstance(subject, type):
        return _checked(subject)
    init = vars(subject).get("__init__")
    if dataclasses.is_dataclass(subject) and init is not None and not hasattr(init, "__wrapped__"):
        subject.__init__ = _checked(init)
    return subject


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    said = function.__annotations__
    hints = {name: _resolved(hint, function.__globals__) for name, hint in said.items()}
    shapes = [shape for hint in hints.values() for shape in _shapes(hint)]
    if shapes and (inspect.isgeneratorfunction(function) or any("{" in shape for shape in shapes)):
        return real_jaxtyped(function, typechecker=beartype)  # which looks into arguments, for ``"{self.size}"``
    function.__annotations__ = hints
    checked = _beartyped_inner(function) if "<locals>" in function.__qualname__ else beartype(function)
    function.__annotations__ = checked.__annotations__ = said
    if not shapes:
        return checked

    @functools.wraps(function)
    def in_a_scope(*arguments: Any, **named: Any) -> Any:
        with real_jaxtyped("context"):
            return checked(*arguments, **named)

    return in_a_scope


def _beartyped_inner(function: Any) -> Any:
    """As ``beartype`` does it, which takes some milliseconds, once for all functions of the same code and hints."""
    try:
        known = _STAND_INS.get(key := (function.__code__, *function.__annotations__.items()))
    except TypeError:  # a hint that cannot be hashed
        return beartype(function)
    if known is None:
        nothing = tuple(CellType() for _ in function.__code__.co_freevars)
        stand_in = FunctionType(function.__code__, function.__globals__, function.__name__, None, nothing)
        stand_in.__annotations__, stand_in.__qualname__ = function.__annotations__, function.__qualname__
        stand_in.__kwdefaults__, stand_in.__defaults__ = function.__kwdefaults__, function.__defaults__
        known = _STAND_INS[key] = beartype(stand_in)
    if known.__kwdefaults__ is None or "__beartype_func" not in known.__kwdefaults__:
        return beartype(function)
    found: Any = FunctionType(known.__code__, known.__globals__, function.__name__)
    found.__kwdefaults__ = known.__kwdefaults__ | {"__beartype_func": function}
    return functools.update_wrapper(found, function)


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """What a hint means; ``Any`` if a name in it is not there, as those imported for type checkers alone."""

    def with_hint(value: hint) -> None: ...

    try:
        return get_type_hints(with_hint, names, include_extras=True)["value"]
    except NameError:
        return Any


def _shapes(hint: Any) -> list[str]:
    """The shapes in a hint, as ``"rows columns"``."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return [hint.dim_str]
    parts = hint if isinstance(hint, list) else get_args(hint)  # a list has the arguments of a callable
    return [shape for part in parts for shape in _shapes(part)]
