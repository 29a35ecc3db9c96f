"""Limits of keys and of upstreams while gateways come and go: all together give away what one would."""

import asyncio
from pathlib import Path
from typing import Any

from proxy.demo.ark import TASKS, Answer, Wait
from tests.support.cluster import LEASE_SECONDS, Cluster, Member, cluster
from tests.support.videos import MODEL, PROMPT, SUBMIT

RPM = 60
TASK_PATH = TASKS + "/*"
GETS_PER_SECOND = 6
SPAN_SECONDS = 5


async def limit(gateways: Cluster, **options: str) -> None:
    (key,) = await gateways.store.keys("acme")
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    await gateways.members[0].command_answer("key", "set", key.id, *words)


async def call_until(stop: asyncio.Event, member: Member) -> list[float]:
    """Ask for chats as fast as they are let through; return when each was."""
    loop, let_through = asyncio.get_running_loop(), []
    while not stop.is_set():
        reply = await member.chat()
        if reply.status == 200:
            let_through.append(loop.time())
        else:
            assert reply.status in (429, 503), reply.body
            await asyncio.sleep(0.02)
    return let_through


def excess(times: list[float], per_minute: int) -> float:
    """Return by how many calls any span of time had more than one bucket of the limit lets through."""
    least, worst = float("inf"), float("-inf")
    for number, at in enumerate(sorted(times)):
        least = min(least, number - at * per_minute / 60)
        worst = max(worst, number + 1 - at * per_minute / 60 - least)
    return worst - per_minute


async def test_a_keys_calls_are_within_its_limit_while_gateways_come_and_go(tmp_path: Path) -> None:
    """Three at first; then one is killed, and one more comes."""
    async with cluster(tmp_path, 3) as gateways:
        await gateways.all_counted()
        await limit(gateways, rpm=str(RPM))
        stop, end = asyncio.Event(), asyncio.Event()
        doomed, *staying = gateways.members
        calling = asyncio.gather(*(call_until(end, member) for member in staying))
        doomed_calls = asyncio.gather(call_until(stop, doomed))
        await asyncio.sleep(LEASE_SECONDS)
        stop.set()
        (times,) = await doomed_calls
        await doomed.kill()
        (fresh,) = await gateways.start()
        fresh_calls = asyncio.gather(call_until(end, fresh))
        await asyncio.sleep(LEASE_SECONDS * 3)
        end.set()
        theirs, (its,) = await calling, await fresh_calls

        # A second's worth for calls that were let through in one order and answered in another.
        assert excess([*times, *its, *(at for each in theirs for at in each)], RPM) <= RPM / 60
        assert min(len(times), len(its), *map(len, theirs)) > 0  # each has a share
        assert len([*times, *its, *theirs[0], *theirs[1]]) > RPM / 2


async def test_slots_of_a_key_are_shared_out(tmp_path: Path) -> None:
    finish = asyncio.Event()
    async with cluster(tmp_path, 3) as gateways:
        await gateways.all_counted()
        await limit(gateways, concurrent="5")
        gateways.ark.enqueue([Wait(finish), Answer()], times=15)
        asking = asyncio.gather(*(member.chat() for member in gateways.members for _ in range(5)))
        await gateways.ark.wait_until(lambda: len(gateways.ark.calls) == 5)
        await asyncio.sleep(0.5)  # for a sixth
        finish.set()
        statuses = sorted(reply.status for reply in await asking)

        assert statuses == [200] * 5 + [429] * 10
        assert len(gateways.ark.calls) == 5


async def test_an_upstream_is_asked_no_more_often_than_by_one_gateway(tmp_path: Path) -> None:
    upstream = f"requests_per_second = {GETS_PER_SECOND}\nlist_requests_per_second = 200"
    options: dict[str, Any] = {"poll_seconds": "0.2, 0.2", "upstream": upstream}
    async with cluster(tmp_path, 3, **options) as gateways:
        await gateways.all_counted()
        for member in gateways.members:
            for _ in range(8):
                assert (await member.ask(SUBMIT, {"model": MODEL, "prompt": PROMPT})).status == 200
        for task in gateways.ark.videos.tasks:
            gateways.ark.videos.advance(task, "running")
        await gateways.until("SELECT sum(polls) >= 60 FROM video_tasks", seconds=60)
        times = [call.at for call in gateways.ark.calls_to(TASK_PATH, "GET")]
        for task in gateways.ark.videos.tasks:
            gateways.ark.videos.advance(task, "succeeded")
        await gateways.until("SELECT bool_and(state = 'succeeded') FROM video_tasks", seconds=60)

        most = max(sum(at <= other < at + SPAN_SECONDS for other in times) for at in times)
        assert most <= (SPAN_SECONDS + 1) * GETS_PER_SECOND  # a second's worth for what a busy machine holds up on its way here
        assert len(times) / (times[-1] - times[0]) > GETS_PER_SECOND / 2
