"""Precision, recall and F1 from pooled decisions."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Decisions that were right, and the two ways to be wrong; counts of several questions add up."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            true_positives=self.true_positives + other.true_positives,
            false_positives=self.false_positives + other.false_positives,
            false_negatives=self.false_negatives + other.false_negatives,
        )

    @classmethod
    def of_sets(cls, stated: frozenset[Any], true: frozenset[Any]) -> "Counts":
        """One question whose answers are sets: what was stated against what is true."""
        return cls(
            true_positives=len(stated & true),
            false_positives=len(stated - true),
            false_negatives=len(true - stated),
        )

    @property
    def positives(self) -> int:
        """How many are true."""
        return self.true_positives + self.false_negatives

    @property
    def scores(self) -> dict[str, float]:
        """Precision, recall and F1, each 0 where it has no denominator."""
        hits = self.true_positives
        return {
            "precision": ratio(hits, hits + self.false_positives),
            "recall": ratio(hits, hits + self.false_negatives),
            "f1": ratio(2 * hits, 2 * hits + self.false_positives + self.false_negatives),
        }


def ratio(part: int | float, whole: int | float) -> float:
    """`part / whole`, 0 for nothing of nothing."""
    return part / whole if whole else 0.0
