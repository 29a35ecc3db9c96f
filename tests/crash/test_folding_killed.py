"""kill -9 while old requests are folded under load: each exists once, as a row or in a daily sum, and the ledger agrees."""

import asyncio
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from proxy.core.retention import DAY_MS
from proxy.store.contract import Store
from proxy.store.sqlite import open_store
from proxy.store.values import UsageQuery
from tests.support.books import assert_books_balance
from tests.support.killed import COMMON, run_until_killed
from tests.support.promises import Faults
from tests.support.rigging import FOLDING
from tests.support.stand import Stand, stand

PROMISE = "kill -9 while old requests are folded: every sum is what it was, the books hold, and it goes on where it was"
KEEP = "[retention]\nrequest_days = 8"

FOLDER = (
    COMMON
    + """
import random
from proxy.core.retention import DAY_MS
from tests.support.store import made, new_video, submitted, task_of

async def one(store, account_id, name, chance):
    at_ms = NOW_MS - chance.randrange(4 * DAY_MS)
    if chance.random() < 0.2:
        request = new_video(name, account_id=account_id, hold_nanos=10, created_at_ms=at_ms)
        await store.place_task(request, task_of(request), NOW_MS)
        await store.advance_task(name, submitted("cgt-" + name), NOW_MS)
        await store.advance_task(name, made(), NOW_MS)
        print("charged 10", name, flush=True)
    else:
        await store.place_hold(new_request(name, account_id=account_id, hold_nanos=10, created_at_ms=at_ms))
        await store.settle(name, settlement(3), NOW_MS)
        print("charged 3", name, flush=True)

async def fold_for_ever(store, account_id):
    while True:
        if not await store.fold_requests(account_id, NOW_MS - DAY_MS):
            await asyncio.sleep(0.001)

async def write_for_ever():
    chance = random.Random(round_)
    store = await open_store(path)
    if not await store.accounts():
        await store.create_account("alice", Nanos(10**12), NOW_MS)
    account = await store.account("alice")
    folding = asyncio.ensure_future(fold_for_ever(store, account.id))
    batch = 0
    while True:
        await asyncio.gather(*(one(store, account.id, f"req_{round_}_{batch}_{n}", chance) for n in range(8)))
        batch += 1

asyncio.run(write_for_ever())
"""
)


def by_the_ledger(path: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Return count and charge of settled requests by account and day, from the transfers alone."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            """SELECT name, date(hold.created_at_ms / 1000, 'unixepoch', '+8 hours'), count(*),
                 sum(CASE ending.kind WHEN 'charge' THEN ending.amount_nanos ELSE 0 END)
               FROM transfers AS hold JOIN transfers AS ending
                 ON ending.request_id = hold.request_id AND ending.kind IN ('charge', 'release') AND hold.kind = 'hold'
               JOIN accounts ON accounts.id = hold.debit_id GROUP BY 1, 2"""
        ).fetchall()
    return {(account, day): (requests, charged) for account, day, requests, charged in rows}


async def by_day(store: Store) -> dict[tuple[str, str], tuple[int, int]]:
    return {(row.account, row.group): (row.requests, row.charge_nanos) for row in await store.usage(UsageQuery(by="day"))}


@pytest.mark.promise(PROMISE)
async def test_a_kill_at_a_random_moment_of_folding_loses_no_request_and_counts_none_twice(tmp_path: Path, faults: Faults) -> None:
    path = tmp_path / "books.db"
    chance = random.Random(20261125)
    acknowledged = 0

    for round_ in range(12):
        lines = await asyncio.to_thread(run_until_killed, path, round_, chance.randint(1, 120), FOLDER)
        acknowledged += sum(int(line.split()[1]) for line in lines)
        faults.injected += 1
        store = await open_store(path)
        try:
            await assert_books_balance(store)
            days = await by_day(store)
            assert days == by_the_ledger(path)
            assert sum(charged for _, charged in days.values()) >= acknowledged
            assert await store.has_daily_sums(1_764_000_000_000 - 3 * DAY_MS) or round_ == 0
        finally:
            await store.close()


@pytest.mark.promise(PROMISE)
@pytest.mark.timeout(300)
async def test_a_gateway_that_dies_at_a_commit_of_a_fold_goes_on_at_its_next_start(tmp_path: Path, faults: Faults) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    async with stand(tmp_path, billing=KEEP) as one:
        assert await one.start(clock_file=str(clock))
        await one.customers(calls=8)
        await one.all_ended()
        faults.cost(await one.losses(all_ended=True))
        async with one.gateway.looked_into() as store:
            sums = await by_day(store)
        await one.gateway.kill()

        clock.write_text(str(20 * DAY_MS))
        for hits in (1, 2, 4):
            for point in FOLDING:
                await one.start(clock_file=str(clock), die_at=point, hits=hits)
                await _serve_until_it_dies(one)
                faults.injected += 1
                async with one.gateway.looked_into() as store:
                    await assert_books_balance(store)
                    assert sums.items() <= (await by_day(store)).items()
        await one.start(clock_file=str(clock))
        await _all_folded(one)

        async with one.gateway.looked_into() as store:
            assert sums.items() <= (await by_day(store)).items()
        await one.all_ended()
        verified = await one.gateway.run("ledger", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr


async def _serve_until_it_dies(one: Stand) -> None:
    if not one.gateway.has_ended:
        await asyncio.wait_for(one.customers(4), 20)
    assert await one.gateway.ended() == -signal.SIGKILL, one.gateway.log.read_text()[-2000:]


async def _all_folded(one: Stand) -> None:
    """Wait until all requests of the first day are folded."""
    first_day = "SELECT count(*) FROM requests WHERE created_at_ms < (SELECT min(created_at_ms) FROM transfers WHERE kind = 'hold') + ?"
    file = (one.gateway.directory / "gateway.db").as_uri()
    async with asyncio.timeout(60):
        with closing(sqlite3.connect(f"{file}?mode=ro", uri=True)) as connection:
            while connection.execute(first_day, (5 * DAY_MS,)).fetchone() != (0,):  # noqa: ASYNC110  another process's file
                await asyncio.sleep(0.05)
