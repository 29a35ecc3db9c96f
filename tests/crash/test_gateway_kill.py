"""kill -9 of a gateway at random moments under mixed load: every answer that a customer received is on the books once, and no other."""

import asyncio
from pathlib import Path

import pytest

from tests.support.promises import Faults
from tests.support.stand import Stand, stand

CHATS_MAX, SECONDS_MAX = 15, 0.05
"""Limits of the random number of chats, then of the random time, before a kill: a slow machine has as much to lose as a fast one."""
PROMISE = "kill -9 at a random moment: no answer without its receipt, none charged twice, no hold stuck"


async def kill_often(directory: Path, faults: Faults, kills: int, seed: int = 0) -> None:
    async with stand(directory, seed=seed, event_seconds=0.002, first_byte_seconds=0.004) as one:
        for _ in range(kills):
            await kill_once(one, faults)

        assert await one.start()
        await one.all_ended()
        faults.cost(await one.losses(all_ended=True))
        verified = await one.gateway.run("ledger", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        print(one.outcomes, len(one.books.chats), "chats", len(one.books.images), "pictures", len(one.ark.videos.tasks), "videos")
        assert len(one.books.chats) > 5 * kills
        assert len(one.hands.begun) > kills
        assert one.outcomes.keys() >= {"chat complete", "chat client_gone", "chat interrupted", "image complete", "video complete"}


async def kill_once(one: Stand, faults: Faults) -> None:
    """Start, check what the last kill left, serve customers until the next kill, and check the file."""
    assert await one.start()
    faults.cost(await one.recovered())
    customers = asyncio.gather(one.customers())
    asked = len(one.books.chats) + one.chance.randrange(CHATS_MAX)
    await one.ark.wait_until(lambda: len(one.books.chats) >= asked)
    await asyncio.sleep(one.chance.uniform(0, SECONDS_MAX))  # the random moment of the kill
    await one.gateway.kill()
    await customers
    faults.injected += 1
    faults.cost(await one.losses())


@pytest.mark.promise(PROMISE)
@pytest.mark.timeout(300)
async def test_a_hundred_kills_lose_no_answer_and_charge_none_twice(tmp_path: Path, faults: Faults) -> None:
    await kill_often(tmp_path, faults, 100)


@pytest.mark.promise(PROMISE)
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hundred", range(1, 11))
async def test_a_thousand_kills_lose_no_answer_and_charge_none_twice(tmp_path: Path, faults: Faults, hundred: int) -> None:
    await kill_often(tmp_path, faults, 100, seed=hundred)
