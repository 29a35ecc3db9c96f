"""Many tasks at a time, and many workers on one task: the upstream's rate limit holds, waits are short, one settlement is made."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.config import Source, load
from proxy.core.money import Nanos
from proxy.core.video.report import CancelConfirmed, DeadlinePassed, Polled, PollFailed, PollFailure, Report
from proxy.demo.ark import TASKS, Hang, Reset, StandIn, answer_json, known_error
from proxy.gateway import process
from proxy.jobs.scheduler import RUNNING_MAX
from proxy.telemetry.metrics import Metrics
from proxy.upstream.routing import Routing
from proxy.videos.calls import VideoCalls
from proxy.videos.poll import DueVideos, VideoPoll
from proxy.videos.tasks import VideoJobs
from tests.support.books import assert_books_balance
from tests.support.gateway import BALANCE, CANARY_KEY, CONFIG, DEFAULTS, Bench, Lines
from tests.support.lateness import lateness
from tests.support.settings import live
from tests.support.videos import QUICK, SILENT, creates, ended, quick_bench, stored, submitted

TASK_PATH = TASKS + "/*"
TASKS_MANY = 500
RICH = Nanos(BALANCE * 5)


def most_in_a_second(times: Sequence[float]) -> int:
    """Return the largest number of calls that arrived within one second."""
    most, first = 0, 0
    for last, at in enumerate(times):
        while at - times[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


async def test_five_hundred_tasks_finish_within_two_intervals_at_the_configured_rate(tmp_path: Path) -> None:
    """At 200 a second a round of 500 takes 2.5 s, which fits into the longest interval of 3 s."""
    interval_seconds, rate = 3.0, 200
    async with (
        StandIn() as ark,
        lateness() as late,
        quick_bench(tmp_path, ark, balance=RICH, poll_seconds="0.2, 3", upstream=f"requests_per_second = {rate}") as gateway,
    ):
        ids: list[str] = []
        for _ in range(10):
            ids += await asyncio.gather(*(submitted(gateway) for _ in range(TASKS_MANY // 10)))
        await ark.wait_until(lambda: len(ark.calls_to(TASK_PATH, "GET")) > TASKS_MANY, 20)
        for upstream_id in ark.videos.tasks:
            ark.videos.advance(upstream_id, "succeeded")
        done_at, late_before = time.monotonic(), late.seconds
        tasks = await asyncio.gather(*(ended(gateway, task_id) for task_id in ids))
        took_seconds = time.monotonic() - done_at - (late.seconds - late_before)

        assert [task["total_cost"] for task in tasks] == ["0.8640"] * TASKS_MANY
        assert took_seconds < 2 * interval_seconds
        assert creates(ark) == TASKS_MANY
        calls = ark.calls_to(TASK_PATH, "GET")
        assert max(Counter(call.path for call in calls if call.at > done_at).values()) == 1
        polls = [call.at for call in calls]
        # Calls are spaced when they are sent. On the way two may come closer together, more so on a busy machine.
        assert len(polls) <= rate * (polls[-1] - polls[0]) + 2
        assert most_in_a_second(polls) <= rate * (1.1 + late.worst_seconds)
        # 500 × ¥0.864
        assert await gateway.balance() == (RICH - 432_000_000_000, 0)
        await assert_books_balance(gateway.store)


async def test_a_restart_with_many_tasks_due_keeps_to_the_rate(tmp_path: Path) -> None:
    rate = 50
    async with StandIn() as ark, lateness() as late:
        async with quick_bench(tmp_path, ark) as gateway:
            ids = await asyncio.gather(*(submitted(gateway) for _ in range(100)))
        await ark.wait_until(lambda: ark.open_connections == 0)  # a poll by the first gateway may still be on its way
        ark.calls.clear()
        for upstream_id in ark.videos.tasks:
            ark.videos.advance(upstream_id, "failed")
        async with quick_bench(tmp_path, ark, upstream=f"requests_per_second = {rate}") as gateway:
            await asyncio.gather(*(ended(gateway, task_id) for task_id in ids))

            polls = [call.at for call in ark.calls_to(TASK_PATH, "GET")]
            assert len(polls) == 100  # one each: every task has ended
            assert most_in_a_second(polls) <= rate * (1.1 + late.worst_seconds)
            await gateway.assert_charged(0)


def jobs_of(gateway: Bench) -> VideoJobs:
    """Return a second worker on the same store."""
    metrics = Metrics()
    return VideoJobs(
        store=gateway.store,
        calls=VideoCalls(live(), metrics, Routing(SystemClock())),
        live=live(),
        clock=SystemClock(),
        metrics=metrics,
        jitter=lambda: 0.5,
        expect=lambda *_: None,
    )


SUCCEEDED = Polled("succeeded", "https://example.com/v.mp4", completion_tokens=108_900)


@pytest.mark.parametrize("first", ["poll", "sweep", "cancel"])
async def test_eight_polls_a_sweep_and_a_cancel_make_one_settlement(tmp_path: Path, first: str) -> None:
    async with quick_bench(tmp_path, poll_seconds="600, 600") as gateway:
        task_id = await submitted(gateway)
        jobs = jobs_of(gateway)
        reports: dict[str, list[Report]] = {"poll": [SUCCEEDED] * 8, "sweep": [DeadlinePassed()], "cancel": [CancelConfirmed()]}
        hands: list[Awaitable[Any]] = [jobs.advance(task_id, report) for report in reports.pop(first)]
        hands += [jobs.advance(task_id, report) for others in reports.values() for report in others]

        steps = await asyncio.gather(*hands)

        assert len([step for step in steps if step.settlement is not None]) == 1
        assert len({step.task.state for step in steps if step.task.ended}) == 1
        await gateway.assert_charged(0 if first == "cancel" else SILENT)


async def test_failing_polls_change_nothing_but_the_next_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with StandIn() as ark, quick_bench(tmp_path, ark) as gateway:
        ark.enqueue(known_error("AuthenticationError"), TASK_PATH, method="GET", times=3)
        ark.enqueue([Reset()], TASK_PATH, method="GET", times=3)
        ark.enqueue(answer_json(502, b"<html>"), TASK_PATH, method="GET", times=3)
        ark.enqueue(answer_json(404, b"no route"), TASK_PATH, method="GET", times=5)  # not a 404 of Ark's
        ark.enqueue(known_error("ResourceNotFound"), TASK_PATH, method="GET", times=2)
        task_id = await submitted(gateway)
        await ark.wait_until(lambda: ark.unplayed == 0)
        ark.videos.advance(next(iter(ark.videos.tasks)), "succeeded")

        assert (await ended(gateway, task_id))["total_cost"] == "0.8640"
        warned = [record.getMessage() for record in caplog.records if "cannot be asked about videos" in record.getMessage()]
        assert len(warned) == 1  # an outage is one line in the log, and its end another
        assert [record for record in caplog.records if "can be asked about videos again" in record.getMessage()]
        await gateway.assert_charged(SILENT)


async def test_a_task_that_is_gone_upstream_ends_after_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.core.video.task.MISSING_AGE_MS", 0)  # as if it were two minutes old
    async with StandIn() as ark, quick_bench(tmp_path, ark) as gateway:
        task_id = await submitted(gateway)
        ark.videos.forget(next(iter(ark.videos.tasks)))

        task = await ended(gateway, task_id)

        assert (task["status"], task["error"]["code"]) == ("failed", "GENERATION_FAILED")
        assert (await stored(gateway, task_id)).missing == 3
        await gateway.assert_charged(0)


async def test_a_task_of_an_upstream_that_is_no_longer_configured_waits(tmp_path: Path) -> None:
    async with quick_bench(tmp_path, poll_seconds="600, 600") as gateway:
        task_id = await submitted(gateway)
        report = await VideoCalls(live(), Metrics(), Routing(SystemClock())).status(await stored(gateway, task_id))

        assert report == PollFailed(PollFailure.TRANSIENT)
        assert (await jobs_of(gateway).advance(task_id, report)).task.state == "pending"


SECOND_UPSTREAM = """
[upstreams.hanging]
base_url = "{base_url}"
api_key = "env:ARK_API_KEY"
connect_seconds = 60
first_byte_seconds = 60
requests_per_second = 1000
[[models]]
id = "hanging"
kind = "video"
upstream = "hanging"
upstream_model = "doubao-seedance-1-5-pro-251215"
price = {{ silent = "8" }}
"""


async def test_an_upstream_that_hangs_holds_up_nobody_elses_tasks(tmp_path: Path) -> None:
    async with StandIn() as ark, StandIn() as hanging:
        hanging.enqueue([Hang()], TASK_PATH, method="GET", times=None)
        upstream = QUICK["upstream"] + SECOND_UPSTREAM.format(base_url=hanging.base_url)
        async with quick_bench(tmp_path, ark, balance=RICH, upstream=upstream) as gateway:
            await asyncio.gather(*(submitted(gateway, model="hanging") for _ in range(RUNNING_MAX + 50)))
            await hanging.wait_for_calls(RUNNING_MAX, TASK_PATH, method="GET")
            task_id = await submitted(gateway)
            ark.videos.advance(next(iter(ark.videos.tasks)), "succeeded")

            async with asyncio.timeout(30):  # the others hang for twice as long
                assert (await ended(gateway, task_id))["status"] == "succeeded"
            assert len(hanging.calls_to(TASK_PATH, "GET")) == RUNNING_MAX
            # 306 × ¥0.864 are still held
            assert await gateway.balance() == (RICH - SILENT, 306 * SILENT)
            await assert_books_balance(gateway.store)


async def test_one_task_whose_work_crashes_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    work = VideoPoll.__call__
    crashing: list[str] = []

    async def crash_on_one(self: VideoPoll, task: Any) -> None:
        if task.id in crashing:
            raise ZeroDivisionError
        await work(self, task)

    monkeypatch.setattr(VideoPoll, "__call__", crash_on_one)
    async with StandIn() as ark, quick_bench(tmp_path, ark) as gateway:
        crashing.append(await submitted(gateway))
        other = await submitted(gateway)
        for upstream_id in ark.videos.tasks:
            ark.videos.advance(upstream_id, "succeeded")

        assert (await ended(gateway, other))["status"] == "succeeded"
        assert (await stored(gateway, crashing[0])).state == "pending"
        crashes = [record for record in caplog.records if record.exc_info and record.exc_info[0] is ZeroDivisionError]
        assert len(crashes) == 1  # it waits before the next try
        assert await gateway.balance() == (BALANCE - SILENT, SILENT)
        await assert_books_balance(gateway.store)


async def test_the_death_of_the_scheduler_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(self: DueVideos, now_ms: int, limit: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(DueVideos, "due", die)
    (tmp_path / "config.toml").write_text(CONFIG.format(**{**DEFAULTS, **QUICK, "base_url": "http://127.0.0.1:9/api/v3"}))
    config = load(tmp_path / "config.toml", {"ARK_API_KEY": CANARY_KEY})

    async with asyncio.timeout(20):
        exit_code = await process._serve(config, Source(config.path, {}), SystemClock(), Lines())

    assert exit_code == process.EXIT_SCHEDULER_FAILED != 0
