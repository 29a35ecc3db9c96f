"""Polls: what is due, also after the clock was set back."""

from typing import cast

import pytest

from proxy.core.video.record import VideoTask
from proxy.core.video.report import NotFound, Polled, Submitted, SubmitUnknown
from proxy.core.video.task import Pace
from proxy.store.contract import VideoTasks
from proxy.telemetry.metrics import Metrics
from proxy.videos.calls import VideoCalls
from proxy.videos.poll import DueVideos, VideoPoll
from tests.support.settings import live
from tests.support.video_jobs import MINUTE_MS, START_MS, House

HOUR_MS = 60 * MINUTE_MS


class Unhurried:
    """A store in which every answer is there at once."""

    async def unanswered_tasks(self, _upstream: str, _since_ms: int) -> list[VideoTask]:
        return []

    async def known_upstream_ids(self, _upstream: str, _since_ms: int) -> frozenset[str]:
        return frozenset()


async def test_between_two_looks_at_a_long_list_others_have_their_turn(house: House) -> None:
    """Each takes 30 ms for ten thousand entries."""
    await house.task("lost", SubmitUnknown("reset"))
    lost = await house.store.task("lost")
    assert lost is not None
    poll = VideoPoll(cast("VideoTasks", Unhurried()), house.jobs, cast("VideoCalls", None), Metrics())

    looking = poll._find(lost, [{"id": "cgt-1"}])

    looking.send(None)  # it gives the loop back once, and then has found nothing
    with pytest.raises(StopIteration) as ended:
        looking.send(None)
    assert ended.value.value == NotFound()


async def test_what_is_due_later_than_anything_is_put_off_is_due_now(house: House) -> None:
    """The clock was set back: 3 s to the first poll, and nothing waits for longer than 5 minutes (a Retry-After) and 1 to spare."""
    await house.task("soon", Submitted("cgt-1"))
    due = DueVideos(house.store, "ark", live())

    async def due_at(time_ms: int, limit: int = 10) -> list[str]:
        return [task.id for task in await due.due(START_MS + time_ms, limit)]

    longest_ms = 6 * MINUTE_MS
    assert await due_at(0) == []
    assert await due_at(3_000) == ["soon"]
    assert await due_at(3_000 - longest_ms) == []
    assert await due_at(3_000 - longest_ms - 1) == ["soon"]
    assert await due_at(-HOUR_MS, limit=0) == []
    house.clock.at_ms -= HOUR_MS
    await house.jobs.advance("soon", Polled("running"))
    assert await due_at(-HOUR_MS) == []
    slow = DueVideos(house.store, "ark", live(pace=Pace(first_ms=3_000, longest_ms=HOUR_MS)))  # 4 h for flex
    assert await slow.due(START_MS - 4 * HOUR_MS, 10) == []
