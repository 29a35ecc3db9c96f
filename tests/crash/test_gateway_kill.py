"""kill -9 of a gateway at random moments under mixed load: what a customer was given is on the books, once; nothing else is."""

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from proxy.core.money import parse_yuan
from proxy.core.settlement import Outcome, Settlement
from proxy.demo.ark import StandIn
from tests.support.books import assert_books_balance
from tests.support.gateway import MODEL
from tests.support.process import GatewayProcess, gateway_process

BALANCE = parse_yuan("1000")
FULL_CHARGE = 40_000
"""20 × 800 + 12 × 2,000 nano-yuan."""
CUSTOMERS = 12
SECONDS_TO_LIVE_MAX = 0.25


@dataclass
class Given:
    """What customers hold in their hands, by request id."""

    heads: set[str] = field(default_factory=set)
    """A status of 200 and headers."""
    whole: set[str] = field(default_factory=set)
    """An answer to its very end."""


async def consume(gateway: GatewayProcess, given: Given, chance: random.Random) -> None:
    """Be customers until the gateway is gone: some want JSON, some a stream, some leave in the midst of one."""

    async def customer(session: aiohttp.ClientSession) -> None:
        while True:
            stream = chance.random() < 0.6
            leaves = chance.random() < 0.2
            body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50, "stream": stream}
            async with session.post("/v1/chat/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                request_id = answer.headers["x-request-id"]
                given.heads.add(request_id)
                if leaves:
                    answer.close()
                    continue
                await answer.read()
                given.whole.add(request_id)

    headers = {"Authorization": f"Bearer {gateway.key}"}
    async with aiohttp.ClientSession(gateway.origin, headers=headers) as session:
        ends = await asyncio.gather(*(customer(session) for _ in range(CUSTOMERS)), return_exceptions=True)
    assert all(isinstance(end, aiohttp.ClientError | ConnectionError) for end in ends), ends


async def assert_nothing_is_lost_or_charged_twice(gateway: GatewayProcess, given: Given, seen: dict[str, Settlement]) -> None:
    """Look into the store of a gateway that has just been restarted. ``seen`` are the settlements of former looks."""
    async with gateway.looked_into() as store:
        assert await store.open_requests() == []
        for request_id in given.heads - seen.keys():
            found = await store.receipt(request_id)
            assert found is not None, f"{request_id} was answered with 200 and is not on the books"
            assert found[0].settlement is not None
            seen[request_id] = found[0].settlement
        for request_id in given.whole:
            assert (seen[request_id].outcome, seen[request_id].charge_nanos) == (Outcome.COMPLETE, FULL_CHARGE)
        for request_id in random.Random(0).sample(sorted(seen), min(len(seen), 20)):
            found = await store.receipt(request_id)
            assert found is not None
            assert found[0].settlement == seen[request_id], "a settlement has changed"
        await assert_books_balance(store)


async def kill_often(directory: Path, kills: int) -> None:
    chance = random.Random(20251123)
    given, seen = Given(), dict[str, Settlement]()
    async with StandIn(calls_max=0) as ark, gateway_process(directory, ark.base_url, balance=BALANCE) as gateway:
        ark.chat.event_seconds = 0.002
        await gateway.start()
        for _ in range(kills):
            load = asyncio.gather(consume(gateway, given, chance))
            await asyncio.sleep(chance.uniform(0, SECONDS_TO_LIVE_MAX))  # the moment is what is random here
            await gateway.kill()
            await load
            await gateway.start()
            await assert_nothing_is_lost_or_charged_twice(gateway, given, seen)

        verified = await gateway.run("ledger", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert len(given.heads) > 10 * kills
        assert len(given.heads - given.whole) > kills
        assert {settlement.outcome for settlement in seen.values()} >= {Outcome.COMPLETE, Outcome.CLIENT_GONE, Outcome.INTERRUPTED}


@pytest.mark.timeout(300)
async def test_fifty_kills_lose_no_answer_and_charge_none_twice(tmp_path: Path) -> None:
    await kill_often(tmp_path, 50)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_a_thousand_kills_lose_no_answer_and_charge_none_twice(tmp_path: Path) -> None:
    await kill_often(tmp_path, 1000)
