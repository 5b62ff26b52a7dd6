"""Which models are tried for a table: a preset's list, without those that could not learn from these data."""

from dataclasses import dataclass, fields, replace
from typing import Any, assert_never

from mixfit.choices import Preset
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.load import MixedData
from mixfit.models.fold import Candidate
from mixfit.models.kernels import MOST_ROWS
from mixfit.models.lightgbm_trees import lightgbm_is_installed
from mixfit.models.network import TUNED_EPOCHS, takes_mlp

_FOLDS = {"quick": 5, "balanced": 5, "best": 10}
_LIGHT_FROM = 4_000
"""Rows above which an ensemble of networks of the table would take most of the time."""
_MOST_CLASSES_OF_LIGHTGBM = 20
"""Each class has trees of its own: of more classes it learns little in a minute a fold."""
_MOST_EPOCHS = {"quick": 20, "balanced": 20, "best": 40}
_TABLE, _PHOTOS, _BOTH = {"table": True, "photos": False}, {"table": False, "photos": True}, {"photos": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is tried, the fastest first."""

    candidates: tuple[Candidate, ...]
    train: TrainConfig
    """Settings of the networks."""
    folds: int


def plan_for(data: MixedData, train: TrainConfig, *, lightgbm: bool | None = None) -> Plan:
    """The models of a preset that suit the data.

    Args:
        lightgbm: whether LightGBM may be among them; None where it is installed.
    """
    preset: Preset = train.preset
    lightgbm = lightgbm_is_installed() if lightgbm is None else lightgbm
    simple = [
        Candidate(kind="linear", **_TABLE),
        Candidate(kind="linear", **_PHOTOS),
        Candidate(kind="linear", **_BOTH),
        Candidate(kind="kernels", **_TABLE),
        Candidate(kind="kernels", **_BOTH),
        Candidate(kind="trees", **_TABLE),
        Candidate(kind="trees", **_BOTH),
    ]
    boosted = [Candidate(kind="lightgbm", **_TABLE), Candidate(kind="lightgbm", **_BOTH)] if lightgbm else []
    further = [*boosted, Candidate(kind="kernels", **_PHOTOS)]
    light = preset != "best" and len(data.split.train) + len(data.split.valid) > _LIGHT_FROM
    table, both = Candidate(kind="network", light=light, **_TABLE), Candidate(kind="network", **_BOTH)
    match preset:
        case "quick":
            # The same network without photos, so that what photos are said to add is not what a network adds.
            twin = replace(table, light=data.photos is not None and data.photos.features is not None)
            tried = [*simple, twin, both] if data.photos is not None else [*simple, table]
        case "balanced":
            tried = [*simple, *further, table, both]
        case "best":
            has_table = bool(data.arrays.numeric.shape[1] + data.arrays.categorical.shape[1])
            tuned = Candidate(kind="network", table=has_table, photos=True, tuned=True)
            photos = Candidate(kind="network", **_PHOTOS)
            tried = [*simple, *further, table, both, photos, tuned]
        case "network":
            tried = []
        case _:
            assert_never(preset)
    folds = _FOLDS.get(preset, 0)
    epochs = min(train.epochs, _MOST_EPOCHS.get(preset, train.epochs))
    found = [Candidate(kind="constant"), *(candidate for candidate in tried if _can_learn(candidate, data, folds))]
    return Plan(candidates=tuple(found), train=replace(train, epochs=epochs), folds=folds)


def unused_settings(mixed: MixedData, data: DataConfig, model: ModelConfig, train: TrainConfig) -> list[str]:
    """Settings that are not the default ones and that a preset of many models does not, or not wholly, follow.

    One sentence each. All others it follows as one network does; which those are, a test of every field knows."""
    tried, preset = plan_for(mixed, train).candidates, train.preset
    networks = [candidate for candidate in tried if candidate.kind == "network"]
    found = []
    if not _is_default(train, "patience"):
        found.append(
            f"patience={train.patience} has no effect: the networks of preset {preset} train a fixed number of epochs, "
            "as no row is left over to stop them by"
        )
    most = _MOST_EPOCHS.get(preset, train.epochs)
    tuned = any(candidate.tuned for candidate in networks)
    if not _is_default(train, "epochs") and train.epochs > (TUNED_EPOCHS if tuned else most):
        found.append(
            f"epochs={train.epochs}: the networks of preset {preset} train {most} epochs at most"
            + (f", a tuned one {TUNED_EPOCHS}" if tuned else "")
        )
    own = ("auto", "mse") if mixed.target.classes is None else ("auto", "cross_entropy")
    if train.loss not in own:
        judged = "squared error" if mixed.target.classes is None else "log loss"
        found.append(
            f"loss={train.loss} is minimised by networks alone: the other models of preset {preset} and the weights of "
            f"the ensemble minimise the {judged}"
        )
    if not _is_default(data, "valid"):
        found.append(
            f"valid={data.valid:g} has little effect: the folds of preset {preset} take training and validation rows "
            "alike"
        )
    on_features = mixed.photos is not None and mixed.photos.features is not None
    if model.tabular == "tabm" and all(takes_mlp(candidate, on_features=on_features) for candidate in networks):
        found += [
            f"{name}={getattr(model, name)} has no effect: no network of preset {preset} is a TabM on these data"
            for name in ("members", "category_width")
            if not _is_default(model, name)
        ]
    return found


def _is_default(settings: Any, name: str) -> bool:
    return any(field.name == name and getattr(settings, name) == field.default for field in fields(settings))


def _can_learn(candidate: Candidate, data: MixedData, folds: int) -> bool:
    """Whether there is what the model sees, and not so much of it that the model takes for ever."""
    columns = data.arrays.numeric.shape[1] + data.arrays.categorical.shape[1]
    if (candidate.photos and data.photos is None) or (candidate.table and not columns):
        return False
    if candidate.photos and data.photos is not None and candidate.kind != "network" and data.photos.features is None:
        return False  # there are only pixels
    if candidate.tuned and (data.photos is None or data.photos.decoder is None or data.photos.features is None):
        return False  # networks learn from pixels anyway, or there are only features
    if candidate.kind == "lightgbm":
        return len(data.target.classes or ()) <= _MOST_CLASSES_OF_LIGHTGBM
    if candidate.kind == "kernels":
        rows = len(data.split.train) + len(data.split.valid)
        return data.target.classes is None and rows * (folds - 1) <= MOST_ROWS * folds
    return True
