"""What a search may change, and how far from where it begins.

Every range is around the settings that the search begins with, so that these are a point of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args, runtime_checkable

from mixfit.choices import Augmentation, Fusion
from mixfit.config import ModelConfig, TrainConfig


@runtime_checkable
class Suggests(Protocol):
    """What is needed of a trial; ``optuna.Trial`` has it."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The settings around which to search; learning rate, weight decay and sizes are not None."""

    model: ModelConfig
    train: TrainConfig
    photos: bool
    """Whether the table has photos: fusion and the dropouts of photos are searched then."""
    pixels: bool
    """Whether the image network is trained on pixels: augmentation is searched then."""

    def suggest(self, trial: Suggests) -> tuple[ModelConfig, TrainConfig]:
        """The settings of a trial."""
        model, train = self.model, self.train
        assert train.lr is not None
        assert train.weight_decay is not None
        train = replace(train, lr=trial.suggest_float("lr", train.lr / 10, train.lr * 10, log=True))
        if self.train.weight_decay:
            decay = self.train.weight_decay
            train = replace(train, weight_decay=trial.suggest_float("weight_decay", decay / 10, decay * 10, log=True))
        model = replace(model, dropout=trial.suggest_float("dropout", 0.0, max(0.5, model.dropout)))
        model = replace(model, tabular_hidden=self._hidden(trial))
        model = replace(model, encoding_dim=_size(trial, "encoding_dim", model.encoding_dim))
        if model.tabular == "tabm":
            model = replace(model, members=_size(trial, "members", model.members, least=2, growth=2))
        if self.photos:
            model = replace(
                model,
                fusion=trial.suggest_categorical("fusion", get_args(Fusion)),
                modality_dropout=trial.suggest_float("modality_dropout", 0.0, max(0.3, model.modality_dropout)),
                image_dropout=trial.suggest_float("image_dropout", 0.0, max(0.7, model.image_dropout)),
            )
        if self.pixels:
            train = replace(train, augment=trial.suggest_categorical("augment", get_args(Augmentation)))
        return model, train

    def start(self) -> dict[str, Any]:
        """The point of the space at which it begins: the parameters that give its own settings."""
        own = {
            "lr": self.train.lr,
            "weight_decay": self.train.weight_decay,
            "dropout": self.model.dropout,
            "layers": len(self._widths),
            "width": max(self._widths, default=1),
            "encoding_dim": self.model.encoding_dim,
            "members": self.model.members,
            "fusion": self.model.fusion,
            "modality_dropout": self.model.modality_dropout,
            "image_dropout": self.model.image_dropout,
            "augment": self.train.augment,
        }
        asked = _Names()
        self.suggest(asked)
        return {name: own[name] for name in asked.names}

    @property
    def _widths(self) -> tuple[int, ...]:
        assert self.model.tabular_hidden is not None
        return self.model.tabular_hidden

    def _hidden(self, trial: Suggests) -> tuple[int, ...]:
        """Widths of the hidden layers: in proportion to those at the start, the last of them repeated."""
        if not self._widths:
            return ()
        layers = trial.suggest_int("layers", 1, max(4, len(self._widths)))
        widths = (*self._widths, *[self._widths[-1]] * layers)[:layers]
        if self.model.tabular == "resnet":  # its width is encoding_dim
            return widths
        widest = max(self._widths)
        width = _size(trial, "width", widest)
        return tuple(max(1, round(part * width / widest)) for part in widths)


class _Names:
    """Stands in for a trial, to find out what is asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.names.append(name)
        return low

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.names.append(name)
        return low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.names.append(name)
        return choices[0]


def _size(trial: Suggests, name: str, start: int, *, least: int = 4, growth: int = 4) -> int:
    """From a quarter of ``start`` to ``growth`` times as much."""
    return trial.suggest_int(name, min(start, max(least, start // 4)), start * growth, log=True)
