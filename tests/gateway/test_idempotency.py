"""Idempotency: a call that is repeated under an Idempotency-Key is answered again, and paid once."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.billing.idempotency import digest
from proxy.clock import SystemClock
from proxy.core.catalog import Kind
from proxy.core.money import Nanos
from proxy.demo.ark import Answer, Hang, StandIn, Wait, answer_json, known_error, lost
from proxy.store.sqlite import open_store
from proxy.store.values import IdempotencyClaim, NewRequest
from tests.support.books import assert_books_balance
from tests.support.gateway import BALANCE, MODEL, Bench, Reply, bench
from tests.support.images import PRICE, PROMPT, ROUTE, left_behind, paint, receipt_of

CHAT = "/chat/completions"
CHAT_PRICE = 40_000
"""20 prompt tokens at ¥0.8/M and 12 completion tokens at ¥2/M."""


async def chat(gateway: Bench, key: str, content: str = "Hello", **fields: Any) -> Reply:
    wanted = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
    return await gateway.ask(CHAT, wanted, headers={"Idempotency-Key": key})


async def another_account(gateway: Bench) -> str:
    """Create a second customer with as much money through the admin socket, and return the key."""
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(gateway.admin_socket))) as operator:
        for operation, wanted in (("account.create", {"account": "other", "credit": "100"}), ("key.create", {"account": "other"})):
            async with operator.post(f"http://admin/operations/{operation}", json=wanted) as answer:
                assert answer.status == 200
                made = await answer.json()
    return str(made["key"])


def claimed_image(account_id: int) -> NewRequest:
    """Return the request that a process leaves if it is killed between hold and settlement."""
    return NewRequest(
        id="img-1-abcdef",
        kind=Kind.IMAGE,
        account_id=account_id,
        key_id="",
        model="doubao-seedream-5-0-260128",
        upstream="ark",
        upstream_model="doubao-seedream-5-0-260128",
        stream=False,
        hold_nanos=Nanos(PRICE),
        price="{}",
        created_at_ms=SystemClock().now_ms(),
        claim=IdempotencyClaim("order-1", digest(ROUTE, {"prompt": PROMPT})),
    )


# Answered again, paid once.


async def test_five_identical_images_at_once_make_one_image_one_charge_and_five_equal_answers(gateway: Bench) -> None:
    go_on = asyncio.Event()
    gateway.ark.enqueue([Wait(go_on), Answer()], ROUTE, times=5)

    asking = asyncio.gather(*(paint(gateway, idempotency_key="order-1") for _ in range(5)))
    await gateway.ark.wait_for_calls(1, ROUTE)
    go_on.set()
    answers = await asking

    assert [answer.status for answer in answers] == [200] * 5
    assert len({answer.body for answer in answers}) == 1
    assert len({answer.headers["x-request-id"] for answer in answers}) == 1
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == ["", "true", "true", "true", "true"]
    assert len(gateway.ark.calls) == 1
    await gateway.assert_charged(PRICE)


async def test_an_answer_is_replayed_after_a_restart(tmp_path: Path) -> None:
    async with StandIn() as ark:
        async with bench(tmp_path, ark=ark) as gateway:
            first = await paint(gateway, idempotency_key="order-1", n=2)

        async with bench(tmp_path, ark=ark) as restarted:
            again = await asyncio.gather(*(paint(restarted, idempotency_key="order-1", n=2) for _ in range(5)))

            assert {answer.body for answer in again} == {first.body}
            assert {answer.headers["idempotent-replayed"] for answer in again} == {"true"}
            assert len(ark.calls) == 2
            assert (await receipt_of(restarted, again[0]))["cost"] == "0.36"
            await restarted.assert_charged(2 * PRICE)


async def test_a_json_chat_is_replayed_byte_for_byte(gateway: Bench) -> None:
    first, second = await chat(gateway, "talk-1"), await chat(gateway, "talk-1")

    assert (second.status, second.body) == (200, first.body)
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-request-id"] == first.headers["x-request-id"]
    assert second.headers["Content-Type"] == first.headers["Content-Type"]
    assert len(gateway.ark.calls) == 1
    await gateway.assert_charged(CHAT_PRICE)


async def test_a_client_that_left_finds_its_answer_under_its_key(gateway: Bench) -> None:
    gone = asyncio.Event()
    gateway.ark.enqueue([Wait(gone), Answer()], ROUTE)
    async with left_behind(gateway, idempotency_key="order-1"):
        gone.set()
        await gateway.log.until(ROUTE)

    answer = await paint(gateway, idempotency_key="order-1")

    assert (answer.status, answer.headers["idempotent-replayed"]) == (200, "true")
    assert len(gateway.ark.calls) == 1
    await gateway.assert_charged(PRICE)


async def test_the_order_of_the_keys_in_a_body_does_not_matter(gateway: Bench) -> None:
    headers = {"Idempotency-Key": "order-1"}
    first = await gateway.ask(ROUTE, f'{{"prompt": "{PROMPT}", "n": 1}}'.encode(), headers=headers)
    second = await gateway.ask(ROUTE, f'{{"n":1,"prompt":"{PROMPT}"}}'.encode(), headers=headers)

    assert second.body == first.body
    await gateway.assert_charged(PRICE)


async def test_a_stream_takes_no_notice_of_a_key(gateway: Bench) -> None:
    first, second = await chat(gateway, "talk-1", stream=True), await chat(gateway, "talk-1", stream=True)

    assert first.status == second.status == 200
    assert len(gateway.ark.calls) == 2
    await gateway.assert_charged(2 * CHAT_PRICE)


# Conflicts: not the same request.


async def test_a_key_with_another_body_is_a_conflict_while_the_first_runs_and_after(gateway: Bench) -> None:
    go_on = asyncio.Event()
    gateway.ark.enqueue([Wait(go_on), Answer()], ROUTE)

    asking = asyncio.gather(paint(gateway, idempotency_key="order-1"))
    await gateway.ark.wait_for_calls(1, ROUTE)
    during = await paint(gateway, idempotency_key="order-1", n=2)
    go_on.set()
    await asking
    after = await paint(gateway, idempotency_key="order-1", n=2)

    for answer in (during, after):
        assert (answer.status, answer.error["code"], answer.error["param"]) == (409, "IDEMPOTENCY_CONFLICT", "Idempotency-Key")
        assert answer.headers["x-should-retry"] == "false"  # SDKs would retry a 409
    await gateway.assert_charged(PRICE)


async def test_a_key_at_another_endpoint_is_a_conflict(gateway: Bench) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "prompt": PROMPT}
    first = await gateway.ask(CHAT, body, headers={"Idempotency-Key": "k"})
    second = await gateway.ask(ROUTE, body, headers={"Idempotency-Key": "k"})

    assert (first.status, second.status, second.error["code"]) == (200, 409, "IDEMPOTENCY_CONFLICT")
    await gateway.assert_charged(CHAT_PRICE)


async def test_both_prefixes_are_one_endpoint(gateway: Bench) -> None:
    first = await paint(gateway, idempotency_key="order-1")
    async with gateway.session.post(
        f"{gateway.origin}/v1{ROUTE}", json={"prompt": PROMPT}, headers={"x-api-key": gateway.key, "Idempotency-Key": "order-1"}
    ) as second:
        assert await second.read() == first.body

    await gateway.assert_charged(PRICE)


async def test_another_accounts_key_is_another_key(gateway: Bench) -> None:
    other = await another_account(gateway)

    mine, theirs = await asyncio.gather(
        paint(gateway, idempotency_key="order-1"), paint(gateway, key=other, idempotency_key="order-1", n=2)
    )

    assert (mine.status, theirs.status) == (200, 200)
    assert mine.json["request_id"] != theirs.json["request_id"]
    assert len(gateway.ark.calls) == 3
    assert (await gateway.store.account("other")).balance_nanos == BALANCE - 2 * PRICE
    await gateway.assert_charged(PRICE)


@pytest.mark.parametrize("key", ["", "a b", "a\tb", "schlüssel", "x" * 256])
async def test_a_key_is_1_to_255_visible_characters(gateway: Bench, key: str) -> None:
    answer = await paint(gateway, idempotency_key=key)

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "INVALID_PARAMETER", "Idempotency-Key")
    assert gateway.ark.calls == []
    await gateway.assert_charged(0)


async def test_two_keys_in_one_request_are_refused_and_the_longest_one_is_taken(gateway: Bench) -> None:
    headers = [("x-api-key", gateway.key), ("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    async with gateway.session.post(gateway.base_url + ROUTE, json={"prompt": PROMPT}, headers=headers) as twice:
        assert twice.status == 400

    assert (await paint(gateway, idempotency_key="~" * 255)).status == 200
    await gateway.assert_charged(PRICE)


# Answers that are not kept.


@pytest.mark.parametrize("fault", ["ServerOverloaded", "InternalServiceError", "AccountOverdueError"])
async def test_a_failure_that_invites_a_retry_gives_the_key_back(gateway: Bench, fault: str) -> None:
    gateway.ark.enqueue(known_error(fault), "*", times=2)

    failed = [await paint(gateway, idempotency_key="order-1"), await chat(gateway, "talk-1")]
    retried = [await paint(gateway, idempotency_key="order-1"), await chat(gateway, "talk-1")]

    assert [answer.status for answer in failed] == [503, 503]
    assert [answer.status for answer in retried] == [200, 200]
    assert not any("idempotent-replayed" in answer.headers for answer in retried)
    await gateway.assert_charged(PRICE + CHAT_PRICE)


async def test_a_lost_answer_gives_the_key_back(gateway: Bench) -> None:
    gateway.ark.enqueue(lost(), ROUTE)

    failed = await paint(gateway, idempotency_key="order-1")
    retried = await paint(gateway, idempotency_key="order-1")

    assert (failed.status, failed.headers["x-should-retry"], retried.status) == (503, "false", 200)
    await gateway.assert_charged(PRICE)


async def test_a_refusal_of_the_upstreams_is_kept(gateway: Bench) -> None:
    gateway.ark.enqueue(known_error("InputTextSensitiveContentDetected"), "*", times=2)

    first = [await paint(gateway, idempotency_key="order-1"), await chat(gateway, "talk-1")]
    again = [await paint(gateway, idempotency_key="order-1"), await chat(gateway, "talk-1")]

    assert [answer.status for answer in first] == [400, 400]
    assert [(answer.status, answer.body) for answer in again] == [(answer.status, answer.body) for answer in first]
    assert len(gateway.ark.calls) == 2
    await gateway.assert_charged(0)


async def test_what_was_refused_here_leaves_the_key_free(tmp_path: Path) -> None:
    async with bench(tmp_path, balance=Nanos(PRICE)) as gateway:
        invalid = await paint(gateway, idempotency_key="order-1", n=9)
        too_dear = await paint(gateway, idempotency_key="order-1", n=2)
        taken = await paint(gateway, idempotency_key="order-1", n=1)

        assert [answer.status for answer in (invalid, too_dear, taken)] == [400, 402, 200]
        assert await gateway.balance() == (0, 0)
        await assert_books_balance(gateway.store)


async def test_when_the_first_fails_the_next_in_line_tries(gateway: Bench) -> None:
    go_on = asyncio.Event()
    gateway.ark.enqueue([Wait(go_on), *known_error("ServerOverloaded")], ROUTE)

    asking = asyncio.gather(*(paint(gateway, idempotency_key="order-1") for _ in range(3)))
    await gateway.ark.wait_for_calls(1, ROUTE)
    go_on.set()
    answers = await asking

    assert sorted(answer.status for answer in answers) == [200, 200, 503]
    assert len(gateway.ark.calls) == 2
    await gateway.assert_charged(PRICE)


# Dead processes.


async def test_a_claim_of_a_process_that_died_is_free_after_the_start(tmp_path: Path) -> None:
    async with bench(tmp_path) as before:
        account_id = before.account_id
    store = await open_store(tmp_path / "gateway.db")
    await store.place_hold(claimed_image(account_id))
    await store.close()

    async with bench(tmp_path) as gateway:
        answer = await paint(gateway, idempotency_key="order-1")

        assert answer.status == 200
        assert "idempotent-replayed" not in answer.headers
        assert (await receipt_of(gateway, {"request_id": "img-1-abcdef"}))["outcome"] == "interrupted"
        await gateway.assert_charged(PRICE)


async def test_a_claim_that_is_not_settled_yet_and_not_under_way_here_is_a_conflict_to_be_retried(gateway: Bench) -> None:
    await gateway.store.place_hold(claimed_image(gateway.account_id))

    answer = await paint(gateway, idempotency_key="order-1")

    assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (409, "IDEMPOTENCY_CONFLICT", "true")
    assert (await gateway.balance())[1] == PRICE
    assert gateway.ark.calls == []
    await assert_books_balance(gateway.store)


async def test_who_loses_the_race_for_a_key_in_the_store_holds_nothing(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await gateway.store.place_hold(claimed_image(gateway.account_id))

    async def too_early(*_: object) -> None:
        """Find nothing, as a lookup does before the other's claim is committed."""

    monkeypatch.setattr(gateway.store, "claimed_key", too_early)
    answer = await paint(gateway, idempotency_key="order-1")

    assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (409, "IDEMPOTENCY_CONFLICT", "true")
    assert await gateway.balance() == (BALANCE, PRICE)
    assert gateway.ark.calls == []
    await assert_books_balance(gateway.store)


async def test_a_cut_call_gives_its_key_back_and_who_waits_for_it_starts_no_other(tmp_path: Path) -> None:
    async with StandIn() as ark, aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        ark.enqueue([Hang()], ROUTE)
        async with bench(tmp_path, ark=ark) as gateway:
            headers = {"x-api-key": gateway.key, "Idempotency-Key": "order-1"}
            asking = [group.create_task(status_of(session, gateway.base_url + ROUTE, headers)) for _ in range(2)]
            await ark.wait_for_calls(1, ROUTE)
            await gateway.ask("/readyz")  # one more round of the loop after both
            gateway.stop.request()
            gateway.stop.request()
        assert [await status for status in asking] == [503, 503]
        assert len(ark.calls) == 1

        async with bench(tmp_path, ark=ark) as restarted:
            answer = await paint(restarted, idempotency_key="order-1")

            assert (answer.status, len(ark.calls)) == (200, 2)
            await restarted.assert_charged(PRICE)


async def status_of(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> int:
    async with session.post(url, json={"prompt": PROMPT}, headers=headers) as answer:
        return answer.status


async def test_a_very_long_answer_is_not_kept(gateway: Bench) -> None:
    long = {
        "id": "0217",
        "choices": [{"message": {"content": "c" * 9_000_000}}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 12},
    }
    gateway.ark.enqueue(answer_json(200, long), CHAT, times=2)

    first, second = await chat(gateway, "talk-1"), await chat(gateway, "talk-1")

    assert first.status == second.status == 200
    assert len(gateway.ark.calls) == 2
    await gateway.assert_charged(2 * CHAT_PRICE)


@pytest.mark.parametrize("route", [ROUTE, "/videos/generations"])
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "deep"}], ids=["without a key", "with a key"])
@pytest.mark.parametrize("field", ["unknown", "prompt"])
async def test_a_body_too_deep_to_be_compared_is_refused_with_and_without_a_key(
    gateway: Bench, route: str, headers: dict[str, str], field: str
) -> None:
    deep = b'{"prompt":"x","%b":%b}' % (field.encode(), b"[" * 400 + b"]" * 400)  # read to 1024 levels, written to 254

    refused = await gateway.ask(route, deep, headers=headers)

    assert (refused.status, refused.error["code"]) == (400, "INVALID_JSON")
    assert "nested too deeply" in refused.error["message"]
    assert gateway.ark.calls == []
    await gateway.assert_charged(0)
