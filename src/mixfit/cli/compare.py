"""``mixfit compare``: finished runs side by side."""

import json as json_module
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

from mixfit.cli.flags import Switch, configured_cache


def compare(
    *runs: Path,
    out: Path = Path("compare.html"),
    table: Path | None = None,
    images: Path | None = None,
    json: Annotated[bool, Switch] = False,
    cache: Path | None = None,
    cache_gb: float = 20.0,
) -> None:
    """Compare finished runs of one table on the test rows that all of them held back.

    Parameters
    ----------
    runs
        Two run folders or more; all others are compared with the first.
    out
        The page to write.
    table
        Where the table is now; by default where it was in training.
    images
        Folder that the photo paths start from; by default that of the training.
    json
        Print one JSON object and nothing else.
    cache
        Folder where image features are kept; by default MIXFIT_CACHE or the user's cache folder.
    cache_gb
        The most that the cache folder may hold, in gigabytes; 0 for no cache.
    """
    from rich.console import Console

    from mixfit.runs.comparison import compare_runs

    kept = configured_cache(cache, cache_gb)
    if not json:
        compare_runs(runs, out=out, table=table, images=images, cache=kept)
        return
    with redirect_stdout(sys.stderr):  # whatever else is to be said
        found = compare_runs(runs, out=out, table=table, images=images, cache=kept, console=Console(quiet=True))
    print(json_module.dumps({**found.to_dict(), "page": out.name}))
