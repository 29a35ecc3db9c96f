"""Measured rows, with a figure for each round and a verdict. Pure."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        part: part of the benchmark.
        what: measured quantity.
        who: measured contender; for ratios, both.
        unit: of the figures.
        figures: one for each round.
        reach: the most that it should be; None: only for comparison.
        note: remark for the reader.
        at: position on a curve, such as open streams or rows of the ledger.
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
        """Return ``ok``, or by how much it missed its reach, or nothing if it has none."""
        if self.reach is None:
            return ""
        if not self.is_missed:
            return "ok"
        return f"missed by {self.value - self.reach:.3g} {self.unit}" + (f" ({self.value / self.reach - 1:.0%})" if self.reach else "")

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "value": self.value, "verdict": self.verdict}


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Return the ratio of each round: a disturbance affects both sides of a round. NaN if there was too little to measure."""
    return tuple(our / their if their else math.nan for our, their in zip(ours, theirs, strict=True))


def added(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Return the difference of each round."""
    return tuple(our - their for our, their in zip(ours, theirs, strict=True))
