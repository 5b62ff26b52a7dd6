"""One training over several processes, as ``torchrun`` starts them: each has a share of every batch.

The gradients and the loss of a batch are those that one process would have with the whole batch, so that results do not
depend on the number of processes, up to rounding. ``Learner`` adds the callback by itself under ``torchrun``."""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mixfit.data.sampler import Sampler, ShardedSampler
from mixfit.errors import ConfigError, ResourceError
from mixfit.seeding import set_seed
from mixfit.training.callback import Callback, TrainState

_PATIENCE = timedelta(minutes=10)
"""Longest that one process waits for another that is alive; one that has ended is noticed at once."""
_ELSEWHERE = "a signal to another process"


def process_rank() -> tuple[int, int]:
    """Number of this process, from 0, and of all processes; 0 and 1 without torchrun."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if "MASTER_ADDR" not in os.environ:  # torchrun sets it; other programs set some of the others
        return 0, 1
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def writes_files() -> bool:
    """Whether this process writes files; of several that train together only the first does."""
    return process_rank()[0] == 0


def join_processes() -> tuple[int, int]:
    """Connect to the other processes, once; see ``process_rank`` for the result.

    Raises:
        ResourceError: they cannot be reached.
    """
    rank, ranks = process_rank()
    if ranks == 1 or dist.is_initialized():
        return rank, ranks
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        said = next(iter(str(error).splitlines()), "").rstrip(". ")
        raise ResourceError(f"Process {rank} of {ranks} cannot reach the others: {said}.") from error
    atexit.register(_leave)
    return rank, ranks


def wait_for_processes() -> None:
    """Wait until all processes are here; nothing without torchrun.

    Raises:
        ResourceError: another one has ended.
    """
    rank, ranks = join_processes()
    if ranks > 1:
        with _Lost(rank, ranks):
            dist.barrier()


def _leave() -> None:
    with suppress(RuntimeError, ValueError, AssertionError):  # the others may have ended
        dist.destroy_process_group()


class Distributed(Callback):
    """Divides the batches of a fit over processes, and gives all of them the gradients and the loss of whole batches.

    The batch size of the loader is that of all processes together. Gradients are summed in proportion to the rows of
    each process (with ``parts``, after all of them), so that shares may have different sizes. Each process validates a
    share of the validation rows with equal weights and gets the sums and the outputs of all, so that all decide alike.
    A signal to one of them stops all after the same batch. Only the first process writes checkpoints and histories.

    The noise of a batch, such as that of dropout, differs between processes and follows from the random state of the
    first one before it, so that a fit that is resumed with as many processes has the same bits.

    Args:
        rank, ranks: number of this process, from 0, and of all; it does nothing for one.
    """

    order = -100  # before schedules, which ask for the number of steps
    chooses = changes = False

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self._own: Sampler | None = None
        self._wanted, self._gathers = "", False
        self._random: Tensor | None = None

    def before_fit(self, state: TrainState) -> None:
        """Divide the batches, and begin with the weights of the first process."""
        loader = state.loader
        if self.ranks == 1:
            return
        if not isinstance(getattr(loader, "sampler", None), Sampler):
            raise ConfigError(
                f"A training on {self.ranks} processes needs a mixfit.DataLoader, whose batches are divided over them, "
                f"not a {type(loader).__name__}."
            )
        self._own, self._wanted = loader.sampler, ""
        loader.sampler = ShardedSampler(loader.sampler, rank=self.rank, ranks=self.ranks)
        state.steps_per_epoch = len(loader)
        state.combine, state.share, state.gather = self._combine, self._share, self._gather
        random = torch.get_rng_state()
        with self._all_there():
            for tensor in [random, *state.model.parameters(), *state.model.buffers()]:
                dist.broadcast(tensor.detach(), 0)
        torch.set_rng_state(random)

    def before_batch(self, state: TrainState) -> None:
        """Draw the seed of this batch, as the other processes do, and make a seed of this process of it."""
        if self.ranks > 1 and state.training:
            drawn = int(torch.randint(2**62, ()))
            self._random = torch.get_rng_state()
            set_seed(drawn ^ self.rank)

    def after_batch(self, state: TrainState) -> None:
        """Leave it to the next batch to stop, as the others do not know of it yet; forget the noise of this one."""
        self._forget_noise()
        if state.training and state.stop_requested and state.stop_requested != self._wanted:
            self._wanted, state.stop_requested = state.stop_requested, ""

    def after_cancel_batch(self, state: TrainState) -> None:
        """Forget the noise of the batch."""
        self._forget_noise()

    def before_validate(self, state: TrainState) -> None:
        """Validate with equal buffers, such as statistics of batch norms."""
        with self._all_there():
            for buffer in state.model.buffers() if self.ranks > 1 else ():
                dist.broadcast(buffer, 0)

    def after_epoch(self, state: TrainState) -> None:
        """Stop after this epoch if any process is to."""
        self._forget_noise()
        flag = torch.tensor([float(bool(state.stop_requested or self._wanted))])
        self._sum(flag)
        self._stop_if(state, flag)

    def close(self, state: TrainState) -> None:
        """Give the loader its own sampler back."""
        self._forget_noise()
        if self._own is not None:
            state.loader.sampler, self._own = self._own, None

    def _combine(self, state: TrainState) -> int:
        """Gradients and loss of the whole batch, from the shares of all processes; returns its rows."""
        rows = len(state.yb)
        learning = [one for one in state.model.parameters() if one.requires_grad]
        has = torch.tensor([one.grad is not None for one in learning], dtype=torch.float64)
        about = [rows, rows * state.loss.item(), bool(state.stop_requested or self._wanted)]
        control = torch.cat([torch.tensor(about, dtype=torch.float64), has])
        self._sum(control)
        total = int(control[0])
        state.loss = (control[1] / total).to(state.loss)
        self._stop_if(state, control[2])
        mine = [one for one, count in zip(learning, control[3:].tolist(), strict=True) if count]
        for kind in dict.fromkeys((one.dtype, one.device) for one in mine):
            self._sum_gradients([one for one in mine if (one.dtype, one.device) == kind], rows / total)
        return total

    @contextmanager
    def _share(self, loader: Any) -> Iterator[None]:
        """Give this process its share of a loader; all rows if it cannot be divided."""
        own = getattr(loader, "sampler", None)
        self._gathers = False
        if not isinstance(own, Sampler) or min(own.batch_size, own.rows) < self.ranks:
            yield
            return
        self._gathers = True
        loader.sampler = ShardedSampler(own, rank=self.rank, ranks=self.ranks)
        try:
            yield
        finally:
            loader.sampler = own

    def _gather(self, values: Tensor) -> Tensor:
        """Rows of all processes, those of the first one first."""
        if not self._gathers:
            return values
        counts = torch.zeros(self.ranks, dtype=torch.int64)
        counts[self.rank] = len(values)
        self._sum(counts)
        padded = values.new_zeros(int(counts.max()), *values.shape[1:])
        padded[: len(values)] = values
        found = [torch.empty_like(padded) for _ in range(self.ranks)]
        with self._all_there():
            dist.all_gather(found, padded)
        return torch.cat([one[:count] for one, count in zip(found, counts.tolist(), strict=True)])

    def _forget_noise(self) -> None:
        if self._random is not None:
            torch.set_rng_state(self._random)
            self._random = None

    def _sum_gradients(self, parameters: Sequence[nn.Parameter], share: float) -> None:
        parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        flat = torch.cat([one.reshape(-1) for one in parts]).mul_(share)
        self._sum(flat)
        start = 0
        for one in parameters:
            one.grad = flat[start : start + one.numel()].view_as(one)
            start += one.numel()

    def _stop_if(self, state: TrainState, flag: Tensor) -> None:
        if flag.item():
            state.stop_requested = self._wanted = state.stop_requested or self._wanted or _ELSEWHERE

    def _sum(self, values: Tensor) -> None:
        with self._all_there():
            if self.ranks > 1:
                dist.all_reduce(values)

    def _all_there(self) -> "_Lost":
        return _Lost(self.rank, self.ranks)


def shared_fit() -> list[Callback]:
    """The callback that divides a fit over the processes that torchrun started; none without torchrun."""
    return [Distributed(*join_processes())] if process_rank()[1] > 1 else []


class _Lost:
    """Says in one sentence that another process is gone."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, RuntimeError):
            raise ResourceError(
                f"Process {self.rank} of {self.ranks} stops, as another process of this training has ended: its last "
                "checkpoint is kept, resume from there."
            ) from error
