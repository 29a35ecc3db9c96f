"""What was measured, a figure a round, and whether that is within reach. Pure."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        part: which part of the benchmark.
        what: what was measured.
        who: of whom; of ratios, of both.
        unit: of the figures.
        figures: one a round.
        reach: the most that it should be; None: it is there to be compared.
        note: what to bear in mind.
        at: where on a curve, such as open streams or rows of the ledger.
    """

    part: str
    what: str
    who: str
    unit: str
    figures: tuple[float, ...]
    reach: float | None = None
    note: str = ""
    at: float | None = None

    @property
    def value(self) -> float:
        return median(self.figures)

    @property
    def is_ratio(self) -> bool:
        return self.unit == "×"

    @property
    def is_missed(self) -> bool:
        return self.reach is not None and self.value > self.reach

    @property
    def verdict(self) -> str:
        """Return ``ok``, by how much it missed, or nothing where nothing was to be reached."""
        if self.reach is None:
            return ""
        if not self.is_missed:
            return "ok"
        return f"missed by {self.value - self.reach:.3g} {self.unit}" + (f" ({self.value / self.reach - 1:.0%})" if self.reach else "")

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "value": self.value, "verdict": self.verdict}


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Return the ratio of each round: what disturbed a round disturbed both. NaN where there was too little to measure."""
    return tuple(our / their if their else math.nan for our, their in zip(ours, theirs, strict=True))


def added(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Return the difference of each round."""
    return tuple(our - their for our, their in zip(ours, theirs, strict=True))
