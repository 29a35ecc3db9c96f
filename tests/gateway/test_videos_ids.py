"""Task ids from Ark that are wrong or cannot be part of a path: nobody sees another customer's video, and nothing breaks."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.core.video.record import TaskState
from proxy.core.video.report import Submitted
from proxy.demo.ark import TASKS, answer_json
from tests.support.gateway import Bench
from tests.support.videos import SILENT, cancel, creates, ended, look_quickly, quick_bench, stored, submit, submitted

TASK_PATH = TASKS + "/*"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Bench]:
    async with quick_bench(tmp_path) as running:
        yield running


async def test_a_poll_that_is_answered_with_another_task_shows_nobody_its_video(gateway: Bench) -> None:
    task_id = await submitted(gateway)
    upstream_id = (await stored(gateway, task_id)).upstream_id
    another = {
        "id": "cgt-another",
        "status": "succeeded",
        "content": {"video_url": "https://tos/secret.mp4"},
        "usage": {"completion_tokens": 1},
    }
    gateway.ark.enqueue(answer_json(200, another), TASK_PATH, method="GET")
    gateway.ark.videos.advance(upstream_id, "succeeded")

    task = await ended(gateway, task_id)

    assert len(gateway.ark.calls_to(TASK_PATH, "GET")) >= 2
    assert task["status"] == "succeeded"
    assert "secret" not in task["video_url"]
    await gateway.assert_charged(SILENT)


@pytest.mark.parametrize("upstream_id", [".", "..", "cgt-1\x00", "c" * 129])
async def test_a_submit_answered_with_an_id_that_cannot_be_asked_for_is_looked_for(
    gateway: Bench, upstream_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    look_quickly(monkeypatch, give_up_after_ms=200)
    gateway.ark.enqueue(answer_json(200, {"id": upstream_id}), TASKS, method="POST")

    taken = await submit(gateway)
    refused = await cancel(gateway, taken.json["id"])
    task = await ended(gateway, taken.json["id"])

    assert (taken.status, refused.status) == (200, 409)
    assert task["error"]["code"] == "SUBMIT_LOST"
    assert creates(gateway.ark) == 1
    assert gateway.ark.calls_to(TASK_PATH) == []
    assert [record for record in caplog.records if record.name.startswith("proxy") and record.levelno >= logging.ERROR] == []
    await gateway.assert_charged(0)


async def test_a_task_on_record_with_such_an_id_breaks_neither_its_polls_nor_its_cancel(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("proxy.videos.calls.read_submit", lambda _status, _answer: Submitted(".."))  # as if ids were not checked
    task_id = await submitted(gateway)
    while (await stored(gateway, task_id)).polls < 3:
        pass

    refused = await cancel(gateway, task_id)

    assert (refused.status, refused.error["code"]) == (503, "MODEL_UNAVAILABLE")
    assert (await stored(gateway, task_id)).state is TaskState.PENDING
    assert [record for record in caplog.records if record.name.startswith("proxy") and record.levelno >= logging.ERROR] == []
    assert (await gateway.balance())[1] > 0  # still held: the state of the task is unknown
