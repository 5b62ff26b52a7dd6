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
    text_model: Path | None = None,
    cache: Path | None = None,
    cache_gb: float = 20.0,
    text: Annotated[TextConfig | None, Flat] = None,
) -> None:
    """Predict new rows; the output has the same columns plus prediction and status.

    Parameters
    ----------
    run
        Run folder or model folder.
    table
        Table with new rows; no target needed.
    out
        File to write; the extension sets the format: CSV, TSV (predictions with 7 significant digits), Parquet or JSON
        Lines (all digits).
    images
        Folder that photo paths are relative to; by default the table's folder.
    bad_rows
        How to handle rows with broken cells or photos: mark them in the status column, drop them, or fail.
    raw_csv
        Do not escape text cells that a spreadsheet would run as formulas.
    interval
        Coverage of the prediction intervals (columns lower and upper) or sets (prediction_set), such as 0.9.
    text_model
        Folder of the text model, if the model was trained with one from a folder.
    cache
        Folder where frozen features are kept; by default MIXFIT_CACHE or the user's cache folder.
    cache_gb
        Largest size of the cache folder in gigabytes; 0 disables the cache.
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
        text_model=text_model,
    )
