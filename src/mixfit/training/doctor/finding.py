"""What the doctor says."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault of a training."""

    name: str
    """Of the kind of fault, such as "dead image branch"; always one of ``diagnose.NAMES``."""
    sentence: str
    """What is wrong, with the numbers that matter."""
    evidence: Mapping[str, int | float]
    """All numbers that the judgement is from."""
    fix: str
    """What to try first, in one line."""

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence} {self.fix}"
