"""``mixfit compare``: compare finished runs."""

import json as json_module
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

from mixfit.cli.flags import Switch, configured_cache


def compare(
    *runs: Path,
    out: Path = Path("compare.html"),
    table: Path | None = None,
    images: Path | None = None,
    json: Annotated[bool, Switch] = False,
    text_model: Path | None = None,
    cache: Path | None = None,
    cache_gb: float = 20.0,
) -> None:
    """Compare finished runs of one table on the test rows that they have in common.

    Parameters
    ----------
    runs
        Two or more run folders; each is compared with the first.
    out
        HTML file to write.
    table
        Path of the table; by default the path used in training.
    images
        Folder that photo paths are relative to; by default the one used in training.
    json
        Print one JSON object and nothing else.
    text_model
        Folder of the text model, if runs were trained with one from a folder.
    cache
        Folder where image features are kept; by default MIXFIT_CACHE or the user's cache folder.
    cache_gb
        Largest size of the cache folder in gigabytes; 0 disables the cache.
    """
    from rich.console import Console

    from mixfit.runs.comparison import compare_runs

    kept = configured_cache(cache, cache_gb)
    given: dict[str, Any] = {"out": out, "table": table, "images": images, "cache": kept, "text_model": text_model}
    if not json:
        compare_runs(runs, **given)
        return
    with redirect_stdout(sys.stderr):  # warnings and progress must not mix with the JSON
        found = compare_runs(runs, **given, console=Console(quiet=True))
    print(json_module.dumps({**found.to_dict(), "page": out.name}))
