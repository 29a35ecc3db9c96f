"""The database server crashes under load: what was acknowledged is there when it is back, once, and nobody has to be restarted."""

import asyncio
import os
import signal

import pytest

from proxy.core.money import Nanos
from proxy.store.errors import StoreUnavailableError
from proxy.store.postgres import PostgresStore, open_store
from proxy.store.postgres.connection import Connector
from proxy.store.values import Settled
from tests.support.books import assert_books_balance
from tests.support.postgres import start
from tests.support.promises import Faults
from tests.support.store import NOW_MS, new_request, settlement

CRASHES = 5
NODES = 2
IN_FLIGHT = 12


class Acknowledged:
    """What callers were told, to be compared with the books."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.refused: set[str] = set()
        self.charged: dict[str, int] = {}
        self.is_over = False
        self._settled = asyncio.Condition()

    async def more(self, calls: int) -> None:
        """Wait until so many calls more are settled."""
        enough = len(self.charged) + calls
        async with self._settled:
            await self._settled.wait_for(lambda: len(self.charged) >= enough)

    async def call(self, store: PostgresStore, account_id: int, name: str) -> None:
        number = 0
        while not self.is_over:
            number += 1
            request_id, charge = f"{name}_{number}", number % 21
            try:
                await store.place_hold(new_request(request_id, account_id=account_id, hold_nanos=20))
            except StoreUnavailableError:
                self.refused.add(request_id)
                continue
            self.held.add(request_id)
            while True:
                try:
                    assert await store.settle(request_id, settlement(charge), NOW_MS) in (Settled.NOW, Settled.BEFORE)
                except StoreUnavailableError:
                    continue
                break
            async with self._settled:
                self.charged[request_id] = charge
                self._settled.notify_all()


@pytest.mark.promise("a crash of the database server loses nothing that was acknowledged, and doubles nothing")
async def test_a_crash_of_the_server_loses_nothing_that_was_acknowledged(faults: Faults) -> None:
    server = start("--durable")
    ends: list[BaseException] = []
    stores = [await open_store(server.url, on_corrupt=ends.append) for _ in range(NODES)]
    accounts = [await stores[0].create_account(f"account {n}", Nanos(10**12), NOW_MS) for n in range(3)]
    told = Acknowledged()

    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        for node, store in enumerate(stores):
            for n in range(IN_FLIGHT):
                group.create_task(told.call(store, accounts[n % 3].id, f"req_{node}_{n}"))
        for _ in range(CRASHES):
            await _crash(server.url, told)
            faults.injected += 1
        told.is_over = True

    assert ends == []
    sql = await Connector(server.url).connect()
    charges = dict(await sql.fetch("SELECT id, charge_nanos FROM requests WHERE outcome <> 'interrupted'"))
    kept = {request_id for (request_id,) in await sql.fetch("SELECT id FROM requests")}
    faults.cost(f"{request_id} was held and is not there" for request_id in told.held - kept)
    faults.cost(
        f"{request_id} was charged {charge}, not {charges.get(request_id)}"
        for request_id, charge in told.charged.items()
        if charges.get(request_id) != charge
    )
    assert charges.keys() == told.charged.keys()
    # A caller that was told that its hold failed has none that goes on: it is not there, or undone.
    assert await sql.fetchval("SELECT count(*) FROM requests WHERE settled_at_ms IS NULL") == 0
    assert kept - told.held <= told.refused
    await sql.close()
    await assert_books_balance(stores[0])
    for store in stores:
        await store.close()
    server.stop()


async def _crash(url: str, told: Acknowledged) -> None:
    """Kill one of the server's processes while calls are under way: it ends all of them at once, and recovers from its log."""
    await told.more(50)
    connection = await Connector(url).connect()
    pid = await connection.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE query LIKE '%book%' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
    )
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    connection.terminate()
