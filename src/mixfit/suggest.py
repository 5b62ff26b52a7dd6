"""Suggestions for misspelt names: columns, settings, files.

In: a name that is not known and the names that are. Out: a half sentence, or a ready ``ConfigError``.
Imports neither pandas nor torch, so that the command line can use it before anything heavy is loaded."""

import difflib
from collections.abc import Iterable

from mixfit.errors import ConfigError

NAMES_SHOWN = 20


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Give " Did you mean 'price'?", or "" when nothing known is close; upper and lower case count as equal.

    >>> did_you_mean("PRISE", ["area", "price"])
    " Did you mean 'price'?"
    >>> did_you_mean("zipcode", ["area", "price"])
    ''
    """
    by_folded: dict[str, str] = {}
    for candidate in known:
        by_folded.setdefault(candidate.casefold(), candidate)
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return f" Did you mean {by_folded[close[0]]!r}?" if close else ""


def unknown_column(name: str, known: Iterable[str]) -> ConfigError:
    """Make the error for a column that the table does not have; the caller raises it.

    >>> str(unknown_column("prise", ["area", "price"]))
    "no column 'prise'. Did you mean 'price'? columns: area, price"
    """
    names = list(known)
    # A name with a line break or an escape sequence must not rearrange the terminal.
    listed = ", ".join(text if text.isprintable() else repr(text) for text in names[:NAMES_SHOWN])
    more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ConfigError(f"no column {name!r}.{did_you_mean(name, names)} columns: {listed}{more}")
