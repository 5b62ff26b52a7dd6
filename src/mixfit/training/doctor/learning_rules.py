"""Rules about what was learned: losses from epoch to epoch, and parts that should have stayed as they were."""

from mixfit.training.doctor.finding import Finding
from mixfit.training.doctor.observed import Observed

BEATS = 0.98
"""A validation loss above this share of a constant's is none that beats it: among many epochs the lowest of pure noise
comes this far below."""
MEMORISED = 0.7
"""A training loss below this share of a constant's was learned by heart where the validation loss never fell."""
UNMOVED = 0.98
"""A training loss above this share of a constant's was not learned at all."""
STEPS = 30
"""Fewer steps prove nothing about what can be learned."""
RISE = 0.2
"""The validation loss must have risen by this share of its lowest value: less comes and goes."""
TAIL = 3
"""Over so many last epochs its mean is taken, as one epoch is noise."""
FALL = 0.8
"""... while the training loss fell to this share of what it was in the best epoch, or it is not learning by heart."""

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
