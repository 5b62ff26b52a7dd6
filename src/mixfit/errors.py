"""The errors that mixfit raises on purpose, each with its exit code of the command line.

Every message says how many, which one (row, column, file) and how to fix it, in one sentence.
Imports nothing."""

import difflib
from collections.abc import Iterable


class MixfitError(Exception):
    """Base of all errors raised on purpose; any other exception is a bug in mixfit."""

    exit_code = 1


class ConfigError(MixfitError, ValueError):
    """A wrong setting, flag, column name or argument."""

    exit_code = 2


class DataError(MixfitError, ValueError):
    """A table, photo or saved model that cannot be used."""

    exit_code = 3


class ChangedFileError(DataError):
    """A file of a finished run or model is not as it was written."""


class ResourceError(MixfitError, RuntimeError):
    """Not enough disk or memory, or a file that cannot be written."""

    exit_code = 4


class Diverged(MixfitError, ArithmeticError):  # noqa: N818 - named for what happened to the training
    """The training loss is no longer finite."""

    exit_code = 5


class Stopped(MixfitError):  # noqa: N818
    """A signal stopped the training, whose state is saved."""

    exit_code = 75


NAMES_SHOWN = 20


def check_type(name: str, value: object, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Refuse an argument of a wrong type; ``wanted`` says what may be given.

    >>> check_type("target", None, str, "the name of a column")
    Traceback (most recent call last):
    mixfit.errors.ConfigError: target must be the name of a column, got None.

    Raises:
        ConfigError: it is of none of these types.
    """
    if not isinstance(value, kinds):
        got = "None" if value is None else f"{type(value).__name__} {value!r:.80}".splitlines()[0]
        raise ConfigError(f"{name} must be {wanted}, got {got}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'price'?", or "" without a close match; upper and lower case count as equal.

    >>> did_you_mean("PRISE", ["area", "price"])
    " Did you mean 'price'?"
    >>> did_you_mean("zipcode", ["area", "price"])
    ''
    """
    close = _closest(name, known)
    return f" Did you mean {close!r}?" if close else ""


def rename_hint(name: str, known: Iterable[str]) -> str:
    """Return how a table may get a column that it lacks, or "" without a close match among its own.

    >>> rename_hint("area", ["aera", "price"])
    " It has a column 'aera': if that is the same, rename it to 'area'."
    """
    close = _closest(name, known)
    return f" It has a column {close!r}: if that is the same, rename it to {name!r}." if close else ""


def _closest(name: str, known: Iterable[str]) -> str | None:
    by_folded: dict[str, str] = {}
    for candidate in known:
        by_folded.setdefault(candidate.casefold(), candidate)
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return by_folded[close[0]] if close else None


def unknown_column(name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for a column that is not in the table; the caller raises it.

    >>> str(unknown_column("prise", ["area", "price"]))
    "no column 'prise'. Did you mean 'price'? columns: area, price"
    >>> str(unknown_column("area, rooms", ["area", "rooms"]))
    "no column 'area, rooms'. 'area', 'rooms' are columns: name one at a time. columns: area, rooms"
    """
    names = list(known)
    parts = [part.strip() for part in name.split(",")]
    several = len(parts) > 1 and all(part in names for part in parts)
    hint = f" {', '.join(map(repr, parts))} are columns: name one at a time." if several else did_you_mean(name, names)
    # A name with a line break or an escape sequence must not rearrange the terminal.
    listed = ", ".join(text if text.isprintable() else repr(text) for text in names[:NAMES_SHOWN])
    more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ConfigError(f"no column {name!r}.{hint} columns: {listed}{more}")
