"""Gateways that are killed and stopped past their lease at random moments, while customers call all of them."""

from pathlib import Path
from random import Random

import pytest

from proxy.gateway.shutdown import EXIT_STORE_FAILED
from tests.support.cluster import Cluster, Member, cluster
from tests.support.cluster_calls import CUSTOMERS, calling
from tests.support.promises import Faults

PROMISE = "kill -9 and standstill of gateways on one ledger: no answer without its charge, none charged twice, no hold stuck"


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
        async with calling(gateways, faults, seed) as customers:
            for number in range(rounds):
                await customers.more(chance.randrange(40))
                member = chance.choice(gateways.members)
                await (stand_still if number % 4 == 3 else kill)(gateways, member)
                faults.injected += 1
        assert len(customers.answered) > rounds * 10
        paid = await gateways.sql("SELECT count(*) FROM requests WHERE outcome = 'complete'")
        assert paid - len(customers.answered) <= rounds * CUSTOMERS  # settled, and killed before the last byte


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
