"""Starved threads: those that resolve names, the one that commits, and those that cannot be created."""

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from tests.support.promises import Faults
from tests.support.resolver import resolver
from tests.support.stand import Stand, stand
from tests.support.strace import injected, needs_strace

THREADS = "threads that are starved or not to be had: what cannot be served is 503, nothing is lost, it recovers by itself"
CALLS = 60
SECONDS_MAX = 60.0
CONNECT_SECONDS = 5
"""A lookup is part of connecting: by this limit the calls end whose name is not resolved."""


async def outcome(one: Stand, session: aiohttp.ClientSession, number: int, *, stream: bool = False) -> int:
    """Make one call, check a 503, and return the status."""
    account = f"{number:03d}"[-3:]
    body = one.body(account, stream=stream)
    async with session.post("/v1/chat/completions", json=body, headers=one.headers(account)) as answer:
        told = await answer.json()
        if answer.status == 503:
            assert (told["error"]["code"], "retry-after" in answer.headers) == ("MODEL_UNAVAILABLE", True)
        return answer.status


@needs_strace
@pytest.mark.promise(THREADS)
async def test_where_no_thread_can_be_made_all_goes_on(tmp_path: Path, faults: Faults) -> None:
    """libuv aborts the process if it cannot make the threads that resolve names."""
    async with stand(tmp_path, ark_host="localhost") as one:
        assert await one.start()
        async with injected(one.gateway.pid, "clone,clone3", "error=EAGAIN"):
            await one.customers(4, calls=10)
            await one.all_ended()
        faults.injected += 40
        faults.cost(await one.losses(all_ended=True))
        assert not one.gateway.has_ended


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process another name server")
@pytest.mark.promise(THREADS)
async def test_a_resolver_that_does_not_answer_starves_nobody_else(tmp_path: Path, faults: Faults) -> None:
    async with resolver(tmp_path) as (names, within), stand(tmp_path, ark_host="ark.test", connect_seconds=CONNECT_SECONDS) as one:
        one.gateway.within = within
        assert await one.start()
        names.answers = False
        async with aiohttp.ClientSession(one.gateway.origin, connector=aiohttp.TCPConnector(limit=0)) as session:
            async with asyncio.TaskGroup() as asking:
                asked = [asking.create_task(outcome(one, session, number % 50)) for number in range(CALLS)]
                for _ in range(5):
                    await one.reads_go_on(session)
            assert {ask.result() for ask in asked} == {503}
            assert one.books.chats == {}
            faults.injected += CALLS
            lookups = names.asked

            names.answers = True
            async with asyncio.timeout(SECONDS_MAX):
                await one.taken_again(session)

        assert lookups < CALLS  # all waiting calls share one lookup
        await one.customers(4, calls=5)
        await one.all_ended()
        faults.cost(await one.losses(all_ended=True))
        assert not one.gateway.has_ended


@needs_strace
@pytest.mark.promise(THREADS)
async def test_while_the_thread_that_commits_gets_nowhere_new_work_is_refused(tmp_path: Path, faults: Faults) -> None:
    async with stand(tmp_path) as one:
        assert await one.start()
        await one.customers(4, calls=3)
        await one.all_ended()  # no step of a video is under way, which would make the first call be refused
        async with aiohttp.ClientSession(one.gateway.origin, connector=aiohttp.TCPConnector(limit=0)) as session:
            async with (
                asyncio.TaskGroup() as asking,
                injected(one.gateway.pid, "fdatasync", f"delay_enter={int(SECONDS_MAX * 1_000_000)}"),
            ):
                first = asking.create_task(outcome(one, session, 0))
                while await one.readiness(session) == 200:  # noqa: ASYNC110  another process has no event
                    await asyncio.sleep(0.02)
                assert [await outcome(one, session, number) for number in range(10)] == [503] * 10
                faults.injected += 10
                await one.reads_go_on(session)
                # Its hold is what stands still, or waits behind a write of the gateway's own and is refused with the others.
                assert not first.done() or first.result() == 503
            async with asyncio.timeout(SECONDS_MAX):
                await one.taken_again(session)
        await one.customers(4, calls=3)
        await one.all_ended()
        faults.cost(await one.losses(all_ended=True))
        assert not one.gateway.has_ended
