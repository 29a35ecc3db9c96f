"""Videos from the customer's view: the published examples and fields, exact costs, waiting, lists, other customers' tasks."""

import asyncio
import logging
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.demo.ark import TASKS, Answer, Settings, StandIn, Timeline, error, lost
from tests.support.books import assert_books_balance
from tests.support.gateway import BALANCE, CANARY_KEY, Bench
from tests.support.videos import (
    MODEL,
    PROMPT,
    SILENT,
    ask_operator,
    cancel,
    creates,
    ended,
    look,
    quick_bench,
    stored,
    submit,
    submitted,
)

TASK_PATH = TASKS + "/*"

CURL_TEXT = r"""
curl -X POST https://llm-proxy.tejarvis.info/api/v1/videos/generations \
-H "Authorization: Bearer sk_your_api_key" \
-H "Content-Type: application/json" \
-d '{
"model": "doubao-seedance-1-5-pro-251215",
"task_type": "text_to_video",
"prompt": "一只橙色的猫咪在阳光下慵懒地伸懒腰,背景是温馨的客厅",
"resolution": "720p",
"duration": 5
}'
"""

CURL_IMAGE_WITH_SOUND = r"""
curl -X POST https://llm-proxy.tejarvis.info/api/v1/videos/generations \
-H "Authorization: Bearer sk_your_api_key" \
-H "Content-Type: application/json" \
-d '{
"model": "doubao-seedance-2-0",
"task_type": "image_to_audio_video",
"prompt": "人物开始微笑并向镜头挥手",
"image_url": "https://example.com/portrait.jpg",
"resolution": "720p",
"duration": 5
}'
"""

CURL_LOOK = r"""
curl https://llm-proxy.tejarvis.info/api/v1/videos/tasks/vreq_AbCdEfGhIjKlMnOpQrSt \
-H "Authorization: Bearer sk_your_api_key"
"""

CURL_LIST = r"""
curl "https://llm-proxy.tejarvis.info/api/v1/videos/tasks?limit=10&offset=0" \
-H "Authorization: Bearer sk_your_api_key"
"""

PYTHON = """\
import time
import requests
API_KEY = "sk_your_api_key"
BASE_URL = "https://llm-proxy.tejarvis.info/api"
headers = {"Authorization": f"Bearer {API_KEY}"}
# 1. 提交任务
resp = requests.post(f"{BASE_URL}/v1/videos/generations", headers=headers, json={
"model": "doubao-seedance-1-5-pro-251215",
"task_type": "text_to_video",
"prompt": "日落时分,海浪轻拍礁石",
"resolution": "720p",
"duration": 5,
})
task = resp.json()
request_id = task["id"]
print(f"任务已提交: {request_id}")
# 2. 轮询状态
while True:
  status_resp = requests.get(
  f"{BASE_URL}/v1/videos/tasks/{request_id}",
  headers=headers
  )
  data = status_resp.json()
  status = data.get("status")
  print(f"当前状态: {status}")
  if status == "succeeded":
    print(f"视频链接: {data['video_url']}")
    break
  elif status == "failed":
    print(f"生成失败: {data.get('error')}")
    break
  time.sleep(5) # 每5秒轮询一次
"""
"""The published example, with the indentation that the published page has lost."""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Bench]:
    """Yield a gateway whose upstream tasks stay as they are until the test advances them."""
    async with quick_bench(tmp_path) as running:
        yield running


@pytest.fixture
async def lively(tmp_path: Path) -> AsyncIterator[Bench]:
    """Yield a gateway whose upstream tasks are done after a moment."""
    async with StandIn(Settings(timeline=Timeline(0.1, 0.1))) as ark, quick_bench(tmp_path, ark) as running:
        yield running


async def only_task(gateway: Bench) -> str:
    """Return the upstream id of the only task."""
    await gateway.ark.wait_until(lambda: len(gateway.ark.videos.tasks) == 1)
    return next(iter(gateway.ark.videos.tasks))


def pointed_at(gateway: Bench, example: str) -> str:
    """Return an example with only the base URL and the key changed."""
    return example.replace("https://llm-proxy.tejarvis.info", gateway.origin).replace("sk_your_api_key", gateway.key)


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    printed, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    return printed.decode()


async def curl(gateway: Bench, example: str) -> Any:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    return orjson.loads(await run("sh", "-c", pointed_at(gateway, example).strip() + " --silent --fail-with-body --noproxy '*'"))


# The published examples.


async def test_the_curl_examples(gateway: Bench) -> None:
    task = await curl(gateway, CURL_TEXT)
    gateway.ark.videos.advance(await only_task(gateway), "running")
    processing = await look(gateway, task["id"], wait=10)
    gateway.ark.videos.advance(await only_task(gateway), "succeeded")
    await ended(gateway, task["id"])
    succeeded = await curl(gateway, CURL_LOOK.replace("vreq_AbCdEfGhIjKlMnOpQrSt", task["id"]))
    listed = await curl(gateway, CURL_LIST)

    assert list(task) == ["id", "task_id", "status", "model", "created", "object"]
    assert (task["status"], task["object"], task["id"][:5], len(task["id"])) == ("pending", "video.generation.task", "vreq_", 25)
    assert task["task_id"].isdecimal()
    shape = {"model": MODEL, "resolution": "720p", "duration": 5, "generate_audio": False, "task_type": "text_to_video"}
    assert shape.items() <= processing.items()
    assert (processing["status"], processing["total_cost"], "video_url" in processing) == ("processing", "0", False)
    assert set(succeeded) == {*processing, "video_url", "thumbnail_url", "completed_at"}
    assert (succeeded["status"], succeeded["total_cost"]) == ("succeeded", "0.8640")
    assert listed == {
        "object": "list",
        "data": [{name: value for name, value in succeeded.items() if name not in ("task_id", "thumbnail_url")}],
    }
    await gateway.assert_charged(SILENT)


async def test_the_curl_example_with_picture_and_sound(lively: Bench) -> None:
    task = await curl(lively, CURL_IMAGE_WITH_SOUND)

    done = await ended(lively, task["id"])

    # 108,000 tokens at ¥46 a million, with or without sound
    assert (done["generate_audio"], done["total_cost"]) == (True, "4.9680")
    went_up = lively.ark.calls_to(TASKS, "POST")[0].json
    assert went_up["model"] == "doubao-seedance-2-0-260128"
    assert went_up["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "https://example.com/portrait.jpg"},
        "role": "first_frame",
    }
    await lively.assert_charged(4_968_000_000)


async def test_the_python_example_runs_to_its_end(lively: Bench) -> None:
    printed = (await run(sys.executable, "-c", pointed_at(lively, PYTHON))).splitlines()

    assert printed[0].startswith("任务已提交: vreq_")
    assert printed[-2] == "当前状态: succeeded"
    assert printed[-1].startswith("视频链接: https://")
    await lively.assert_charged(SILENT)


# Costs.

COSTS = {
    # 1280 · 720 · 24 · 5 / 1024 = 108,000 tokens · ¥8 a million
    "720p, 5 s, silent": ({}, "0.8640", 864_000_000),
    "with sound, ¥16": ({"task_type": "text_to_audio_video"}, "1.7280", 1_728_000_000),
    "silent although its type has sound": ({"task_type": "text_to_audio_video", "generate_audio": False}, "0.8640", 864_000_000),
    "flex, half of it": ({"service_tier": "flex"}, "0.4320", 432_000_000),
    # 1920 · 1080 · 24 · 5 / 1024 = 243,000 tokens · ¥8
    "1080p": ({"resolution": "1080p"}, "1.9440", 1_944_000_000),
    # 1280 · 720 · 24 · 12 / 1024 = 259,200 tokens · ¥8
    "12 s": ({"duration": 12}, "2.0736", 2_073_600_000),
    # 854 · 480 · 24 · 5 / 1024 = 48,037.5 tokens · ¥8
    "480p": ({"resolution": "480p"}, "0.3843", 384_300_000),
    "adaptive, as 720p": ({"resolution": "adaptive"}, "0.8640", 864_000_000),
}


@pytest.mark.parametrize(("fields", "cost", "nanos"), COSTS.values(), ids=COSTS)
async def test_the_quote_is_held_at_submit_and_is_the_bill(gateway: Bench, fields: dict[str, Any], cost: str, nanos: int) -> None:
    task_id = await submitted(gateway, **fields)
    at_submit = await gateway.balance()
    gateway.ark.videos.advance(await only_task(gateway), "succeeded")

    task = await ended(gateway, task_id)

    assert at_submit == (BALANCE, nanos)
    assert (task["status"], task["total_cost"]) == ("succeeded", cost)
    await gateway.assert_charged(nanos)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("failed", "CONTENT_REJECTED"),  # the stand-in's failure is one of moderation
        ("expired", "TASK_EXPIRED"),
        ("cancelled", "TASK_CANCELLED"),
        ("canceled", "TASK_CANCELLED"),
    ],
)
async def test_a_task_that_comes_to_nothing_costs_nothing(gateway: Bench, status: str, code: str) -> None:
    task_id = await submitted(gateway)
    gateway.ark.videos.advance(await only_task(gateway), status)

    task = await ended(gateway, task_id)

    assert (task["status"], task["error"]["code"], task["total_cost"]) == ("failed", code, "0")
    assert "Request id" not in task["error"]["message"]
    assert "video_url" not in task
    await gateway.assert_charged(0)


async def test_where_reported_tokens_are_charged_the_hold_covers_them(tmp_path: Path) -> None:
    async with quick_bench(tmp_path, billing='video_tokens = "usage"') as gateway:
        task_id = await submitted(gateway)
        held = (await gateway.balance())[1]
        gateway.ark.videos.advance(await only_task(gateway), "succeeded")
        task = await ended(gateway, task_id)

        # Ark reports a frame more: floor(1280 · 720 · 121 / 1024) = 108,900 tokens · ¥8
        assert task["total_cost"] == "0.8712"
        assert held >= 871_200_000
        await gateway.assert_charged(871_200_000)


async def test_a_receipt_explains_the_charge(lively: Bench) -> None:
    task_id = await submitted(lively)
    await ended(lively, task_id)

    receipt = (await lively.ask(f"/usage/{task_id}")).json
    operators = orjson.loads(await ask_operator(lively, "/operations/receipt", {"id": task_id}))

    assert (receipt["kind"], receipt["hold"], receipt["cost"], receipt["units"]) == ("video", "0.864", "0.864", 108_000)
    assert receipt["formula"] == operators["formula"] == "108000 × ¥8/M = ¥0.864"
    await lively.assert_charged(SILENT)


async def test_an_account_with_too_little_is_told_so_and_nothing_is_asked(tmp_path: Path) -> None:
    async with quick_bench(tmp_path, balance=SILENT - 1) as gateway:
        refused = await submit(gateway)

        assert (refused.status, refused.error["code"]) == (402, "INSUFFICIENT_BALANCE")
        assert gateway.ark.calls == []
        assert (await gateway.ask("/videos/tasks")).json["data"] == []
        assert await gateway.balance() == (SILENT - 1, 0)
        await assert_books_balance(gateway.store)


# Upstream bodies.


async def test_what_goes_up_says_all_that_has_a_dearer_default(gateway: Bench) -> None:
    await submitted(gateway, prompt="a cat --dur 12 --rs 1080p", seed=7)

    body = gateway.ark.calls_to(TASKS, "POST")[0].json

    assert body["content"] == [{"type": "text", "text": "a cat —dur 12 —rs 1080p"}]
    expected = {"ratio": "16:9", "resolution": "720p", "duration": 5, "generate_audio": False, "watermark": False, "seed": 7}
    assert expected.items() <= body.items()
    assert len(body["safety_identifier"]) == 64
    assert "acme" not in body["safety_identifier"]
    assert "service_tier" not in body


async def test_tasks_without_a_seed_get_one_each_and_minus_one_stays(gateway: Bench) -> None:
    await asyncio.gather(*(submitted(gateway) for _ in range(8)))
    await submitted(gateway, seed=-1)

    seeds = [call.json["seed"] for call in gateway.ark.calls_to(TASKS, "POST")]

    assert len(set(seeds)) == 9
    assert seeds[-1] == -1
    assert all(0 <= seed < 2**32 for seed in seeds[:-1])


# Reading and waiting.


async def test_a_wait_ends_as_soon_as_the_status_changes(gateway: Bench) -> None:
    task_id = await submitted(gateway)
    started = time.monotonic()
    waiting = asyncio.gather(*(look(gateway, task_id, wait=60) for _ in range(3)))
    await gateway.ark.wait_for_calls(3, TASK_PATH)

    gateway.ark.videos.advance(await only_task(gateway), "running")
    seen = await waiting

    assert [task["status"] for task in seen] == ["processing"] * 3
    assert time.monotonic() - started < 30
    gateway.ark.videos.advance(await only_task(gateway), "failed")
    assert (await look(gateway, task_id, wait=60))["status"] == "failed"
    assert (await look(gateway, task_id, wait=60))["status"] == "failed"  # nothing to wait for
    await gateway.assert_charged(0)


async def test_a_wait_ends_when_its_time_is_up(gateway: Bench) -> None:
    task_id = await submitted(gateway)
    started = time.monotonic()

    task = await look(gateway, task_id, wait=0.25)

    assert task["status"] == "pending"
    assert time.monotonic() - started > 0.2  # nine tenths of it, for which it can be answered in time


async def test_a_wait_is_over_before_whoever_counts_the_same_seconds_gives_up(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time counts from the request's arrival, however long the way to the task took."""
    task_id = await submitted(gateway)
    reads = 0
    read = gateway.store.task

    async def slowly(wanted: str) -> Any:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0.6)  # the slowness itself
        return await read(wanted)

    monkeypatch.setattr(gateway.store, "task", slowly)
    task = await look(gateway, task_id, wait=0.5)

    assert task["status"] == "pending"
    assert reads == 1, "the time was up when the task was found: nothing was waited for, and nothing looked at again"


async def test_those_who_wait_are_answered_when_the_gateway_stops(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as customer:
        async with quick_bench(tmp_path, drain_seconds=60) as gateway:
            task_id = await submitted(gateway)
            started = time.monotonic()
            gateway.session, own = customer, gateway.session  # the gateway ends while this client waits
            waiting = asyncio.gather(look(gateway, task_id, wait=60))
            await gateway.ark.wait_for_calls(3, TASK_PATH)
            await own.close()

        assert (await waiting)[0]["status"] == "pending"
        assert time.monotonic() - started < 30


async def test_waiting_asks_neither_store_nor_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with quick_bench(tmp_path, poll_seconds="600, 600") as gateway:
        task_id = await submitted(gateway)
        reads = 0
        read = gateway.store.task

        async def counted(wanted: str) -> Any:
            nonlocal reads
            reads += 1
            return await read(wanted)

        monkeypatch.setattr(gateway.store, "task", counted)
        await look(gateway, task_id, wait=0.5)

        assert reads == 3  # found, found again after it is watched, shown
        assert gateway.ark.calls_to(TASK_PATH) == []


async def test_the_list_is_paged_and_newest_first(gateway: Bench) -> None:
    made = [await submitted(gateway, prompt=f"cat {number}") for number in range(25)]
    newest_first = made[::-1]

    async def page(query: str) -> list[str]:
        return [task["id"] for task in (await gateway.ask(f"/videos/tasks{query}")).json["data"]]

    assert await page("") == newest_first[:20]
    assert await page("?limit=3") == newest_first[:3]
    assert await page("?limit=10&offset=20") == newest_first[20:]
    assert await page("?limit=100") == newest_first
    assert await page("?offset=1000000000") == []


BAD_QUERIES = {
    "limit=0": "limit",
    "limit=101": "limit",
    "limit=-1": "limit",
    "limit=ten": "limit",
    "limit=1.5": "limit",
    "limit=": "limit",
    "limit=%2B5": "limit",
    "limit=%EF%BC%95": "limit",  # a full-width five
    "limit=5&limit=6": "limit",
    "offset=-1": "offset",
    "offset=x": "offset",
    "offset=99999999999999999999": "offset",
}


async def test_a_wrong_limit_offset_or_wait_is_refused(gateway: Bench) -> None:
    task_id = await submitted(gateway)

    for query, param in BAD_QUERIES.items():
        refused = await gateway.ask(f"/videos/tasks?{query}")
        assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "INVALID_PARAMETER", param), query
    for wait in ("-1", "1e1", "nan", "", "10s", "9" * 11):
        refused = await gateway.ask(f"/videos/tasks/{task_id}?wait={wait}")
        assert (refused.status, refused.error["param"]) == (400, "wait"), wait


# Other customers' tasks.


async def test_another_accounts_task_is_to_the_byte_an_unknown_one(gateway: Bench) -> None:
    task_id = await submitted(gateway)
    await ask_operator(gateway, "/operations/account.create", {"account": "other"})
    others = orjson.loads(await ask_operator(gateway, "/operations/key.create", {"account": "other"}))["key"]
    unknown = "vreq_" + "x" * 20

    for method in ("GET", "DELETE"):
        answers = [await gateway.ask(f"/videos/tasks/{wanted}", method=method, key=others) for wanted in (task_id, unknown)]
        assert {(answer.status, answer.body) for answer in answers} == {(404, answers[0].body)}
        assert answers[0].error["code"] == "TASK_NOT_FOUND"
        assert set(answers[0].headers) == set(answers[1].headers)
    assert (await gateway.ask("/videos/tasks", key=others)).json["data"] == []
    assert len((await gateway.ask("/videos/tasks")).json["data"]) == 1
    assert (await gateway.ask(f"/usage/{task_id}", key=others)).status == 404
    assert (await stored(gateway, task_id)).state == "pending"


# Cancelling.


async def test_a_queued_task_can_be_cancelled_and_its_hold_is_released(gateway: Bench) -> None:
    task_id = await submitted(gateway)

    cancelled = await cancel(gateway, task_id)
    again = await cancel(gateway, task_id)

    assert cancelled.status == 200
    assert (cancelled.json["id"], cancelled.json["status"]) == (task_id, "failed")
    assert cancelled.json["error"]["code"] == "TASK_CANCELLED"
    assert gateway.ark.videos.tasks[await only_task(gateway)].status == "cancelled"
    assert (again.status, again.error["code"]) == (409, "TASK_RUNNING")
    await gateway.assert_charged(0)


@pytest.mark.parametrize("status", ["running", "succeeded", "failed"])
async def test_a_task_that_runs_or_has_ended_is_not_deleted(gateway: Bench, status: str) -> None:
    task_id = await submitted(gateway)
    upstream_id = await only_task(gateway)
    gateway.ark.videos.advance(upstream_id, status)

    refused = await cancel(gateway, task_id)

    assert (refused.status, refused.error["code"]) == (409, "TASK_RUNNING")
    assert gateway.ark.calls_to(TASK_PATH, "DELETE") == []
    assert upstream_id in gateway.ark.videos.tasks
    if status == "running":
        gateway.ark.videos.advance(upstream_id, "succeeded")
    task = await ended(gateway, task_id)
    await gateway.assert_charged(0 if task["status"] == "failed" else SILENT)


async def test_a_task_that_begins_to_run_between_the_look_and_the_cancel_is_told_apart(gateway: Bench) -> None:
    task_id = await submitted(gateway)
    upstream_id = await only_task(gateway)

    def begin_to_run(_: object) -> list[Any]:
        gateway.ark.videos.advance(upstream_id, "running")
        return [Answer()]

    gateway.ark.enqueue(begin_to_run, TASK_PATH, method="DELETE")
    refused = await cancel(gateway, task_id)

    assert (refused.status, refused.error["code"]) == (409, "TASK_RUNNING")
    gateway.ark.videos.advance(upstream_id, "succeeded")
    assert (await ended(gateway, task_id))["total_cost"] == "0.8640"
    await gateway.assert_charged(SILENT)


async def test_a_cancel_whose_answer_is_lost_is_seen_to_have_worked(gateway: Bench) -> None:
    task_id = await submitted(gateway)
    gateway.ark.enqueue(lost(), TASK_PATH, method="DELETE")

    cancelled = await cancel(gateway, task_id)

    assert (cancelled.status, cancelled.json["error"]["code"]) == (200, "TASK_CANCELLED")
    await gateway.assert_charged(0)


async def test_a_cancel_that_nobody_answers_is_to_be_tried_again(tmp_path: Path) -> None:
    async with quick_bench(tmp_path, poll_seconds="600, 600") as gateway:
        task_id = await submitted(gateway)
        gateway.ark.enqueue(error(500, "InternalServiceError", "oops"), TASK_PATH, method="GET")
        blind = await cancel(gateway, task_id)
        gateway.ark.enqueue(error(500, "InternalServiceError", "oops"), TASK_PATH, method="DELETE")
        refused = await cancel(gateway, task_id)

        assert [(reply.status, reply.error["code"]) for reply in (blind, refused)] == [(503, "MODEL_UNAVAILABLE")] * 2
        assert "retry-after" in {name.lower() for name in blind.headers}
        assert len(gateway.ark.calls_to(TASK_PATH, "DELETE")) == 1  # no DELETE unless it is known to be queued
        assert (await cancel(gateway, task_id)).status == 200
        await gateway.assert_charged(0)


# For the operator.


async def test_metrics_and_log_follow_a_task(gateway: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    task_id = await submitted(gateway)
    queued = await ask_operator(gateway, "/metrics")
    gateway.ark.videos.advance(await only_task(gateway), "napping")  # not one of Ark's words
    while (await look(gateway, task_id, wait=10))["status"] != "processing":
        pass
    gateway.ark.videos.advance(await only_task(gateway), "succeeded")
    await ended(gateway, task_id)
    done = await ask_operator(gateway, "/metrics")

    assert 'llm_proxy_video_tasks{state="pending"} 1.0' in queued
    assert 'llm_proxy_video_tasks{state="pending"} 0.0' in done
    assert 'llm_proxy_video_tasks{state="processing"} 0.0' in done
    assert 'llm_proxy_video_polls_total{result="answered",upstream="ark"}' in done
    assert "llm_proxy_video_due_lag_seconds" in done
    assert f'llm_proxy_outcomes_total{{model="{MODEL}",outcome="complete",route="/videos/generations",usage="reported"}} 1.0' in done
    said = [record.getMessage() for record in caplog.records if task_id in record.getMessage()]
    assert [line for line in said if "unknown task status 'napping'" in line] == [said[0]]  # once, however often it is polled
    assert f"video {task_id} of {MODEL} succeeded" in said[-1]
    assert "charged ¥0.8640" in said[-1]
    everything = caplog.text + repr(gateway.log.written)
    assert not [secret for secret in (PROMPT, "canary-prompt", CANARY_KEY, gateway.key) if secret in everything]
    await gateway.assert_charged(SILENT)


async def test_one_submit_is_one_call(lively: Bench) -> None:
    task_id = await submitted(lively)
    await ended(lively, task_id)

    assert creates(lively.ark) == 1
    await lively.assert_charged(SILENT)
