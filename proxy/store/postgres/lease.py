"""Which nodes are dead: those whose beat stood still for a whole lease, by this node's own monotonic clock. Pure.

No wall clock takes part, of a node or of the database. An outage of the database kills nobody: who could not look for a while begins to
observe anew.
"""

from collections.abc import Mapping

BEAT_SECONDS = 2.0
LEASE_SECONDS = 20.0
"""At 1.5 s a live node was once taken for dead, under a load of 15 on two cores: safe, but its calls were lost."""
GAP_BEATS = 2.5
"""A watcher that has not looked for so many beats has not observed."""


class Watch:
    """What one node has seen of the others' beats."""

    def __init__(self, lease_seconds: float, gap_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self._gap_seconds = gap_seconds
        self._looked_at = float("-inf")
        self._since: dict[int, tuple[int, float]] = {}
        """The beat of each node, and when it was first seen."""

    def look(self, beats: Mapping[int, int], now: float) -> list[tuple[int, int]]:
        """Take in the beats of the living nodes; return each node that is to be set dead, with the beat that stood still.

        Args: now: seconds of a monotonic clock, read before the beats were asked for.
        """
        before = self._since if now - self._looked_at <= self._gap_seconds else {}
        self._looked_at = now
        self._since = {node: self._first_seen(before.get(node), beat, now) for node, beat in beats.items()}
        return [(node, beat) for node, (beat, since) in self._since.items() if now - since >= self.lease_seconds]

    @staticmethod
    def _first_seen(known: tuple[int, float] | None, beat: int, now: float) -> tuple[int, float]:
        return known if known is not None and known[0] == beat else (beat, now)
