"""The plan of a run before anything is fitted: its models within the budget, and what it is said to take.

In: prepared data, settings and the clock of the run. Out: ``RunPlan``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console

from mixfit.auto import cost
from mixfit.auto.budget import (
    EXPLAINED_SHARE,
    closing_seconds,
    duration,
    explained,
    fixed_seconds,
    least_models,
    model_seconds,
    preset_seconds,
    within,
    within_memory,
)
from mixfit.auto.cost import Sizes
from mixfit.auto.memory import available_bytes
from mixfit.auto.presets import FEWER_FOLDS, FOLDS, Plan, plan_for
from mixfit.auto.timetable import MARGIN, Timetable
from mixfit.choices import Preset
from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.load import MixedData
from mixfit.data.photos.store import ImageFiles
from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Constant, Linear
from mixfit.models.model import Model, looks
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees
from mixfit.nn.image import ImageEncoder
from mixfit.training.build import open_feature_store

MAY_DEPEND = "with a time limit, the result may depend on the speed and load of the machine"
_LARGEST_PART = 0.5
"""Largest share of the remaining time that image features, or features of texts, may take; else they are left out."""

_ENOUGH_TREES = 0.2
"""Share of their rounds from which boosted trees are worth their time; with less, or none, three folds are better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run does, and how long it is expected to take."""

    plan: Plan
    sizes: Sizes
    photo_seconds: float = 0.0
    """Estimated seconds of the image network over all photos; 0 without a frozen one."""
    photos: bool = True
    """Whether photos are used."""
    texts: bool = True
    """Whether columns of text are used."""
    scores: bool = True
    """Whether scores of photos are learnt."""
    notes: tuple[str, ...] = ()
    """What is left out for the time limit besides models, one sentence each."""
    budget: str = ""
    """What limits the models, as the end of a sentence."""
    late: tuple[Model, ...] = ()
    """Models that the time limit leaves out, and that are fitted if there is time left at last."""

    @property
    def explained_columns(self) -> int:
        """Largest number of columns that explanations may have."""
        s = self.sizes
        return s.columns - 1

    @property
    def closing(self) -> float:
        """Estimated seconds of what comes after the last fit, without explanations."""
        return closing_seconds(self.sizes, len(self.plan.models))

    @property
    def needed(self) -> float:
        """Estimated seconds of the smallest run after image features."""
        return _least_seconds(self.plan, self.sizes)

    def spent(self, models: Sequence[Model]) -> float:
        """Estimated seconds of a run with these models, beyond image features and explanations."""
        return _spent(models, self.sizes)

    @property
    def seconds(self) -> float:
        """Estimated seconds of the run, beyond image features."""
        models = self.plan.models
        spent = self.spent(models)
        size = explained(models, self.sizes, self.explained_columns, EXPLAINED_SHARE * spent, sides=3)
        if size is None:
            return spent
        return spent + cost.seconds(cost.explanation_work(models, self.sizes, self.explained_columns, *size))


def _spent(models: Sequence[Model], s: Sizes) -> float:
    """Estimated seconds of a run with these models, beyond image features and explanations."""
    return fixed_seconds(s, len(models)) + sum(model_seconds(one, s) for one in models)


def sizes_of(mixed: MixedData, image: ImageEncoder | None, folds: int) -> Sizes:
    """The sizes of prepared data; ``folds`` are those that are asked for."""
    rows = np.sort(np.concatenate([mixed.split.train, mixed.split.valid]))
    units = len(np.unique(mixed.ties.joined(rows, share=1 / max(folds, 1)).unit)) if mixed.split_time is None else folds
    looked = image is not None and mixed.photos is not None
    return Sizes.of(
        mixed,
        folds=max(1, min(folds, units)),
        features=image.num_features if looked and image is not None and image.frozen else 0,
        photo_work=cost.image_work(image, mixed.image_size) if looked and image is not None else 0.0,
    )


def plan_run(
    mixed: MixedData,
    *,
    image: ImageEncoder | None,
    model: ModelConfig,
    train: TrainConfig,
    models: Sequence[Model],
    timetable: Timetable,
) -> RunPlan:
    """Plan the run of a preset.

    Args:
        mixed: without image features.
        image: the image network; None for a table without photos.
        models: the user's models.
        timetable: whose last stage was the reading of the table.
    """
    frozen = image is not None and image.frozen and mixed.photos is not None
    backbone = image.backbone if frozen and image is not None else None

    def planned(settings: TrainConfig, *, photos: bool = True) -> Plan:
        features = frozen and photos
        return plan_for(
            mixed, settings, model=model, backbone=backbone, models=models, features=features, use_photos=photos
        )

    plan = planned(train)
    sizes = sizes_of(mixed, image, plan.folds)
    free_to_choose = train.folds is None and mixed.photos is None and mixed.split_time is None
    if (
        train.folds is None
        and plan.folds > FOLDS.get(train.preset, 0)
        and _spent(plan.models, sizes) > preset_seconds(train.preset, sizes)
    ):
        train = replace(train, folds=FOLDS[train.preset])
        plan = planned(train)
        sizes = sizes_of(mixed, image, plan.folds)
    safe = None if timetable.limit is None else timetable.limit / MARGIN
    share = _share_of_trees(plan, sizes, train, safe) if free_to_choose else 1.0
    if share < _ENOUGH_TREES:
        fewer = replace(train, folds=FEWER_FOLDS)
        smaller = sizes_of(mixed, image, FEWER_FOLDS)
        if _share_of_trees(planned(fewer), smaller, train, timetable.limit) > share:
            train, plan, sizes = fewer, planned(fewer), smaller
    timetable.note(cost.seconds(cost.reading_work(sizes)), timetable.last)
    photo_seconds = cost.seconds(cost.photo_pass_work(sizes)) if frozen else 0.0
    if timetable.limit is not None and image is not None and photo_seconds * timetable.pace >= 1:
        photo_seconds *= _share_to_compute(mixed, image)
    use_photos = use_texts = True
    notes: list[str] = []
    if timetable.limit is None:
        tuned = any(isinstance(one, Network) and one.tuned for one in plan.models)
        preset: Preset = "best" if tuned else train.preset
        whole = preset_seconds(preset, sizes)
        budget = f"the budget of preset {preset} ({duration(whole)})"
        seconds = whole * (1 - EXPLAINED_SHARE) - fixed_seconds(sizes, len(plan.models))
    else:
        budget = f"the time limit of {train.time}"
        free = max(0.0, timetable.remaining / timetable.pace - _least_seconds(plan, sizes))
        text_seconds = cost.seconds(cost.text_work(sizes))
        if sizes.texts and text_seconds > _LARGEST_PART * free:
            use_texts = False
            took = duration(text_seconds * timetable.pace)
            notes.append(f"texts: their features take about {took}, too long for {budget}")
            mixed, sizes = without_texts(mixed), replace(sizes, texts=0, text_width=0, characters=0.0)
        if frozen and photo_seconds > _LARGEST_PART * free:
            use_photos, sizes = False, replace(sizes, photos=0, features=0)
            took = duration(photo_seconds * timetable.pace)
            notes.append(f"photos: their features take about {took}, too long for {budget}")
            photo_seconds = 0.0
        plan = planned(train, photos=use_photos)
        rest = cost.seconds(cost.shared_work(sizes)) + photo_seconds
        seconds = timetable.left_for(closing_seconds(sizes, len(plan.models)) + rest)
    # With refit, the models of the blend are fitted once more on all rows.
    share = sizes.folds / (sizes.folds + 1) if train.refit else 1.0
    possible = within_memory(plan, sizes, available_bytes())
    pace = 1.0 if timetable.limit is None else timetable.pace
    plan = within(possible, sizes, share * seconds, limit=budget, pace=pace)
    if timetable.limit is None and frozen and not any(_takes_scores(one) for one in plan.models):
        # The time of the scores of photos, which then nobody needs, goes to models that do without.
        sizes = replace(sizes, scores=False)
        seconds = whole * (1 - EXPLAINED_SHARE) - fixed_seconds(sizes, len(plan.models))
        plan = within(_without_takers(possible, plan), sizes, share * seconds, limit=budget)
    if timetable.limit is None and frozen and _looks(possible) and not _looks(plan):
        # Without the features of photos, which then nobody needs, there may be time for more models of the table.
        use_photos, photo_seconds, sizes = False, 0.0, replace(sizes, photos=0, features=0)
        notes.append(f"photos: what is learnt from them takes too long for {budget}; --time gives it more")
        plan = within_memory(planned(train, photos=False), sizes, available_bytes())
        seconds = whole * (1 - EXPLAINED_SHARE) - fixed_seconds(sizes, len(plan.models))
        plan = within(plan, sizes, share * seconds, limit=budget)
    kept = {one.name for one in plan.models}
    others = (one for one in possible.models if one.name not in kept and "pixels" not in one.sees)
    late = () if timetable.limit is None else tuple(others)
    return RunPlan(
        plan=plan,
        late=late,
        sizes=sizes,
        photo_seconds=photo_seconds,
        photos=use_photos,
        scores=sizes.scores,
        texts=use_texts,
        notes=tuple(notes),
        budget=budget,
    )


def _share_of_trees(plan: Plan, s: Sizes, train: TrainConfig, limit: float | None) -> float:
    """Share of their rounds that a budget leaves boosted trees, 0 without any: by sizes alone, so that a resumed run
    has as many folds."""
    fixed = fixed_seconds(s, len(plan.models))
    if limit is None:
        seconds = preset_seconds(train.preset, s) * (1 - EXPLAINED_SHARE) - fixed
    else:
        reading = cost.seconds(cost.reading_work(s))
        seconds = limit - reading - MARGIN * (fixed - reading)
    seconds *= s.folds / (s.folds + 1) if train.refit else 1.0
    trees = [one for one in within(plan, s, seconds, limit="").models if isinstance(one, BoostedTrees)]
    return max(
        (cost.tree_rounds(one, s) / cost.tree_rounds(BoostedTrees(sees=one.sees), s) for one in trees), default=0.0
    )


def _takes_scores(model: Model) -> bool:
    """Whether a model uses the scores of photos; a model of the user may."""
    return looks(model.sees) and not isinstance(model, Linear | KernelRidge)


def _without_takers(possible: Plan, plan: Plan) -> Plan:
    """The possible models that use no scores of photos, when ``plan`` leaves out all that do."""
    takers = {one.name for one in possible.models if _takes_scores(one)}
    why = [sentence for sentence in plan.left_out if sentence.partition(":")[0] in takers]
    others = tuple(one for one in possible.models if one.name not in takers)
    return replace(possible, models=others, left_out=(*possible.left_out, *why))


def _looks(plan: Plan) -> bool:
    """Whether a model uses photos."""
    return any(looks(one.sees) for one in plan.models)


def _share_to_compute(mixed: MixedData, image: ImageEncoder) -> float:
    """Share of the photos whose features are neither in the cache nor stored."""
    photos = mixed.photos
    if photos is None or photos.cache is None or not isinstance(photos.decoder, ImageFiles):
        return 1.0
    store = open_feature_store(image, photos.decoder, photos.cache)
    return store.count_missing() / max(len(store.files), 1)


def without_photos(run: RunPlan, why: str) -> RunPlan:
    """The plan without models that use photos, after their features took too long."""
    kept = tuple(one for one in run.plan.models if not looks(one.sees))
    return replace(
        run,
        plan=replace(run.plan, models=kept),
        sizes=replace(run.sizes, photos=0, features=0),
        photos=False,
        photo_seconds=0.0,
        notes=(*run.notes, why),
        late=tuple(one for one in run.late if not looks(one.sees)),
    )


def without_texts(mixed: MixedData) -> MixedData:
    """The same data with columns of text ignored."""
    columns = tuple(
        replace(column, role="ignored") if column.role == "text" else column for column in mixed.schema.columns
    )
    return replace(
        mixed,
        schema=replace(mixed.schema, columns=columns),
        text=None,
        arrays=replace(mixed.arrays, text=None, text_mask=None),
    )


def _least_seconds(plan: Plan, s: Sizes) -> float:
    """Estimated seconds of the smallest run after reading: the constant and one simple model."""
    without = replace(s, texts=0, text_width=0, characters=0.0, features=0)
    models = least_models(plan, without)
    shared = cost.seconds(cost.shared_work(without))
    return shared + closing_seconds(without, len(models)) + sum(model_seconds(one, without) for one in models)


def say_plan(console: Console, run: RunPlan, timetable: Timetable) -> None:
    """Print what the run does and how long that takes, before it is done."""
    plan, s, limit = run.plan, run.sizes, timetable.limit

    def say(text: str) -> None:
        console.print(text, markup=False)

    count = sum(not isinstance(one, Constant) for one in plan.models)
    models = f"{count} model{'' if count == 1 else 's'} x {s.folds} folds"
    texts = cost.seconds(cost.text_work(s))
    parts = [f", of which {duration(texts)} for features of texts"] if texts >= 1 else []
    if run.photo_seconds >= 1:
        photos = f"{s.photos:,} photo{'' if s.photos == 1 else 's'}"
        unless = "" if limit is not None else ", if not cached"
        parts.append(f"; before that {duration(run.photo_seconds)} once for image features of {photos}{unless}")
    seconds = run.seconds * (1.0 if limit is None else timetable.pace)
    say(f" plan    about {duration(seconds)}: {models}{''.join(parts)}")
    if any(cost.is_unknown(one) for one in plan.models):
        say(" note: the time of your own models is unknown, and comes on top")
    if limit is not None:
        least = timetable.pace * _least_seconds(plan, s)
        if least > timetable.remaining:
            say(
                f" note: a run on this table needs at least about {duration(timetable.elapsed + least)}, so it takes "
                "longer than the time limit: only a constant and one simple model are fitted"
            )
        say(f" note: {MAY_DEPEND}")
    for sentence in plan.shortened:
        say(f" shortened: {sentence}")
    for sentence in (*run.notes, *plan.left_out):
        say(f" skipped: {sentence}")


def closing_of_network(s: Sizes) -> float:
    """Estimated seconds of what comes after the training of a single network: baselines, scores and report."""
    trees = cost.seconds(cost.fit_work(BoostedTrees(), s))
    return trees + closing_seconds(s, 3)
