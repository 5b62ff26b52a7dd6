"""``mixfit evaluate``: score a finished run on a table."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mixfit.cli.flags import Flat, configured_cache
from mixfit.config import TextConfig


def evaluate(
    run: Path,
    table: Path,
    *,
    split: Literal["train", "valid", "test", "all"] | None = None,
    images: Path | None = None,
    out: Path | None = None,
    by: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    text_model: Path | None = None,
    features: str | None = None,
    cache: Path | None = None,
    cache_gb: float = 20.0,
    text: Annotated[TextConfig | None, Flat] = None,
) -> None:
    """Score a trained model on a table that has the target column.

    Parameters
    ----------
    run
        Run folder or model folder.
    table
        Table with the target column.
    split
        Rows to score on; by default test for the table the run was trained on, and all for another table.
    images
        Folder that photo paths are relative to; by default the table's folder.
    out
        JSON file for the metrics; by default metrics-SPLIT.json in the run folder.
    by
        Column to group the metrics by; may be repeated.
    text_model
        Folder of the text model, if the model was trained with one from a folder.
    features
        Folder or URL of features that mixfit embed computed; others are computed here.
    cache
        Folder where frozen features are kept; by default MIXFIT_CACHE or the user's cache folder.
    cache_gb
        Largest size of the cache folder in gigabytes; 0 disables the cache.
    """
    from mixfit.runs.scoring import evaluate_table

    kept = configured_cache(cache, cache_gb)
    evaluate_table(
        run,
        table,
        split=split,
        images=images,
        out=out,
        by=by,
        text=text,
        cache=kept,
        features=features,
        text_model=text_model,
    )
