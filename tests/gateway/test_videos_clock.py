"""A wall clock that is set while videos are made: it neither delays a video nor ends one."""

from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.demo.ark import TASKS, Settings, StandIn, Timeline
from tests.support import gateway as support
from tests.support.books import assert_books_balance
from tests.support.gateway import BALANCE
from tests.support.videos import SILENT, ended, quick_bench, stored, submitted

HOUR_MS = 3_600_000


class SetClock(SystemClock):
    step_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.step_ms


@pytest.mark.parametrize("step_ms", [-HOUR_MS, 72 * HOUR_MS], ids=["an hour back", "three days on"])
async def test_a_task_that_is_queued_while_the_clock_is_set_ends_with_its_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_ms: int
) -> None:
    monkeypatch.setattr("proxy.jobs.scheduler.SLEEP_SECONDS_MAX", 0.1)
    monkeypatch.setattr(support, "SystemClock", SetClock)
    monkeypatch.setattr(SetClock, "step_ms", 0)
    async with (
        StandIn(Settings(timeline=Timeline(3_600, 3_600))) as ark,
        quick_bench(tmp_path, ark, poll_seconds="0.5, 0.5") as gateway,
    ):
        task_id = await submitted(gateway)
        name = (await stored(gateway, task_id)).upstream_id

        monkeypatch.setattr(SetClock, "step_ms", step_ms)
        await ark.wait_for_calls(3, f"{TASKS}/{name}", method="GET")
        ark.videos.advance(name, "succeeded")

        assert (await ended(gateway, task_id))["status"] == "succeeded"
        assert await gateway.balance() == (BALANCE - SILENT, 0)
        await assert_books_balance(gateway.store)
