"""Calls that a client abandoned before the upstream told what they cost. They are charged by a lower bound, so they are limited.

So are pictures of which nobody knows whether they were made: they cost nothing.
"""

from proxy.clock import Clock
from proxy.core.errors import RateLimitedError
from proxy.live.settings import Live

_MINUTE_SECONDS = 60.0


class Abandonment:
    """Counts abandoned calls by account, as a bucket that leaks: `billing.abandoned_per_minute` at once, and as many a minute."""

    def __init__(self, live: Live, clock: Clock) -> None:
        self._live = live
        self._clock = clock
        self.levels: dict[int, tuple[float, float]] = {}
        """Account → calls that count at a time, and that time; accounts without any are not in it."""

    def count(self, account_id: int, calls: int = 1) -> None:
        if not calls or not self._live.now.billing.abandoned_per_minute:
            return
        now = self._clock.monotonic()
        self.levels[account_id] = self._level(account_id, now) + calls, now

    def refuse(self, account_id: int) -> None:
        """Refuse a further call of an account that abandons too many. Raises: RateLimitedError."""
        most, now = self._live.now.billing.abandoned_per_minute, self._clock.monotonic()
        level = self._level(account_id, now)
        if not level:
            self.levels.pop(account_id, None)
        elif most and level > most - 1:
            raise RateLimitedError(
                "Too many calls of this account were given up before they were answered",
                retry_after_seconds=(level - (most - 1)) * _MINUTE_SECONDS / most,
            )

    def _level(self, account_id: int, now: float) -> float:
        level, at = self.levels.get(account_id, (0.0, now))
        return max(0.0, level - (now - at) * self._live.now.billing.abandoned_per_minute / _MINUTE_SECONDS)
