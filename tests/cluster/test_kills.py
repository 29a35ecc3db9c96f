"""Gateways that are killed and stopped past their lease at random moments, while customers call all of them."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

import aiohttp
import pytest

from proxy.core.money import parse_yuan
from proxy.gateway.shutdown import EXIT_STORE_FAILED
from tests.support.cluster import Cluster, Member, cluster
from tests.support.gateway import BALANCE
from tests.support.promises import Faults

CHAT_NANOS = parse_yuan("0.00004")
CUSTOMERS = 12
PROMISE = "kill -9 and standstill of gateways on one ledger: no answer without its charge, none charged twice, no hold stuck"


class Customers:
    """Who call whichever gateway, one call after the other, and keep the ids of what they were answered."""

    def __init__(self, gateways: Cluster, chance: Random) -> None:
        self.gateways, self.chance = gateways, chance
        self.answered: list[str] = []
        self.told: Counter[int | str] = Counter()
        self.is_over = False

    async def call(self) -> None:
        while not self.is_over:
            member = self.chance.choice(self.gateways.members)
            try:
                reply = await member.chat(stream=self.chance.random() < 0.5)
            except (aiohttp.ClientError, TimeoutError) as fault:
                self.told[type(fault).__name__] += 1
                await asyncio.sleep(0.01)  # nobody listens there until it is started again
                continue
            self.told[reply.status] += 1
            if reply.status == 200:
                self.answered.append(reply.headers["x-request-id"])


async def kill(gateways: Cluster, member: Member) -> None:
    await member.kill()
    await member.start()


async def stand_still(gateways: Cluster, member: Member) -> None:
    """Stop a gateway until it is dead, and let it go on: it finds out, and ends."""
    member.stop()
    await gateways.until("SELECT dead_at IS NOT NULL FROM nodes WHERE name LIKE '% ' || $1", str(member.pid))
    member.go_on()
    assert await member.exit_code() == EXIT_STORE_FAILED
    await member.start()


async def break_often(directory: Path, faults: Faults, rounds: int, seed: int) -> None:
    chance = Random(seed)
    async with cluster(directory, 3) as gateways:
        customers = Customers(gateways, chance)
        calling = asyncio.gather(*(customers.call() for _ in range(CUSTOMERS)))
        for number in range(rounds):
            enough = len(customers.answered) + chance.randrange(40)
            await gateways.until("SELECT count(*) >= $1 FROM requests WHERE outcome = 'complete'", enough, seconds=60)
            member = chance.choice(gateways.members)
            await (stand_still if number % 4 == 3 else kill)(gateways, member)
            faults.injected += 1
        customers.is_over = True
        await calling
        await gateways.until("SELECT count(*) = 0 FROM requests WHERE settled_at_ms IS NULL", seconds=60)

        print(customers.told)
        paid = await gateways.sql("SELECT array_agg(id) FROM requests WHERE outcome = 'complete' AND charge_nanos = $1", CHAT_NANOS)
        faults.cost([f"{request_id} was answered and is not charged" for request_id in {*customers.answered} - {*paid}])
        charged = await gateways.sql("SELECT sum(charge_nanos)::bigint FROM requests")
        assert await gateways.balance() == (BALANCE - charged, 0)
        assert charged == len(paid) * CHAT_NANOS
        assert len(customers.answered) > rounds * 10
        assert len(paid) - len(customers.answered) <= rounds * CUSTOMERS  # settled, and killed before the last byte


@pytest.mark.promise(PROMISE)
@pytest.mark.timeout(300)
async def test_gateways_that_die_under_load_lose_no_answer_and_charge_none_twice(tmp_path: Path, faults: Faults) -> None:
    await break_often(tmp_path, faults, 8, seed=0)


@pytest.mark.promise(PROMISE)
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fifty", range(1, 5))
async def test_two_hundred_deaths_lose_no_answer_and_charge_none_twice(tmp_path: Path, faults: Faults, fifty: int) -> None:
    await break_often(tmp_path, faults, 50, seed=fifty)
