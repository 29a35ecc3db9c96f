"""The way between a gateway and the database breaks: cut, cut after the server has it, and delivered after its sender's death."""

from pathlib import Path

import pytest

from proxy.gateway.shutdown import EXIT_STORE_FAILED
from tests.support.cluster import Cluster, Member, cluster
from tests.support.cluster_calls import calling
from tests.support.postgres_way import Way, short_way_to
from tests.support.promises import Faults

LATE = "a write that arrives after its gateway was set dead: refused; its gateway ends"
UNKNOWN = "a way to the database that is cut before a write, or before its answer: done once, and told as that"
REQUEST = b"req_"
"""It stands in every message that places a hold or settles one."""
WRITTEN = """
    SELECT concat_ws(' ', number, w.xmin, (SELECT count(*) FROM requests r WHERE r.node_id = w.node_id),
      (SELECT count(*) FROM requests r WHERE r.node_id = w.node_id AND settled_at_ms IS NULL))
    FROM node_writes w WHERE node_id = $1"""


async def deliver_late_often(directory: Path, faults: Faults, rounds: int) -> None:
    async with cluster(directory, 2) as gateways, short_way_to(gateways.url) as way:
        (cut,) = await gateways.start(url=way.url)
        async with calling(gateways, faults) as customers:
            for _ in range(rounds):
                await customers.more(20)
                await deliver_late(gateways, cut, way)
                await cut.start()
                faults.injected += 1


async def deliver_late(gateways: Cluster, cut: Member, way: Way) -> None:
    """Hold back a write, cut its gateway off until others have set it dead and released what it held, and deliver the write then."""
    node = await gateways.sql("SELECT id FROM nodes WHERE name LIKE '% ' || $1", str(cut.pid))
    way.has_cut.clear()
    way.late_answered.clear()
    way.hold_back = REQUEST
    await way.has_cut.wait()
    way.close_all()
    await gateways.until("SELECT dead_at IS NOT NULL FROM nodes WHERE id = $1", node)
    await gateways.until("SELECT NOT EXISTS (SELECT 1 FROM requests WHERE node_id = $1 AND settled_at_ms IS NULL)", node)
    before = await gateways.sql(WRITTEN, node)

    await way.deliver_late()
    await way.late_answered.wait()

    assert await gateways.sql(WRITTEN, node) == before
    way.is_closed = False
    assert await cut.exit_code() == EXIT_STORE_FAILED


@pytest.mark.promise(LATE)
@pytest.mark.timeout(180)
async def test_a_write_that_arrives_after_its_gateways_death_is_refused(tmp_path: Path, faults: Faults) -> None:
    await deliver_late_often(tmp_path, faults, 2)


@pytest.mark.promise(LATE)
@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_forty_writes_that_arrive_after_their_gateways_death_are_refused(tmp_path: Path, faults: Faults) -> None:
    await deliver_late_often(tmp_path, faults, 40)


async def cut_often(directory: Path, faults: Faults, rounds: int) -> None:
    async with cluster(directory, 1) as gateways, short_way_to(gateways.url) as way:
        await gateways.start(url=way.url)
        async with calling(gateways, faults) as customers:
            for number in range(rounds):
                await customers.more(5)
                way.has_cut.clear()
                setattr(way, ("cut_answer", "cut_before")[number % 2], REQUEST)
                await way.has_cut.wait()
                faults.injected += 1
            await customers.more(20)
        assert set(customers.told) == {200}  # it is tried again within a call's patience
        assert await gateways.sql("SELECT count(*) FROM requests") == len(customers.answered)


@pytest.mark.promise(UNKNOWN)
@pytest.mark.timeout(120)
async def test_a_write_whose_end_nobody_knows_is_done_once(tmp_path: Path, faults: Faults) -> None:
    await cut_often(tmp_path, faults, 20)


@pytest.mark.promise(UNKNOWN)
@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_two_thousand_writes_whose_end_nobody_knows_are_done_once(tmp_path: Path, faults: Faults) -> None:
    await cut_often(tmp_path, faults, 2_000)
