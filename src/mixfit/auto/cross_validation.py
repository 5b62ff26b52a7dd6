"""Fit the models of a plan on every fold, one after another, within the time limit if there is one.

In: a plan, encoded folds and a clock. Out: the models with their out-of-fold predictions, and sentences on those that
were left out or shortened."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from traceback import clear_frames

from rich.console import Console

from mixfit.auto.budget import model_seconds, whole, within
from mixfit.auto.judged import Judged
from mixfit.auto.kept_models import RunKeeper
from mixfit.auto.memory import MEMORY_ADVICE
from mixfit.auto.planning import RunPlan
from mixfit.auto.presets import Plan
from mixfit.auto.timetable import Timetable
from mixfit.ensemble.cross_fit import (
    Fits,
    FittedFolds,
    Fitting,
    OutOfTimeError,
    cross_fit,
)
from mixfit.errors import Diverged, ResourceError
from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Constant
from mixfit.models.model import SMALL, Model, Trainable, one_thread
from mixfit.models.trees import BoostedTrees
from mixfit.training.device import is_out_of_memory
from mixfit.training.metrics import metric_text

_FEWEST_SECONDS = 1.0
_SAFE = 1.5
"""Factor of the estimated time of the last model within a time limit: a few trees take up to so many times that."""
_TRAINED_SHARE = 0.7
"""Share of the time of a network in which it is trained."""


@dataclass(kw_only=True)
class CrossValidation:
    """The cross-validation of all models, one after another, within the time limit if there is one."""

    run_plan: RunPlan
    folds: FittedFolds
    judged: Judged
    keeper: RunKeeper | None
    timetable: Timetable
    console: Console
    elsewhere: Fits | None = None
    """Fits models in other processes."""
    fittings: list[Fitting] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    late: set[str] = field(default_factory=set)
    """Models that were left out for the time limit, and that there was time for at last."""
    postponed: list[Model] = field(default_factory=list)
    """Models that were left out for it when others were to be fitted."""
    shortened: dict[str, str] = field(default_factory=dict)
    """How models were shortened when they were fitted, by name."""
    slow: set[str] = field(default_factory=set)
    """Models that a budget can shorten, given up after some folds and fitted once more."""

    def run(self, width: int) -> None:
        """Fit the models of the plan; print a line for each.

        Args:
            width: of the column of names.
        Raises:
            ResourceError: no model fits in memory.
        """
        limited = self.timetable.limit is not None
        waiting = [whole(one) if limited else one for one in self.run_plan.plan.models]
        if not limited and self.elsewhere is not None:
            self._begin_all(waiting, self.elsewhere)
        while waiting or (waiting := self._late() if limited else []):
            one = self._next(waiting) if limited else waiting[0]
            if one is None:
                waiting = []
                continue
            waiting = [other for other in waiting if other.name not in {one.name, *self._names_left_out}]
            fitting = self._fit(one, waiting)
            if fitting is None and one.name in self.slow - self._names_left_out:
                waiting = [whole(one), *waiting]
            elif fitting is not None:
                self.fittings.append(fitting)
                mean, error = self.judged.loss(fitting)
                score = self.judged.score(one.name, self.judged.predictions(fitting))
                shown = "" if score is None else f"{metric_text(score):>19}"
                said = f"{mean:9.4f} +- {error:.4f}{fitting.seconds:9.1f} s{shown}"
                self.console.print(f"   {one.name:<{width}}{said}", markup=False)
        if not self.fittings:
            raise ResourceError(f"Not even a constant fits in memory: {MEMORY_ADVICE}.")

    def _begin_all(self, models: list[Model], elsewhere: Fits) -> None:
        """Begin all fits that depend on no other model and on no pixels, which are not decoded yet."""
        for one in models:
            every = self.folds.fitting(one)
            waits = "pixels" in one.sees or (isinstance(one, Trainable) and one.begins_with is not None)
            if not waits and not isinstance(one, Constant):
                todo = [place for place in range(len(every)) if self.keeper is None or not self.keeper.kept(one, place)]
                with self._threads(one):
                    elsewhere.begin(one, [(place, every[place], None) for place in todo], None)

    def _threads(self, one: Model) -> AbstractContextManager[None]:
        """One thread for few rows."""
        return one_thread() if len(self.folds.rows) <= SMALL and "pixels" not in one.sees else nullcontext()

    @property
    def _has_simple(self) -> bool:
        """Whether a model besides the constant is fitted."""
        return any(not isinstance(fitting.model, Constant) for fitting in self.fittings)

    @property
    def _names_left_out(self) -> set[str]:
        return {sentence.partition(":")[0] for sentence in self.left_out}

    def _next(self, waiting: list[Model]) -> Model | None:
        """The next model, perhaps shortened: what was fitted so far shows how much time there is for the others."""
        left = self._share * self.timetable.left_for(self._closing())
        # What the last model takes longer than estimated no other can make up for, and a network ends by itself.
        safe = left / _SAFE if len(waiting) == 1 and not isinstance(waiting[0], Trainable) else left
        again = self._within(waiting, safe, least=not self._has_simple)
        if not again.models:
            again = self._within(waiting, left, least=False)
        kept = {one.name for one in again.models}
        self.postponed += [one for one in waiting if one.name not in kept]
        for sentence in again.left_out:
            self._skip(sentence)
        if not again.models:
            return None
        said = {sentence.partition(":")[0]: sentence for sentence in again.shortened}
        name = again.models[0].name
        self.shortened.pop(name, None)
        self.shortened |= {name: said[name]} if name in said else {}
        return again.models[0]

    def _late(self) -> list[Model]:
        """Models left out for the time limit that fit into what is left; each is tried once."""
        others = [whole(one) for one in (*self.run_plan.late, *self.postponed) if one.name not in self.late]
        left = self._share * self.timetable.left_for(self._closing()) / _SAFE
        found = [whole(one) for one in self._within(others, left, least=False).models] if others else []
        names = {one.name for one in found}
        self.late |= names
        self.left_out = [sentence for sentence in self.left_out if sentence.partition(":")[0] not in names]
        for one in found:
            self.console.print(f" note: there is time left for {one.name}", markup=False)
        return found

    def _within(self, waiting: list[Model], seconds: float, *, least: bool) -> Plan:
        return within(
            replace(self.run_plan.plan, models=tuple(waiting), left_out=(), shortened=()),
            self.run_plan.sizes,
            seconds,
            limit=self.run_plan.budget,
            least=least,
            pace=self.timetable.pace,
        )

    @property
    def _share(self) -> float:
        """Share of the time for models that cross-validation may take; with refit they are fitted once more."""
        count = self.run_plan.sizes.folds
        return count / (count + 1) if self.run_plan.plan.train.refit else 1.0

    def _closing(self, *more: Model) -> float:
        """Estimated seconds of what comes after the last fit, with refit also of one of all models so far and these."""
        plan = self.run_plan
        again = [*(fitting.model for fitting in self.fittings), *more] if plan.plan.train.refit else []
        return plan.closing + sum(model_seconds(one, plan.sizes) for one in again) / plan.sizes.folds

    def _skip(self, sentence: str) -> None:
        self.shortened.pop(sentence.partition(":")[0], None)
        self.left_out.append(sentence)
        self.console.print(f" skipped: {sentence}", markup=False)

    def _fit(self, one: Model, waiting: list[Model]) -> Fitting | None:
        """Cross-validate a model; None if it diverges, its time is over, or it does not fit in memory."""
        table, sizes, closing, keeper = self.timetable, self.run_plan.sizes, self._closing(one), self.keeper
        seconds = model_seconds(one, sizes)
        rest = seconds + sum(model_seconds(other, sizes) for other in waiting)
        table.ahead = rest + closing
        limited = table.limit is not None and not isinstance(one, Constant)
        if keeper is not None:
            share = self._share * table.left_for(closing) * table.pace * seconds / max(rest, 1e-9)
            # Each fold also has to build its network and to predict.
            keeper.seconds = _TRAINED_SHARE * max(_FEWEST_SECONDS, share) / self.folds.count if limited else None
        # The first simple model is fitted even if the time is over, if it takes no longer than expected.
        first = limited and not self._has_simple
        least = 2 * seconds + _FEWEST_SECONDS if first else 0.0
        most = table.free(closing) if limited and not first and not isinstance(one, Trainable) else None
        # A model that a budget can shorten is then fitted once more.
        foresee = isinstance(one, BoostedTrees | KernelRidge) and one.name not in self.slow
        loaded = 0 if keeper is None else keeper.loaded
        count, fittings = self.folds.count, self.fittings
        with (
            table.stage(f"{one.name}, fold 1 of {count}", seconds, learn=False) as tell,
            self._threads(one),
        ):
            if "pixels" in one.sees and self.folds.folds[0].data.photos is not None:
                self._with_pixels()
            begins = one.begins_with if isinstance(one, Trainable) else None
            begin_at = next((other for other in fittings if other.model.name == begins), None)
            try:
                with table.ending(closing, least=least) if limited else nullcontext():
                    fitting = cross_fit(
                        one,
                        self.folds,
                        keeper=keeper,
                        begin_at=begin_at,
                        seconds=most,
                        foresee=foresee,
                        tell=lambda fold: tell(f"{one.name}, {_fold_name(fold, count)}", min(fold / count, 1.0)),
                        fits=None if isinstance(one, Constant) else self.elsewhere,
                        network_seconds=None if keeper is None else keeper.seconds,
                    )
            except OutOfTimeError as error:
                if foresee and error.folds:
                    self.slow.add(one.name)
                    fits = len(self.folds.fitting(one))
                    table.note(seconds * error.folds / fits, error.seconds)
                    if keeper is not None:
                        keeper.forget(one, fits)
                else:
                    self._skip(f"{one.name}: {error}")
                return None
            except Diverged as error:
                self._skip(f"{one.name}: {error}")
                return None
            except Exception as error:
                if not is_out_of_memory(error.__cause__ or error):
                    raise
                clear_frames(error.__traceback__)  # they hold what did not fit
                self._skip(f"{one.name}: it does not fit in memory; {MEMORY_ADVICE}")
                return None
            finally:
                if self.elsewhere is not None:
                    self.elsewhere.stop(one)
        if keeper is None or keeper.loaded == loaded:
            table.note(seconds, fitting.seconds)
        return fitting

    def _with_pixels(self) -> None:
        """Decode the photos, which earlier models do not need."""
        photos = self.folds.folds[0].data.photos
        assert photos is not None
        self.folds = self.folds.with_pixels(photos.pixels)
        self.judged = replace(self.judged, folds=self.folds)


def _fold_name(fold: int, folds: int) -> str:
    """The name of a fold; a fit of all rows comes last."""
    return f"fold {fold + 1} of {folds}" if fold < folds else "all rows"
