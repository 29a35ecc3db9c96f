"""Curves of a figure over time, and their growth. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

_BARS = "▁▂▃▄▅▆▇█"
_BARS_MAX = 60


@dataclass(frozen=True, slots=True)
class Curve:
    """Values of one figure at equal intervals.

    Attributes:
        name, unit: of the figure.
        values: at least four.
        reach: the most that it may grow over the second half, in percent of its mean there.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    reach: float

    @property
    def growth_percent(self) -> float:
        """Return the rise of the least-squares line over the second half, in percent of its mean."""
        second = self.values[len(self.values) // 2 :]
        mean = sum(second) / len(second)
        return 100 * slope(second) * (len(second) - 1) / mean if mean else 0.0

    @property
    def is_flat(self) -> bool:
        """True if it does not grow beyond its reach. It may fall."""
        return self.growth_percent <= self.reach

    @property
    def drawn(self) -> str:
        """Return the curve as a row of bars, scaled from its minimum to its maximum."""
        values = thinned(self.values, _BARS_MAX)
        least, most = min(values), max(values)
        span = (most - least) or 1.0
        return "".join(_BARS[round((value - least) / span * (len(_BARS) - 1))] for value in values)


def slope(values: Sequence[float]) -> float:
    """Return the slope of the least-squares line, per step."""
    count = len(values)
    middle, mean = (count - 1) / 2, sum(values) / count
    spread = sum((at - middle) ** 2 for at in range(count))
    return sum((at - middle) * (value - mean) for at, value in enumerate(values)) / spread


def thinned(values: Sequence[float], most: int) -> list[float]:
    """Return at most ``most`` of the values, evenly spaced."""
    count = min(most, len(values))
    return [values[at * len(values) // count] for at in range(count)]
