"""The submit of a video: refusals (nothing was made), lost answers, clients that leave, repeated idempotency keys."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import orjson
import pytest

from proxy.demo.ark import (
    CANARIES,
    TASKS,
    Answer,
    Close,
    Hang,
    Perform,
    Reset,
    Settings,
    StandIn,
    Timeline,
    Wait,
    answer_json,
    error,
    known_error,
    lost,
)
from proxy.demo.ark.script import Step
from proxy.store.sqlite import open_store
from tests.support.books import assert_books_balance
from tests.support.gateway import BALANCE, Bench
from tests.support.videos import PROMPT, SILENT, SUBMIT, creates, ended, look_quickly, quick_bench, stored, submit, submitted

GIVE_UP_MS = 300


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Bench]:
    async with StandIn(Settings(timeline=Timeline(0.05, 0.05))) as ark, quick_bench(tmp_path, ark, first_byte_seconds=0.5) as running:
        yield running


# Refusals: nothing was made upstream.

REFUSALS = {
    "InputTextSensitiveContentDetected": (400, "CONTENT_REJECTED", "refused"),
    "InputImageSensitiveContentDetected.PrivacyInformation": (400, "CONTENT_REJECTED", "refused"),
    "InvalidParameter.UnsupportedParameter": (400, "INVALID_PARAMETER", "refused"),
    "AuthenticationError": (503, "MODEL_UNAVAILABLE", "upstream_error"),
    "AccountOverdueError": (503, "MODEL_UNAVAILABLE", "upstream_error"),
    "ModelNotOpen": (503, "MODEL_UNAVAILABLE", "upstream_error"),
    "SetLimitExceeded": (503, "MODEL_UNAVAILABLE", "upstream_error"),
    "ModelAccountRpmRateLimitExceeded": (503, "MODEL_UNAVAILABLE", "upstream_error"),
    "ServerOverloaded": (503, "MODEL_UNAVAILABLE", "upstream_error"),
    "InternalServiceError": (503, "MODEL_UNAVAILABLE", "upstream_error"),
}


WAITING_HELPS = ("ModelAccountRpmRateLimitExceeded", "ServerOverloaded", "InternalServiceError")


@pytest.mark.parametrize("code", REFUSALS)
async def test_a_refused_submit_is_told_and_free(gateway: Bench, code: str) -> None:
    status, public_code, outcome = REFUSALS[code]
    gateway.ark.enqueue(known_error(code), TASKS, method="POST")

    refused = await submit(gateway)

    assert (refused.status, refused.error["code"]) == (status, public_code)
    assert ("Retry-After" in refused.headers) == (code in WAITING_HELPS)  # a retry pays once
    no_retry_mends = public_code == "CONTENT_REJECTED" or (status == 503 and code not in WAITING_HELPS)
    assert refused.headers.get("x-should-retry") == ("false" if no_retry_mends else None)
    assert not [canary for canary in CANARIES if canary.encode() in refused.body]
    [failed] = (await gateway.ask("/videos/tasks")).json["data"]
    assert (failed["id"], failed["status"]) == (refused.headers["x-request-id"], "failed")
    receipt = (await gateway.ask(f"/usage/{failed['id']}")).json
    assert (receipt["outcome"], receipt["http_status"], receipt["cost"]) == (outcome, status, "0.00")
    assert not [canary for canary in CANARIES if canary.encode() in orjson.dumps(failed)]
    assert creates(gateway.ark) == 1
    await gateway.assert_charged(0)


async def test_a_refusal_names_the_customers_field_and_not_arks(gateway: Bench) -> None:
    message = "The parameter `content[1].image_url` specified in the request is not valid: resource download failed."
    gateway.ark.enqueue(error(400, "InvalidParameter", message, param="content[1].image_url"), TASKS, method="POST")

    refused = await submit(gateway, task_type="image_to_video", image_url="https://example.com/gone.png")

    told = "The parameter `image_url` specified in the request is not valid: resource download failed."
    assert (refused.status, refused.error["param"], refused.error["message"]) == (400, "image_url", told)
    task = await ended(gateway, refused.headers["x-request-id"])
    assert task["error"] == {"code": "INVALID_PARAMETER", "message": told}
    await gateway.assert_charged(0)


NOT_THE_CUSTOMERS: dict[str, Sequence[Step]] = {
    "a field that the gateway adds": error(
        400, "InvalidParameter.UnsupportedParameter", "the parameter is not supported", param="safety_identifier"
    ),
    "a conflict": error(409, "Conflict", "the resource is busy"),
    "a page": answer_json(400, b"<html>Bad Request</html>"),
}


@pytest.mark.parametrize("script", NOT_THE_CUSTOMERS.values(), ids=NOT_THE_CUSTOMERS)
async def test_what_is_no_customers_fault_is_an_outage(gateway: Bench, script: Sequence[Step]) -> None:
    gateway.ark.enqueue(script, TASKS, method="POST")

    refused = await submit(gateway)

    assert (refused.status, refused.error["code"], refused.error["param"]) == (503, "MODEL_UNAVAILABLE", None)
    task = await ended(gateway, refused.headers["x-request-id"])
    assert task["error"]["code"] == "MODEL_UNAVAILABLE"
    receipt = (await gateway.ask(f"/usage/{task['id']}")).json
    assert (receipt["outcome"], receipt["http_status"], receipt["cost"]) == ("upstream_error", 503, "0.00")
    assert creates(gateway.ark) == 1
    await gateway.assert_charged(0)


async def test_what_the_model_does_not_know_and_need_not_is_left_out(gateway: Bench) -> None:
    for name in ("seed", "return_last_frame", "generate_audio"):
        message = f"the parameter {name} specified in the request is not supported by model x"
        gateway.ark.enqueue(error(400, "InvalidParameter.UnsupportedParameter", message, param=name), TASKS, method="POST")

    task = await ended(gateway, await submitted(gateway))

    assert task["status"] == "succeeded"
    sent = [set(call.json) for call in gateway.ark.calls_to(TASKS, "POST")]
    assert [before - after for before, after in itertools.pairwise(sent)] == [{"seed"}, {"return_last_frame"}, {"generate_audio"}]
    await gateway.assert_charged(SILENT)


async def test_an_upstream_that_cannot_be_reached_has_made_nothing(tmp_path: Path) -> None:
    async with StandIn() as ark, quick_bench(tmp_path, ark) as gateway:
        ark.stop_listening()

        refused = await submit(gateway)

        assert (refused.status, refused.error["code"]) == (503, "MODEL_UNAVAILABLE")
        assert "x-should-retry" not in refused.headers
        await gateway.assert_charged(0)


# Lost answers: it is unknown whether the task was made.


LOST: dict[str, Sequence[Step]] = {
    "reset": lost(),
    "closed without a byte": lost(Close()),
    "silent for ever": lost(Hang()),
    "502 of something in between": [Perform(), *answer_json(502, b"<html>Bad Gateway</html>")],
    "504, although in JSON": [Perform(), *answer_json(504, {"error": {"code": "GatewayTimeout", "message": "upstream"}})],
    "200 without an id": [Perform(), *answer_json(200, {"ok": True})],
    "200 and no JSON": [Perform(), *answer_json(200, b"done")],
}


@pytest.mark.parametrize("script", LOST.values(), ids=LOST)
@pytest.mark.parametrize("tier", ["default", "flex"])
async def test_a_lost_submit_is_found_and_not_repeated(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch, script: Sequence[Step], tier: str
) -> None:
    look_quickly(monkeypatch)
    gateway.ark.enqueue(script, TASKS, method="POST")

    reply = await submit(gateway, service_tier=tier)
    task = await ended(gateway, reply.json["id"])

    assert (reply.status, reply.json["status"]) == (200, "pending")
    assert (task["status"], creates(gateway.ark)) == ("succeeded", 1)
    assert (await stored(gateway, task["id"])).lost_at_ms is not None
    assert len(gateway.ark.videos.tasks) == 1
    await gateway.assert_charged(SILENT // (2 if tier == "flex" else 1))


async def test_a_lost_submit_that_was_never_made_is_released_after_a_while(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    look_quickly(monkeypatch, give_up_after_ms=GIVE_UP_MS)
    gateway.ark.enqueue([Reset()], TASKS, method="POST")

    reply = await submit(gateway)
    held = await gateway.balance()
    task = await ended(gateway, reply.json["id"])

    assert (reply.status, reply.json["status"], held) == (200, "pending", (BALANCE, SILENT))
    assert (task["status"], task["error"]["code"]) == ("failed", "SUBMIT_LOST")
    assert creates(gateway.ark) == 1
    receipt = await gateway.store.receipt(task["id"])
    assert receipt is not None
    assert receipt[0].settlement is not None
    assert "not found in the upstream's list" in receipt[0].settlement.note
    await gateway.assert_charged(0)


async def test_while_the_list_cannot_be_had_nothing_is_decided(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    look_quickly(monkeypatch, give_up_after_ms=1)
    gateway.ark.enqueue(lost(), TASKS, method="POST")
    gateway.ark.enqueue(known_error("AccountRateLimitExceeded"), TASKS, method="GET", times=5)
    gateway.ark.enqueue([Reset()], TASKS, method="GET", times=3)

    task = await ended(gateway, await submitted(gateway))

    assert task["status"] == "succeeded"
    assert len(gateway.ark.calls_to(TASKS, "GET")) >= 9
    await gateway.assert_charged(SILENT)


async def test_a_lost_task_cannot_be_cancelled_while_nobody_knows_where_it_is(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.ark.enqueue(lost(), TASKS, method="POST")
    task_id = await submitted(gateway)

    refused = await gateway.ask(f"/videos/tasks/{task_id}", method="DELETE")

    assert (refused.status, refused.error["code"]) == (409, "TASK_RUNNING")
    assert "handed over" in refused.error["message"]
    assert await gateway.balance() == (BALANCE, SILENT)
    await assert_books_balance(gateway.store)


async def test_a_hundred_lost_submits_are_each_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look_quickly(monkeypatch)
    async with StandIn(Settings(timeline=Timeline(0.05, 0.05))) as ark, quick_bench(tmp_path, ark) as gateway:
        ark.enqueue(lost(), TASKS, method="POST", times=100)

        ids = await asyncio.gather(*(submitted(gateway, prompt=f"cat {number}") for number in range(100)))
        tasks = await asyncio.gather(*(ended(gateway, task_id) for task_id in ids))

        assert [task["status"] for task in tasks] == ["succeeded"] * 100
        assert (creates(ark), len(ark.videos.tasks)) == (100, 100)
        mine = {(await stored(gateway, task_id)).upstream_id: task["prompt"] for task_id, task in zip(ids, tasks, strict=True)}
        assert mine.keys() == ark.videos.tasks.keys()
        asked = {call.json["seed"]: call.json["content"][0]["text"] for call in ark.calls_to(TASKS, "POST")}
        assert {name: asked[ark.videos.tasks[name].seed] for name in mine} == mine  # no request got another's video
        # 100 × ¥0.864
        assert await gateway.balance() == (BALANCE - 86_400_000_000, 0)
        await assert_books_balance(gateway.store)


async def test_what_is_known_to_be_anothers_casts_no_doubt_on_a_lost_one(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks differ only in their ids. One id is known, so the other entry is the lost task's."""
    look_quickly(monkeypatch)
    known = await submitted(gateway, seed=-1)
    gateway.ark.enqueue(lost(), TASKS, method="POST")

    task_id = await submitted(gateway, seed=-1)
    await asyncio.gather(ended(gateway, known), ended(gateway, task_id))

    ids = {(await stored(gateway, each)).upstream_id for each in (known, task_id)}
    assert ids == set(gateway.ark.videos.tasks)
    await gateway.assert_charged(2 * SILENT)


async def test_a_late_answer_and_a_look_up_of_another_never_share_a_video(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One submit is lost while an equal one is still under way: the entry in the list may belong to either."""
    look_quickly(monkeypatch)
    answer = asyncio.Event()
    gateway.ark.enqueue([Reset()], TASKS, method="POST")
    gateway.ark.enqueue([Perform(), Wait(answer), Answer()], TASKS, method="POST")

    never_made = await submitted(gateway, seed=-1)
    slow = asyncio.gather(submitted(gateway, seed=-1))
    await gateway.ark.wait_until(lambda: len(gateway.ark.videos.tasks) == 1)
    await gateway.ark.wait_for_calls(4, TASKS, method="GET")
    taken = (await stored(gateway, never_made)).upstream_id
    answer.set()
    [task_id] = await slow

    assert taken == ""
    assert (await ended(gateway, task_id))["status"] == "succeeded"
    assert (await stored(gateway, never_made)).upstream_id == ""
    assert await gateway.balance() == (BALANCE - SILENT, SILENT)
    await assert_books_balance(gateway.store)


# Clients that leave, and processes that end.


async def left_midway(gateway: Bench) -> None:
    """Submit a video, and leave when the upstream has received the call."""
    async with aiohttp.ClientSession() as session:
        asking = asyncio.gather(
            session.post(gateway.base_url + SUBMIT, json={"prompt": PROMPT}, headers={"Authorization": f"Bearer {gateway.key}"})
        )
        await gateway.ark.wait_for_calls(1, TASKS, method="POST")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_a_submit_goes_on_when_its_customer_leaves(gateway: Bench) -> None:
    answer = asyncio.Event()
    gateway.ark.enqueue([Wait(answer), Answer()], TASKS, method="POST")

    await left_midway(gateway)
    answer.set()
    [task] = (await gateway.ask("/videos/tasks")).json["data"]

    assert (await ended(gateway, task["id"]))["status"] == "succeeded"
    assert creates(gateway.ark) == 1
    await gateway.assert_charged(SILENT)


async def test_a_stop_waits_for_a_submit_whose_customer_has_left(tmp_path: Path) -> None:
    answer = asyncio.Event()
    async with StandIn() as ark:
        async with quick_bench(tmp_path, ark) as gateway:
            ark.enqueue([Wait(answer), Answer()], TASKS, method="POST")
            await left_midway(gateway)
            asyncio.get_running_loop().call_later(0.3, answer.set)

        store = await open_store(tmp_path / "gateway.db", read_only=True)
        [task] = await store.open_tasks()
        await store.close()
        assert (task.state, task.upstream_id) == ("pending", next(iter(ark.videos.tasks)))


async def test_an_impatient_stop_cuts_the_handler_and_not_the_submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.gateway.shutdown.CUT_SECONDS", 0.1)
    monkeypatch.setattr("proxy.edge.listener.CLOSE_SECONDS", 0.1)
    answer = asyncio.Event()
    async with StandIn() as ark, aiohttp.ClientSession() as customer:
        async with quick_bench(tmp_path, ark, drain_seconds=0.1) as gateway:
            ark.enqueue([Wait(answer), Answer()], TASKS, method="POST")
            own, gateway.session = gateway.session, customer
            asking = asyncio.gather(submit(gateway), return_exceptions=True)
            await ark.wait_for_calls(1, TASKS, method="POST")
            await own.close()
            asyncio.get_running_loop().call_later(1.0, answer.set)

        [cut] = await asking
        store = await open_store(tmp_path / "gateway.db", read_only=True)
        [task] = await store.open_tasks()
        await assert_books_balance(store)
        await store.close()
        assert isinstance(cut, aiohttp.ClientError)
        assert (task.state, task.upstream_id) == ("pending", next(iter(ark.videos.tasks)))


async def test_a_restart_takes_up_where_the_last_process_was(tmp_path: Path) -> None:
    async with StandIn() as ark:
        async with quick_bench(tmp_path, ark) as gateway:
            task_id = await submitted(gateway)
            before = await gateway.ask("/models")
        ark.videos.advance(next(iter(ark.videos.tasks)), "succeeded")
        async with quick_bench(tmp_path, ark) as gateway:
            task = await ended(gateway, task_id)

            assert before.status == 200
            assert (task["total_cost"], creates(ark)) == ("0.8640", 1)
            await gateway.assert_charged(SILENT)


# Idempotency keys.

KEY = {"Idempotency-Key": "order-17"}


async def test_five_submits_with_one_key_are_one_task_also_after_a_restart(tmp_path: Path) -> None:
    async with StandIn() as ark:
        async with quick_bench(tmp_path, ark) as gateway:
            first = await asyncio.gather(*(submit(gateway, headers=KEY) for _ in range(5)))
            other = await submit(gateway, headers=KEY, prompt="another")
        ark.videos.advance(next(iter(ark.videos.tasks)), "succeeded")
        async with quick_bench(tmp_path, ark) as gateway:
            task_id = first[0].json["id"]
            await ended(gateway, task_id)
            later = await submit(gateway, headers=KEY)

            assert {(reply.status, reply.body) for reply in (*first, later)} == {(200, first[0].body)}
            assert (other.status, other.error["code"]) == (409, "IDEMPOTENCY_CONFLICT")
            assert creates(ark) == 1
            await gateway.assert_charged(SILENT)


async def test_a_lost_submit_keeps_its_key(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    look_quickly(monkeypatch)
    gateway.ark.enqueue(lost(), TASKS, method="POST")

    first = await submit(gateway, headers=KEY)
    again = await submit(gateway, headers=KEY)
    await ended(gateway, first.json["id"])

    assert first.body == again.body
    assert creates(gateway.ark) == 1
    await gateway.assert_charged(SILENT)


async def test_a_refusal_that_is_final_is_kept_and_an_outage_is_not(gateway: Bench) -> None:
    gateway.ark.enqueue(known_error("ServerOverloaded"), TASKS, method="POST")
    gateway.ark.enqueue(known_error("InputTextSensitiveContentDetected"), TASKS, method="POST")

    outage, refusal, again = [await submit(gateway, headers=KEY) for _ in range(3)]

    assert (outage.status, refusal.status, again.status) == (503, 400, 400)
    assert refusal.body == again.body
    assert creates(gateway.ark) == 2
    await gateway.assert_charged(0)
