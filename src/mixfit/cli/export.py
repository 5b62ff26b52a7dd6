"""``mixfit export``: a finished run as one ONNX file, or as a page that predicts."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mixfit.cli.flags import Switch


def export(
    run: Path,
    *,
    out: Annotated[Path | None, Parameter(name=("--out", "-o"))] = None,
    to: Literal["onnx", "html"] = "onnx",
    int8: Annotated[bool, Switch] = False,
    runtime: Path | None = None,
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
        File to write, such as model.onnx, or new folder of a page; by default in the working directory, named after the
        run.
    to
        onnx for the file; html for a folder with it and a page that predicts in a browser, without a server.
    int8
        Compute the image network in 8 bits; refused if the test loss grows by 1 % or more, or if it is no
        faster here.
    runtime
        onnxruntime-web for a page: the archive of npm pack, or the folder of the package.
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

    export_run(
        run,
        out,
        to=to,
        int8=int8,
        runtime=runtime,
        interval=interval,
        table=table,
        images=images,
        text_model=text_model,
    )
