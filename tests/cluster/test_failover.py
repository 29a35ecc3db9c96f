"""The database falls over: crashes that it comes back from, a standby in its place, and the old primary's return."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, cluster
from tests.support.cluster_calls import Customers, calling
from tests.support.promises import Faults
from tests.support.replicas import Replica, lone_server, replicas

LAG_SECONDS = 0.5
"""A primary that does not wait for its standby acknowledges hundreds of calls in that time."""
WAITS_FOR_ANY = "synchronous_standby_names=ANY 1 (*)"
WAITS_FOR_NONE = "synchronous_standby_names="
RESTARTED = "an immediate restart of the database under load: nothing acknowledged is lost or doubled, and no gateway ends"
FAILED_OVER = "a failover to a synchronous standby: nothing acknowledged is lost or doubled, the old primary is refused"


async def nobody_has_ended(gateways: Cluster) -> None:
    assert [member.process and member.process.returncode for member in gateways.members] == [None] * len(gateways.members)
    assert await gateways.sql("SELECT count(*) FROM nodes WHERE serving AND dead_at IS NULL") == len(gateways.members)


async def restart_often(directory: Path, faults: Faults, rounds: int) -> None:
    async with lone_server() as primary:
        await primary.start()
        async with cluster(directory, 2, at=primary.url) as gateways:
            async with calling(gateways, faults) as customers:
                for _ in range(rounds):
                    await customers.more(30)
                    await primary.end()
                    await primary.start()
                    faults.injected += 1
                await customers.more(30)
            await nobody_has_ended(gateways)


@pytest.mark.promise(RESTARTED)
@pytest.mark.timeout(180)
async def test_a_database_that_is_restarted_at_once_under_load_loses_nothing(tmp_path: Path, faults: Faults) -> None:
    await restart_often(tmp_path, faults, 3)


@pytest.mark.promise(RESTARTED)
@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_forty_immediate_restarts_lose_nothing(tmp_path: Path, faults: Faults) -> None:
    await restart_often(tmp_path, faults, 40)


async def fail_over(primary: Replica, standby: Replica, customers: Customers) -> None:
    """Let the primary fall under load while its standby lags behind, and promote that."""
    await customers.more(30)
    receiver = await standby.sql("SELECT pid FROM pg_stat_wal_receiver")
    os.kill(receiver, signal.SIGSTOP)
    await asyncio.sleep(LAG_SECONDS)
    await primary.end()
    os.kill(receiver, signal.SIGCONT)
    await standby.promote()
    await customers.more(30)


async def as_standby(old: Replica, of: Replica) -> None:
    """Bring an old primary back, as a standby of the new one, which waits for it from then on."""
    await asyncio.to_thread(shutil.rmtree, old.data)
    await asyncio.to_thread(old.copy, of, "b")
    await old.start()


async def fail_over_often(directory: Path, faults: Faults, rounds: int) -> None:
    async with replicas() as (first, second, url), cluster(directory, 2, at=url) as gateways:
        primary, standby = first, second
        async with calling(gateways, faults) as customers:
            for number in range(rounds):
                await fail_over(primary, standby, customers)
                faults.injected += 1
                primary, standby = standby, primary
                if number < rounds - 1:
                    await as_standby(standby, primary)
                    await set_on(primary, WAITS_FOR_ANY)
        await nobody_has_ended(gateways)


async def set_on(server: Replica, setting: str) -> None:
    """Change a setting of a running server."""
    name, _, value = setting.partition("=")
    await server.sql(f"ALTER SYSTEM SET {name} = '{value}'")
    await server.sql("SELECT pg_reload_conf()")


@pytest.mark.promise(FAILED_OVER)
@pytest.mark.timeout(180)
async def test_a_failover_to_a_synchronous_standby_loses_nothing(tmp_path: Path, faults: Faults) -> None:
    await fail_over_often(tmp_path, faults, 1)


@pytest.mark.promise(FAILED_OVER)
@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_twenty_failovers_lose_nothing(tmp_path: Path, faults: Faults) -> None:
    await fail_over_often(tmp_path, faults, 20)


@pytest.mark.promise(FAILED_OVER)
@pytest.mark.timeout(180)
async def test_an_old_primary_that_comes_back_is_written_to_by_nobody(tmp_path: Path, faults: Faults) -> None:
    """It stands first in the URL, waits for no standby, and knows both gateways as living: its timeline alone keeps them off."""
    async with replicas() as (old, new, url), cluster(tmp_path, 2, at=url) as gateways:
        async with calling(gateways, faults) as customers:
            await fail_over(old, new, customers)
            await old.start(WAITS_FOR_NONE)
            before = await old.sql("SELECT count(*) FROM requests"), await old.sql("SELECT sum(beat)::bigint FROM nodes")
            await new.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'llm-proxy'")
            await customers.more(30)  # over connections that are all new
        await new.end()
        told = [(await member.chat()).status for member in gateways.members for _ in range(2)]
        after = await old.sql("SELECT count(*) FROM requests"), await old.sql("SELECT sum(beat)::bigint FROM nodes")
        await new.start(WAITS_FOR_NONE)

        assert told == [503] * 4
        assert after == before
        await nobody_has_ended(gateways)


async def test_doctor_warns_of_a_standby_that_nobody_waits_for_and_of_none_that_is_waited_for(tmp_path: Path) -> None:
    async with replicas(synchronous=False) as (primary, _, url), cluster(tmp_path, 1, at=url) as gateways:
        (member,) = gateways.members
        loose = await member.run("doctor")
        await set_on(primary, WAITS_FOR_ANY)
        await gateways.until("SELECT current_setting('synchronous_standby_names') <> ''")
        strict = await member.run("doctor")

        assert "synchronous_standby_names is empty: a failover loses payments that were acknowledged" in loose.stdout
        assert "a failover loses" not in strict.stdout
