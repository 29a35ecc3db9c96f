"""Faults of a process: signals under load, a set clock, no descriptors, a second process, a newer file, an interrupted migration."""

import asyncio
import os
import resource
import signal
import sqlite3
from pathlib import Path

import aiohttp
import pytest

from proxy.store.sqlite import open_store
from proxy.store.sqlite.file import migrations
from tests.support.audit import receipts
from tests.support.promises import STOPPED, Faults
from tests.support.stand import ACCOUNTS, Stand, stand

STREAMS = 200
CLOCK = "a clock that is set by an hour or a day in mid-flight: every call and every video ends once, at its price"
DESCRIPTORS = "no file descriptor left: what cannot be served is refused, nothing is lost, and it recovers by itself"
STORE_IS_ONE = "a store is one process's, of its own version or older: others are refused in words, the file untouched"


# Signals.


async def begin_streams(one: Stand, session: aiohttp.ClientSession, group: asyncio.TaskGroup) -> list[asyncio.Task[str]]:
    """Ask for two hundred streams, and return when the upstream has received all of them."""
    one.books.gate.clear()
    wanted = len(one.books.chats) + STREAMS
    streams = [group.create_task(read_stream(one, session, f"{number % ACCOUNTS:03d}")) for number in range(STREAMS)]
    await one.ark.wait_until(lambda: len(one.books.chats) == wanted, 30.0)
    return streams


async def read_stream(one: Stand, session: aiohttp.ClientSession, account: str) -> str:
    """Return how a stream ended for its client: "whole", "broken" or "refused". A broken one never looks whole."""
    async with session.post("/v1/chat/completions", json=one.body(account, stream=True), headers=one.headers(account)) as answer:
        body = await answer.read()
        if answer.status == 503:
            return "refused"
        assert answer.status == 200, body
        request_id = answer.headers["x-request-id"]
        one.hands.begun.add(request_id)
        if body.endswith(b"data: [DONE]\n\n"):
            one.hands.whole[request_id] = None
            return "whole"
        assert b'"code":"MODEL_UNAVAILABLE"' in body.split(b"\n\n")[-2]
        return "broken"


@pytest.mark.promise(STOPPED)
@pytest.mark.parametrize("ending", ["they finish", "the limit is reached", "a second SIGTERM"])
async def test_sigterm_under_two_hundred_streams(tmp_path: Path, faults: Faults, ending: str) -> None:
    limit_seconds = 0.5 if ending == "the limit is reached" else 60
    async with stand(tmp_path, drain_seconds=limit_seconds, event_seconds=0.03) as one:
        assert await one.start()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(one.gateway.origin, connector=connector) as session, asyncio.TaskGroup() as group:
            streams = await begin_streams(one, session, group)
            if ending != "they finish":
                one.books.hold_back = True  # they begin and then hang
            one.books.gate.set()
            one.gateway.send(signal.SIGTERM)
            if ending == "a second SIGTERM":
                await asyncio.wait([*streams], timeout=0.2)
                one.gateway.send(signal.SIGTERM)
            code = await one.gateway.ended()
        ends = [stream.result() for stream in streams]

        assert code == 0
        if ending == "they finish":
            assert set(ends) == {"whole"}
        else:
            assert set(ends) <= {"broken", "refused", "whole"}
            assert "whole" not in ends or ends.count("whole") < STREAMS
        faults.injected += STREAMS
        faults.cost(await one.losses(all_ended=True))


# The clock.


@pytest.mark.promise(CLOCK)
async def test_a_clock_that_is_set_in_mid_flight_changes_nothing_of_the_money(tmp_path: Path, faults: Faults) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    async with stand(tmp_path, event_seconds=0.005) as one:
        assert await one.start(clock_file=str(clock))
        for hours in (1, -1, 24, -24):
            async with asyncio.TaskGroup() as group:
                group.create_task(one.customers(8, calls=8))
                group.create_task(set_soon(clock, hours * 3_600_000))
            faults.injected += 1
            set_clock(clock, 0)  # and back
            await one.customers(8, calls=4)
            faults.injected += 1
            faults.cost(await one.losses())
        await one.all_ended()
        faults.cost(await one.losses(all_ended=True))
        assert not {name for name in one.outcomes if name.endswith(("interrupted", "upstream_error"))}
        times_ms = [found.settled_at_ms or 0 for found in receipts(tmp_path / "gateway.db").values()]
        assert max(times_ms) - min(times_ms) > 40 * 3_600_000, "the clock was not set"


async def set_soon(clock: Path, by_ms: int) -> None:
    await asyncio.sleep(0.02)  # while they are under way
    set_clock(clock, by_ms)


def set_clock(clock: Path, by_ms: int) -> None:
    """Set the clock atomically, so that nobody reads half of the file."""
    new = clock.with_suffix(".new")
    new.write_text(str(by_ms))
    new.rename(clock)


# Descriptors.


@pytest.mark.promise(DESCRIPTORS)
async def test_without_a_descriptor_nothing_is_lost_and_with_some_all_goes_on(tmp_path: Path, faults: Faults) -> None:
    async with stand(tmp_path) as one:
        assert await one.start()
        await one.customers(4, calls=5)
        open_now = len(os.listdir(f"/proc/{one.gateway.pid}/fd"))  # noqa: PTH208
        soft, hard = resource.prlimit(one.gateway.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(one.gateway.pid, resource.RLIMIT_NOFILE, (open_now + 4, hard))
        async with aiohttp.ClientSession(one.gateway.origin, connector=aiohttp.TCPConnector(limit=0)) as session:
            timeout = aiohttp.ClientTimeout(total=3)
            asks = [ask_in_want(one, session, f"{number % ACCOUNTS:03d}", timeout) for number in range(60)]
            ends = await asyncio.gather(*asks)
            faults.injected += ends.count("refused") + ends.count("not let in")
            assert set(ends) - {"answered"}, "descriptors did not run out"
            resource.prlimit(one.gateway.pid, resource.RLIMIT_NOFILE, (soft, hard))
            async with asyncio.timeout(30):
                await one.taken_again(session)
        await one.customers(4, calls=5)
        await one.all_ended()
        faults.cost(await one.losses(all_ended=True))
        assert not one.gateway.has_ended


async def ask_in_want(one: Stand, session: aiohttp.ClientSession, account: str, timeout: aiohttp.ClientTimeout) -> str:
    body = one.body(account)
    try:
        async with session.post("/v1/chat/completions", json=body, headers=one.headers(account), timeout=timeout) as answer:
            await answer.read()
            return "answered" if answer.status == 200 else "refused"
    except (aiohttp.ClientError, TimeoutError):
        return "not let in"


# One store, one version.


@pytest.mark.promise(STORE_IS_ONE)
async def test_a_second_gateway_on_one_store_is_refused_and_the_first_serves_on(tmp_path: Path, faults: Faults) -> None:
    async with stand(tmp_path) as one:
        assert await one.start()
        await one.customers(4, calls=3)

        second = await one.gateway.run("serve")

        assert second.returncode == 1
        assert f"in use by another process (pid {one.gateway.pid}" in second.stderr
        await one.customers(4, calls=3)
        await one.all_ended()
        faults.injected += 1
        faults.cost(await one.losses(all_ended=True))


@pytest.mark.promise(STORE_IS_ONE)
async def test_a_file_of_a_newer_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    async with stand(tmp_path) as one:
        with sqlite3.connect(tmp_path / "gateway.db") as newer:
            newer.execute(f"PRAGMA user_version = {len(migrations.scripts()) + 1}")
        newer.close()
        before = (tmp_path / "gateway.db").read_bytes()

        assert not await one.start()

        assert await one.gateway.ended() == 1
        assert "update the program" in one.gateway.log.read_text()
        assert (tmp_path / "gateway.db").read_bytes() == before


def steps_of_a_migration() -> int:
    """Return about the number of statements in all migrations: a death before each of them is tested."""
    return sum(script.count(";") for script in migrations.scripts())


def without_a_store(directory: Path) -> None:
    for file in directory.glob("gateway.db*"):
        file.unlink()


@pytest.mark.promise(STORE_IS_ONE)
async def test_a_migration_that_is_killed_at_any_statement_is_begun_anew(tmp_path: Path, faults: Faults) -> None:
    async with stand(tmp_path) as one:
        for statement in range(1, steps_of_a_migration(), 3):
            without_a_store(tmp_path)
            one.gateway.rig = {"die_at": "migration statement", "hits": statement}
            await one.gateway.launch()
            if await one.gateway.ready():
                break  # there are no more statements
            assert await one.gateway.ended() == -signal.SIGKILL
            faults.injected += 1

            store = await open_store(tmp_path / "gateway.db")
            await store.create_account("acme", 1, 0)  # type: ignore[arg-type]
            assert all(check.holds for check in await store.verify())
            await store.close()
        assert faults.injected > 5
