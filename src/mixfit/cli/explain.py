"""``mixfit explain``: why rows are predicted as they are, and which columns matter."""

from pathlib import Path
from typing import Annotated

from mixfit.cli.flags import Flat, configured_cache
from mixfit.config import TextConfig
from mixfit.errors import ConfigError


def explain(
    run: Path,
    *,
    rows: str | None = None,
    n: int | None = None,
    table: Path | None = None,
    images: Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    cache: Path | None = None,
    cache_gb: float = 20.0,
    text: Annotated[TextConfig | None, Flat] = None,
) -> None:
    """Explain predictions by what each column and its photos add to them; write a page and JSON.

    Parameters
    ----------
    run
        Run folder, or model folder with --table.
    rows
        Numbers of rows of the table, the first is 0: --rows 3,17.
    n
        In place of rows: so many of the test rows, or where there are none of those that chose the model.
    table
        Where the table is, if it is not where it was, or another table.
    images
        Folder that the photo paths start from; by default that of the run, or the table's.
    out
        Folder for explain.html and explain.json; by default the run folder.
    seed
        Of the choice of rows.
    cache
        Folder where image features are kept; by default MIXFIT_CACHE or the user's cache folder.
    cache_gb
        The most that the cache folder may hold, in gigabytes; 0 for no cache.
    """
    from mixfit.runs.explaining import explain_run

    kept = configured_cache(cache, cache_gb)
    chosen = None if rows is None else _numbers(rows)
    explain_run(run, rows=chosen, n=n, table=table, images=images, out=out, seed=seed, text=text, cache=kept)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--rows wants numbers of rows with commas between them, such as 3,17, got {text!r}."
        ) from None
