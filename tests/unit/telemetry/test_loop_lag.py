"""The loop's lag, measured on a loop that is blocked."""

import asyncio
import time

from proxy.clock import SystemClock
from proxy.telemetry.loop_lag import EVERY_SECONDS, LoopLag

HELD_UP_SECONDS = 3 * EVERY_SECONDS


async def test_a_loop_that_stands_still_is_seen_to_have_been_late_and_seen_again_when_it_goes_on() -> None:
    lags: list[float] = []
    told = asyncio.Event()

    def tell(seconds: float) -> None:
        lags.append(seconds)
        told.set()

    lag = LoopLag(SystemClock(), tell)
    time.sleep(HELD_UP_SECONDS)  # noqa: ASYNC251  the delay that is measured
    await told.wait()
    told.clear()
    await told.wait()
    lag.close()

    assert lags[0] >= HELD_UP_SECONDS - EVERY_SECONDS - 0.001
    assert min(lags) >= 0


async def test_nothing_is_told_after_the_end() -> None:
    lags: list[float] = []

    lag = LoopLag(SystemClock(), lags.append)
    lag.close()
    await asyncio.sleep(1.5 * EVERY_SECONDS)

    assert not lags
