"""All rules, and which findings are only consequences of others."""

from collections.abc import Callable, Mapping

from mixfit.training.doctor.branch_rules import (
    DEAD,
    DOMINATED,
    STUCK,
    USELESS,
    dead_image_branch,
    dominated_by_table,
    saturated_fusion,
    useless_photos,
)
from mixfit.training.doctor.finding import Finding
from mixfit.training.doctor.learning_rules import (
    OVERFIT,
    SHUFFLED,
    THAWED,
    frozen_part_changes,
    over_fitting,
    shuffled_labels,
)
from mixfit.training.doctor.motion_rules import (
    DIVERGING,
    EXPLODING,
    RATE,
    STANDING,
    VANISHING,
    learning_rate,
    motion,
    stretches,
)
from mixfit.training.doctor.observed import Observed

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
