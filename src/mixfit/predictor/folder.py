"""Model folders: written atomically, and checked completely when read.

In: tensors and a description. Out: ``model.safetensors``, ``mixfit.json`` with the sha256 of both, and a card."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

import mixfit
from mixfit.choices import METRICS_OF, NUMBER_TASKS, Crop, MetricName
from mixfit.data.columns.kind import Kind as ColumnKind
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.target import target_from_dict
from mixfit.errors import DataError
from mixfit.files import Share, first_line, from_plain, is_there, new_folder, read_file, read_json, write_file
from mixfit.models.model import UnknownModelError
from mixfit.predictor.card import ModelFacts

FORMAT_VERSION = 7
"""Current format. 1 had single networks only, and is still read; up to 4 the schema did not say how columns are
written, so that each table is read by itself; up to 5 there were no decision thresholds, counts and ordered classes;
blends of format 2 are refused for their intervals, and blends of format 3 with boosted trees for these."""
_MOST_WEIGHTS = 2**34  # bytes
_OWN_SUM = "description_sha256"


def save_folder(
    folder: Path, tensors: dict[str, Tensor], description: dict[str, Any], card: Callable[[str], str]
) -> None:
    """Write a model folder.

    Args:
        card: function from the sha256 of the weights to the model card.

    Raises:
        ResourceError: the folder exists or cannot be written.
    """
    # Clone, as models of a blend may share memory, which safetensors refuses.
    copies = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    weights = save_tensors(copies)
    digest = hashlib.sha256(weights).hexdigest()
    head = {
        "format_version": FORMAT_VERSION,
        "mixfit_version": mixfit.__version__,
        "weights_sha256": digest,
    }
    said = head | description
    said |= {_OWN_SUM: _own_sum(said)}
    with new_folder(folder) as temporary:
        write_file(temporary / "model.safetensors", weights)
        write_file(temporary / "mixfit.json", json.dumps(said, indent=1, allow_nan=False))
        write_file(temporary / "README.md", card(digest))


def _own_sum(said: dict[str, Any]) -> str:
    """The sha256 of all other entries of ``mixfit.json``, however it is indented."""
    rest = {key: value for key, value in said.items() if key != _OWN_SUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


Kind = Literal["network", "own network", "blend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """The entries of ``mixfit.json`` for any kind of model."""

    kind: Kind = "network"
    schema: dict[str, Any]
    preprocessor: dict[str, Any]
    target: dict[str, Any]
    crop: Crop
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    facts: ModelFacts | None = None
    metric: MetricName = "auto"
    threshold: Share | None = None

    def common(self, kinds: tuple[ColumnKind, ...]) -> dict[str, Any]:
        """Arguments of a predictor, with these kinds of columns.

        Raises:
            DataError: they are inconsistent.
        """
        schema, target = Schema.from_dict(self.schema, kinds), target_from_dict(self.target)
        preprocessor = TablePreprocessor.from_dict(self.preprocessor, kinds)
        check_columns(preprocessor, schema)
        if (schema.task in NUMBER_TASKS) != (target.classes is None):
            raise DataError("the task does not match the target")
        if self.metric != "auto" and self.metric not in METRICS_OF[schema.task]:
            raise DataError("the metric does not match the task")
        if self.threshold is not None and target.outputs != 2:
            raise DataError("there is a decision threshold, but there are not two classes")
        return {
            "schema": schema,
            "preprocessor": preprocessor,
            "target": target,
            "crop": self.crop,
            "metrics": self.metrics,
            "metric": self.metric,
            "threshold": self.threshold,
            "facts": self.facts,
        }


def check_columns(preprocessor: TablePreprocessor, schema: Schema) -> None:
    """Check that a preprocessor matches the columns of a schema.

    Raises:
        DataError: it does not.
    """
    found = [(column.role, column.name) for column in preprocessor.columns]
    wanted = [(kind.role, name) for kind, name in schema.table_columns]
    for role in dict.fromkeys(role for role, _ in (*wanted, *found)):
        if [one for one in found if one[0] == role] != [one for one in wanted if one[0] == role]:
            raise DataError(f"the columns of role {role} do not match the schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """The content of a model folder."""

    folder: Path
    described: Described
    said: dict[str, Any]
    """All of ``mixfit.json``."""
    tensors: dict[str, Tensor]
    kinds: tuple[ColumnKind, ...]
    """Known kinds of columns."""


def read_folder(folder: Path, kinds: tuple[ColumnKind, ...]) -> SavedModel:
    """Read a model folder of any kind, or that of a run.

    Args:
        kinds: known kinds of columns.

    Raises:
        DataError: a file is missing or damaged, or from a newer mixfit.
    """
    if not is_there(folder / "mixfit.json") and is_there(folder / "model" / "mixfit.json"):
        folder = folder / "model"  # of a run folder
    if not is_there(folder / "mixfit.json"):
        raise DataError(f"{folder} is not a model folder: it has no mixfit.json.")
    said, weights = _checked(folder)
    try:
        tensors = load_tensors(weights)
    except SafetensorError as error:
        raise DataError(f"{folder}/model.safetensors is damaged: {first_line(error)}. Train again.") from error
    with named_in_errors(folder):
        described: Described = from_plain(Described, said, "mixfit.json")
    return SavedModel(folder=folder, described=described, said=said, tensors=tensors, kinds=kinds)


@contextmanager
def named_in_errors(folder: Path) -> Iterator[None]:
    """Add to a ``DataError`` which file does not match the weights."""
    try:
        yield
    except UnknownModelError as error:
        raise UnknownModelError(f"{folder}: {error}") from error
    except DataError as error:
        raise DataError(
            f"{folder}/mixfit.json does not describe these weights: {str(error).rstrip('.')}. Train again."
        ) from error


def _checked(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The description and the weights of a model folder, checked by sha256."""
    said = read_json(folder / "mixfit.json")
    version = said.get("format_version") if isinstance(said, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DataError(f"{folder}/mixfit.json is damaged: its format_version is not a positive integer.")
    if version > FORMAT_VERSION:
        raise DataError(
            f"{folder} has a newer format than {FORMAT_VERSION}, the newest that this mixfit supports: update mixfit."
        )
    if _OWN_SUM in said and said[_OWN_SUM] != _own_sum(said):
        raise DataError(
            f"{folder}/mixfit.json is damaged or was changed: its content does not match its {_OWN_SUM}. Copy it again."
        )
    weights = read_file(folder / "model.safetensors", most=_MOST_WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != said.get("weights_sha256"):
        raise DataError(f"{folder}/model.safetensors is damaged: its sha256 does not match mixfit.json. Copy it again.")
    return said, weights
