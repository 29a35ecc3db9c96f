"""Wall clocks that are wrong: no gateway dies of one, and no video waits for one."""

import asyncio
from pathlib import Path

from tests.cluster.test_videos import EVERY_TURN, submitted
from tests.support.cluster import LEASE_SECONDS, cluster
from tests.support.replicas import lone_server
from tests.support.shifted_clock import ShiftedClock

TURNS_SECONDS = 15.0


def clock_in(folder: Path) -> ShiftedClock:
    folder.mkdir(exist_ok=True)
    return ShiftedClock(folder)


async def test_wrong_clocks_kill_no_gateway_and_videos_end_in_time(tmp_path: Path) -> None:
    """One gateway's goes 10 minutes forward and another's back, the database's an hour forward, all in mid-flight."""
    async with lone_server() as server:
        ahead, behind, databases = clock_in(tmp_path / "a"), clock_in(tmp_path / "b"), clock_in(server.folder)
        server.variables |= databases.environment
        await server.start()
        async with cluster(tmp_path, 0, at=server.url, **EVERY_TURN) as gateways:
            (first,) = await gateways.start(variables=ahead.environment, **EVERY_TURN)
            (second,) = await gateways.start(variables=behind.environment, **EVERY_TURN)
            await gateways.all_counted()
            ahead.set(600)
            behind.set(-600)
            databases.set(3600)
            began_ms = await gateways.sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
            beats = await gateways.sql("SELECT sum(beat)::bigint FROM nodes")

            tasks = [await submitted(member) for member in (first, second)]
            for task in gateways.ark.videos.tasks:
                gateways.ark.videos.advance(task, "succeeded")
            async with asyncio.timeout(TURNS_SECONDS):
                for member in (first, second):
                    ended = [(await member.ask(f"/videos/tasks/{task}?wait=30")).json["status"] for task in tasks]
                    assert ended == ["succeeded"] * 2
            await gateways.until("SELECT sum(beat) > $1 FROM nodes", beats + 3 * 2 * LEASE_SECONDS * 10 / LEASE_SECONDS)
            statuses = [(await member.chat()).status for member in (first, second)]

            created = await gateways.row("SELECT min(created_at_ms), max(created_at_ms) FROM requests WHERE kind = 'video'")
            assert created[1] - created[0] > 1_190_000  # the clocks are wrong
            assert began_ms - created[1] > 2_900_000
            assert statuses == [200] * 2
            assert await gateways.sql("SELECT count(*) FROM nodes WHERE serving AND dead_at IS NULL") == 2
