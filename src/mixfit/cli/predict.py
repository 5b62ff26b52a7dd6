"""``mixfit predict``: predictions for new rows."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mixfit.cli.flags import Flat, Switch, configured_cache
from mixfit.config import TextConfig


def predict(
    run: Path,
    table: Path,
    *,
    out: Annotated[Path, Parameter(name=("--out", "-o"))],
    images: Path | None = None,
    bad_rows: Literal["mark", "drop", "fail"] = "mark",
    raw_csv: Annotated[bool, Switch] = False,
    interval: float | None = None,
    cache: Path | None = None,
    cache_gb: float = 20.0,
    text: Annotated[TextConfig | None, Flat] = None,
) -> None:
    """Predict new rows; the same columns come back with prediction and status.

    Parameters
    ----------
    run
        Run folder or model folder.
    table
        Table with new rows; no target needed.
    out
        File to write: CSV, TSV, Parquet or JSON Lines by its ending.
    images
        Folder that the photo paths start from; by default the table's folder.
    bad_rows
        What to do with rows whose cells or photos are broken: mark them in the status, drop them, or fail.
    raw_csv
        Write text cells that a spreadsheet would run as formulas as they are.
    interval
        Share of rows, such as 0.9, whose truth shall lie between lower and upper, or in prediction_set.
    cache
        Folder where image features are kept; by default MIXFIT_CACHE or the user's cache folder.
    cache_gb
        The most that the cache folder may hold, in gigabytes; 0 for no cache.
    """
    from mixfit.runs.scoring import predict_table

    kept = configured_cache(cache, cache_gb)
    predict_table(
        run,
        table,
        out=out,
        images=images,
        bad_rows=bad_rows,
        raw_csv=raw_csv,
        interval=interval,
        text=text,
        cache=kept,
    )
