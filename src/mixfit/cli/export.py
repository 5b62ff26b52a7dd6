"""``mixfit export``: a finished run as one ONNX file."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def export(
    run: Path,
    *,
    out: Annotated[Path, Parameter(name=("--out", "-o"))],
    interval: float | None = None,
    table: Path | None = None,
    images: Path | None = None,
    text_model: Path | None = None,
) -> None:
    """Write a trained model as one ONNX file that takes cells and photos, and compare it with predict.

    Parameters
    ----------
    run
        Run folder or model folder.
    out
        File to write, such as model.onnx.
    interval
        Coverage of the prediction intervals or sets in the file; by default 0.9.
    table
        Table whose rows are compared and timed; by default that of the run.
    images
        Folder that photo paths are relative to; by default that of the run, or the table's folder.
    text_model
        Folder of the text model, if the model was trained with one from a folder.
    """
    from mixfit.export.exporting import export_run

    export_run(run, out, interval=interval, table=table, images=images, text_model=text_model)
