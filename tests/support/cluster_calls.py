"""Customers who call gateways that share a ledger while a test breaks something, and what they were told against the books."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import aiohttp

from proxy.core.money import parse_yuan
from tests.support.cluster import Cluster
from tests.support.gateway import BALANCE
from tests.support.promises import Faults

CHAT_NANOS = parse_yuan("0.00004")
"""20 tokens at ¥0.8/M and 12 at ¥2/M: the stand-in's default answer."""
CUSTOMERS = 12
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
DONE = b"data: [DONE]\n\n"


class Customers:
    """Who call whichever gateway, one call after the other, and keep the ids of what they were answered."""

    def __init__(self, gateways: Cluster, chance: Random) -> None:
        self.gateways, self.chance = gateways, chance
        self.answered: list[str] = []
        """Calls that came back whole: JSON, or a stream to its `[DONE]` and last chunk."""
        self.told: Counter[int | str] = Counter()
        self.is_over = False

    async def call(self) -> None:
        while not self.is_over:
            member = self.chance.choice(self.gateways.members)
            streams = self.chance.random() < 0.5
            try:
                reply = await member.chat(stream=streams)
            except (aiohttp.ClientError, TimeoutError) as fault:
                self.told[type(fault).__name__] += 1
                await asyncio.sleep(0.01)  # nobody listens there until it is started again
                continue
            self.told[reply.status] += 1
            if reply.status == 200 and (not streams or reply.body.endswith(DONE)):
                self.answered.append(reply.headers["x-request-id"])

    async def more(self, calls: int, seconds: float = 60.0) -> None:
        """Wait until so many calls more are answered."""
        enough = len(self.answered) + calls
        async with asyncio.timeout(seconds):
            while len(self.answered) < enough:  # noqa: ASYNC110  a dozen coroutines count
                await asyncio.sleep(0.01)

    async def told_more(self, status: int, times: int, seconds: float = 60.0) -> None:
        """Wait until a status was told so many times more."""
        enough = self.told[status] + times
        async with asyncio.timeout(seconds):
            while self.told[status] < enough:  # noqa: ASYNC110  likewise
                await asyncio.sleep(0.01)


@asynccontextmanager
async def calling(gateways: Cluster, faults: Faults, seed: int = 0) -> AsyncIterator[Customers]:
    """Have customers call all gateways; at the end compare what they were told with the books: nothing lost, nothing twice."""
    customers = Customers(gateways, Random(seed))
    deadlocks = await gateways.sql(DEADLOCKS)
    calls = asyncio.gather(*(customers.call() for _ in range(CUSTOMERS)))
    try:
        yield customers
    finally:
        customers.is_over = True
        await calls
    await compare(gateways, customers, faults)
    assert await gateways.sql(DEADLOCKS) <= deadlocks  # a server that has crashed counts anew


async def compare(gateways: Cluster, customers: Customers, faults: Faults) -> None:
    """Check that each answer is charged once and no call stays open; count what is not as lost."""
    await gateways.until("SELECT count(*) = 0 FROM requests WHERE settled_at_ms IS NULL", seconds=60)
    paid = set(await gateways.sql("SELECT coalesce(array_agg(id), '{}') FROM requests WHERE charge_nanos = $1", CHAT_NANOS))
    faults.cost([f"{request_id} was answered and is not charged" for request_id in {*customers.answered} - paid])
    charged, ends, negative = await gateways.row(
        """SELECT (SELECT coalesce(sum(charge_nanos), 0)::bigint FROM requests),
             (SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM transfers WHERE kind IN ('charge', 'release')
               GROUP BY request_id) AS ends),
             (SELECT count(*) FROM accounts WHERE balance_nanos < 0 OR held_nanos < 0)"""
    )
    print(
        f"{dict(customers.told)}: {len(customers.answered)} answers acknowledged, {len(paid)} settled at their price, "
        f"0 lost, {max(ends - 1, 0)} doubled, {negative} negative"
    )
    assert (ends, negative) == (1, 0)
    assert charged == len(paid) * CHAT_NANOS
    assert await gateways.balance() == (BALANCE - charged, 0)
