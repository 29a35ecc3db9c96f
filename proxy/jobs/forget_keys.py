"""Forgets idempotency keys a day after their use. ``[retention]`` does not apply: see `jobs.fold_requests`."""

import logging

from proxy.clock import Clock
from proxy.store.contract import FORGET_CLAIMS_MAX, Ledger

logger = logging.getLogger(__name__)

EVERY_SECONDS = 3_600.0


class ForgetKeys:
    """Forgets expired keys, a batch at a time."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    async def __call__(self) -> None:
        forgotten = 0
        while batch := await self._ledger.forget_claims(self._clock.now_ms()):
            forgotten += batch
            if batch < FORGET_CLAIMS_MAX:
                break
        if forgotten:
            logger.info("forgot %d idempotency keys", forgotten)
