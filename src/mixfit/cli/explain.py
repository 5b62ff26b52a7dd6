"""``mixfit explain``: explain predictions by the contributions of columns and photos."""

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
    text_model: Path | None = None,
    cache: Path | None = None,
    cache_gb: float = 20.0,
    text: Annotated[TextConfig | None, Flat] = None,
) -> None:
    """Explain predictions with Shapley values of columns, texts and photos; write an HTML page and a JSON file.

    Parameters
    ----------
    run
        Run folder, or model folder with --table.
    rows
        Row numbers of the table, counted from 0: --rows 3,17.
    n
        Instead of --rows: number of random test rows, or of validation or out-of-fold rows if there are no test rows.
    table
        Path of the table if it was moved, or another table.
    images
        Folder that photo paths are relative to; by default that of the run, or the table's folder.
    out
        Folder for explain.html and explain.json; by default the run folder.
    seed
        Random seed for the choice of rows.
    text_model
        Folder of the text model, if the model was trained with one from a folder.
    cache
        Folder where frozen features are kept; by default MIXFIT_CACHE or the user's cache folder.
    cache_gb
        Largest size of the cache folder in gigabytes; 0 disables the cache.
    """
    from mixfit.runs.explaining import explain_run

    kept = configured_cache(cache, cache_gb)
    chosen = None if rows is None else _numbers(rows)
    explain_run(
        run,
        rows=chosen,
        n=n,
        table=table,
        images=images,
        out=out,
        seed=seed,
        text=text,
        cache=kept,
        text_model=text_model,
    )


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--rows must be row numbers separated by commas, such as 3,17, got {text!r}.") from None
