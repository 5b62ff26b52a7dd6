"""A fit that is stopped and resumed ends with the same bytes as one that never stopped."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_fits import BATCHES, EPOCHS, Loaders, StopAt, X, Y, assert_same, loaders, net
from torch import Tensor
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import TensorDataset

from mixfit.errors import ConfigError, Stopped
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.control import EarlyStopping, StopOnSignal
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.checkpoint import Checkpoints, newest_checkpoint
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import LAMB, SGD, Adam, AdamW, Lion, Muon, RMSProp, ScheduleFreeAdamW


class Noise(Callback):
    """Draws from all generators, as a user's callback may."""

    def after_loss(self, state: TrainState) -> None:
        if state.training:
            state.xb = state.xb + torch.randn(1) + np.random.rand()  # noqa: NPY002


def run(
    folder: Path,
    optimizer: Callable[..., Any],
    *callbacks: Callback,
    patience: int = 9,
    data: Loaders | None = None,
    one_cycle: bool = True,
    **settings: Any,
) -> tuple[Learner, Recorder]:
    """One fit, resumed if there is something to resume, whatever the generators were before."""
    model = net()
    recorder = Recorder(folder)
    snapshot = newest_checkpoint(folder / "checkpoints")
    learner = Learner(
        model,
        loaders() if data is None else data,
        loss=mse,
        optimizer=optimizer,
        callbacks=[
            recorder,
            Noise(),
            EarlyStopping(mode="min", patience=patience),
            Checkpoints(folder / "checkpoints", mode="min", seconds=settings.pop("seconds", 1000.0)),
            StopOnSignal("Go on."),
            *callbacks,
        ],
        device="cpu",
    )
    fit = learner.fit_one_cycle if one_cycle else learner.fit
    fit(settings.pop("epochs", EPOCHS), 0.05, resume=snapshot, **settings)
    return learner, recorder


def weights(learner: Learner) -> dict[str, Tensor]:
    return learner.model.state_dict()


OPTIMIZERS = [
    SGD,
    partial(SGD, momentum=0.9, nesterov=True),
    RMSProp,
    Adam,
    AdamW,
    LAMB,
    Lion,
    Muon,
    partial(ScheduleFreeAdamW, warmup=7),
    torch.optim.AdamW,
    torch.optim.RMSprop,
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda kind: getattr(kind, "func", kind).__qualname__)
def test_f29_a_fit_stopped_at_any_batch_ends_with_the_same_bytes(tmp_path: Path, optimizer: Any) -> None:
    (tmp_path / "whole").mkdir()
    whole, record = run(tmp_path / "whole", optimizer)
    everywhere = range(1, EPOCHS * BATCHES + 1)
    for step in everywhere if optimizer is AdamW else (1, 5, 7, 20):
        folder = tmp_path / f"{step}"
        folder.mkdir()
        epoch, batch = divmod(step - 1, BATCHES)
        with pytest.raises(
            Stopped, match=rf"^stopped by SIGTERM after batch {batch + 1} of 5 of epoch {epoch + 1}\. Go on"
        ):
            run(folder, optimizer, StopAt(step))
        torch.randn(step)  # the generators are elsewhere now
        resumed, again = run(folder, optimizer)
        assert_same(weights(whole), weights(resumed))
        columns = [name for name in record.history if name != "seconds"]
        assert again.history[columns].equals(record.history[columns])
        assert again.steps.equals(record.steps)
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == EPOCHS


def test_f29_early_stopping_goes_on_counting(tmp_path: Path) -> None:
    whole, record = run(tmp_path, AdamW, patience=2, epochs=12)
    assert len(record.history) < 12
    for step in range(1, len(record.steps), 3):
        folder = tmp_path / f"{step}"
        folder.mkdir()
        with pytest.raises(Stopped):
            run(folder, AdamW, StopAt(step), patience=2, epochs=12)
        resumed, again = run(folder, AdamW, patience=2, epochs=12)
        assert_same(weights(whole), weights(resumed))
        assert len(again.history) == len(record.history)


def test_a_fit_may_be_stopped_again_and_again_and_prefetch_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole, _ = run(tmp_path / "whole", AdamW)
    (tmp_path / "torn").mkdir()
    for step in (3, 4, 11, 17):
        with pytest.raises(Stopped):
            run(tmp_path / "torn", AdamW, StopAt(step), data=loaders(prefetch=3))
    resumed, _ = run(tmp_path / "torn", AdamW, data=loaders(prefetch=2))
    assert_same(weights(whole), weights(resumed))


def test_a_finished_fit_is_not_trained_again(tmp_path: Path) -> None:
    whole, record = run(tmp_path, AdamW)

    class Never(Callback):
        def before_epoch(self, state: TrainState) -> None:
            raise AssertionError("it was finished")

    again, recorder = run(tmp_path, AdamW, Never())
    assert_same(weights(whole), weights(again))
    assert recorder.history.equals(record.history)
    third, _ = run(tmp_path, AdamW, Never())  # resuming has not moved what is saved
    assert_same(weights(whole), weights(third))


@pytest.mark.parametrize("shuffle", [False, True])
def test_pytorchs_loader_is_resumed_between_two_epochs(tmp_path: Path, *, shuffle: bool) -> None:
    def data() -> Loaders:
        return Loaders(TorchLoader(TensorDataset(X, Y), batch_size=10, shuffle=shuffle), loaders().valid)

    (tmp_path / "whole").mkdir()
    whole, _ = run(tmp_path / "whole", AdamW, data=data())
    with pytest.raises(Stopped, match=r"^stopped by SIGTERM after epoch 2\."):
        run(tmp_path, AdamW, StopAt(7), data=data())
    resumed, _ = run(tmp_path, AdamW, data=data())
    assert_same(weights(whole), weights(resumed))


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, AdamW, StopAt(7))
    with pytest.raises(ConfigError, match="The fit to resume has epochs=4, not 5"):
        run(tmp_path, AdamW, epochs=5)
    with pytest.raises(ConfigError, match="The saved optimizer is AdamW, this one is SGD"):
        run(tmp_path, SGD)
    with pytest.raises(ConfigError, match=r"The saved optimizer does not fit this one"):
        run(tmp_path, torch.optim.SGD)
    with pytest.raises(
        ConfigError, match=r"has the callbacks .*Checkpoints, EarlyStopping, .*, but this one has .*EarlyStopping 2"
    ):
        run(tmp_path, AdamW, EarlyStopping(mode="min", patience=3))
