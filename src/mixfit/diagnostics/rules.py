"""The doctor's rules: about branches and what joins them, gradients and steps, what was learned; and which findings
are only consequences of others."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from mixfit.diagnostics.findings import Finding, LayerGradient, Observed, PartMotion, PhotoColumn

DEAD_SPREAD = 1e-3
"""Photos' vectors that vary by less than this share of their size are one vector: a thousandth of the input of the
fusion is below what weight noise and dropout do to it."""
DEAD_SIZE = 1e-3
"""Vectors of this size or smaller are nothing beside others of size 1; ActivationStats takes it for near zero, too."""
LOUDER = 10.0
"""The table is too loud when its vectors vary so many times as much as the photos' where the two meet: vectors are
built to vary alike, and training changes that by small factors."""
DOMINATION = 4.0
"""... and when it moves the predictions so many times as far, or the fusion has made up for it. Alone it would not do:
photos are often the weaker half, and useless ones are rightly ignored."""
SATURATED = 0.8
"""Share of the values at an end of a gate's range from which on hardly any gradient passes it."""
NEAR_ZERO = 0.9
"""Share of the outputs of an activation of the fusion that are near zero; a healthy ReLU has about half."""
ROWS = 30
"""Validation rows with photos below which nothing is said of the photos' use: chance alone decides there."""
HELP = 0.1
"""Photos whose use may, within two standard errors, be this share of all that the model has learned are not called
useless, unless there is no sign of help at all, the loss being even lower with other rows' photos. Photos that help a
little in few rows are thus mostly spared, and useless ones are named more often than not; a test that always names them
would also blame every weak photo."""
CERTAIN = 1.0
"""... nor are those without which the loss rises by more than this many standard errors."""

DEAD = "dead image branch"
DOMINATED = "the table dominates"
STUCK = "saturated fusion"
USELESS = "photos carry nothing"


def dead_image_branch(seen: Observed) -> list[Finding]:
    """The photos differ, but what the image branch makes of them does not; or it gets no gradient."""
    last = seen.epochs[-1] if seen.epochs else None
    part = next((part for part in seen.parts if part.branch == "photos"), None)
    fix = "Train anew with other first weights or a lower rate of the image branch, and look for a detach() in it."
    if part is not None and part.gradient == 0.0 and seen.steps:
        sentence = f"No gradient reached the image branch in {seen.steps} steps, so it learns nothing."
        return [Finding(name=DEAD, sentence=sentence, evidence={"gradient": 0.0, "steps": seen.steps}, fix=fix)]
    if last is None or last.encodings is None or not any(column.differ for column in last.columns):
        return []
    found = last.encodings
    if found.photos > DEAD_SPREAD * found.photos_size and found.photos_size > DEAD_SIZE:
        return []
    if found.photos_size <= DEAD_SIZE:
        sentence = f"The image branch gives nothing: its vectors have a size of {found.photos_size:.1g}."
    else:
        sentence = (
            f"The image branch gives the same vector for all photos: it varies by {found.photos:.1g} from row to row "
            f"at a size of {found.photos_size:.2g}."
        )
    evidence = {"spread": found.photos, "size": found.photos_size}
    return [Finding(name=DEAD, sentence=sentence, evidence=evidence, fix=fix)]


def dominated_by_table(seen: Observed) -> list[Finding]:
    """The table's vector is so large that the photos' beside it makes little difference."""
    best = seen.best
    if best is None or best.encodings is None or best.table_effect is None:
        return []
    if not any(column.differ for column in best.columns):  # then there is nothing that it could drown
        return []
    table, photos = best.encodings.table, best.encodings.photos
    effect = max(column.effect for column in best.columns)
    if table <= LOUDER * photos or best.table_effect <= DOMINATION * effect:
        return []
    gradients = {} if seen.met is None else {"table gradient": seen.met[0], "photo gradient": seen.met[1]}
    spreads = {"table spread": table, "photo spread": photos}
    effects = {"table effect": best.table_effect, "photo effect": effect}
    return [
        Finding(
            name=DOMINATED,
            sentence=f"The table dominates the fusion {_round(table, photos)} to 1: so many times as much do its "
            f"vectors vary as the photos'. Predictions move {_round(best.table_effect, effect)} times as far when rows "
            "get each other's cells as when they get each other's photos.",
            evidence=spreads | effects | gradients,
            fix="Give both branches unit variance first (start_well(model, data, scale=['branches'])), or train with "
            "auxiliary heads.",
        )
    ]


def _may_help(column: PhotoColumn, learned: float) -> bool:
    certain = column.gain > CERTAIN * column.error
    return column.gain >= 0 and (certain or column.gain + 2 * column.error > HELP * learned)


def _round(a: float, b: float) -> str:
    return f"{a / b:,.0f}" if b else "infinitely many"


def saturated_fusion(seen: Observed) -> list[Finding]:
    """The layer whose units are stuck most."""
    stuck = [layer for layer in seen.fusion if layer.saturated is not None and layer.saturated > SATURATED]
    silent = [layer for layer in seen.fusion if layer.activation and layer.near_zero > NEAR_ZERO]
    if stuck:
        worst = max(stuck, key=lambda layer: layer.saturated or 0.0)
        share = worst.saturated or 0.0
        sentence = f"{share:.0%} of the values of {worst.layer} are at an end of their range, where no gradient passes."
    elif silent:
        worst = max(silent, key=lambda layer: layer.near_zero)
        share = worst.near_zero
        sentence = f"{share:.0%} of the values of {worst.layer} are near zero, and {worst.dead_units:.0%} of its units."
    else:
        return []
    return [
        Finding(
            name=STUCK,
            sentence=sentence,
            evidence={"share": share, "dead units": worst.dead_units},
            fix="Lower the learning rate, start the layer with smaller weights, or put a LayerNorm before it.",
        )
    ]


def useless_photos(seen: Observed) -> list[Finding]:
    """Columns whose photos can be permuted without harm, of a model that has learned something."""
    best = seen.best
    if best is None or not seen.learned or best.constant_loss is None or best.valid_loss is None:
        return []
    learned, found = best.constant_loss - best.valid_loss, []
    for place, column in enumerate(best.columns):
        evidence = {"loss rise": column.gain, "standard error": column.error, "learned": learned}
        name = seen.column_name(place)
        fix = f"Check the files of {name}, and compare with a training without it."
        if not column.differ:
            sentence = f"All photos of {name} are the same picture, so they carry nothing."
        elif column.rows < ROWS or _may_help(column, learned):
            continue
        else:
            sentence = (
                f"The photos of {name} carry nothing: when validation rows get each other's, the loss changes by "
                f"{column.gain:+.2g} +- {column.error:.1g}, of {learned:.2g} that the model has learned."
            )
        found.append(Finding(name=USELESS, sentence=sentence, evidence=evidence, fix=fix))
    return found


BEATS = 0.98
"""A validation loss above this share of a constant's is none that beats it: among many epochs the lowest of pure noise
comes this far below."""
MEMORISED = 0.7
"""A training loss below this share of a constant's is overfitted where the validation loss never fell."""
UNMOVED = 0.98
"""A training loss above this share of a constant's was not learned at all."""
STEPS = 30
"""Fewer steps prove nothing about what can be learned."""
RISE = 0.2
"""The validation loss must have risen by this share of its lowest value: less comes and goes."""
TAIL = 3
"""Over so many last epochs its mean is taken, as one epoch is noise."""
FALL = 0.8
"""... while the training loss fell to this share of what it was in the best epoch, or it is not overfitting."""

THAWED = "a frozen part changes"
SHUFFLED = "labels look shuffled"
OVERFIT = "over-fitting"


def frozen_part_changes(seen: Observed) -> list[Finding]:
    """Weights or statistics that are told not to learn, and do."""
    changes = seen.frozen_changes
    if not changes:
        return []
    name = max(changes, key=lambda name: changes[name])
    buffers = all("running_" in name or "num_batches" in name for name in changes)
    return [
        Finding(
            name=THAWED,
            sentence=f"{len(changes)} tensors of frozen parts changed, {name} by {changes[name]:.2g} of its size.",
            evidence={"tensors": len(changes), "largest change": changes[name]},
            fix="Keep the frozen part in evaluation mode (mixfit's freeze does), so that its BatchNorm rests."
            if buffers
            else "Give the optimizer only parameters that learn, and look for code that writes to the weights.",
        )
    ]


def shuffled_labels(seen: Observed) -> list[Finding]:
    """The validation rows are never predicted better than by a constant."""
    pairs = [(e.valid_loss, e.constant_loss) for e in seen.epochs if e.valid_loss is not None and e.constant_loss]
    losses = [epoch.train_loss for epoch in seen.epochs if epoch.train_loss is not None]
    if not pairs or not losses or seen.steps < STEPS:
        return []
    best, constant = min(pairs)
    if best < BEATS * constant:
        return []
    evidence = {"best validation loss": best, "constant": constant, "last training loss": losses[-1]}
    if losses[-1] < MEMORISED * constant:
        sentence = (
            f"The training loss fell to {losses[-1]:.3g}, but no epoch predicts the validation rows better than a "
            f"constant does ({best:.3g} against {constant:.3g}): what is learned says nothing of other rows."
        )
    elif losses[-1] > UNMOVED * constant:
        sentence = (
            f"Nothing was learned in {seen.steps} steps: training loss {losses[-1]:.3g}, validation loss {best:.3g}, "
            f"a constant {constant:.3g}."
        )
    else:
        return []
    fix = "Check that target and photos belong to their rows, such as after a sort or a join; then the learning rate."
    return [Finding(name=SHUFFLED, sentence=sentence, evidence=evidence, fix=fix)]


def over_fitting(seen: Observed) -> list[Finding]:
    """The epoch since which the validation loss rises while the training loss falls."""
    told = [(e.train_loss, e.valid_loss) for e in seen.epochs if e.train_loss is not None and e.valid_loss is not None]
    if len(told) <= TAIL or not seen.learned:
        return []
    best = min(range(len(told)), key=lambda epoch: told[epoch][1])
    tail = told[-TAIL:]
    if len(told) - 1 - best < TAIL:
        return []
    lowest, now = told[best][1], sum(valid for _, valid in tail) / TAIL
    before, after = told[best][0], sum(train for train, _ in tail) / TAIL
    if now < (1 + RISE) * lowest or after > FALL * before:
        return []
    return [
        Finding(
            name=OVERFIT,
            sentence=f"Over-fitting since epoch {best + 1}: from there on the training loss fell from {before:.3g} "
            f"to {after:.3g}, and the validation loss rose from {lowest:.3g} to {now:.3g}.",
            evidence={"epoch": best + 1, "lowest": lowest, "at the end": now, "train then": before, "train now": after},
            fix="Stop there (EarlyStopping), or use more dropout, weight decay, augmentation, or a smaller network.",
        )
    ]


STRETCH = 1e3
"""From the first to the last of neighbouring layers, gradients that change by so much in one direction make one end
learn a thousand times as slowly as the other; initialisations keep it within a factor of about ten."""
STRETCH_LAYERS = 4
"""Fewer layers show no direction: the size of a single gradient also depends on the kind of layer."""
STEADY = 0.7
"""No single pair of layers may account for more than this share of the change, as a logarithm: a jump has another
cause, such as a bias before a BatchNorm, whose gradient is 0 but for rounding."""
LARGEST_RATIO = 0.3
"""A step that changes the weights by a third, on average, forgets what was there; a hundredth is fast."""
SMALLEST_RATIO = 1e-5
"""With so small steps 10,000 of them change a weight by a tenth of its size."""
GROWTH = 10.0
"""Weights that become so many times as large within a training are on their way out."""
FAR = 20.0
"""So far from what the finder suggests a rate is looked at; it is off by up to 13 for good rates of some optimizers."""

VANISHING, EXPLODING = "vanishing gradients", "exploding gradients"
DIVERGING, STANDING = "weights move too fast", "weights stand still"
RATE = "learning rate far off"


def stretches(seen: Observed) -> list[Finding]:
    """The stretch of layers of each branch over which gradients change most, in either direction."""
    found = []
    for branch in dict.fromkeys(layer.branch for layer in seen.layers):
        runs = []
        for bias in (False, True):
            layers = [one for one in seen.layers if one.branch == branch and one.bias is bias and one.size > 0]
            runs += [run for run in _monotone(layers) if len(run) >= STRETCH_LAYERS]
        runs = [run for run in runs if _times(run) >= STRETCH and _steadily(run)]
        if not runs:
            continue
        run = max(runs, key=_times)
        first, last, times = run[0], run[-1], _times(run)
        vanishes = first.size < last.size
        found.append(
            Finding(
                name=VANISHING if vanishes else EXPLODING,
                sentence=f"On the way back through the {len(run)} layers from {last.layer} to {first.layer} ({branch}) "
                f"the gradients become {times:,.0f} times {'smaller' if vanishes else 'larger'}.",
                evidence={"first": first.size, "last": last.size, "times": times, "layers": len(run)},
                fix="Initialise with mixfit.nn.init_weights or mixfit.nn.lsuv, and add norms or shortcuts."
                if vanishes
                else "Initialise with mixfit.nn.init_weights or mixfit.nn.lsuv, and clip gradients.",
            )
        )
    return found


def _times(run: Sequence[LayerGradient]) -> float:
    ends = run[0].size, run[-1].size
    return max(ends) / min(ends)


def _steadily(run: Sequence[LayerGradient]) -> bool:
    """Whether the change is that of a stretch, not of one place."""
    jumps = [abs(math.log(b.size / a.size)) for a, b in pairwise(run)]
    return max(jumps) <= STEADY * sum(jumps)


def _monotone(layers: Sequence[LayerGradient]) -> Iterator[list[LayerGradient]]:
    """The longest runs of neighbours over which the size only rises, or only falls."""
    run: list[LayerGradient] = []
    rising: bool | None = None
    for a, b in pairwise(layers):
        if not run or (b.size > a.size) is not rising:
            if run:
                yield run
            run, rising = [a], b.size > a.size
        run.append(b)
    if run:
        yield run


def motion(seen: Observed) -> list[Finding]:
    """The branch whose weights run away most, and those whose weights do not move."""
    fast = [part for part in seen.parts if _broken(part) or _ratio(part) > LARGEST_RATIO or _growth(part) > GROWTH]
    slow = [part for part in seen.parts if 0 < _ratio(part) < SMALLEST_RATIO and not part.broken]
    found = [_standing(part) for part in slow]
    if fast:
        found.append(_diverging(max(fast, key=lambda part: (_broken(part), _ratio(part), _growth(part)))))
    return found


def _broken(part: PartMotion) -> bool:
    return part.broken > 0


def _ratio(part: PartMotion) -> float:
    return part.ratio or 0.0


def _growth(part: PartMotion) -> float:
    return part.growth or 0.0


def _evidence(part: PartMotion) -> dict[str, int | float]:
    return {"ratio": _ratio(part), "growth": _growth(part), "broken steps": part.broken}


def _standing(part: PartMotion) -> Finding:
    return Finding(
        name=STANDING,
        sentence=f"A step changes the weights of the {part.branch} by {_ratio(part):.1e} of their size: too little.",
        evidence=_evidence(part),
        fix="Raise the learning rate of this part.",
    )


def _diverging(part: PartMotion) -> Finding:
    if part.broken:
        sentence = f"The gradients of the {part.branch} were not finite in {part.broken} of the steps looked at."
    elif _ratio(part) > LARGEST_RATIO:
        sentence = f"A step changes the weights of the {part.branch} by {_ratio(part):.0%} of their size on average."
    else:
        sentence = f"The weights of the {part.branch} have become {_growth(part):,.0f} times as large."
    return Finding(
        name=DIVERGING,
        sentence=sentence,
        evidence=_evidence(part),
        fix="Lower the learning rate (of this part, with rates=), clip gradients, and check its first weights.",
    )


def learning_rate(seen: Observed) -> list[Finding]:
    """A rate far from the found one, if the search in its few steps came further than the training, too."""
    if seen.search is None or not seen.steps:
        return []
    rates = seen.search.suggestions
    losses = [epoch.train_loss for epoch in seen.epochs if epoch.train_loss is not None]
    lowest = min(seen.search.smoothed)
    if not rates or (losses and losses[-1] <= lowest):
        return []
    (slowest, fastest), (low, high) = seen.peak_rates, (min(rates), max(rates))
    if fastest < low / FAR:
        rate, times, direction = fastest, low / fastest, "below"
    elif slowest > high * FAR:
        rate, times, direction = slowest, slowest / high, "above"
    else:
        return []
    reached = f"; the training ended at a loss of {losses[-1]:.3g}, the search came to {lowest:.3g}" if losses else ""
    return [
        Finding(
            name=RATE,
            sentence=f"The learning rate {rate:.1e} is {times:,.0f} times {direction} what the finder suggests "
            f"({low:.1e} to {high:.1e}){reached}.",
            evidence={"rate": rate, "low": low, "high": high, "lowest search loss": lowest},
            fix=f"Train with a learning rate of about {high if direction == 'below' else low:.0e}.",
        )
    ]


RULES: tuple[Callable[[Observed], list[Finding]], ...] = (
    frozen_part_changes,
    learning_rate,
    motion,
    stretches,
    dead_image_branch,
    dominated_by_table,
    saturated_fusion,
    shuffled_labels,
    useless_photos,
    over_fitting,
)
NAMES = (
    THAWED, RATE, DIVERGING, STANDING, VANISHING, EXPLODING, DEAD, DOMINATED, STUCK, SHUFFLED, USELESS, OVERFIT
)  # fmt: skip
EXPLAINED_BY: Mapping[str, tuple[str, ...]] = {
    USELESS: (DEAD, DOMINATED, SHUFFLED),
    DOMINATED: (DEAD, EXPLODING),
    DEAD: (RATE, DIVERGING),
    STANDING: (RATE, DEAD, VANISHING, EXPLODING),
    SHUFFLED: (RATE, DIVERGING, STANDING, VANISHING, EXPLODING),
    OVERFIT: (SHUFFLED,),
}
"""A finding that follows from another one is left out beside it: who mends the cause mends it, too."""


def diagnose(seen: Observed) -> tuple[Finding, ...]:
    """What is wrong, causes before what they lead to; nothing for a healthy training."""
    found = [finding for rule in RULES for finding in rule(seen)]
    names = {finding.name for finding in found}
    return tuple(one for one in found if not names.intersection(EXPLAINED_BY.get(one.name, ())))
