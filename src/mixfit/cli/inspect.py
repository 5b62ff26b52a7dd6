"""``mixfit inspect``: check a table before training."""

import json as json_module
from pathlib import Path
from typing import Annotated

from mixfit.cli.flags import Flat, SetRoles, Switch, with_roles
from mixfit.config import DataConfig
from mixfit.errors import DataError


def inspect(
    table: Path,
    *,
    target: str,
    set_: SetRoles = (),
    out: Path | None = None,
    json: Annotated[bool, Switch] = False,
    data: Annotated[DataConfig | None, Flat] = None,
) -> None:
    """Show the inferred role of each column, and what is missing, broken or suspicious.

    Parameters
    ----------
    table
        CSV, TSV, Parquet, Feather or JSON Lines; photo paths are relative to its folder.
    target
        Column to predict.
    set_
        COLUMN=ROLE sets a role: number, category, ordered, date, text, tags, image, group, split, weight or ignored.
    out
        New folder for inspect.html and schema.json; by default one under runs/.
    json
        Print one JSON object and nothing else.
    """
    from rich.console import Console

    from mixfit.auto.inspection import inspect_table

    quiet = Console(quiet=True) if json else None
    found = inspect_table(table, target=target, config=with_roles(data, set_), out=out, console=quiet)
    if json:
        print(json_module.dumps(found.to_dict(), ensure_ascii=False, allow_nan=False))
    raise SystemExit(DataError.exit_code if found.count("error") else 0)
