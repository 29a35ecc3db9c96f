"""What was asked for on the command line, and how much of it there is time for."""

from dataclasses import dataclass
from pathlib import Path

QUICK_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure. Lengths are in seconds.

    Attributes:
        directory: where everything is written.
        quick: the least load that shows that it works.
        alone: without references.
        rows: how long the ledger is, in transfers, on the curve of its length.
        minutes: how long the soak lasts.
    """

    directory: Path
    rounds: int = 3
    quick: bool = False
    alone: bool = False
    streams: int = 200
    chunk_ms: int = 10
    litellm: Path | None = None
    minutes: float = 10.0
    rows: tuple[int, ...] = (0, 100_000, 1_000_000, 10_000_000)

    def seconds(self, usual: float) -> float:
        """Return how long to count: as long as usual, or just long enough."""
        return min(usual, QUICK_SECONDS) if self.quick else usual

    def count(self, usual: int) -> int:
        """Return how many to take, as above."""
        return max(1, usual // 20) if self.quick else usual
