"""Videos of several gateways: each polled by one at a time, cancelled at any, waited for at any, and taken over from the dead."""

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

from proxy.demo.ark import TASKS, Answer, Check, Hang, Perform, Wait
from proxy.tasks import TaskGroup
from proxy.videos.cancel import CANCELS_MAX
from tests.support.cluster import Cluster, Member, cluster
from tests.support.gateway import BALANCE
from tests.support.videos import MODEL, PROMPT, SILENT, SUBMIT

TASK_PATH = TASKS + "/*"
BODY = {"model": MODEL, "prompt": PROMPT}
TURN_SECONDS = 0.6
EVERY_TURN: dict[str, Any] = {
    "poll_seconds": f"{TURN_SECONDS}, {TURN_SECONDS}",
    "upstream": "requests_per_second = 1000\nlist_requests_per_second = 200",
}
NEVER: dict[str, Any] = {**EVERY_TURN, "poll_seconds": "600, 600"}


async def submitted(member: Member) -> str:
    reply = await member.ask(SUBMIT, BODY)
    assert reply.status == 200, reply.body
    return str(reply.json["id"])


def upstream_id(gateways: Cluster) -> str:
    (task_id,) = gateways.ark.videos.tasks
    return task_id


async def test_each_video_is_asked_for_once_a_turn_whoever_submitted_it(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3, **EVERY_TURN) as gateways:
        await gateways.all_counted()
        for member in gateways.members:
            for _ in range(3):
                await submitted(member)
        for task in gateways.ark.videos.tasks:
            gateways.ark.videos.advance(task, "running")
        await gateways.until("SELECT min(polls) >= 5 FROM video_tasks")

        for task in gateways.ark.videos.tasks:
            looks = [call.at for call in gateways.ark.calls_to(f"{TASKS}/{task}", "GET")]
            assert len(looks) >= 5
            assert min(later - sooner for sooner, later in pairwise(looks)) > TURN_SECONDS / 2
        for task in gateways.ark.videos.tasks:
            gateways.ark.videos.advance(task, "succeeded")
        await gateways.until("SELECT bool_and(state = 'succeeded') FROM video_tasks")
        assert await gateways.balance() == (BALANCE - 9 * SILENT, 0)


async def test_who_waits_at_one_gateway_hears_of_a_step_of_another(tmp_path: Path) -> None:
    """The second one may not ask upstream before everybody counts it, so only the first polls."""
    async with cluster(tmp_path, 1, **EVERY_TURN) as gateways:
        (polling,) = gateways.members
        (waiting,) = await gateways.start(**EVERY_TURN)
        task_id = await submitted(polling)
        look = TaskGroup("looks").spawn(waiting.ask(f"/videos/tasks/{task_id}?wait=30"), "wait")
        await gateways.until("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT id, state FROM video_tasks%'")
        gateways.ark.videos.advance(upstream_id(gateways), "succeeded")

        async with asyncio.timeout(15):
            assert (await look).json["status"] == "succeeded"
        assert await gateways.balance() == (BALANCE - SILENT, 0)


async def test_a_cancel_waits_for_another_gateways_poll_of_its_task(tmp_path: Path) -> None:
    """A poll that looked before the DELETE and records after it would charge a video that is deleted."""
    answer = asyncio.Event()
    async with cluster(tmp_path, 2, **EVERY_TURN, first_byte_seconds=60) as gateways:
        await gateways.all_counted()
        gateways.ark.enqueue([Wait(answer), Answer()], TASK_PATH, method="GET")
        task_id = await submitted(gateways.members[0])
        await gateways.ark.wait_until(lambda: bool(gateways.ark.calls_to(TASK_PATH)))
        polling = await gateways.sql("SELECT name FROM nodes JOIN video_tasks ON claimed_by = nodes.id")
        (cancelling,) = [member for member in gateways.members if f" {member.pid}" not in polling]
        cancel = TaskGroup("cancels").spawn(cancelling.ask(f"/videos/tasks/{task_id}", method="DELETE"), "cancel")
        await asyncio.wait([cancel], timeout=1.0)
        before = [call.method for call in gateways.ark.calls_to(TASK_PATH)]
        answer.set()
        reply = await cancel

        assert before == ["GET"]
        assert reply.status == 200
        assert reply.json["error"]["code"] == "TASK_CANCELLED"
        assert await gateways.balance() == (BALANCE, 0)


async def test_no_other_gateway_polls_tasks_while_they_are_cancelled(tmp_path: Path) -> None:
    """Four at a time: without their claims it is by chance who polls each."""
    deleted = asyncio.Event()
    async with cluster(tmp_path, 2, **EVERY_TURN) as gateways:
        await gateways.all_counted()
        cancelling, _ = gateways.members
        task_ids = [await submitted(cancelling) for _ in range(CANCELS_MAX)]
        gateways.ark.enqueue([Wait(deleted), Perform(), Answer()], TASK_PATH, method="DELETE", times=CANCELS_MAX)
        cancels = asyncio.gather(*(cancelling.ask(f"/videos/tasks/{task_id}", method="DELETE") for task_id in task_ids))
        await gateways.ark.wait_until(lambda: len(gateways.ark.calls_to(TASK_PATH, "DELETE")) == CANCELS_MAX)
        looks = {task: len(gateways.ark.calls_to(f"{TASKS}/{task}", "GET")) for task in gateways.ark.videos.tasks}
        await asyncio.sleep(TURN_SECONDS * 4)
        meanwhile = [len(gateways.ark.calls_to(f"{TASKS}/{task}", "GET")) - before for task, before in looks.items()]
        deleted.set()
        replies = await cancels

        # The cancelling gateway's own polls look at a task again once its cancel is over, before they record.
        assert max(meanwhile) <= 1
        assert {reply.json["error"]["code"] for reply in replies} == {"TASK_CANCELLED"}
        assert await gateways.balance() == (BALANCE, 0)


async def test_a_video_of_a_dead_gateway_is_polled_on_by_another(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2, **EVERY_TURN) as gateways:
        doomed, _ = gateways.members
        await submitted(doomed)
        await doomed.kill()
        gateways.ark.videos.advance(upstream_id(gateways), "succeeded")

        await gateways.until("SELECT state = 'succeeded' FROM video_tasks")
        assert await gateways.balance() == (BALANCE - SILENT, 0)


async def test_a_lost_submit_is_looked_for_once_its_gateway_is_dead_and_never_before(tmp_path: Path) -> None:
    """The upstream has made the task and has not answered. Only its gateway's death, not another's start, loses the submit."""
    made = asyncio.Event()
    async with cluster(tmp_path, 1, **NEVER, first_byte_seconds=60) as gateways:
        (doomed,) = gateways.members
        gateways.ark.enqueue([Perform(), Check(lambda _: made.set()), Hang()], TASKS, method="POST")
        submit = TaskGroup("submits").spawn(submitted(doomed), "submit")
        await made.wait()
        await gateways.start(**NEVER, first_byte_seconds=60)
        await gateways.all_counted()
        before = await gateways.sql("SELECT state || coalesce(lost_at_ms::text, '') FROM video_tasks")
        listed = len(gateways.ark.calls_to(TASKS, "GET"))
        await doomed.kill()
        await asyncio.wait([submit])
        await gateways.until("SELECT lost_at_ms IS NOT NULL OR state = 'pending' FROM video_tasks")
        await gateways.until("SELECT state = 'pending' FROM video_tasks", seconds=60)

        assert (before, listed) == ("submitting", 0)
        assert submit.exception() is not None
        assert len(gateways.ark.calls_to(TASKS, "POST")) == 1
