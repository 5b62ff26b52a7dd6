"""The models of each preset, without those that cannot learn from the data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, assert_never

from torch import nn

from mixfit.choices import Preset
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.load import MixedData
from mixfit.errors import ConfigError
from mixfit.models.kernels import EXACT_ROWS, KernelRidge
from mixfit.models.linear import Constant, Linear
from mixfit.models.model import PARTS, PHOTOS, PIXELS, TABLE, TEXT, Model, Sees, looks
from mixfit.models.network import TUNED_EPOCHS, Network
from mixfit.models.ours import our_models
from mixfit.models.trees import BoostedTrees
from mixfit.runs.results import BLENDS

FOLDS = {"quick": 5, "balanced": 5, "best": 10}
_MORE_FOLDS, _FEW = 10, 1_500
"""Folds of ``balanced`` where rows times fitted numbers are at most so many, so that each model learns from nine tenths
of the few rows."""
FEWER_FOLDS, _MANY = 3, 10_000
"""Folds of ``quick`` from so many rows of a table without photos: what they save is worth more to the networks, which
its budget shortens, than a mean of five (docs/LOG.md). ``plan_run`` also takes so few where more leave no time for
boosted trees."""
_MOST_EPOCHS = {"quick": 20, "balanced": 20, "best": 40}
_NAME = re.compile(r"[\w][\w ,.()+-]{0,79}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The models to fit, the fastest first, then the user's models."""

    models: tuple[Model, ...]
    train: TrainConfig
    """Settings of the networks."""
    folds: int
    left_out: tuple[str, ...] = ()
    """Models that are not fitted, one sentence each: a user's that cannot learn from the data, or for a budget."""
    shortened: tuple[str, ...] = ()
    """Models that train less than usual for a budget, one sentence each."""


def plan_for(
    data: MixedData,
    train: TrainConfig,
    *,
    model: ModelConfig | None = None,
    backbone: nn.Module | None = None,
    models: Sequence[Model] = (),
    features: bool | None = None,
    use_photos: bool = True,
) -> Plan:
    """The models of a preset that suit the data.

    Args:
        model: settings of the networks; by default the default ones.
        backbone: the frozen backbone of the photo features.
        models: the user's models, in addition to those of the preset.
        features: whether there are features of the photos, or will be; by default whether ``data`` has them.
        use_photos: False for no model that uses photos.
    Raises:
        ConfigError: one of these is not a model, or has an invalid name.
    """
    check_models(models, train)
    preset: Preset = train.preset
    folds = _fold_count(data, train) if train.folds is None else train.folds
    train = replace(train, epochs=min(train.epochs, _MOST_EPOCHS.get(preset, train.epochs)))
    settings: Any = {"config": ModelConfig() if model is None else model, "train": train, "backbone": backbone}
    if features is None:
        features = data.photos is not None and data.photos.features is not None
    on_photos = PHOTOS if features else PIXELS
    has_table = data.has_columns
    # With text, every model is also fitted to table and text, to tell what each part adds.
    texts = bool(data.schema.names("text"))
    cells: tuple[Sees, ...] = (*[TABLE] * has_table, *[TABLE | TEXT if has_table else TEXT] * texts) or (TABLE,)
    # Without table columns and texts, the network of photos is that of all inputs.
    whole: Sees = cells[-1] | on_photos if has_table or texts else on_photos
    table, both = Network(sees=TABLE, **settings), Network(sees=whole, **settings)
    seen: tuple[Sees, ...] = (*cells, cells[-1] | PHOTOS)
    of_texts = (Linear(sees=TEXT),) if texts and has_table else ()
    linear = (*(Linear(sees=sees) for sees in cells), *of_texts, Linear(sees=PHOTOS), Linear(sees=cells[-1] | PHOTOS))
    trees = tuple(BoostedTrees(sees=sees) for sees in seen)
    # Kernel ridge regression minimises squared errors, and may predict counts below 0. Of larger tables boosted trees
    # and networks learn more than a part of the rows as landmarks can tell; of photos they do not (docs/LOG.md), and
    # then the same model without photos is fitted, too.
    counts = data.schema.task == "count"
    rows = len(data.split.train) + len(data.split.valid)
    small = rows * (folds - 1) <= EXACT_ROWS * folds
    kernels = () if counts else tuple(KernelRidge(sees=sees) for sees in seen if small or data.photos is not None)
    kernels_of_photos = () if counts else (KernelRidge(sees=PHOTOS),)
    # Without a frozen backbone, networks learn from pixels anyway; without pixels, nothing can be fine-tuned.
    tunable = on_photos == PHOTOS and data.photos is not None and data.photos.decoder is not None
    of_pixels = cells[-1] | PIXELS if has_table or texts else PIXELS
    tuned = (Network(sees=of_pixels, tuned=True, **settings),) if tunable else ()
    tried: tuple[Model, ...]
    match preset:
        case "quick":
            # The same network without photos, so that the effect of photos is not confounded with that of a network.
            alike = texts or (use_photos and data.photos is not None and on_photos == PHOTOS)
            twins = tuple(replace(table, sees=sees, light=alike) for sees in cells)
            tried = (*linear, *kernels, *trees, *twins, both)
        case "balanced":
            tables = tuple(replace(table, sees=sees) for sees in cells)
            tried = (*linear, *kernels, *trees, *kernels_of_photos, *tables, both)
        case "best":
            photos = (Network(sees=on_photos, **settings),) if whole != on_photos else ()
            tables = tuple(replace(table, sees=one) for one in cells)
            tried = (*linear, *kernels, *trees, *kernels_of_photos, *tables, both, *photos, *tuned)
        case "network":
            tried = ()
        case _:
            assert_never(preset)
    if train.fine_tune and preset in ("quick", "balanced"):
        tried = (*tried, *tuned)
    reasons = {one.name: _why_not(one, data, features=features, use_photos=use_photos) for one in (*tried, *models)}
    return Plan(
        models=(Constant(), *(one for one in (*tried, *models) if not reasons[one.name])),
        train=train,
        folds=folds,
        left_out=tuple(f"{one.name}: {reasons[one.name]}" for one in models if reasons[one.name]),
    )


def _fold_count(data: MixedData, train: TrainConfig) -> int:
    """The number of folds of a preset, without a time limit more for few rows and fewer for many."""
    rows, classes = len(data.split.train) + len(data.split.valid), len(data.target.classes or ())
    few = rows * (classes if classes > 2 else 1) <= _FEW
    plain = data.photos is None and data.split_time is None
    if train.time is None and train.preset == "balanced" and few and not train.fine_tune:
        return _MORE_FOLDS
    if train.time is None and train.preset == "quick" and rows >= _MANY and plain:
        return FEWER_FOLDS
    return FOLDS.get(train.preset, 0)


def check_models(models: Sequence[Model], train: TrainConfig) -> None:
    """Refuse invalid user models, and a second fit and folds of a single network.

    Raises:
        ConfigError: for the first invalid model.
    """
    if train.refit and train.preset == "network":
        raise ConfigError(
            "refit cannot be used with the preset network, whose number of epochs is chosen on validation rows: use "
            "another preset."
        )
    if train.folds is not None and train.preset == "network":
        raise ConfigError(
            "folds cannot be used with the preset network, which is judged on validation rows: use another preset."
        )
    if models and train.preset == "network":
        raise ConfigError(
            "models=[...] cannot be used with the preset network, which trains a single network: use another preset."
        )
    taken = {*BLENDS, *(one.name for one in our_models())}
    for one in models:
        if not isinstance(one, Model) or isinstance(one, type):
            raise ConfigError(f"{one!r} is not a model: it needs name, sees, fit and load, see mixfit.Model.")
        if not isinstance(one.name, str) or not _NAME.fullmatch(one.name):
            raise ConfigError(f"{one.name!r} is not a valid model name: use letters, digits, spaces and , . ( ) + -")
        if one.name in taken:
            raise ConfigError(f"Two models have the name {one.name!r}: rename one of them.")
        if not isinstance(one.sees, frozenset) or not one.sees <= set(PARTS):
            raise ConfigError(
                f"sees of the model {one.name!r} must be a frozenset of {', '.join(PARTS)}, got {one.sees!r}."
            )
        taken.add(one.name)


def unused_settings(mixed: MixedData, data: DataConfig, model: ModelConfig, train: TrainConfig) -> list[str]:
    """Warnings about non-default settings that have no or little effect with a preset of many models.

    One sentence each. All other settings work as for a single network, which a test checks for every field."""
    tried, preset = plan_for(mixed, train).models, train.preset
    networks = [one for one in tried if isinstance(one, Network)]
    found = []
    if not _is_default(train, "patience"):
        found.append(
            f"patience={train.patience} has no effect: the networks of preset {preset} train a fixed number of epochs "
            "without validation rows"
        )
    most = _MOST_EPOCHS.get(preset, train.epochs)
    tuned = any(one.tuned for one in networks)
    if not _is_default(train, "epochs") and train.epochs > (TUNED_EPOCHS if tuned else most):
        found.append(
            f"epochs={train.epochs}: the networks of preset {preset} train at most {most} epochs"
            + (f", a fine-tuned one {TUNED_EPOCHS}" if tuned else "")
        )
    if train.fine_tune and not tuned:
        found.append(
            "fine_tune has no effect: "
            + ("there are no photos" if mixed.photos is None else "there are no features of a frozen image network")
        )
    judged = {"regression": "squared error", "count": "Poisson deviance"}.get(mixed.schema.task, "log loss")
    if train.loss not in ("auto", {"regression": "mse", "count": "poisson"}.get(mixed.schema.task, "cross_entropy")):
        found.append(
            f"loss={train.loss} affects only networks: the other models of preset {preset} and the weights of "
            f"the ensemble minimise the {judged}"
        )
    if not _is_default(data, "valid"):
        found.append(
            f"valid={data.valid:g} has little effect: the folds of preset {preset} use training and validation rows "
            "together"
        )
    if model.tabular == "tabm" and all(one.takes_mlp for one in networks):
        found += [
            f"{name}={getattr(model, name)} has no effect: no network of preset {preset} is a TabM on these data"
            for name in ("members", "category_width")
            if not _is_default(model, name)
        ]
    return found


def _is_default(settings: Any, name: str) -> bool:
    return any(field.name == name and getattr(settings, name) == field.default for field in fields(settings))


def _why_not(model: Model, data: MixedData, *, features: bool, use_photos: bool) -> str:
    """Why a model cannot learn from the data; "" if it can."""
    if "table" in model.sees and not data.has_columns:
        return "there are no table columns"
    if "text" in model.sees and not data.schema.names("text"):
        return "there are no columns of text"
    if looks(model.sees) and data.photos is None:
        return "there are no photos"
    if looks(model.sees) and not use_photos:
        return "the photos are left out"
    if "photos" in model.sees and not features:
        return "the image network is not frozen, so there are no photo features"
    return ""
