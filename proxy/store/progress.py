"""Progress of the store's long operations, to be shown while they run."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of one long operation, such as 1,200 of 40,000 pages."""

    stage: str
    """Unit that is counted, in words for a terminal: ``pages copied``."""
    done: int
    total: int


class GivenUpError(Exception):
    """Raised by a progress callback to end the operation: its caller no longer waits for it."""


Report = Callable[[Progress], None]
"""Callback for progress. It runs on the thread that does the work."""
