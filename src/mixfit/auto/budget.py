"""What a run may cost: which models of a preset are fitted, how far they are shortened, and how much is explained.

In: a plan, the sizes of the table and seconds. Out: the plan within them, with one sentence for each model that is
shortened or left out. No clock is read: without ``--time`` the seconds are those of the preset and costs come from
``cost``, so that the same is fitted on every machine with enough memory. With ``--time``, ``Timetable`` says how many
seconds are left."""

import math
from collections.abc import Sequence
from dataclasses import replace

from mixfit.auto import cost
from mixfit.auto.cost import Sizes
from mixfit.auto.memory import size_text
from mixfit.auto.presets import Plan
from mixfit.choices import Preset
from mixfit.evaluation.explain import LEAST_BACKGROUND, affordable_background
from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Constant, Linear
from mixfit.models.model import Model, looks
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees
from mixfit.runs.results import TREES

PRESET_SECONDS: dict[Preset, float] = {"quick": 30.0, "balanced": 300.0, "best": 1800.0}
"""Budget of a preset for up to ``BUDGET_ROWS`` rows and ``BUDGET_COLUMNS`` columns, in seconds on two cores; more rows
or columns have more in proportion, and at least half of it is for models."""
BUDGET_ROWS, BUDGET_COLUMNS = 10_000, 1_500
LEAST_SHARE = 0.3
"""Smallest share of its epochs to which a network is shortened; below it is left out, as it would learn too little for
its cost (docs/LOG.md)."""
_STEP = 0.8
"""Share of its cost to which a model is shortened at a time."""
_FEWEST_TREES = 20
_ONE_FOLD, _ONE_SETTING = "chosen on one inner fold", "one kind of trees of three"
_KEPT = (2_000, 1_500, 1_000, 700)
"""Numbers of training rows that kernel ridge regression keeps for a budget."""
EXPLAINED_SHARE = 0.1
"""Largest share of a run's time that its explanations take."""
EXPLAINED: tuple[tuple[int, int], ...] = ((16, 1_024), (12, 512), (8, 384), (5, 256), (4, 160))
"""Numbers of explained rows, and of predictions for each, of which the first is taken that is cheap enough."""


def preset_seconds(preset: Preset, s: Sizes) -> float:
    """The budget of a preset in seconds on two cores, beyond image features: see ``PRESET_SECONDS``.

    Of a wide table, which takes long to read and encode, it is at least twice the time of that.
    """
    table = replace(s, photos=0, features=0, texts=0, text_width=0, characters=0.0)
    usual = PRESET_SECONDS.get(preset, math.inf) * max(1.0, s.rows / BUDGET_ROWS, s.columns / BUDGET_COLUMNS)
    return max(usual, 2 * fixed_seconds(table, 1))


def fixed_seconds(s: Sizes, models: int) -> float:
    """Seconds of what every run needs: reading, encoded folds, and everything after the last fit."""
    return cost.seconds(cost.reading_work(s)) + cost.seconds(cost.shared_work(s)) + closing_seconds(s, models)


def closing_seconds(s: Sizes, models: int) -> float:
    """Seconds of blend, intervals, scores and report, without explanations."""
    return cost.seconds(cost.closing_work(s, models))


def model_seconds(model: Model, s: Sizes) -> float:
    """Seconds of the cross-validation of a model."""
    return cost.seconds(cost.model_work(model, s))


def least_models(plan: Plan, s: Sizes) -> tuple[Model, ...]:
    """The constant, and the cheaper of the simplest linear model and boosted trees, which are always fitted."""
    linear = [one for one in plan.models if isinstance(one, Linear)][:1]
    trees = [one for one in plan.models if isinstance(one, BoostedTrees)][:1]
    both: list[Model] = [*linear, *trees]
    simple = sorted(both, key=lambda one: model_seconds(one, s))
    return (*(one for one in plan.models if isinstance(one, Constant)), *simple[:1])


def within(plan: Plan, s: Sizes, seconds: float, *, limit: str, least: bool = True, pace: float = 1.0) -> Plan:
    """The plan shortened until its models cost at most ``seconds``, the costliest of least promise first.

    A network trains fewer epochs, three tenths of them at least; boosted trees are chosen on one inner fold, then
    grow fewer trees, then of one kind only; kernel ridge regression keeps fewer rows. If that does not suffice, a model
    is left out, and the others are shortened anew. The constant and one simple model stay.

    Args:
        seconds: for all models together.
        limit: what limits them, the end of each sentence, such as ``the budget of 30 s``.
        least: whether those two stay whatever they cost.
        pace: factor of the seconds in the sentences, on a slow machine.
    """
    models = list(plan.models)
    costs = {one.name: model_seconds(one, s) for one in models}
    kept = {one.name for one in least_models(plan, s)} if least else set()
    before = {one.name: one for one in models}
    shortest: set[str] = set()
    shortened, left_out = dict[str, str](), list[str]()

    def take(found: Sequence[tuple[Model, str]]) -> None:
        for model, how in found:
            models[[one.name for one in models].index(model.name)] = model
            costs[model.name] = model_seconds(model, s)
            shortened[model.name] = f"{model.name}: {how}, for {limit}"

    while (over := sum(costs.values()) - seconds) > 0:
        rest = [one for one in models if one.name not in kept and costs[one.name] > 0]
        if not rest:
            break
        longer = [one for one in rest if one.name not in shortest]
        worst = max(longer or rest, key=lambda one: costs[one.name] / _promise(one, models, s))
        took = costs[worst.name]
        # A step at a time, so that the next costliest is shortened, too.
        short = _shortened(before[worst.name], s, max(took - over, _STEP * took)) if longer else None
        if short is not None and model_seconds(short[0], s) < took:
            take(_alike(short, [before[one.name] for one in models], s))
        elif longer:
            shortest.add(worst.name)
        else:
            # The others get its time: they begin again from what they are without a limit.
            models = [before[one.name] for one in models if one.name != worst.name]
            costs = {one.name: model_seconds(one, s) for one in models}
            shortest.clear()
            shortened.clear()
            left_out.append(f"{worst.name}: it takes about {duration(pace * took)}, too long for {limit}")
    # The last step may have been larger than needed: what is left lengthens those of most promise for their cost.
    for name in sorted(shortened, key=lambda one: costs[one] / _promise(before[one], models, s)):
        free = seconds - sum(costs.values())
        long = _shortened(before[name], s, costs[name] + free)
        found = [] if long is None else _alike(long, [before[one.name] for one in models], s)
        if 0 < sum(model_seconds(model, s) - costs[model.name] for model, _ in found) <= free:
            take(found)
    return replace(
        plan,
        models=tuple(models),
        shortened=(*plan.shortened, *shortened.values()),
        left_out=(*plan.left_out, *left_out),
    )


def _promise(model: Model, models: Sequence[Model], s: Sizes) -> float:
    """How much a model is expected to add to a blend, by its kind, by how much it sees and by the task."""
    most = max(len(one.sees) for one in models)
    matters = 1.0 if len(model.sees) == most or model.name == TREES else 0.5
    match model:
        case Linear() | Constant():
            return 2.0 * matters
        case BoostedTrees():
            return matters
        case Network() if model.tuned:
            return 0.7 * matters
        case KernelRidge() if looks(model.sees):  # the best of the cheap models of photos
            return 3.0 * matters
        case KernelRidge():  # of a large or wide table it learns less, most so of several classes
            return (0.4 if s.outputs > 1 else 0.6) * matters
        case Network():
            return matters
        case _:
            return 2.0 * matters


def _shortened(model: Model, s: Sizes, seconds: float) -> tuple[Model, str] | None:
    """The model made as cheap as ``seconds``, or as it can be made, and how; None if it cannot."""
    tries: list[tuple[Model, str]] = []
    if isinstance(model, Network):
        most = model.epochs(s.fit)
        for epochs in range(most - 1, math.ceil(LEAST_SHARE * most) - 1, -1):
            tries.append((replace(model, most_epochs=epochs), f"{epochs} of {most} epochs"))
    elif isinstance(model, BoostedTrees):
        most = cost.tree_rounds(model, s)
        one = replace(model, one_fold=True)
        if model_seconds(one, s) < model_seconds(model, s):
            tries.append((one, _ONE_FOLD))
        single = replace(one, one_setting=True)
        cheaper = model_seconds(single, s) < model_seconds(one, s)
        for share in (0.75, 0.5) if cheaper else ():
            tries += _fewer_trees(one, int(most * share), most, _ONE_FOLD)
        if cheaper:
            tries.append((single, f"{_ONE_SETTING}, {_ONE_FOLD}"))
        for share in (0.75, 0.5, 0.35, 0.25):
            tries += _fewer_trees(
                single, int(most * share), most, f"{_ONE_SETTING}, {_ONE_FOLD}" if cheaper else _ONE_FOLD
            )
        if not cheaper and most > _FEWEST_TREES:
            tries += _fewer_trees(single, max(int(0.15 * most), _FEWEST_TREES), most, _ONE_FOLD)
    elif isinstance(model, KernelRidge):
        most = model.kept(s.fit)
        for kept in _KEPT:
            if kept < most:
                tries.append((replace(model, most_kept=kept), f"it keeps {kept:,} of {s.fit:,} training rows"))
    found: tuple[Model, str] | None = None
    for short, how in tries:
        found = (short, how)
        if model_seconds(short, s) <= seconds:
            break
    return found


def _fewer_trees(model: BoostedTrees, rounds: int, most: int, how: str) -> list[tuple[Model, str]]:
    """The model with at most so many trees, and how that is said; none if they are too few."""
    if rounds < _FEWEST_TREES:
        return []
    return [(replace(model, most_rounds=rounds), f"at most {rounds} of {most} trees, {how}")]


def _alike(short: tuple[Model, str], models: Sequence[Model], s: Sizes) -> list[tuple[Model, str]]:
    """The shortened model; of a network, all others with the same limit of epochs, which are to differ only in what
    they see."""
    model = short[0]
    if not isinstance(model, Network) or model.tuned:
        return [short]
    found: list[tuple[Model, str]] = []
    for one in models:
        if isinstance(one, Network) and not one.tuned:
            limited = replace(one, most_epochs=model.most_epochs)
            if limited.epochs(s.fit) < one.epochs(s.fit):
                found.append((limited, f"{limited.epochs(s.fit)} of {one.epochs(s.fit)} epochs"))
    return found


def whole(model: Model) -> Model:
    """The model as it is without a budget."""
    match model:
        case Network():
            return replace(model, most_epochs=None)
        case BoostedTrees():
            return replace(model, one_fold=False, one_setting=False, most_rounds=None)
        case KernelRidge():
            return replace(model, most_kept=None)
        case _:
            return model


def within_memory(plan: Plan, s: Sizes, available: float) -> Plan:
    """The plan without models that need more memory than there is; the constant stays."""
    rest = available - cost.EXTRA_BYTES - cost.data_bytes(s)
    models, left_out = [], []
    for one in plan.models:
        need = cost.model_bytes(one, s)
        if need > rest and not isinstance(one, Constant):
            left_out.append(
                f"{one.name}: it needs about {size_text(need)} of memory, and {size_text(max(rest, 0.0))} are free"
            )
        else:
            models.append(one)
    return replace(plan, models=tuple(models), left_out=(*plan.left_out, *left_out))


def duration(seconds: float) -> str:
    """A duration for people, rounded as an estimate is.

    >>> duration(0.4), duration(3.2), duration(47.0), duration(190.0), duration(1900.0), duration(7800.0)
    ('1 s', '3 s', '45 s', '3 min', '32 min', '2 h 10 min')
    """
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 90:
        return f"{5 * round(seconds / 5)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h" + (f" {minutes % 60 // 10 * 10} min" if minutes % 60 >= 10 else "")


def explained(
    models: Sequence[Model], s: Sizes, columns: int, seconds: float, *, sides: int = 2
) -> tuple[int, int] | None:
    """The numbers of explained rows and of predictions for each that take at most ``seconds``; None for none.

    Args:
        models: of the blend.
        columns: of the table and of photos that the blend uses.
        sides: table, texts and photos, see ``affordable_background``.
    """
    for rows, predictions in EXPLAINED:
        if affordable_background(columns, LEAST_BACKGROUND, predictions, sides=sides) < LEAST_BACKGROUND:
            continue  # with so few predictions, nothing can be said of so many columns
        if cost.seconds(cost.explanation_work(models, s, columns, rows, predictions)) <= seconds:
            return rows, predictions
    return None
