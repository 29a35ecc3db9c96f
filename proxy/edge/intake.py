"""Memory for large request bodies: those that are being read, are parsed, or wait to be sent to their upstream.

Anyone with a key may send large bodies, at no cost while they arrive and for little afterwards. So all of them together are bounded,
and one account gets at most half. The first `LARGE_BYTES` of each are not counted: ordinary requests always find room.
"""

from collections import Counter

from proxy.core.errors import ModelUnavailableError, RateLimitedError
from proxy.live.settings import Live

LARGE_BYTES = 65_536
LARGE_BODIES = 16
"""Limit on all large bodies together, in bodies of the largest size."""
_RETRY_SECONDS = 1.0


class Intake:
    """What all large bodies take just now, by account."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._bytes: Counter[int] = Counter()

    @property
    def total_bytes(self) -> int:
        return self._bytes.total()

    def reserve(self, account_id: int) -> "Reservation":
        """Return a reservation of nothing yet, for one body of this account."""
        return Reservation(self, account_id)

    def change(self, account_id: int, change: int) -> None:
        """Count so many bytes more or fewer.

        Raises:
            RateLimitedError: the account would have more than its share; nothing is counted.
            ModelUnavailableError: all together would be too much; nothing is counted.
        """
        if change > 0:
            most = LARGE_BODIES * self._live.now.body_bytes_max
            if self.total_bytes + change > most:
                raise ModelUnavailableError("Too many large requests are under way just now", retry_after_seconds=_RETRY_SECONDS)
            if self._bytes[account_id] + change > most // 2:
                raise RateLimitedError("Too many large requests of this account are under way", retry_after_seconds=_RETRY_SECONDS)
        self._bytes[account_id] += change
        if not self._bytes[account_id]:
            del self._bytes[account_id]


class Reservation:
    """What one body takes, whatever form it has at the time. `release` it at the end; more than once does no harm."""

    __slots__ = ("_account_id", "_counted", "_intake")

    def __init__(self, intake: Intake, account_id: int) -> None:
        self._intake = intake
        self._account_id = account_id
        self._counted = 0

    @property
    def is_large(self) -> bool:
        return self._counted > 0

    def set(self, size_bytes: int) -> None:
        """Count the body at its present size. Raises: as `Intake.change`; the size before then stays counted."""
        counted = max(0, size_bytes - LARGE_BYTES)
        self._intake.change(self._account_id, counted - self._counted)
        self._counted = counted

    def release(self) -> None:
        self._intake.change(self._account_id, -self._counted)
        self._counted = 0
