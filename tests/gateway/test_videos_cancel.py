"""Concurrent cancels, and cancels at the end of a task: one DELETE each, a few at a time, and a cancelled video is free."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.core.video import task as video_task
from proxy.core.video.record import TaskState, VideoTask
from proxy.core.video.report import Polled, PollFailed
from proxy.demo.ark import TASKS, Answer, Check, Perform, Wait, answer_json, error
from proxy.videos.calls import VideoCalls
from proxy.videos.cancel import CANCELS_MAX, VideoCancels
from tests.support.gateway import Bench
from tests.support.videos import cancel, ended, look, quick_bench, stored, submitted

TASK_PATH = TASKS + "/*"
NEVER = "600, 600"
"""Seconds between polls, so long that only the cancel asks upstream."""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Bench]:
    async with quick_bench(tmp_path) as running:
        yield running


@pytest.fixture
async def unpolled(tmp_path: Path) -> AsyncIterator[Bench]:
    async with quick_bench(tmp_path, poll_seconds=NEVER) as running:
        yield running


async def test_many_cancels_of_one_task_ask_upstream_once_and_are_all_answered(
    unpolled: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await submitted(unpolled)
    asked: list[str] = []
    all_asked = asyncio.Event()
    cancel_once = VideoCancels.cancel

    async def counted(self: VideoCancels, task: VideoTask) -> VideoTask:
        asked.append(task.id)
        if len(asked) == 40:
            all_asked.set()
        return await cancel_once(self, task)

    monkeypatch.setattr(VideoCancels, "cancel", counted)
    unpolled.ark.enqueue([Wait(all_asked), Perform(), Answer()], TASK_PATH, method="DELETE", times=None)
    replies = await asyncio.gather(*(cancel(unpolled, task_id) for _ in range(40)))

    assert {reply.status for reply in replies} == {200}
    assert {reply.json["error"]["code"] for reply in replies} == {"TASK_CANCELLED"}
    # One GET before the DELETE, and one after it.
    assert [call.method for call in unpolled.ark.calls_to(TASK_PATH)] == ["GET", "DELETE", "GET"]
    await unpolled.assert_charged(0)


async def test_an_account_can_have_only_so_many_cancels_under_way(unpolled: Bench) -> None:
    *others, last = [await submitted(unpolled) for _ in range(CANCELS_MAX + 1)]
    go_on = asyncio.Event()
    unpolled.ark.enqueue([Wait(go_on), Perform(), Answer()], TASK_PATH, method="DELETE", times=CANCELS_MAX)

    under_way = asyncio.gather(*(cancel(unpolled, task_id) for task_id in others))
    await unpolled.ark.wait_until(lambda: len(unpolled.ark.calls_to(TASK_PATH, "DELETE")) == CANCELS_MAX)
    refused = await cancel(unpolled, last)
    go_on.set()
    done = await under_way
    later = await cancel(unpolled, last)

    assert (refused.status, refused.error["code"]) == (429, "RATE_LIMITED")
    assert "retry-after" in {name.lower() for name in refused.headers}
    assert [reply.status for reply in (*done, later)] == [200] * (CANCELS_MAX + 1)
    await unpolled.assert_charged(0)


async def test_a_task_that_ends_between_the_look_and_the_cancel_is_neither_cancelled_nor_charged(
    unpolled: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = await submitted(unpolled)
    upstream_id = (await stored(unpolled, task_id)).upstream_id
    end = Check(lambda _call: unpolled.ark.videos.advance(upstream_id, "succeeded"))
    unpolled.ark.enqueue([Perform(), end, Answer()], TASK_PATH, method="GET")

    refused = await cancel(unpolled, task_id)
    task = await look(unpolled, task_id)

    assert (refused.status, refused.error["code"]) == (409, "TASK_RUNNING")
    assert upstream_id not in unpolled.ark.videos.tasks  # Ark's 2xx meant that the record was deleted
    assert (task["status"], task["error"]["code"], task["total_cost"]) == ("failed", "GENERATION_FAILED", "0")
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING and task_id in record.getMessage()]
    assert len(told) == 1
    assert "may have billed" in told[0]
    await unpolled.assert_charged(0)


@pytest.mark.parametrize("is_answered", [True, False], ids=["seen", "unseen"])
async def test_a_poll_that_sees_the_end_while_the_record_is_deleted_charges_nothing(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch, is_answered: bool
) -> None:
    has_ended, poll_saw_it = asyncio.Event(), asyncio.Event()
    ask = VideoCalls.status

    async def watched(self: VideoCalls, task: VideoTask, *, urgent: bool = False) -> Polled | PollFailed:
        if not urgent:
            await has_ended.wait()
        seen = await ask(self, task, urgent=urgent)
        if not urgent:
            poll_saw_it.set()
        return seen

    async def end(_call: object) -> None:
        gateway.ark.videos.advance(upstream_id, "succeeded")
        has_ended.set()
        await poll_saw_it.wait()
        if not is_answered:  # the GET after the DELETE
            gateway.ark.enqueue(error(500, "InternalServiceError", "oops"), TASK_PATH, method="GET")

    monkeypatch.setattr(video_task, "MISSING_AGE_MS", 0)
    monkeypatch.setattr(VideoCalls, "status", watched)
    gateway.ark.enqueue([Check(end), Perform(), Answer()], TASK_PATH, method="DELETE")
    task_id = await submitted(gateway)
    upstream_id = (await stored(gateway, task_id)).upstream_id
    refused = await cancel(gateway, task_id)
    task = await ended(gateway, task_id)

    assert refused.status == (409 if is_answered else 503)
    assert (task["status"], task["error"]["code"], task["total_cost"]) == ("failed", "GENERATION_FAILED", "0")
    await gateway.assert_charged(0)


async def test_a_poll_whose_answer_outlasts_the_cancel_is_asked_for_again(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    has_ended, poll_saw_it, cancel_is_over = asyncio.Event(), asyncio.Event(), asyncio.Event()
    ask = VideoCalls.status

    async def slow(self: VideoCalls, task: VideoTask, *, urgent: bool = False) -> Polled | PollFailed:
        if urgent:
            return await ask(self, task, urgent=True)
        await has_ended.wait()
        seen = await ask(self, task)
        poll_saw_it.set()
        await cancel_is_over.wait()
        return seen

    async def end(_call: object) -> None:
        gateway.ark.videos.advance(upstream_id, "succeeded")
        has_ended.set()
        await poll_saw_it.wait()
        gateway.ark.enqueue(error(500, "InternalServiceError", "oops"), TASK_PATH, method="GET")  # the GET after the DELETE

    monkeypatch.setattr(video_task, "MISSING_AGE_MS", 0)
    monkeypatch.setattr(VideoCalls, "status", slow)
    gateway.ark.enqueue([Check(end), Perform(), Answer()], TASK_PATH, method="DELETE")
    task_id = await submitted(gateway)
    upstream_id = (await stored(gateway, task_id)).upstream_id
    unsure = await cancel(gateway, task_id)
    cancel_is_over.set()
    task = await ended(gateway, task_id)

    assert unsure.status == 503
    assert (task["status"], task["error"]["code"]) == ("failed", "GENERATION_FAILED")
    await gateway.assert_charged(0)


async def test_a_cancel_that_nobody_can_look_at_afterwards_is_seen_when_it_is_asked_for_again(unpolled: Bench) -> None:
    task_id = await submitted(unpolled)

    def blind(_call: object) -> None:
        unpolled.ark.enqueue(error(500, "InternalServiceError", "oops"), TASK_PATH, method="GET")

    unpolled.ark.enqueue([Perform(), Check(blind), Answer()], TASK_PATH, method="DELETE")
    unsure = await cancel(unpolled, task_id)
    again = await cancel(unpolled, task_id)

    assert (unsure.status, unsure.error["code"]) == (503, "MODEL_UNAVAILABLE")
    assert (again.status, again.json["error"]["code"]) == (200, "TASK_CANCELLED")
    assert len(unpolled.ark.calls_to(TASK_PATH, "DELETE")) == 1
    await unpolled.assert_charged(0)


async def test_a_task_that_is_said_to_be_queued_still_is_not_told_to_be_cancelled(unpolled: Bench) -> None:
    task_id = await submitted(unpolled)
    unpolled.ark.enqueue(answer_json(200, {}), TASK_PATH, method="DELETE")  # answers 200 and does nothing

    reply = await cancel(unpolled, task_id)

    assert (reply.status, reply.error["code"]) == (503, "MODEL_UNAVAILABLE")
    assert (await stored(unpolled, task_id)).state is TaskState.PENDING
    assert (await cancel(unpolled, task_id)).status == 200
    await unpolled.assert_charged(0)


async def test_a_task_that_a_poll_saw_running_while_the_cancel_waited_is_not_asked_for(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await submitted(gateway)
    upstream_id = (await stored(gateway, task_id)).upstream_id
    urgent_looks: list[str] = []
    ask = VideoCalls.status

    async def watched(self: VideoCalls, task: VideoTask, *, urgent: bool = False) -> Polled | PollFailed:
        if urgent:
            urgent_looks.append(task.id)
        return await ask(self, task, urgent=urgent)

    async def turn_comes_late(_self: VideoCalls, _task: VideoTask) -> None:
        gateway.ark.videos.advance(upstream_id, "running")
        while (await look(gateway, task_id, wait=5))["status"] != "processing":
            pass

    monkeypatch.setattr(VideoCalls, "status", watched)
    monkeypatch.setattr(VideoCalls, "cancel_turn", turn_comes_late)
    refused = await cancel(gateway, task_id)

    assert (refused.status, refused.error["code"]) == (409, "TASK_RUNNING")
    assert urgent_looks == []
    assert gateway.ark.calls_to(TASK_PATH, "DELETE") == []
    gateway.ark.videos.advance(upstream_id, "failed")
    await ended(gateway, task_id)
    await gateway.assert_charged(0)
