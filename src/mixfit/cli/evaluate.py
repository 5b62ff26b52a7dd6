"""``mixfit evaluate``: how well a finished run predicts a table."""

from pathlib import Path
from typing import Annotated, Literal

from mixfit.cli.flags import Flat, Switch, configured_cache
from mixfit.config import TextConfig


def evaluate(
    run: Path,
    table: Path,
    *,
    split: Literal["train", "valid", "test", "all"] | None = None,
    images: Path | None = None,
    out: Path | None = None,
    by: Annotated[tuple[str, ...], Switch] = (),
    cache: Path | None = None,
    cache_gb: float = 20.0,
    text: Annotated[TextConfig | None, Flat] = None,
) -> None:
    """Score a trained model on the rows of a table that has the target.

    Parameters
    ----------
    run
        Run folder or model folder.
    table
        Table with the target column.
    split
        Which rows; by default test for the table that the run was trained on, and all rows of any other.
    images
        Folder that the photo paths start from; by default the table's folder.
    out
        JSON file for the metrics; by default metrics-SPLIT.json in the run folder.
    by
        Column by whose values the metrics are given too; may be given several times.
    cache
        Folder where image features are kept; by default MIXFIT_CACHE or the user's cache folder.
    cache_gb
        The most that the cache folder may hold, in gigabytes; 0 for no cache.
    """
    from mixfit.runs.scoring import evaluate_table

    kept = configured_cache(cache, cache_gb)
    evaluate_table(run, table, split=split, images=images, out=out, by=by, text=text, cache=kept)
