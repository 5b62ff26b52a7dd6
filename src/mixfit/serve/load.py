"""Load what is to be served: a run or model folder with PyTorch, or a file of ``mixfit export`` without it."""

from pathlib import Path

from mixfit.errors import ConfigError
from mixfit.serve.model import ServedModel

_ONNX = ".onnx"


def load_model(
    name: str, path: Path, *, level: float, threads: int | None = None, text_model: Path | None = None
) -> ServedModel:
    """The model of a run folder, a model folder, or an ONNX file.

    Args:
        level: usual coverage of intervals, for a model that has them; an ONNX file has its own.
        threads: that a pass takes, for a trained model a limit of the whole process; by default as many as there are.
        text_model: folder of the text model that the training was given.
    Raises:
        ConfigError: it does not exist, or its training has not finished.
        DataError: it is damaged, or was replaced while it was read.
    """
    # Each way to predict needs libraries that the other does without.
    if path.suffix.lower() == _ONNX and not path.is_dir():
        from mixfit.serve.exported import ExportedModel

        if text_model is not None:
            raise ConfigError("An ONNX file uses no text model from a folder: leave out --text-model.")
        return ExportedModel.load(name, path, threads=threads)
    from mixfit.serve.trained import TrainedModel, limit_threads

    if threads is not None:
        limit_threads(threads)

    return TrainedModel.load(name, path, level=level, text_model=text_model)
