"""How far a long piece of the store's work has come, for whoever looks at it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long piece of work has come, such as 1,200 of 40,000 pages."""

    stage: str
    """What is counted, in words for a terminal: ``pages copied``."""
    done: int
    total: int


class GivenUpError(Exception):
    """Raised in a long piece of work by whom it tells of its progress: nobody waits for it any more."""


Report = Callable[[Progress], None]
"""Told of progress, on whichever thread does the work."""
