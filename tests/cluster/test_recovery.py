"""What a dead gateway left is released once, by however many others, and whoever of them dies meanwhile."""

import asyncio
from pathlib import Path

import pytest

from proxy.store.postgres import open_store
from tests.support.cluster import Cluster, cluster
from tests.support.gateway import BALANCE
from tests.support.promises import Faults
from tests.support.store import NOW_MS, new_request

LEFT = 4_000
HOLD_NANOS = 10
PROMISE = "a gateway killed while it releases what another left, beside a second one: each hold is released once"
RELEASED = "SELECT count(*) FROM requests WHERE id LIKE $1 AND outcome = 'interrupted'"


async def leave(gateways: Cluster, name: str) -> None:
    """Hold money for many calls, as a gateway that is gone then."""
    store = await open_store(gateways.url)
    requests = [
        new_request(f"{name}_{n}", account_id=gateways.account_id, hold_nanos=HOLD_NANOS, created_at_ms=NOW_MS + n) for n in range(LEFT)
    ]
    await asyncio.gather(*(store.place_hold(request) for request in requests))
    await store.close()


async def kill_reapers(directory: Path, faults: Faults, rounds: int) -> None:
    async with cluster(directory, 2) as gateways:
        for number in range(rounds):
            name = f"req_left{number}"
            await leave(gateways, name)
            await gateways.until(RELEASED, f"{name}%")
            doomed = gateways.members[number % 2]
            await doomed.kill()
            at_its_death = await gateways.sql(RELEASED, f"{name}%")
            await gateways.until(f"SELECT ({RELEASED}) = $2", f"{name}%", LEFT)
            await doomed.start()
            faults.injected += at_its_death < LEFT

        twice = "SELECT count(*) FROM (SELECT 1 FROM transfers WHERE kind <> 'hold' GROUP BY request_id HAVING count(*) > 1) AS twice"
        assert await gateways.sql("SELECT count(*) FROM transfers WHERE kind = 'release'") == rounds * LEFT
        faults.cost(["a hold was released twice"] * await gateways.sql(twice))
        assert await gateways.balance() == (BALANCE, 0)
        assert faults.injected >= rounds / 2  # in the others it was done before the kill


@pytest.mark.promise(PROMISE)
@pytest.mark.timeout(120)
async def test_reapers_that_race_and_die_release_each_hold_once(tmp_path: Path, faults: Faults) -> None:
    await kill_reapers(tmp_path, faults, 2)


@pytest.mark.promise(PROMISE)
@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_forty_reapers_that_die_release_each_hold_once(tmp_path: Path, faults: Faults) -> None:
    await kill_reapers(tmp_path, faults, 40)
