"""A power failure at any moment: everything that was acknowledged to a customer survives, and the books hold.

The store's own migrations, holds, settlements and transactions run on a recording disk. Then the power fails after any number of its
events, and the store is opened from what may be left.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.core.days import CHINA
from proxy.store.errors import StoreRefusedError
from proxy.store.sqlite import admin, ledger, open_store
from proxy.store.sqlite.batch import OpenHolds
from proxy.store.sqlite.file import migrations
from proxy.store.sqlite.spending import Spending
from proxy.store.sqlite.writer import _Operation, transact
from tests.support.promises import Faults
from tests.support.recording import Connection, Event, FolderSync, RecordingDisk, left_by_a_lost_power, write_files
from tests.support.store import NOW_MS, OWNER, new_claim, new_request, settlement, unlimited

POWER = "the power goes after any write: no settlement is lost that was acknowledged, and the books hold"
BATCHES = 150
BATCH_MAX = 12
CHECKPOINT_EVERY = 7
CUTS, CUTS_LONG = 400, 4_000
FIRST_EVENTS = 100


@dataclass
class Run:
    """The disk's events, and for each acknowledgement the number of events before it."""

    events: Sequence[Event] = ()
    settled: list[tuple[int, list[str]]] = field(default_factory=list)
    held: list[tuple[int, list[str]]] = field(default_factory=list)


async def run(directory: Path, *, synchronous: str = "FULL") -> Run:
    """Hold and settle in batches of all sizes, some under an idempotency key, with occasional checkpoints."""
    disk, chance, done = RecordingDisk(f"disk of {directory}"), random.Random(7), Run()
    connection = cast("Any", Connection(directory / "books.db", disk.name))
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # a log without shared memory, which this VFS does not have
    migrations.migrate(connection, 0)
    disk.events.append(FolderSync())  # as `open_store` does next
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    open_holds, waiting, number = OpenHolds(OWNER, Spending.opened(connection, CHINA)), list[str](), 0
    opening = operation(admin.create_account, "alice", 10**12, NOW_MS, None)
    assert transact(connection, [opening], open_holds) is None
    account = opening.result
    for batch in range(BATCHES):
        settles = [waiting.pop(0) for _ in range(min(len(waiting), chance.randrange(BATCH_MAX)))]
        holds = [f"req_{number + index}" for index in range(chance.randrange(1, BATCH_MAX))]
        number += len(holds)
        operations = [operation(ledger.settle, name, settlement(60), NOW_MS, None, unlimited()) for name in settles]
        for name in holds:
            claim = new_claim(name) if chance.random() < 0.2 else None
            operations.append(operation(ledger.place_hold, new_request(name, account_id=account.id, claim=claim), OWNER, unlimited()))
        assert transact(connection, operations, open_holds) is None
        assert [one.error for one in operations if one.error is not None] == []
        waiting += holds
        done.settled.append((len(disk.events), settles))
        done.held.append((len(disk.events), holds))
        if batch % CHECKPOINT_EVERY == 0:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    done.events = list(disk.events)
    connection.close()
    return done


def operation(function: Any, *arguments: Any) -> _Operation:
    return _Operation(asyncio.get_running_loop().create_future(), function, arguments)


async def losses_of_a_cut(done: Run, after: int, directory: Path, chance: random.Random) -> list[str]:
    """Return what is missing if the power fails after `after` events."""
    write_files(left_by_a_lost_power(done.events[:after], chance), directory)
    try:
        store = await open_store(directory / "books.db")
    except StoreRefusedError as refusal:
        return [f"cut after {after}: {refusal}"]
    try:
        lost = [check.name for check in await store.verify() if not check.holds]
        left_open = {request.id for request in await store.open_requests()}
        settled = [name for at, names in done.settled if at <= after for name in names]
        held = [name for at, names in done.held if at <= after for name in names]
        for name in {*settled, *held}:
            found = await store.receipt(name)
            if found is None or (name in settled and (name in left_open or found[0].settlement is None)):
                lost.append(f"cut after {after}: {name}")
        return lost
    finally:
        await store.close()


async def cut_often(directory: Path, faults: Faults, cuts: int) -> None:
    """Cut after each of the first events, in which the store is created, and then at random."""
    done, chance = await run(directory), random.Random(11)
    for number in range(cuts):
        after = number if number < FIRST_EVENTS else chance.randint(FIRST_EVENTS, len(done.events))
        faults.injected += 1
        faults.cost(await losses_of_a_cut(done, after, directory / f"cut {number}", chance))


@pytest.mark.promise(POWER)
async def test_what_was_acknowledged_outlives_a_lost_power(tmp_path: Path, faults: Faults) -> None:
    await cut_often(tmp_path, faults, CUTS)


@pytest.mark.promise(POWER)
@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_it_outlives_four_thousand(tmp_path: Path, faults: Faults) -> None:
    await cut_often(tmp_path, faults, CUTS_LONG)


async def test_without_full_syncs_this_very_test_finds_losses(tmp_path: Path) -> None:
    done, chance = await run(tmp_path, synchronous="NORMAL"), random.Random(11)

    lost = [
        await losses_of_a_cut(done, chance.randint(done.held[0][0], len(done.events)), tmp_path / f"cut {number}", chance)
        for number in range(40)
    ]

    assert any(lost)
