"""What was asked for on the command line, and how much of it there is time for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure. Lengths are in seconds."""

    directory: Path
    rounds: int = 3
    quick: bool = False
    streams: int = 200
    chunk_ms: int = 10
    litellm: Path | None = None
    rows_max: int = 10_000_000

    def seconds(self, usual: float) -> float:
        """Return how long to count: about as long as usual, or just long enough to see that it works."""
        return 0.5 if self.quick else usual

    def count(self, usual: int) -> int:
        """Return how many to take, as above."""
        return max(1, usual // 20) if self.quick else usual
