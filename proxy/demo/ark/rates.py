"""Rate limits in calls a second, over a sliding window of one second."""

from collections import deque
from collections.abc import Mapping

from proxy.clock import Clock
from proxy.demo.ark.dialect import ArkError

_WINDOW_SECONDS = 1.0


class Rates:
    """Rate limits. `limits`: calls a second by name; a name without an entry is unlimited. A refused call is not counted."""

    def __init__(self, limits: Mapping[str, int], clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._taken: dict[str, deque[float]] = {name: deque(maxlen=limit) for name, limit in limits.items()}

    def take(self, name: str) -> None:
        """Count one call. Raises: ArkError: 429 above the limit."""
        if name not in self._limits:
            return
        taken, now = self._taken[name], self._clock.monotonic()
        if len(taken) == self._limits[name] and now - taken[0] < _WINDOW_SECONDS:
            raise ArkError(429, "AccountRateLimitExceeded", "The request has exceeded the account rate limit. Please try again later.")
        taken.append(now)
