"""kill -9 between any two steps of an image call under an idempotency key: it is made again or answered again, and paid once."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from proxy.core.money import parse_yuan
from proxy.demo.ark import Answer, Hang, StandIn
from tests.support.books import assert_books_balance
from tests.support.images import PRICE, PROMPT, ROUTE
from tests.support.process import GatewayProcess, gateway_process

BALANCE = parse_yuan("100")


async def paint(gateway: GatewayProcess) -> tuple[dict[str, Any], bool]:
    """Make an image call; return its answer of 200, and whether it was replayed."""
    headers = {"x-api-key": gateway.key, "Idempotency-Key": "order-1"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{gateway.origin}/v1{ROUTE}", json={"prompt": PROMPT}, headers=headers) as answer,
    ):
        assert answer.status == 200
        return await answer.json(), "idempotent-replayed" in answer.headers


async def lost_client(gateway: GatewayProcess) -> None:
    try:
        await paint(gateway)
    except aiohttp.ClientError:
        return
    raise AssertionError("a killed gateway answered")


async def assert_paid_once(gateway: GatewayProcess) -> None:
    async with gateway.looked_into() as store:
        account = await store.account("acme")
        assert (account.balance_nanos, account.held_nanos) == (BALANCE - PRICE, 0)
        await assert_books_balance(store)


async def test_killed_while_the_upstream_works_the_key_is_free_again(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE) as gateway:
        ark.enqueue([Hang()], ROUTE)
        await gateway.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(lost_client(gateway))
            await ark.wait_for_calls(1, ROUTE)
            await gateway.kill()
        await gateway.start()

        _, was_replayed = await paint(gateway)

        assert not was_replayed
        assert len(ark.calls) == 2
        await assert_paid_once(gateway)


async def test_killed_after_the_answer_it_is_given_again(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE) as gateway:
        ark.enqueue([Answer()], ROUTE)
        await gateway.start()
        first, _ = await paint(gateway)
        await gateway.kill()
        await gateway.start()

        again, was_replayed = await paint(gateway)

        assert (again, was_replayed) == (first, True)
        assert len(ark.calls) == 1
        await assert_paid_once(gateway)
