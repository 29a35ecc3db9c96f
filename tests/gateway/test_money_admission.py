"""Concurrent calls cannot overdraw an account: a hold counts at once for all of them."""

import asyncio

import aiohttp
import pytest

from proxy.core.money import Nanos
from proxy.demo.ark import Answer, Wait
from tests.support.books import assert_books_balance
from tests.support.gateway import Bench, Reply, bench

HOLD = 434_400
"""(5 bytes of "Hello" + 32 for one message + 256) × 800 + 100 × 2,000 nano-yuan."""
CHARGE = 40_000
"""20 × 800 + 12 × 2,000 nano-yuan."""
COVERED = 37
CALLS = 200


async def ask_all(gateway: Bench, decided: asyncio.Event) -> list[Reply]:
    """Ask for streams and JSON answers concurrently, and let the upstream answer when all were held or refused."""
    gateway.ark.enqueue([Wait(decided), Answer()], times=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as gateway.session, asyncio.TaskGroup() as calls:
        asked = [calls.create_task(gateway.chat(stream=bool(number % 2), max_tokens=100)) for number in range(CALLS)]
        await gateway.log.until_chats(CALLS - COVERED)
        await gateway.ark.wait_until(lambda: len(gateway.ark.calls) >= COVERED)

        balance, held = await gateway.balance()
        assert held == COVERED * HOLD
        assert balance - held == HOLD - 1
        assert all(line["status"] == 402 for line in gateway.log.chats)
        decided.set()
    return [call.result() for call in asked]


@pytest.mark.parametrize("attempt", range(3))
async def test_a_balance_that_covers_37_holds_admits_37_of_200_calls_at_once(
    tmp_path_factory: pytest.TempPathFactory, attempt: int
) -> None:
    balance = Nanos(COVERED * HOLD + HOLD - 1)
    async with bench(tmp_path_factory.mktemp("gateway"), balance=balance) as gateway:
        answers = await ask_all(gateway, asyncio.Event())

        statuses = [answer.status for answer in answers]
        assert (statuses.count(200), statuses.count(402)) == (COVERED, CALLS - COVERED)
        assert {answer.error["code"] for answer in answers if answer.status == 402} == {"INSUFFICIENT_BALANCE"}
        assert len(gateway.ark.calls) == COVERED
        assert await gateway.balance() == (balance - COVERED * CHARGE, 0)
        await assert_books_balance(gateway.store)


async def test_what_a_settlement_releases_can_be_held_again_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with bench(tmp_path_factory.mktemp("gateway"), balance=Nanos(HOLD + 2 * CHARGE)) as gateway:
        answers = [await gateway.chat(max_tokens=100) for _ in range(4)]

        # each call holds ¥0.0004344 and costs ¥0.00004: after three, the balance is 40,000 nano-yuan short of a fourth hold
        assert [answer.status for answer in answers] == [200, 200, 200, 402]
        assert await gateway.balance() == (HOLD - CHARGE, 0)
        await assert_books_balance(gateway.store)
