"""Heat maps of photos: the regions that drive a model's predictions, from raw rows and a predictor.

In: a predictor, a table and the folder of its photos. Out: for each row its photos with heat maps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mixfit.data.batch import Inputs
from mixfit.data.columns.cells import Table
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.loader import DataLoader
from mixfit.data.photos.cells import photo_name
from mixfit.data.photos.find import Photos
from mixfit.data.sampler import SequentialSampler
from mixfit.errors import ConfigError, did_you_mean
from mixfit.evaluation.explain import check_explained, check_rows, class_number
from mixfit.hooks.heat import Direction, Target, grad_cam, heat_figure, input_gradients, pixel_heat
from mixfit.models.network import FittedNetwork
from mixfit.predictor import Predictor
from mixfit.predictor.base import RawRows
from mixfit.predictor.blend import BlendPredictor, FoldModels
from mixfit.predictor.network import NetworkPredictor
from mixfit.training.device import default_device

if TYPE_CHECKING:
    import matplotlib.figure

HeatMethod = Literal["grad_cam", "gradients", "smooth", "integrated"]
BATCH = 8
"""Batch size, limited as the whole graph is kept in memory."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhotoHeat:
    """The readable photos of a row with their heat maps."""

    row: int
    """Position in the table, from 0."""
    prediction: float | str
    """A number in the target's unit, or a class."""
    explained: str
    """The class that the heat map explains; "" for regression."""
    columns: tuple[str, ...]
    """The image column of each photo."""
    names: tuple[str, ...]
    """The name of each photo's file."""
    photos: UInt8[Tensor, "photos 3 size size"]
    """Photos as input to the network."""
    heat: Float[Tensor, "photos size size"]
    """In [0, 1]; 1 is the maximum over the row's photos."""

    def of_columns(self, columns: Sequence[str]) -> "PhotoHeat":
        """Keep only the photos of some image columns."""
        places = [place for place, name in enumerate(self.columns) if name in columns]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in places),
            names=tuple(self.names[place] for place in places),
            photos=self.photos[places],
            heat=self.heat[places],
        )

    def figure(self) -> "matplotlib.figure.Figure":
        """All photos of the row with their heat maps; save it with ``figure.savefig("row.png")``."""
        said = f"{self.prediction:.6g}" if isinstance(self.prediction, float) else self.prediction
        why = f", heat for {self.explained}" if self.explained not in ("", said) else ""
        names = [f"{column}: {name}" for column, name in zip(self.columns, self.names, strict=True)]
        titles = names if len(set(self.columns)) > 1 else self.names
        return heat_figure(list(self.photos), list(self.heat), titles, title=f"row {self.row}: {said}{why}")


def photo_heat(
    predictor: Predictor,
    frame: pd.DataFrame | Table,
    *,
    images: str | Path | None = None,
    rows: Sequence[int] | None = None,
    target: str | None = None,
    method: HeatMethod = "grad_cam",
    layer: str | None = None,
    direction: Direction | None = None,
    device: torch.device | str | None = None,
) -> list[PhotoHeat]:
    """Heat maps of the photos of some rows.

    For a blend, the heat map is the mean over the networks of all folds of the photo model with the largest weight.

    Args:
        frame, images, device: as for ``Predictor.predict``.
        rows: positions in ``frame``, from 0; by default all.
        target: the class to explain; by default the predicted one. None for numbers.
        method: Grad-CAM, or gradients of the pixels, plain, smoothed or integrated (the last two need captum).
        layer: see ``grad_cam``.
        direction: show regions that raise the output, lower it, or both; by default "up" for classes with
            Grad-CAM, else "both".
    Returns:
        One entry for each row of ``rows``, in their order; without photos if the row has no readable photo.
    Raises:
        ConfigError: the model uses no photos or is a blend without a network that does, ``target`` is not one of its
            classes, ``rows`` are not in the table, or captum is needed and not installed.
        DataError: a column that the model needs is missing.
    """
    check_explained(predictor, frame, rows)
    looking_networks(predictor)
    if target is not None:
        class_number(target, predictor.target.classes)
    chosen = list(range(len(frame))) if rows is None else list(rows)
    check_rows(chosen, len(frame))
    table = predictor.schema.table(frame).select(np.array(chosen, dtype=np.int64))
    new, predictions = predictor.raw_rows(table, images=images), predictor.predict(table, images=images, device=device)
    said = predictions["prediction"].tolist()
    return heat_of_rows(
        predictor, new, said, rows=chosen, target=target, method=method, layer=layer, direction=direction, device=device
    )


def heat_of_rows(
    predictor: Predictor,
    new: RawRows,
    said: Sequence[float | str],
    *,
    rows: Sequence[int],
    target: str | None = None,
    method: HeatMethod = "grad_cam",
    layer: str | None = None,
    direction: Direction | None = None,
    device: torch.device | str | None = None,
) -> list[PhotoHeat]:
    """As ``photo_heat``, of rows that are parsed already; their photos may have been decoded elsewhere.

    Args:
        said: their predictions.
        rows: numbers of the rows, one for each.
    """
    networks, classes = looking_networks(predictor), predictor.target.classes
    assert new.photos is not None
    explained = None
    if classes is not None:
        numbers = [classes.index(str(one) if target is None else target) for one in said]
        explained = torch.tensor(numbers, dtype=torch.int64)
    found: list[PhotoHeat] = []
    place = default_device() if device is None else torch.device(device)
    loaders = [
        DataLoader(
            network.dataset(_as_seen_by(network, new), new.files), SequentialSampler(len(said), BATCH), device=place
        )
        for network in networks
    ]
    for batches in zip(*loaders, strict=True):
        xb = batches[0][0]
        asked = None if explained is None else explained[len(found) : len(found) + len(xb)].to(place)
        heats = [
            _heat(network, own, asked, method, layer, direction)
            for network, (own, _) in zip(networks, batches, strict=True)
        ]
        heat = heats[0] if len(heats) == 1 else _mean_heat(torch.stack(heats))
        for photos, mask, hot in zip(*(_on_cpu(tensor) for tensor in (xb.images, xb.image_mask, heat)), strict=True):
            number = len(found)
            slots = _slots(new.photos, number, mask)
            found.append(
                PhotoHeat(
                    row=rows[number],
                    prediction=said[number],
                    explained="" if classes is None else target or str(said[number]),
                    columns=tuple(new.photos.slot_columns[slot] for slot in slots),
                    names=tuple(photo_name(new.photos.files[new.photos.slots[number, slot]]) for slot in slots),
                    photos=photos[mask],
                    heat=hot[mask],
                )
            )
    return found


def looking_networks(predictor: Predictor) -> list[NetworkPredictor]:
    """The networks whose heat maps are shown: the predictor itself, or the networks of all folds of a blend.

    Raises:
        ConfigError: the model uses no photos, or no network does.
    """
    if not predictor.uses_photos:
        raise ConfigError("This model uses no photos, so it has no heat maps.")
    if isinstance(predictor, NetworkPredictor):
        return [predictor]
    assert isinstance(predictor, BlendPredictor)
    members = {name: model for fold in predictor.folds for name, model in fold.models.items()}
    looking = [
        name for name, model in members.items() if isinstance(model, FittedNetwork) and model.model.image is not None
    ]
    if not looking:
        raise ConfigError(
            f"No network of this blend uses photos, and other models have no heat maps: {', '.join(predictor.shares)}."
        )
    name = max(looking, key=lambda name: predictor.shares[name])
    return [_of_fold(predictor, fold, name) for fold in predictor.folds if name in fold.models]


def _of_fold(predictor: BlendPredictor, fold: FoldModels, name: str) -> NetworkPredictor:
    """A network of a blend as a predictor."""
    fitted = fold.models[name]
    assert isinstance(fitted, FittedNetwork)
    return NetworkPredictor(
        schema=predictor.schema,
        preprocessor=fold.encoder.preprocessor if "table" in fitted.sees else TablePreprocessor(),
        target=predictor.target,
        crop=predictor.crop,
        image_size=predictor.image_size,
        model=fitted.model,
        shape=fitted.shape,
        config=fitted.config,
        text=fold.encoder.text if "text" in fitted.sees else None,
    )


def _as_seen_by(network: NetworkPredictor, rows: RawRows) -> RawRows:
    """The rows transformed by the network's own preprocessor."""
    return replace(rows, arrays=network.preprocessor.transform(rows.table))


def _mean_heat(
    heats: Float[Tensor, "networks batch photos height width"],
) -> Float[Tensor, "batch photos height width"]:
    """Mean over networks, rescaled so that the maximum of each row is 1."""
    mean = heats.mean(0)
    highest = mean.amax((1, 2, 3), keepdim=True)
    return torch.where(highest > 0, mean / highest, 0.0).clamp(0, 1)


def _heat(
    predictor: NetworkPredictor,
    xb: Inputs,
    target: Target,
    method: HeatMethod,
    layer: str | None,
    direction: Direction | None,
) -> Tensor:
    match method:
        case "grad_cam":
            return grad_cam(predictor.model, xb, layer, target, direction=direction)
        case "gradients":
            gradients = input_gradients(predictor.model, xb, target)
        case "smooth" | "integrated":
            gradients = input_gradients(predictor.model, xb, target, method=method)
        case _:
            known = get_args(HeatMethod)
            raise ConfigError(f"method must be one of {', '.join(known)}, got {method!r}.{did_you_mean(method, known)}")
    return pixel_heat(gradients, direction=direction or "both")


def _on_cpu(tensor: Tensor | None) -> Tensor:
    assert tensor is not None  # rows for a model with photos have all fields of photos
    return tensor.cpu()


def _slots(photos: Photos, row: int, mask: Tensor) -> list[int]:
    """Slot of each present photo of a row; in a batch they are consecutive."""
    filled = np.flatnonzero(photos.slots[row] >= 0)
    return filled[mask[: len(filled)].numpy()].tolist()
