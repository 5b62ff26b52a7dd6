"""The predictor: from raw rows of a table to predictions, and all that this needs in one folder.

In: a trained model and the data it was trained on, or a saved folder. Out: predictions with a status per row.
A folder holds ``model.safetensors``, ``mixfit.json`` and ``README.md``: no pickle, nothing that runs code."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

import mixfit
from mixfit.config import Crop, ModelConfig
from mixfit.data.bad_inputs import BadInput
from mixfit.data.cache import Cache
from mixfit.data.dataset import FeatureTable, MixedDataset
from mixfit.data.geometry import RandomResizedCrop
from mixfit.data.load import MixedData
from mixfit.data.loader import DataLoader
from mixfit.data.photo_cells import photo_name, shown_cell
from mixfit.data.photos import Photos, find_photos, needs_folder
from mixfit.data.preprocess import TablePreprocessor, require_columns
from mixfit.data.sampler import SequentialSampler
from mixfit.data.schema import Schema
from mixfit.data.store import ImageFiles
from mixfit.data.target import Target, target_from_dict
from mixfit.data.transform import RandomHorizontalFlip
from mixfit.device import default_device
from mixfit.errors import ConfigError, DataError
from mixfit.files import json_numbers, new_folder, write_file
from mixfit.nn.backbones import has_pretrained_weights
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.model import MixedInputModel
from mixfit.training.build import CHUNK, encode_photos, model_shape, open_feature_store, sized_for
from mixfit.training.tta import augmented_outputs

FORMAT_VERSION = 1
BATCH = 64
"""Rows that go through the network at a time."""
# What reading a description raises that is not what we wrote.
_DAMAGE = (AttributeError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of some rows, in the order of the table."""

    values: np.ndarray
    """Numbers in the target's unit, float64 ``(rows,)``, or probabilities, float64 ``(rows, classes)``."""
    status: list[str]
    """``ok``, or what was missing or repaired in the row."""
    bad: list[BadInput]
    """Every cell and photo that was repaired or masked."""
    photos_named: int = 0
    """Places in the rows that name a photo."""
    photos_found: int = 0
    """Those of them whose photo could be read."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained model with the schema, the preprocessing and the target's scale that belong to it."""

    model: MixedInputModel
    shape: ModelShape
    config: ModelConfig
    schema: Schema
    preprocessor: TablePreprocessor
    target: Target
    crop: Crop
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Per split; for the model card."""

    @classmethod
    def from_training(
        cls,
        model: MixedInputModel,
        data: MixedData,
        config: ModelConfig | None = None,
        *,
        metrics: Mapping[str, Mapping[str, float]] | None = None,
    ) -> "Predictor":
        """Put together what was trained.

        Args:
            config: what the model was built with.
        Raises:
            ConfigError: the model was built in another way, so that it could not be loaded again.
        """
        config = sized_for(data, ModelConfig() if config is None else config)
        shape = model_shape(data, config)
        expected = make_model(shape, config, pretrained=False).state_dict()
        found = model.state_dict()
        if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in found.items()}:
            raise ConfigError(
                "The model was not built by build_model with this configuration, so it could not be loaded again: "
                "pass the ModelConfig that it was built with; of a network of your own save the state_dict instead."
            )
        return cls(
            model=model,
            shape=shape,
            config=config,
            schema=data.schema,
            preprocessor=data.preprocessor,
            target=data.target,
            crop=data.crop,
            metrics={split: json_numbers(values) for split, values in (metrics or {}).items()},
        )

    def predict(
        self,
        frame: pd.DataFrame,
        *,
        images: str | Path | None = None,
        device: torch.device | str | None = None,
        augmentations: int = 0,
    ) -> pd.DataFrame:
        """Predictions for raw new rows, with the index of ``frame``.

        Args:
            frame: any columns in any order; cells and photos may be missing, categories unseen.
            images: folder that the photo paths start from; needed when the model uses photos.
            device: by default the fastest of this machine.
            augmentations: predict also from this many changed versions of the photos, and give the mean.
        Returns:
            ``prediction`` (a number or a class), for classes ``probability_<class>`` too, and ``status``.
        Raises:
            DataError: a column that the model needs is missing.
        """
        found = self.predictions(frame, images=images, device=device, augmentations=augmentations)
        return self.as_frame(found, frame.index)

    def as_frame(self, found: Predictions, index: pd.Index) -> pd.DataFrame:
        """Predictions as columns of a table."""
        classes = self.target.classes
        if classes is None:
            return pd.DataFrame({"prediction": found.values, "status": found.status}, index=index)
        labels = pd.array([classes[best] for best in found.values.argmax(1)], dtype="str")
        columns: dict[str, Any] = {"prediction": labels}
        columns |= {f"probability_{name}": found.values[:, place] for place, name in enumerate(classes)}
        return pd.DataFrame({**columns, "status": found.status}, index=index)

    def predictions(
        self,
        frame: pd.DataFrame,
        *,
        images: str | Path | None = None,
        batch_size: int = BATCH,
        device: torch.device | str | None = None,
        augmentations: int = 0,
        cache: Cache | None = None,
        first_row: int = 0,
    ) -> Predictions:
        """As ``predict``, but as arrays and with the full account of bad inputs.

        ``cache`` is where features of a frozen image network are looked up and kept; they are the same without it.
        Rows are counted from ``first_row``, for a frame that is a piece of a table."""
        frame = frame.reset_index(drop=True)
        require_columns(frame, [n for role in ("number", "category", "date", "image") for n in self.schema.names(role)])
        arrays = self.preprocessor.transform(frame)
        photos = None
        if self.shape.photos:
            columns = self.schema.names("image")
            if images is None and needs_folder(frame, columns):
                raise ConfigError("This model uses photos: say with images=FOLDER where the paths in the table start.")
            photos = find_photos(frame, columns, Path(images or ""))
        place = default_device() if device is None else torch.device(device)
        self.model.to(place).eval()
        files = (
            None
            if photos is None
            else ImageFiles(photos.files, size=self.shape.image_size, crop=self.crop, follow_links=False)
        )
        source = files if files is None or augmentations else self._features_or_files(files, cache)
        dataset = MixedDataset(
            numeric=torch.from_numpy(arrays.numeric),
            categorical=torch.from_numpy(arrays.categorical),
            target=torch.zeros(len(frame)),
            rows=torch.arange(first_row, first_row + len(frame)),
            slots=None if photos is None else torch.from_numpy(photos.slots),
            columns=None if photos is None else torch.from_numpy(photos.columns),
            photos=source,
        )
        loader = DataLoader(dataset, SequentialSampler(len(frame), batch_size), device=place)
        outputs = self._run(loader, augmentations)
        bad = list(arrays.repaired)
        if photos is not None and source is not None:
            bad += photos.bad + unreadable_photos(frame, photos, source.failures)
        slots = None if photos is None else photos.slots
        named = 0 if photos is None else int((photos.slots >= 0).sum()) + len(photos.bad)
        masked = sum(record.action == "photo masked" for record in bad)
        values = np.mean([self.target.decode(version) for version in outputs], axis=0)
        status = _row_status(len(frame), slots, bad)
        if first_row:
            bad = [replace(record, row=record.row + first_row) for record in bad]
        return Predictions(values, status, bad, named, named - masked)

    def _features_or_files(self, files: ImageFiles, cache: Cache | None) -> ImageFiles | FeatureTable:
        """Features by a frozen network, each photo once; pixels for one that is not, or for too few without a cache."""
        encoder = self.model.image
        if encoder is None or not encoder.frozen or (cache is None and len(files) < CHUNK):
            return files
        if cache is None:
            return encode_photos(encoder, files)
        return encode_photos(encoder, files, store=open_feature_store(encoder, files, cache), progress=cache.progress)

    def _run(self, loader: DataLoader, augmentations: int) -> np.ndarray:
        """Raw outputs of all rows, float32 ``(1 + augmentations, rows)`` or ``(1 + augmentations, rows, classes)``."""
        copies = augmentations if self.shape.photos else 0
        transforms = (RandomHorizontalFlip(), RandomResizedCrop(scale=(0.8, 1.0)))
        with torch.inference_mode():
            outputs = [augmented_outputs(self.model, xb, transforms, copies=copies).float().cpu() for xb, _ in loader]
        if not outputs:
            return np.zeros((1, 0) if self.shape.outputs == 1 else (1, 0, self.shape.outputs), dtype=np.float32)
        return torch.cat(outputs, dim=1).numpy()

    def save(self, folder: str | Path) -> None:
        """Write the model folder, whole or not at all.

        Raises:
            ResourceError: the folder exists or cannot be written.
        """
        weights = save_tensors({k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()})
        description = {
            "format_version": FORMAT_VERSION,
            "mixfit_version": mixfit.__version__,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "model": asdict(self.config),
            "shape": asdict(self.shape),
            "crop": self.crop,
            "schema": self.schema.to_dict(),
            "preprocessor": self.preprocessor.to_dict(),
            "target": self.target.to_dict(),
            "metrics": self.metrics,
        }
        with new_folder(Path(folder)) as temporary:
            write_file(temporary / "model.safetensors", weights)
            write_file(temporary / "mixfit.json", json.dumps(description, indent=1, allow_nan=False))
            write_file(temporary / "README.md", self._model_card())

    @classmethod
    def load(cls, folder: str | Path) -> "Predictor":
        """Read a model folder; nothing in it is executed.

        Raises:
            DataError: a file is missing or damaged, or a newer mixfit wrote it.
        """
        folder = Path(folder)
        description, weights = _read_folder(folder)
        try:
            config = ModelConfig(**_tuples(description["model"]))
            shape = ModelShape(**_tuples(description["shape"]))
            model = make_model(shape, config, pretrained=False)
            model.load_state_dict(load_tensors(weights))
            predictor = cls(
                model=model.eval(),
                shape=shape,
                config=config,
                schema=Schema.from_dict(description["schema"]),
                preprocessor=TablePreprocessor.from_dict(description["preprocessor"]),
                target=target_from_dict(description["target"]),
                crop=_crop(description["crop"]),
                metrics=description["metrics"],
            )
        except _DAMAGE as error:
            raise DataError(f"{folder}/mixfit.json does not describe these weights: {error}. Train again.") from error
        bad = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
        if bad:
            raise DataError(f"{len(bad)} tensors in {folder}/model.safetensors are not finite, the first is {bad[0]}.")
        return predictor

    def _model_card(self) -> str:
        """What the folder holds, for a person who finds it."""
        used = [name for role in ("number", "category", "date", "image") for name in self.schema.names(role)]
        listed = ", ".join(f"`{name}`" for name in used[:30]) + (", ..." if len(used) > 30 else "")
        names = list(next(iter(self.metrics.values()), {}))
        rows = [
            [split, *("n/a" if value is None else f"{value:.4g}" for value in values.values())]
            for split, values in self.metrics.items()
        ]
        scores = [f"| {' | '.join(cells)} |" for cells in (["rows", *names], ["---"] * (len(names) + 1), *rows)]
        usage = 'mixfit.Predictor.load("this folder").predict(frame, images="folder of photos")'
        licence = "Image network: EfficientNet-Lite0 with ImageNet weights (Apache-2.0)."
        lines = [
            f"# Model of `{self.schema.target}`",
            f"Made by mixfit {mixfit.__version__}: {self.schema.task} from {len(used)} columns ({listed}).",
            "\n".join(scores),
            *([licence] if self.shape.photos and has_pretrained_weights(self.config.backbone) else []),
            f"```python\n{usage}\n```",
        ]
        return "\n\n".join(lines) + "\n"


def unreadable_photos(frame: pd.DataFrame, photos: Photos, failures: Mapping[int, str]) -> list[BadInput]:
    """One record for each place whose photo could not be decoded; ``failures`` is by number of the file."""
    places = np.argwhere(np.isin(photos.slots, list(failures)))
    return [
        BadInput(
            row=int(row),
            column=photos.slot_columns[place],
            value=shown_cell(frame[photos.slot_columns[place]].iloc[row]),
            problem=f"{photo_name(photos.files[file])} {failures[file]}",
            action="photo masked",
        )
        for row, place in places
        for file in (int(photos.slots[row, place]),)
    ]


def _row_status(rows: int, slots: np.ndarray | None, bad: list[BadInput]) -> list[str]:
    """``ok``, or everything that is amiss in a row."""
    notes: list[dict[str, None]] = [{} for _ in range(rows)]  # a dict keeps the order and drops repeats
    for record in bad:
        notes[record.row][f"{record.column}: {record.problem}"] = None
    if slots is not None and slots.shape[1]:
        refused = {record.row for record in bad if record.action == "photo masked"}
        for row in np.flatnonzero((slots < 0).all(1)):
            if row not in refused:
                notes[row]["no photo"] = None
    return ["; ".join(note) or "ok" for note in notes]


def _read_folder(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The checked description and weights of a model folder."""
    try:
        description = json.loads((folder / "mixfit.json").read_text(encoding="utf-8"))
        weights = (folder / "model.safetensors").read_bytes()
    except OSError as error:
        raise DataError(
            f"{folder} is not a model folder: {error.filename} cannot be read ({error.strerror})."
        ) from error
    except ValueError as error:
        raise DataError(f"{folder}/mixfit.json is damaged: {error}.") from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if not isinstance(version, int):
        raise DataError(f"{folder}/mixfit.json is damaged: it has no format_version.")
    if version > FORMAT_VERSION:
        raise DataError(
            f"{folder} has format {version}, this mixfit reads up to {FORMAT_VERSION}: install a newer mixfit."
        )
    if hashlib.sha256(weights).hexdigest() != description.get("weights_sha256"):
        raise DataError(
            f"{folder}/model.safetensors is damaged: its sha256 is not the one in mixfit.json. Copy it again."
        )
    return description, weights


def _crop(name: object) -> Crop:
    for crop in get_args(Crop):
        if crop == name:
            return crop
    raise ValueError(f"there is no crop {name!r}")


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples; the dataclasses want them."""
    return {key: _tuple(value) for key, value in settings.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(part) for part in value) if isinstance(value, list) else value
