"""Applies ``[retention]`` at intervals: folds requests that are older than it allows into daily sums.

The job decides what is old. `billing.folding` paces the work while the gateway serves, and the store folds one slice at a time.
"""

import logging

from proxy.billing.folding import fold
from proxy.clock import Clock
from proxy.core.days import Zone
from proxy.core.retention import keep_from_ms
from proxy.live.settings import Live
from proxy.store.contract import Books

logger = logging.getLogger(__name__)

EVERY_SECONDS = 600.0


class FoldRequests:
    """Folds requests older than ``retention.request_days`` now; 0 days fold nothing."""

    def __init__(self, books: Books, clock: Clock, live: Live, zone: Zone) -> None:
        self._books = books
        self._zone = zone
        self._clock = clock
        self._live = live

    async def __call__(self) -> None:
        days = self._live.now.config.retention.request_days
        if not days:
            return
        folded, _ = await fold(self._books, keep_from_ms(self._clock.now_ms(), days, self._zone))
        if folded:
            logger.info("folded %d requests older than %d days into daily sums", folded, days)
