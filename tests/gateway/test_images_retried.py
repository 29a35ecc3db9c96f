"""Image calls whose client left, and the retry that its SDK then makes without a key: paid once, made once, given once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import orjson
import pytest

from proxy.demo.ark import Answer, Step, Wait, known_error
from tests.support.gateway import Bench, Reply
from tests.support.images import PRICE, PROMPT, ROUTE, receipt_of
from tests.support.raw import connect
from tests.support.videos import ask_operator

LATER = {"x-stainless-retry-count": "1"}


async def retry(gateway: Bench, *, headers: dict[str, str] | None = None, key: str = "", prompt: str = PROMPT) -> Reply:
    return await gateway.ask(ROUTE, {"prompt": prompt}, key=key, headers=LATER if headers is None else headers)


@asynccontextmanager
async def given_up(gateway: Bench, *end: Step, count: str | None = "0", calls: int = 1) -> AsyncIterator[asyncio.Event]:
    """Ask as an SDK does and close the connection while the picture is made; yield the event on which it ends."""
    go_on = asyncio.Event()
    gateway.ark.enqueue([Wait(go_on), *(end or (Answer(),))], ROUTE)
    counted = "" if count is None else f"x-stainless-retry-count: {count}\r\n"
    body = f'{{"prompt": "{PROMPT}"}}'.encode()
    head = (
        f"POST /v1{ROUTE} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {gateway.key}\r\n"
        f"{counted}Content-Length: {len(body)}\r\n\r\n"
    )
    async with connect(gateway.origin) as client:
        await client.send(head.encode() + body)
        await gateway.ark.wait_for_calls(calls, ROUTE)
    yield go_on


async def made_and_lost(gateway: Bench, **options: Any) -> None:
    """Leave a call behind, and wait until it is settled."""
    lines = len(gateway.log.of(ROUTE))
    async with given_up(gateway, **options) as go_on:
        go_on.set()
        await gateway.log.until(ROUTE, lines + 1)


async def test_a_retry_gets_the_picture_that_its_first_call_paid_for(gateway: Bench) -> None:
    await made_and_lost(gateway)

    answer = await retry(gateway)

    assert (answer.status, answer.headers["idempotent-replayed"]) == (200, "true")
    assert answer.json["request_id"] == answer.headers["x-request-id"] == gateway.log.of(ROUTE)[0]["request_id"]
    assert (await receipt_of(gateway, answer))["outcome"] == "client_gone"
    assert len(gateway.ark.calls_to(ROUTE)) == 1
    await gateway.assert_charged(PRICE)


async def test_a_retry_waits_for_the_call_that_is_under_way(gateway: Bench) -> None:
    async with given_up(gateway) as go_on:
        waiting = asyncio.gather(retry(gateway))
        await gateway.ask("/models")  # the retry was sent before, and is in
        go_on.set()
        (answer,) = await waiting

    assert (answer.status, answer.headers["idempotent-replayed"]) == (200, "true")
    assert len(gateway.ark.calls_to(ROUTE)) == 1
    await gateway.assert_charged(PRICE)


async def test_a_picture_is_given_to_one_retry(gateway: Bench) -> None:
    await made_and_lost(gateway)

    answers = await asyncio.gather(retry(gateway), retry(gateway))

    assert sorted("idempotent-replayed" in answer.headers for answer in answers) == [False, True]
    await gateway.assert_charged(2 * PRICE)


async def test_a_retry_that_is_given_up_too_leaves_the_picture_to_the_next(gateway: Bench) -> None:
    async with given_up(gateway) as go_on:
        async with given_up(gateway, count="1"):
            pass
        gateway.ark.forget_scripts()  # the second one is not asked for
        go_on.set()
        await gateway.log.until(ROUTE, 2)

    answer = await retry(gateway, headers={"x-stainless-retry-count": "2"})

    assert (answer.status, answer.headers["idempotent-replayed"]) == (200, "true")
    assert len(gateway.ark.calls_to(ROUTE)) == 1
    await gateway.assert_charged(PRICE)


@pytest.mark.parametrize("count", [None, "0", "-1", "1.5", ""])
async def test_what_is_no_retry_gets_a_picture_of_its_own(gateway: Bench, count: str | None) -> None:
    await made_and_lost(gateway)

    answer = await retry(gateway, headers={} if count is None else {"x-stainless-retry-count": count})

    assert "idempotent-replayed" not in answer.headers
    await gateway.assert_charged(2 * PRICE)


async def test_a_retry_of_another_body_or_with_a_key_runs(gateway: Bench) -> None:
    await made_and_lost(gateway)

    others = [await retry(gateway, prompt="a lighthouse"), await retry(gateway, headers={**LATER, "Idempotency-Key": "mine"})]

    assert [answer.headers.get("idempotent-replayed") for answer in others] == [None, None]
    await gateway.assert_charged(3 * PRICE)


async def test_another_api_key_of_the_account_does_not_get_it(gateway: Bench) -> None:
    await made_and_lost(gateway)
    made = await ask_operator(gateway, "/operations/key.create", {"account": "acme"})

    answer = await retry(gateway, key=orjson.loads(made)["key"])

    assert (answer.status, answer.headers.get("idempotent-replayed")) == (200, None)
    await gateway.assert_charged(2 * PRICE)


async def test_a_call_whose_client_waits_keeps_its_picture(gateway: Bench) -> None:
    go_on = asyncio.Event()
    gateway.ark.enqueue([Wait(go_on), Answer()], ROUTE)
    first = asyncio.gather(retry(gateway, headers={"x-stainless-retry-count": "0"}))
    await gateway.ark.wait_for_calls(1, ROUTE)

    beside = await retry(gateway)
    go_on.set()
    (mine,) = await first

    assert [answer.headers.get("idempotent-replayed") for answer in (mine, beside)] == [None, None]
    assert mine.json["image_urls"] != beside.json["image_urls"]
    await gateway.assert_charged(2 * PRICE)


async def test_after_a_call_that_made_nothing_the_retry_runs(gateway: Bench) -> None:
    async with given_up(gateway, *known_error("ServerOverloaded")) as go_on:
        waiting = asyncio.gather(retry(gateway))
        await gateway.ask("/models")
        go_on.set()
        (answer,) = await waiting

    assert (answer.status, answer.headers.get("idempotent-replayed")) == (200, None)
    assert len(gateway.ark.calls_to(ROUTE)) == 2
    await gateway.assert_charged(PRICE)


async def test_openais_sdk_pays_once_for_a_picture_that_it_was_too_impatient_for(gateway: Bench) -> None:
    go_on = asyncio.Event()
    gateway.ark.enqueue([Wait(go_on), Answer()], ROUTE)
    sent: list[Any] = []

    async def sends(request: Any) -> None:
        sent.append(request)
        if len(sent) == 2:  # its own retry
            go_on.set()

    http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [sends]})
    async with openai.AsyncOpenAI(
        api_key=gateway.key, base_url=gateway.base_url, max_retries=2, timeout=0.5, http_client=http
    ) as client:
        made = await client.images.generate(model="doubao-seedream-5-0-260128", prompt=PROMPT)

    assert made.data is not None
    assert len(made.data) == 1
    assert len(gateway.ark.calls_to(ROUTE)) == 1
    await gateway.assert_charged(PRICE)
