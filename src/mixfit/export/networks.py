"""Networks inside the graph: traced by PyTorch, written by its ONNX exporter, and joined to the rest.

In: a network, and variables of its inputs. Out: its outputs. Photos enter a network as features, so that the image
network behind them is in the file once for all networks that share it."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import onnx
import torch
from spox import Var, inline
from torch import Tensor, nn

from mixfit.data.batch import Inputs
from mixfit.errors import ResourceError
from mixfit.export.ops import OPSET, NotExportable
from mixfit.nn.export import export_model
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel

_TRACED = 2
"""Rows and photos of the example batch; a size of 1 would be a constant of the program."""


class _Features(nn.Module):
    """Normalised pixels ``(n, 3, size, size)`` -> features."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder.encode(pixels, normalized=True)


def image_features(encoder: ImageEncoder, pixels: Var, size: int) -> Var:
    """Features of normalised photos, float32 ``(photos, d)``, by the encoder's image network in float32.

    Raises:
        NotExportable: PyTorch cannot write the network as ONNX.
    """
    own = copy.deepcopy(encoder).cpu().eval().to(memory_format=torch.contiguous_format)
    own.memory_format, own.precision = "contiguous", "float32"
    example = torch.rand(_TRACED, 3, size, size)
    shapes = {"pixels": {0: torch.export.Dim("photos")}}
    with torch.no_grad(), _quiet():
        program = torch.export.export(_Features(own).eval(), (), {"pixels": example}, dynamic_shapes=shapes)
    return _joined(program, {"pixels": pixels}, "the image network")


def network_outputs(model: MixedInputModel, inputs: Mapping[str, Var], widths: Mapping[str, int]) -> Var:
    """Outputs of a network, float32 ``(rows,)`` or ``(rows, classes)``.

    Args:
        inputs: fields of ``Inputs``, by name.
        widths: ``numeric``, ``categorical``, and for photos ``features``, for texts ``texts`` and ``text_width``.
    Raises:
        NotExportable: PyTorch cannot write the network as ONNX.
    """
    # Photos enter as features, so the copy needs no image network.
    memo: dict[int, Any] = {} if model.image is None else {id(model.image.backbone): nn.Identity()}
    own = copy.deepcopy(model, memo).cpu().eval()
    rows, photos = _TRACED, _TRACED
    xb = Inputs(
        numeric=torch.zeros(rows, widths["numeric"]),
        categorical=torch.zeros(rows, widths["categorical"], dtype=torch.int64),
        rows=torch.arange(rows),
    )
    if "features" in inputs:
        xb.features = torch.zeros(rows, photos, widths["features"])
        xb.image_mask = torch.ones(rows, photos, dtype=torch.bool)
        xb.image_column = torch.zeros(rows, photos, dtype=torch.int64)
    if "text" in inputs:
        xb.text = torch.zeros(rows, widths["texts"], widths["text_width"])
        xb.text_mask = torch.ones(rows, widths["texts"], dtype=torch.bool)
    with torch.no_grad(), _quiet():
        program = export_model(own, xb)
    return _joined(program, inputs, "a network")


def _joined(program: torch.export.ExportedProgram, inputs: Mapping[str, Var], what: str) -> Var:
    """The program as part of the graph; inputs that it does not use are left out."""
    try:
        with _quiet():
            made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, external_data=False)
    except ImportError as error:
        raise missing_package(error) from error
    except torch.onnx.errors.OnnxExporterError as error:
        raise NotExportable(
            f"PyTorch cannot write {what} as ONNX ({str(error).splitlines()[0][:200]}): train with another --backbone "
            "or architecture, or predict with mixfit."
        ) from error
    assert made is not None
    proto = made.model_proto
    names = [one.name for one in proto.graph.input]
    _require_dynamic(proto, what)
    found = inline(proto)(**{name: inputs[name] for name in names})
    return next(iter(found.values()))


def _require_dynamic(proto: onnx.ModelProto, what: str) -> None:
    """Refuse a program whose number of rows was baked in.

    Raises:
        NotExportable: it was.
    """
    for one in (*proto.graph.input, *proto.graph.output):
        if not one.type.tensor_type.shape.dim[0].dim_param:
            raise NotExportable(
                f"{what} was traced for a fixed number of rows ({one.name}): train with another --backbone or "
                "architecture, or predict with mixfit."
            )


def missing_package(error: ImportError) -> ResourceError:
    """The error for a package of the extra that is not installed."""
    return ResourceError(
        f"ONNX files need the package {error.name or 'onnx'}, which is not installed: pip install 'mixfit[onnx]'."
    )


def _quiet() -> warnings.catch_warnings:
    """Without PyTorch's warnings about its own exporter."""
    return warnings.catch_warnings()
