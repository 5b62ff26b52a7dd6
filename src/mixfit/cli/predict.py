"""``mixfit predict``: predictions for new rows."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mixfit.cli.flags import EngineName, Flat, Switch, chosen_engine, configured_cache
from mixfit.config import TextConfig


def predict(
    run: Path,
    table: str,
    *,
    out: Annotated[str, Parameter(name=("--out", "-o"))],
    images: Path | None = None,
    bad_rows: Literal["mark", "drop", "fail"] = "mark",
    raw_csv: Annotated[bool, Switch] = False,
    interval: float | None = None,
    text_model: Path | None = None,
    features: str | None = None,
    cache: Path | None = None,
    cache_gb: float = 20.0,
    engine: EngineName = "local",
    workers: int | None = None,
    text: Annotated[TextConfig | None, Flat] = None,
) -> None:
    """Predict new rows; the output has the same columns plus prediction and status.

    Parameters
    ----------
    run
        Run folder or model folder.
    table
        Table with new rows, no target needed; or a pattern of many tables, such as 's3://bucket/*.parquet'.
    out
        File to write, or for many tables a folder or URL; the extension sets the format: CSV, TSV (predictions with 7
        significant digits), Parquet or JSON Lines (all digits).
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
    features
        Folder or URL of features that mixfit embed computed; others are computed here.
    cache
        Folder where frozen features are kept; by default MIXFIT_CACHE or the user's cache folder.
    cache_gb
        Largest size of the cache folder in gigabytes; 0 disables the cache.
    engine
        Where it is computed: in this process, or each table by ray, on all cores of this machine or of the cluster of
        RAY_ADDRESS.
    workers
        Processes of ray that compute; by default as many as there are cores beside the one that reads.
    """
    with chosen_engine(engine, workers) as found:
        from mixfit.auto.prediction import is_batch, predict_files
        from mixfit.runs.scoring import predict_table

        kept = configured_cache(cache, cache_gb)
        if engine != "local" or is_batch(table, out):
            predict_files(
                run,
                table,
                out,
                images=images,
                bad_rows=bad_rows,
                raw_csv=raw_csv,
                interval=interval,
                text=text,
                cache=kept,
                text_model=text_model,
                features=features,
                engine=found,
            )
            return
    predict_table(
        run,
        Path(table),
        out=Path(out),
        images=images,
        bad_rows=bad_rows,
        raw_csv=raw_csv,
        interval=interval,
        text=text,
        cache=kept,
        text_model=text_model,
        features=features,
    )
