"""The doctor's rules on branches and fusion, gradients and steps, and learning; and which findings are only
consequences of others."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from mixfit.diagnostics.findings import Finding, LayerGradient, Observed, PartMotion, PhotoColumn

DEAD_SPREAD = 1e-3
"""Smallest relative variation of the photos' vectors; less counts as constant: 0.1 % of the fusion's input is below the
effect of weight noise and dropout."""
DEAD_SIZE = 1e-3
"""Vectors up to this size are negligible next to others of size 1; also "near zero" in ActivationStats."""
LOUDER = 10.0
"""Ratio of the variation of the table's to the photos' vectors above which the table dominates: vectors are initialised
with equal variance, and training changes that by small factors."""
DOMINATION = 4.0
"""... if it also has this many times the effect on predictions, as the fusion may compensate for the scale. The effect
alone is not enough: photos are often less informative, and useless ones are rightly ignored."""
SATURATED = 0.8
"""Share of saturated values of a gate above which hardly any gradient passes."""
NEAR_ZERO = 0.9
"""Share of near-zero outputs of a fusion activation that counts as dead; a healthy ReLU has about half."""
ROWS = 30
"""Fewest validation rows with photos for a finding about their usefulness."""
HELP = 0.1
"""Photos whose gain may, within two standard errors, be this share of all that the model has learned are not called
useless, unless the loss is even lower with permuted photos. So photos that help a little on few rows are mostly not
reported, and useless ones are reported more often than not; a test that always detects them would also report every
weak photo."""
CERTAIN = 1.0
"""... nor are photos whose permutation increases the loss by more than this many standard errors."""

DEAD = "dead image branch"
DOMINATED = "the table dominates"
STUCK = "saturated fusion"
USELESS = "photos are uninformative"


def dead_image_branch(seen: Observed) -> list[Finding]:
    """The photos differ, but the outputs of the image branch do not; or it gets no gradient."""
    last = seen.epochs[-1] if seen.epochs else None
    part = next((part for part in seen.parts if part.branch == "photos"), None)
    fix = "Train again with other initial weights or a lower rate of the image branch, and look for a detach() in it."
    if part is not None and part.gradient == 0.0 and seen.steps:
        sentence = f"No gradient reached the image branch in {seen.steps} steps, so it learns nothing."
        return [Finding(name=DEAD, sentence=sentence, evidence={"gradient": 0.0, "steps": seen.steps}, fix=fix)]
    if last is None or last.encodings is None or not any(column.differ for column in last.columns):
        return []
    found = last.encodings
    if found.photos > DEAD_SPREAD * found.photos_size and found.photos_size > DEAD_SIZE:
        return []
    if found.photos_size <= DEAD_SIZE:
        sentence = f"The output of the image branch is near zero: its vectors have a size of {found.photos_size:.1g}."
    else:
        sentence = (
            f"The image branch outputs the same vector for all photos: over rows, it varies by {found.photos:.1g} "
            f"at a size of {found.photos_size:.2g}."
        )
    evidence = {"spread": found.photos, "size": found.photos_size}
    return [Finding(name=DEAD, sentence=sentence, evidence=evidence, fix=fix)]


def dominated_by_table(seen: Observed) -> list[Finding]:
    """The table's vector is so large that the photos' vector has little effect."""
    best = seen.best
    if best is None or best.encodings is None or best.table_effect is None:
        return []
    if not any(column.differ for column in best.columns):  # then photos have no information to dominate
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
            sentence=f"The table dominates the fusion: its vectors vary {_round(table, photos)} times as much as the "
            f"photos'. Permuting table cells changes predictions {_round(best.table_effect, effect)} times as much "
            "as permuting photos.",
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
    """The layer with the most saturated or dead units."""
    stuck = [layer for layer in seen.fusion if layer.saturated is not None and layer.saturated > SATURATED]
    silent = [layer for layer in seen.fusion if layer.activation and layer.near_zero > NEAR_ZERO]
    if stuck:
        worst = max(stuck, key=lambda layer: layer.saturated or 0.0)
        share = worst.saturated or 0.0
        sentence = f"{share:.0%} of the values of {worst.layer} are saturated, so they pass no gradient."
    elif silent:
        worst = max(silent, key=lambda layer: layer.near_zero)
        share = worst.near_zero
        sentence = (
            f"{share:.0%} of the values of {worst.layer} are near zero; {worst.dead_units:.0%} of its units are dead."
        )
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
    """Columns whose photos can be permuted without loss, if the model has learned something."""
    best = seen.best
    if best is None or not seen.learned or best.constant_loss is None or best.valid_loss is None:
        return []
    learned, found = best.constant_loss - best.valid_loss, []
    for place, column in enumerate(best.columns):
        evidence = {"loss rise": column.gain, "standard error": column.error, "learned": learned}
        name = seen.column_name(place)
        fix = f"Check the files of {name}, and compare with a training without it."
        if not column.differ:
            sentence = f"All photos of {name} are identical, so they are uninformative."
        elif column.rows < ROWS or _may_help(column, learned):
            continue
        else:
            sentence = (
                f"The photos of {name} are uninformative: permuting them changes the validation loss by "
                f"{column.gain:+.2g} +- {column.error:.1g}, while the model is {learned:.2g} better than a constant."
            )
        found.append(Finding(name=USELESS, sentence=sentence, evidence=evidence, fix=fix))
    return found


BEATS = 0.98
"""A validation loss must be below this share of a constant's to beat it: with pure noise, the lowest of many epochs
gets this low."""
MEMORISED = 0.7
"""A training loss below this share of a constant's is overfitting if the validation loss never fell."""
UNMOVED = 0.98
"""A training loss above this share of a constant's means that nothing was learned."""
STEPS = 30
"""Fewest steps for a finding about learning."""
RISE = 0.2
"""Overfitting: the validation loss has risen by this share of its lowest value; less is noise."""
TAIL = 3
"""Number of last epochs to average over, as a single epoch is noisy."""
FALL = 0.8
"""... while the training loss fell to this share of its value in the best epoch."""

THAWED = "a frozen part changes"
SHUFFLED = "labels look shuffled"
OVERFIT = "over-fitting"


def frozen_part_changes(seen: Observed) -> list[Finding]:
    """Weights or statistics that are frozen but change."""
    changes = seen.frozen_changes
    if not changes:
        return []
    name = max(changes, key=lambda name: changes[name])
    buffers = all("running_" in name or "num_batches" in name for name in changes)
    return [
        Finding(
            name=THAWED,
            sentence=f"{len(changes)} tensors of frozen parts changed, {name} by a relative {changes[name]:.2g}.",
            evidence={"tensors": len(changes), "largest change": changes[name]},
            fix="Keep the frozen part in evaluation mode (mixfit's freeze does), so that its BatchNorm stays fixed."
            if buffers
            else "Give the optimizer only parameters that learn, and look for code that writes to the weights.",
        )
    ]


def shuffled_labels(seen: Observed) -> list[Finding]:
    """No epoch is better than a constant on the validation rows."""
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
            f"The training loss fell to {losses[-1]:.3g}, but no epoch beats a constant on the validation rows "
            f"({best:.3g} against {constant:.3g}): the model does not generalise."
        )
    elif losses[-1] > UNMOVED * constant:
        sentence = (
            f"Nothing was learned in {seen.steps} steps: training loss {losses[-1]:.3g}, validation loss {best:.3g}, "
            f"a constant {constant:.3g}."
        )
    else:
        return []
    photos = any(one.branch == "photos" for one in seen.parts)
    what = "target and photos belong to their rows" if photos else "the target belongs to its row"
    fix = f"Check that {what}, such as after a sort or a join; then the learning rate."
    return [Finding(name=SHUFFLED, sentence=sentence, evidence=evidence, fix=fix)]


def over_fitting(seen: Observed) -> list[Finding]:
    """The epoch from which the validation loss rises while the training loss falls."""
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
            sentence=f"Overfitting since epoch {best + 1}: since then, the training loss fell from {before:.3g} "
            f"to {after:.3g}, and the validation loss rose from {lowest:.3g} to {now:.3g}.",
            evidence={"epoch": best + 1, "lowest": lowest, "at the end": now, "train then": before, "train now": after},
            fix="Stop there (EarlyStopping), or use more dropout, weight decay, augmentation, or a smaller network.",
        )
    ]


STRETCH = 1e3
"""Factor by which gradients change monotonically over consecutive layers for a finding: one end then learns a thousand
times as slowly as the other; good initialisations stay within a factor of about ten."""
STRETCH_LAYERS = 4
"""Fewest layers of such a run: the size of a single gradient also depends on the kind of layer."""
STEADY = 0.7
"""Largest share of the log change between two neighbouring layers: a jump has another cause, such as a bias before a
BatchNorm, whose gradient is 0 up to rounding."""
LARGEST_RATIO = 0.3
"""Mean update-to-weight ratio above which weights move too fast; 0.01 is fast already."""
SMALLEST_RATIO = 1e-5
"""Update-to-weight ratio below which weights stand still: 10,000 such steps change a weight by 10 %."""
GROWTH = 10.0
"""Growth of the weights within a training that counts as diverging."""
FAR = 20.0
"""Smallest factor between the rate and the finder's suggestion for a finding; it is up to 13 for good rates of some
optimizers."""

VANISHING, EXPLODING = "vanishing gradients", "exploding gradients"
DIVERGING, STANDING = "weights move too fast", "weights stand still"
RATE = "learning rate far off"


def stretches(seen: Observed) -> list[Finding]:
    """The run of layers of each branch over which gradients change most, in either direction."""
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
                sentence=f"Backwards through the {len(run)} layers from {last.layer} to {first.layer} ({branch}), "
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
    """Whether the change is spread over the run, not a single jump."""
    jumps = [abs(math.log(b.size / a.size)) for a, b in pairwise(run)]
    return max(jumps) <= STEADY * sum(jumps)


def _monotone(layers: Sequence[LayerGradient]) -> Iterator[list[LayerGradient]]:
    """The longest monotone runs of neighbouring layers."""
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
    """The branch whose weights diverge most, and branches whose weights do not move."""
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
        sentence = f"The gradients of the {part.branch} were not finite in {part.broken} of the measured steps."
    elif _ratio(part) > LARGEST_RATIO:
        sentence = f"A step changes the weights of the {part.branch} by {_ratio(part):.0%} of their size on average."
    else:
        sentence = f"The weights of the {part.branch} have grown by a factor of {_growth(part):,.0f}."
    return Finding(
        name=DIVERGING,
        sentence=sentence,
        evidence=_evidence(part),
        fix="Lower the learning rate (of this part, with rates=), clip gradients, and check its initial weights.",
    )


def learning_rate(seen: Observed) -> list[Finding]:
    """A rate far from the suggested one, if the search also reached a lower loss than the training."""
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
    reached = f"; the training ended at a loss of {losses[-1]:.3g}, the search reached {lowest:.3g}" if losses else ""
    return [
        Finding(
            name=RATE,
            sentence=f"The learning rate {rate:.1e} is {times:,.0f} times {direction} the finder's suggestion "
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
"""Findings that are consequences of another one are left out."""


def diagnose(seen: Observed) -> tuple[Finding, ...]:
    """Problems, causes before consequences; empty for a healthy training."""
    found = [finding for rule in RULES for finding in rule(seen)]
    names = {finding.name for finding in found}
    return tuple(one for one in found if not names.intersection(EXPLAINED_BY.get(one.name, ())))
