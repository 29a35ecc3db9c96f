"""Which target a conversation had last: its prompt is cached there. Pure: every time is passed in."""

from typing import Generic, TypeVar

V = TypeVar("V")

IDLE_SECONDS = 600.0
"""A conversation that is silent for so long is forgotten: its cache is gone too."""
CONVERSATIONS_MAX = 20_000
NOTED_SECONDS = 10.0
"""A conversation that goes on is noted no more often than this."""


class Affinity(Generic[V]):
    """A bounded table of conversations. The one that was noted first is forgotten first."""

    __slots__ = ("_most", "known")

    def __init__(self, most: int = CONVERSATIONS_MAX) -> None:
        self._most = most
        self.known: dict[int, tuple[V, float]] = {}
        """What each had last, and when that was noted."""

    def __len__(self) -> int:
        return len(self.known)

    def find(self, conversation: int, now: float) -> V | None:
        """Return what was noted within `IDLE_SECONDS`."""
        found = self.known.get(conversation)
        if found is None or now - found[1] <= IDLE_SECONDS + NOTED_SECONDS:
            return None if found is None else found[0]
        del self.known[conversation]
        return None

    def note(self, conversation: int, value: V, now: float) -> None:
        known = self.known
        known.pop(conversation, None)  # so that it comes last in the order of forgetting
        known[conversation] = value, now
        if len(known) > self._most:
            del known[next(iter(known))]
