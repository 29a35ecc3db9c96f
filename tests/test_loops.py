"""The loop that tests run on: one that is never ended would keep all after it from running."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.loops import Loop


@pytest.fixture
def alarm() -> Iterator[signal.Signals]:
    """A signal whose handler fails the test, as pytest-timeout's does."""

    def over(*_: object) -> None:
        pytest.fail("its time is over")

    before = signal.signal(signal.SIGUSR1, over)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


def test_a_test_that_waits_for_ever_is_cancelled_when_its_time_is_over(alarm: signal.Signals) -> None:
    async def waits_for_ever() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(os.kill, os.getpid(), alarm)  # by then this waits
        await loop.create_future()

    with asyncio.Runner(loop_factory=Loop) as runner, pytest.raises(asyncio.CancelledError, match="its time is over"):
        runner.run(waits_for_ever())
