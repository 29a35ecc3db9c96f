"""Options of the command line, and the shorter loads of ``--quick``."""

from dataclasses import dataclass
from pathlib import Path

QUICK_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a measurement.

    Attributes:
        directory: everything is written here.
        quick: use the least load that shows that it works.
        alone: run without references.
        rows: lengths of the ledger, in transfers, for the curve of its length.
        minutes: duration of the soak.
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
        """Return the time to count: the usual one, or with ``quick`` at most `QUICK_SECONDS`."""
        return min(usual, QUICK_SECONDS) if self.quick else usual

    def count(self, usual: int) -> int:
        """Return the usual number, or with ``quick`` a twentieth of it."""
        return max(1, usual // 20) if self.quick else usual
