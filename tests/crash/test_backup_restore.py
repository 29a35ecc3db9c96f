"""Backups taken under load: each can be restored, its books hold, and it has every call that was answered before it began."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.core.money import parse_yuan
from proxy.core.settlement import Outcome
from proxy.demo.ark import StandIn
from proxy.store.sqlite import open_store
from tests.support.books import assert_books_balance
from tests.support.gateway import MODEL
from tests.support.process import GatewayProcess, gateway_process

BALANCE = parse_yuan("1000")
CUSTOMERS = 8
ANSWERS_BETWEEN = 25


class Load:
    """Customers who make JSON and stream calls until they are stopped."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self.whole: list[str] = []
        """Ids of completely answered requests, whose settlements are durable."""
        self.stop = asyncio.Event()
        self._more = asyncio.Condition()

    async def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._gateway.key}"}
        async with aiohttp.ClientSession(self._gateway.origin, headers=headers) as session:
            await asyncio.gather(*(self._customer(session, stream=number % 2 == 0) for number in range(CUSTOMERS)))

    async def until_more(self, answers: int) -> None:
        async with self._more:
            wanted = len(self.whole) + answers
            await self._more.wait_for(lambda: len(self.whole) >= wanted)

    async def _customer(self, session: aiohttp.ClientSession, *, stream: bool) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50, "stream": stream}
        while not self.stop.is_set():
            async with session.post("/v1/chat/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
            async with self._more:
                self.whole.append(answer.headers["x-request-id"])
                self._more.notify_all()


async def answer_of(gateway: GatewayProcess, *words: str) -> Any:
    ended = await gateway.run(*words, "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return orjson.loads(ended.stdout)


async def assert_restores(directory: Path, backup: Path, base_url: str, answered: list[str]) -> GatewayProcess:
    """Restore into a new directory with the command; check every invariant and every call answered before the backup."""
    await asyncio.to_thread(directory.mkdir)
    fresh = GatewayProcess(directory, base_url)
    restored = await answer_of(fresh, "restore", str(backup))
    assert (restored["holds"], restored["kept"]) == (True, None)
    assert (await answer_of(fresh, "ledger", "verify"))["holds"]
    async with fresh.looked_into() as store:
        for request_id in answered:
            found = await store.receipt(request_id)
            assert found is not None, f"{request_id} was answered before the backup began and is not in it"
            assert found[0].settlement is not None
            assert found[0].settlement.outcome is Outcome.COMPLETE
        await assert_books_balance(store)
    return fresh


async def back_up_under_load(directory: Path, backups: int, *, seconds_between: float = 0.0) -> None:
    await asyncio.to_thread((directory / "source").mkdir)
    async with StandIn(calls_max=0) as ark, gateway_process(directory / "source", ark.base_url, balance=BALANCE) as gateway:
        ark.chat.event_seconds = 0.002
        await gateway.start()
        load = Load(gateway)
        spending = asyncio.gather(load.run())
        taken: list[tuple[Path, list[str]]] = []
        for number in range(backups):
            await asyncio.gather(load.until_more(ANSWERS_BETWEEN), asyncio.sleep(seconds_between))
            answered = list(load.whole)
            backup = directory / f"{number}.db"
            assert (await answer_of(gateway, "backup", str(backup)))["holds"]
            taken.append((backup, answered))
        load.stop.set()
        await spending

        for number, (backup, answered) in enumerate(taken):
            fresh = await assert_restores(directory / f"fresh-{number}", backup, ark.base_url, answered)
        await assert_serves(fresh, gateway.key)
        assert len(load.whole) >= ANSWERS_BETWEEN * backups


async def assert_serves(fresh: GatewayProcess, key: str) -> None:
    """Start a gateway on a restored store: requests that were open in the backup are interrupted, and the customer's key works."""
    try:
        await fresh.start()
        fresh.key = key
        load = Load(fresh)
        spending = asyncio.gather(load.run())
        await load.until_more(1)
        load.stop.set()
        await spending
    finally:
        if fresh.process is not None:
            await fresh.kill()
    store = await open_store(fresh.directory / "gateway.db")
    assert await store.open_requests() == []
    await assert_books_balance(store)
    await store.close()


@pytest.mark.timeout(120)
async def test_each_backup_under_load_restores_with_all_that_was_answered_before_it(tmp_path: Path) -> None:
    await back_up_under_load(tmp_path, 3)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_a_backup_each_second_for_two_minutes_restores(tmp_path: Path) -> None:
    await back_up_under_load(tmp_path, 120, seconds_between=1.0)
