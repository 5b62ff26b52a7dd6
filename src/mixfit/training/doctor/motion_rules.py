"""Rules about gradients and the steps that are taken along them."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from mixfit.training.doctor.finding import Finding
from mixfit.training.doctor.observed import LayerGradient, Observed, PartMotion

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
                fix="Initialise with mixfit.init_weights or mixfit.lsuv, and add norms or shortcuts."
                if vanishes
                else "Initialise with mixfit.init_weights or mixfit.lsuv, and clip gradients.",
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
