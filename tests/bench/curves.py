"""A figure over time, and whether it grows. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

_BARS = "▁▂▃▄▅▆▇█"
_BARS_MAX = 60


@dataclass(frozen=True, slots=True)
class Curve:
    """What was seen of one thing at equal distances of time.

    Attributes:
        name, unit: of what.
        values: at least four.
        reach: the most that it may grow over the second half, in percent of its level there.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    reach: float

    @property
    def growth_percent(self) -> float:
        """Return how much the line of least squares through the second half rises over it, in percent of its mean."""
        second = self.values[len(self.values) // 2 :]
        mean = sum(second) / len(second)
        return 100 * slope(second) * (len(second) - 1) / mean if mean else 0.0

    @property
    def is_flat(self) -> bool:
        """Whether it does not grow. What falls is no worry."""
        return self.growth_percent <= self.reach

    @property
    def drawn(self) -> str:
        """Return the curve as a row of bars, from its least to its most."""
        values = thinned(self.values, _BARS_MAX)
        least, most = min(values), max(values)
        span = (most - least) or 1.0
        return "".join(_BARS[round((value - least) / span * (len(_BARS) - 1))] for value in values)


def slope(values: Sequence[float]) -> float:
    """Return the slope of the line of least squares, a step."""
    count = len(values)
    middle, mean = (count - 1) / 2, sum(values) / count
    spread = sum((at - middle) ** 2 for at in range(count))
    return sum((at - middle) * (value - mean) for at, value in enumerate(values)) / spread


def thinned(values: Sequence[float], most: int) -> list[float]:
    """Return at most so many of the values, evenly."""
    count = min(most, len(values))
    return [values[at * len(values) // count] for at in range(count)]
