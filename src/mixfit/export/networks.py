"""Networks inside the graph: traced by PyTorch, written by its ONNX exporter, and joined to the rest.

In: a network, and variables of its inputs. Out: its outputs. Photos enter a network as features, so that the image
network behind them is in the file once for all networks that share it. Tracing and writing a network takes seconds, so
that of one fold is written with its weights as inputs, and serves all folds with theirs."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import torch
from spox import Var, inline
from torch import Tensor, nn

from mixfit.errors import ResourceError
from mixfit.export.ops import OPSET, NotExportable
from mixfit.nn.export import OnTensors
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel

_TRACED = 2
"""Rows and photos of the example batch; a size of 1 would be a constant of the program."""
_SAME = 1e-4
"""Largest difference from the network, relative to its largest output, that counts as rounding."""

PIXELS = "fields_pixels"
"""The input of an image network, in its own ONNX model."""

Weights = dict[str, Tensor]
Example = dict[str, Tensor]


class _Features(nn.Module):
    """Normalised pixels ``(n, 3, size, size)`` -> features."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder.encode(pixels, normalized=True)


class _Weightless(nn.Module):
    """A network as a function of its weights, too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.call = (network,)  # in a tuple, as the weights of a submodule would be those of this module

    def forward(self, weights: Weights, fields: Example) -> Tensor:
        found: Tensor = torch.func.functional_call(self.call[0], weights, (), fields)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Written:
    """A network as ONNX, with its weights as inputs."""

    proto: onnx.ModelProto
    weights: tuple[str, ...]
    """Of the network, in the order of the inputs."""
    fields: tuple[str, ...]
    """Inputs after the weights."""

    @cached_property
    def session(self) -> Any:
        """Of onnxruntime, to try it."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        return onnxruntime.InferenceSession(self.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def serves(self, network: nn.Module, weights: Weights, example: Example) -> bool:
        """Whether it computes what a network does, with the weights of that."""
        if tuple(weights) != self.weights or tuple(example) != self.fields:
            return False
        given = dict(
            zip((one.name for one in self.proto.graph.input), (*weights.values(), *example.values()), strict=True)
        )
        sizes = dict[str, int]()
        for one in self.proto.graph.input:
            shape = one.type.tensor_type.shape.dim
            if len(shape) != given[one.name].ndim:
                return False
            for dim, size in zip(shape, given[one.name].shape, strict=True):
                fixed = sizes.setdefault(dim.dim_param, size) if dim.dim_param else dim.dim_value
                if fixed != size:
                    return False
        with torch.no_grad():
            wanted = network(**example).numpy()
        found = self.session.run(None, {name: tensor.numpy() for name, tensor in given.items()})[0]
        return bool(np.abs(found - wanted).max(initial=0.0) <= _SAME * max(1.0, float(np.abs(wanted).max(initial=0.0))))

    def with_weights(self, weights: Weights) -> onnx.ModelProto:
        """The network with weights of its own, whose inputs have the names of the fields."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        inputs = list(proto.graph.input)
        del proto.graph.input[: len(weights)]
        used = {name for node in proto.graph.node for name in node.input}
        for one, tensor in zip(inputs, weights.values(), strict=False):
            if one.name in used:
                proto.graph.initializer.append(onnx.numpy_helper.from_array(tensor.numpy(), one.name))
        return proto

    def outputs(self, weights: Weights, inputs: Mapping[str, Var]) -> Var:
        """Its outputs as part of the graph."""
        proto = self.with_weights(weights)
        names = [one.name for one in proto.graph.input]
        given = {name: inputs[field] for name, field in zip(names, self.fields, strict=True)}
        return next(iter(inline(proto)(**given).values()))


@dataclass
class Networks:
    """The networks of one file."""

    _written: list[_Written] = field(default_factory=list)

    def image_features(
        self, encoder: ImageEncoder, pixels: Var, size: int, instead: onnx.ModelProto | None = None
    ) -> Var:
        """Features of normalised photos, float32 ``(photos, d)``, by the encoder's image network in float32.

        Args:
            instead: a network with the input ``PIXELS`` in the place of that of the encoder.
        Raises:
            NotExportable: PyTorch cannot write the network as ONNX.
        """
        proto = self.image_network(encoder, size) if instead is None else instead
        return next(iter(inline(proto)(**{PIXELS: pixels}).values()))

    def image_network(self, encoder: ImageEncoder, size: int) -> onnx.ModelProto:
        """The image network of an encoder in float32: normalised photos ``PIXELS`` -> features."""
        own = copy.deepcopy(encoder).cpu().eval().to(memory_format=torch.contiguous_format)
        own.memory_format, own.precision = "contiguous", "float32"
        example = {"pixels": torch.rand(_TRACED, 3, size, size)}
        written, weights = self._of(_Features(own), example, (), "the image network")
        proto = written.with_weights(weights)
        assert [one.name for one in proto.graph.input] == [PIXELS]
        return proto

    def outputs(
        self,
        model: MixedInputModel,
        inputs: Mapping[str, Var],
        widths: Mapping[str, int],
        others: Sequence[MixedInputModel] = (),
    ) -> Var:
        """Outputs of a network, float32 ``(rows,)`` or ``(rows, classes)``.

        Args:
            inputs: fields of ``Inputs``, by name.
            widths: ``numeric``, ``categorical``, and for photos ``features``, for texts ``texts`` and ``text_width``.
            others: all networks of the file; what is written is to serve those that are alike, too.
        Raises:
            NotExportable: PyTorch cannot write the network as ONNX.
        """
        rows, photos = _TRACED, _TRACED
        example = {
            "numeric": torch.rand(rows, widths["numeric"]),
            "categorical": torch.zeros(rows, widths["categorical"], dtype=torch.int64),
        }
        if "features" in inputs:
            example["features"] = torch.rand(rows, photos, widths["features"])
            example["image_mask"] = torch.ones(rows, photos, dtype=torch.bool)
            example["image_column"] = torch.zeros(rows, photos, dtype=torch.int64)
        if "text" in inputs:
            example["text"] = torch.rand(rows, widths["texts"], widths["text_width"])
            example["text_mask"] = torch.ones(rows, widths["texts"], dtype=torch.bool)
        written, weights = self._of(_program(model), example, others, "a network")
        return written.outputs(weights, inputs)

    def _of(
        self, network: nn.Module, example: Example, others: Sequence[MixedInputModel], what: str
    ) -> tuple[_Written, Weights]:
        """What was written of a network like this one, or of this one now; and the weights of this one."""
        network, weights = network.eval(), _weights(network)
        for one in self._written:
            if one.serves(network, weights, example):
                return one, weights
        kind = _kind(network)
        alike = [_weights(one) for one in map(_program, others) if _kind(one) == kind]
        written = _write(network, weights, example, alike, what)
        self._written.append(written)
        return written, weights


def _program(model: MixedInputModel) -> nn.Module:
    """A network on the CPU, without the image network, as photos enter as features."""
    memo: dict[int, Any] = {} if model.image is None else {id(model.image.backbone): nn.Identity()}
    own = copy.deepcopy(model, memo).cpu().eval().to(memory_format=torch.contiguous_format)
    return OnTensors(own, normalized=False)


def _weights(network: nn.Module) -> Weights:
    """All tensors of a network."""
    every = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: tensor.detach().contiguous() for name, tensor in every.items()}


def _kind(network: nn.Module) -> list[tuple[str, type]]:
    """What networks that differ by sizes alone have in common."""
    return [(name, type(module)) for name, module in network.named_modules()]


def _write(network: nn.Module, weights: Weights, example: Example, alike: Sequence[Weights], what: str) -> _Written:
    """Trace a network and write it.

    Args:
        alike: weights of networks of the same kind; sizes that differ between them are left open.
    Raises:
        NotExportable: PyTorch cannot write the network as ONNX, or not for any number of rows.
    """
    open_sizes = {
        name: {
            axis: torch.export.Dim.AUTO
            for axis in range(tensor.ndim)
            if any(name in other and other[name].shape[axis] != tensor.shape[axis] for other in alike)
        }
        for name, tensor in weights.items()
    }
    rows, photos = torch.export.Dim("rows"), torch.export.Dim("photos")
    fields = {name: {0: rows, 1: photos} if name in _OF_PHOTOS else {0: rows} for name in example}
    try:
        with torch.no_grad(), warnings.catch_warnings():  # without PyTorch's warnings about its own exporter
            program = torch.export.export(
                _Weightless(network),
                (),
                {"weights": weights, "fields": example},
                dynamic_shapes={"weights": open_sizes, "fields": fields},
            )
            made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, external_data=False)
    except ImportError as error:
        raise missing_package(error) from error
    except Exception as error:  # tracing runs a network's own code on symbols, which may raise anything
        raise NotExportable(
            f"PyTorch cannot write {what} as ONNX ({_reason(error)}): train with another --backbone "
            "or architecture, or predict with mixfit."
        ) from error
    assert made is not None
    proto = made.model_proto
    assert len(proto.graph.input) == len(weights) + len(example)
    _require_dynamic(proto, len(weights), what)
    return _Written(proto=proto, weights=tuple(weights), fields=tuple(example))


def _reason(error: BaseException) -> str:
    """The first line of the error that began it: PyTorch's exporter wraps it into general ones."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}"[:200].rstrip(" .:")


_OF_PHOTOS = ("features", "image_mask", "image_column")


def _require_dynamic(proto: onnx.ModelProto, weights: int, what: str) -> None:
    """Refuse a program whose number of rows was baked in.

    Raises:
        NotExportable: it was.
    """
    for one in (*proto.graph.input[weights:], *proto.graph.output):
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
