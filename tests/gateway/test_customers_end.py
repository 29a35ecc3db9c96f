"""Refunds of requests and the end of an account, through the whole gateway: what each endpoint answers then."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.demo.ark import Answer, Settings, StandIn, Timeline, Wait
from proxy.store.errors import StoreRefusedError
from tests.support.books import assert_books_balance
from tests.support.gateway import BALANCE, Bench, bench
from tests.support.images import PRICE, paint
from tests.support.videos import SILENT, ask_operator, ended, quick_bench, submit, submitted

COST = 20 * 800 + 12 * 2_000
"""Of the stand-in's default answer, in nano-yuan."""


async def operate(gateway: Bench, operation: str, **parameters: Any) -> dict[str, Any]:
    return dict(orjson.loads(await ask_operator(gateway, f"/operations/{operation}", parameters)))


async def refused(gateway: Bench, operation: str, **parameters: Any) -> str:
    """Return why the gateway refuses an operation."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(gateway.admin_socket))) as session,
        session.post(f"http://gateway/operations/{operation}", json=parameters) as response,
    ):
        assert response.status == 409, await response.text()
        return str((await response.json())["error"]["message"])


async def receipt(gateway: Bench, request_id: str) -> dict[str, Any]:
    return dict((await gateway.ask(f"/usage/{request_id}")).json)


# refunds


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_is_given_back_in_part_then_whole_and_its_receipt_shows_it(gateway: Bench, stream: bool) -> None:
    request_id = (await gateway.chat(stream=stream)).headers["x-request-id"]

    part = await operate(gateway, "request.refund", request=request_id, amount="0.00001", reference="r-1")
    again = await operate(gateway, "request.refund", request=request_id, amount="0.00001", reference="r-1")
    assert (part["booked"], again["booked"]) == (True, False)
    shown = await receipt(gateway, request_id)
    assert (shown["cost"], shown["refunded"]) == ("0.00004", "0.00001")
    await gateway.assert_charged(COST - 10_000)

    says = await refused(gateway, "request.refund", request=request_id, amount="0.000030001")
    assert says == f"request {request_id} cost ¥0.00004, of which ¥0.00001 were given back: ¥0.00003 are left, nothing was booked"
    await operate(gateway, "request.refund", request=request_id)
    assert (await receipt(gateway, request_id))["refunded"] == "0.00004"
    assert (await gateway.ask("/account")).json["available"] == "100.00"
    await gateway.assert_charged(0)


async def test_pictures_and_a_video_with_a_discount_are_given_back_as_they_were_charged(tmp_path: Path) -> None:
    async with StandIn(Settings(timeline=Timeline(0.1, 0.1))) as ark, quick_bench(tmp_path, ark) as gateway:
        await operate(gateway, "account.set", account="acme", discount="0.5")
        pictures = (await paint(gateway, n=2)).json["request_id"]
        film = await submitted(gateway, resolution="720p", duration=5)
        await ended(gateway, film)
        await gateway.assert_charged(PRICE + SILENT // 2)

        for request_id in (pictures, film):
            await operate(gateway, "request.refund", request=request_id)

        assert [(await receipt(gateway, request_id))["refunded"] for request_id in (pictures, film)] == ["0.18", "0.432"]
        await gateway.assert_charged(0)


async def test_what_is_under_way_or_another_customers_is_not_given_back(gateway: Bench) -> None:
    go_on = asyncio.Event()
    gateway.ark.enqueue([Wait(go_on), Answer()], "/chat/completions")
    chat = asyncio.gather(gateway.chat())
    await gateway.ark.wait_for_calls(1)
    (under_way,) = await gateway.store.open_requests()

    assert (await refused(gateway, "request.refund", request=under_way.id)).endswith(
        "is not settled yet: there is nothing to give back"
    )
    go_on.set()
    await chat
    await operate(gateway, "account.create", account="globex")
    says = await refused(gateway, "request.refund", request=under_way.id, account="globex")
    assert says == f"request {under_way.id} is of account acme, not of globex: nothing was booked"
    await gateway.assert_charged(COST)


# the end


async def test_every_endpoint_refuses_a_closed_accounts_key(gateway: Bench) -> None:
    request_id = (await gateway.chat()).headers["x-request-id"]

    closed = await operate(gateway, "account.close", account="acme")

    assert closed["closed_at"]
    hello = {"model": "doubao-pro-32k", "messages": [{"role": "user", "content": "Hi"}]}
    for path, body in (
        ("/chat/completions", hello),
        ("/chat/completions", hello | {"stream": True}),
        ("/images/generations", {"prompt": "a lighthouse"}),
        ("/videos/generations", {"prompt": "waves", "resolution": "720p", "duration": 5}),
        ("/videos/tasks", None),
        ("/videos/tasks/vreq_x", None),
        ("/models", None),
        ("/account", None),
        (f"/usage/{request_id}", None),
    ):
        answer = await gateway.ask(path, body)
        assert (answer.status, answer.error["code"]) == (401, "INVALID_API_KEY"), path
    assert len(gateway.ark.calls) == 1
    assert await refused(gateway, "account.credit", account="acme", amount="1")
    assert await refused(gateway, "request.refund", request=request_id)
    assert await refused(gateway, "key.create", account="acme")
    assert (await operate(gateway, "account.show", account="acme"))["balance"] == "99.99996"
    assert await operate(gateway, "account.close", account="acme") == closed
    await gateway.assert_charged(COST)


async def test_a_call_under_way_keeps_its_account_open_and_is_answered(gateway: Bench) -> None:
    go_on = asyncio.Event()
    gateway.ark.enqueue([Wait(go_on), Answer()], "/chat/completions")
    chat = asyncio.gather(gateway.chat(stream=True))
    await gateway.ark.wait_for_calls(1)

    assert "account acme has requests under way (1), which hold ¥0.0084264" in await refused(gateway, "account.close", account="acme")
    assert (await gateway.ask("/account")).status == 200

    go_on.set()
    (answer,) = await chat
    assert answer.status == 200
    await operate(gateway, "account.close", account="acme")
    await gateway.assert_charged(COST)


async def test_an_open_video_keeps_its_account_open_and_one_that_is_done_loses_its_prompt(tmp_path: Path) -> None:
    async with quick_bench(tmp_path) as gateway:
        task_id = await submitted(gateway, resolution="720p", duration=5)
        assert "under way" in await refused(gateway, "account.close", account="acme")
        gateway.ark.videos.advance(next(iter(gateway.ark.videos.tasks)), "succeeded")
        assert (await ended(gateway, task_id))["prompt"]

        await operate(gateway, "account.close", account="acme")

        task = await gateway.store.task(task_id)
        assert task is not None
        assert (task.prompt, task.video_url, task.charge_nanos) == ("", "", SILENT)
        assert (await submit(gateway)).status == 401
        await gateway.assert_charged(SILENT)


async def test_a_call_that_was_let_in_before_the_end_is_refused_at_its_hold(gateway: Bench) -> None:
    """Its key was looked at, and the account closed, before its money was held."""
    await gateway.store.close_account("acme", 1)  # without telling who looks at keys

    for answer in (
        await gateway.chat(),
        await gateway.chat(stream=True),
        await paint(gateway),
        await submit(gateway, resolution="720p", duration=5),
    ):
        assert (answer.status, answer.error["code"], answer.error["message"]) == (401, "INVALID_API_KEY", "The account is closed")
    assert gateway.ark.calls == []
    assert await gateway.balance() == (BALANCE, 0)
    await assert_books_balance(gateway.store)


async def test_calls_without_keys_need_an_account_that_is_open(tmp_path: Path) -> None:
    async with bench(tmp_path, server='auth = "none"') as gateway:
        await operate(gateway, "account.credit", account="default", amount="1")
        await operate(gateway, "account.close", account="default")
        answer = await gateway.chat()
        assert (answer.status, answer.error["message"]) == (401, "The account is closed")

    with pytest.raises(StoreRefusedError, match="'default', which pays for calls without a key, is closed"):
        async with bench(tmp_path, server='auth = "none"'):
            raise AssertionError("it must not start")
