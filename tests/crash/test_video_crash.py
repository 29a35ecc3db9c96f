"""A process that dies at any step of a video: nothing is submitted twice, lost or charged twice, and every hold ends.

There are two ways to die: kill -9 of a real gateway, at moments that the stand-in can see; and, for other moments, a caller of the real
store that dies before or after each of its operations. In both cases the next gateway takes over the same file.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.clock import SystemClock
from proxy.config import load
from proxy.core.catalog import Kind
from proxy.core.money import Nanos
from proxy.core.rates import NO_RATES
from proxy.core.video.price import VideoBilling, video_tokens
from proxy.core.video.record import VideoTask, new_task
from proxy.core.video.request import VideoCall
from proxy.core.video.task import Pace
from proxy.core.video.upstream import upstream_body
from proxy.demo.ark import TASKS, Answer, Call, Check, Perform, Send, Settings, StandIn, Timeline
from proxy.demo.ark.script import Step
from proxy.demo.ark.server import When
from proxy.store.sqlite import open_store
from proxy.store.sqlite.store import SqliteStore
from proxy.store.values import NewRequest
from proxy.telemetry.metrics import Metrics
from proxy.upstream.routing import Routing
from proxy.upstream.upstreams import Upstreams
from proxy.videos.calls import VideoCalls
from proxy.videos.poll import VideoPoll
from proxy.videos.tasks import VideoJobs
from tests.support.books import assert_books_balance
from tests.support.gateway import BALANCE, Bench
from tests.support.process import GatewayProcess, gateway_process
from tests.support.settings import live as in_force
from tests.support.videos import MODEL, PROMPT, QUICK, SILENT, SUBMIT, creates, ended, look_quickly, quick_bench

TASK_PATH = TASKS + "/*"
GIVE_UP_MS = 400
"""Limit of the search for a lost submit in these tests."""

KILL_AFTER_SECONDS = 0.002

Kill = Callable[[Call], None]


# kill -9, at a moment that the upstream sees.


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment of a kill: a point in the answer of the call that follows `after` others of its kind."""

    method: str
    path: str
    steps: Callable[[Kill], Sequence[Step]]
    is_made: bool = True
    """The task has been created upstream."""
    when: When = "body"
    after: int = 0
    """Number of calls of this kind that are answered before."""
    advance: str = ""
    """Status that the task gets upstream before the call is answered."""


def before_its_work(kill: Kill) -> Sequence[Step]:
    return [Check(kill)]


def before_its_answer(kill: Kill) -> Sequence[Step]:
    return [Perform(), Check(kill)]


def midway_in_its_answer(kill: Kill) -> Sequence[Step]:
    return [Perform(), Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 40\r\n\r\n{"), Check(kill)]


def with_its_answer(kill: Kill) -> Sequence[Step]:
    """Return steps that kill the gateway while the answer is on its way, so that it may be recorded or not.

    The kill is scheduled by a timer, since a gateway that has read the whole answer may close the connection, which ends the script.
    """

    def soon(call: Call) -> None:
        asyncio.get_running_loop().call_later(KILL_AFTER_SECONDS, kill, call)

    return [Perform(), Check(soon), Answer()]


MOMENTS = {
    "the submit's head has arrived": Moment("POST", TASKS, before_its_work, is_made=False, when="head"),
    "the submit has arrived": Moment("POST", TASKS, before_its_work, is_made=False),
    "the task is made, its answer not sent": Moment("POST", TASKS, before_its_answer),
    "half of the submit's answer is sent": Moment("POST", TASKS, midway_in_its_answer),
    "the submit's answer is sent": Moment("POST", TASKS, with_its_answer),
    "the first poll has arrived": Moment("GET", TASK_PATH, before_its_work),
    "the first poll is answered": Moment("GET", TASK_PATH, with_its_answer),
    "a poll's answer is cut": Moment("GET", TASK_PATH, midway_in_its_answer, after=1),
    "a poll was told that it runs": Moment("GET", TASK_PATH, with_its_answer, after=1, advance="running"),
    "a poll is about to be told of success": Moment("GET", TASK_PATH, before_its_answer, after=1, advance="succeeded"),
    "a poll was told of success": Moment("GET", TASK_PATH, with_its_answer, after=1, advance="succeeded"),
    "a poll was told of failure": Moment("GET", TASK_PATH, with_its_answer, after=1, advance="failed"),
    "a poll after that": Moment("GET", TASK_PATH, with_its_answer, after=3),
}


LONG = {
    "half of the submit's answer is sent",
    "a poll's answer is cut",
    "a poll is about to be told of success",
    "a poll was told of failure",
    "a poll after that",
}
"""Moments that are left out of the ordinary run: each resembles another, and each costs the start of a process."""
EACH = [pytest.param(moment, id=name, marks=[pytest.mark.long] if name in LONG else []) for name, moment in MOMENTS.items()]


@pytest.mark.parametrize("moment", EACH)
async def test_kill_nine_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: Moment) -> None:
    look_quickly(monkeypatch, give_up_after_ms=GIVE_UP_MS)
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE, **QUICK) as gateway:
        await gateway.start()
        plan(ark, gateway, moment)
        answer = await ask_until_killed(gateway)

        async with quick_bench(tmp_path, ark) as restarted:
            await assert_all_is_well(restarted, moment, answer)


def plan(ark: StandIn, gateway: GatewayProcess, moment: Moment) -> None:
    def kill(_: Call) -> None:
        assert gateway.process is not None
        os.kill(gateway.process.pid, signal.SIGKILL)

    def act(_: Call) -> Sequence[Step]:
        if moment.advance:
            ark.videos.advance(next(iter(ark.videos.tasks)), moment.advance)
        return moment.steps(kill)

    if moment.after:
        ark.enqueue([Answer()], moment.path, method=moment.method, times=moment.after)
    ark.enqueue(act, moment.path, method=moment.method, when=moment.when)


async def ask_until_killed(gateway: GatewayProcess) -> dict[str, Any] | None:
    """Submit a task and wait until the gateway is dead. Return the answer, or None if the gateway was killed first."""
    headers = {"Authorization": f"Bearer {gateway.key}"}
    answer: dict[str, Any] | None = None
    async with aiohttp.ClientSession(gateway.origin, headers=headers) as session:
        try:
            async with session.post("/v1" + SUBMIT, json={"prompt": PROMPT}) as response:
                assert response.status == 200, await response.text()
                answer = await response.json()
        except aiohttp.ClientError:
            pass
        async with asyncio.timeout(30):
            assert await gateway.exit_code() == -signal.SIGKILL
    return answer


async def assert_all_is_well(restarted: Bench, moment: Moment, answer: dict[str, Any] | None) -> None:
    ark = restarted.ark
    for upstream_id, made in ark.videos.tasks.items():
        if made.status in ("queued", "running"):
            ark.videos.advance(upstream_id, "succeeded")
    listed = (await restarted.ask("/videos/tasks")).json["data"]
    assert len(listed) == 1, "the task is lost, or there are two"
    task = await ended(restarted, listed[0]["id"])

    assert answer is None or answer["id"] == task["id"]
    assert creates(ark) == 1
    assert len(ark.videos.tasks) == int(moment.is_made)
    is_success = moment.is_made and moment.advance != "failed"
    assert (task["status"], task["total_cost"]) == (("succeeded", "0.8640") if is_success else ("failed", "0"))
    await restarted.assert_charged(SILENT if is_success else 0)


async def test_kill_nine_when_a_cancel_has_worked_and_nobody_knows_it(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE, **QUICK) as gateway:
        await gateway.start()
        plan(ark, gateway, Moment("DELETE", TASK_PATH, before_its_answer))
        headers = {"Authorization": f"Bearer {gateway.key}"}
        async with aiohttp.ClientSession(gateway.origin, headers=headers) as session:
            async with session.post("/v1" + SUBMIT, json={"prompt": PROMPT}) as response:
                task_id = (await response.json())["id"]
            with pytest.raises(aiohttp.ClientError):
                await session.delete(f"/v1/videos/tasks/{task_id}")
        await gateway.exit_code()

        async with quick_bench(tmp_path, ark) as restarted:
            task = await ended(restarted, task_id)

            assert (task["status"], task["error"]["code"]) == ("failed", "TASK_CANCELLED")
            await restarted.assert_charged(0)


async def test_kill_nine_while_a_lost_submit_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed when the list is asked for and when it is answered. The search begins about 5 s after a start."""
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE, **QUICK) as gateway:
        await gateway.start()
        plan(ark, gateway, Moment("POST", TASKS, before_its_answer))
        await ask_until_killed(gateway)
        for steps in (before_its_work, with_its_answer):
            plan(ark, gateway, Moment("GET", TASKS, steps))
            await gateway.start()
            await gateway.exit_code()

        look_quickly(monkeypatch)
        async with quick_bench(tmp_path, ark) as restarted:
            await assert_all_is_well(restarted, Moment("POST", TASKS, before_its_answer), None)


# Death between any two operations of the code that advances a task.


class Dead(BaseException):
    """The simulated death of the process."""


class Doom:
    """Counts points: before the first operation, after it, before the second … Raises `Dead` beyond the given number of points."""

    def __init__(self, point: int | None) -> None:
        self.point = point
        self.passed: list[str] = []

    def come(self, name: str) -> None:
        self.passed.append(name)
        if self.point is not None and len(self.passed) > self.point:
            raise Dead(name)


class MortalStore:
    """The real store, whose caller dies before or after an operation."""

    def __init__(self, store: SqliteStore, doom: Doom) -> None:
        self._store = store
        self._doom = doom

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)
        if name not in ("place_task", "advance_task"):
            return operation

        def mortal(*args: Any, **names: Any) -> Any:
            self._doom.come(f"before {name}")
            outer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

            def done(inner: "asyncio.Future[Any]") -> None:
                try:
                    self._doom.come(f"after {name}")
                    outer.set_result(inner.result())
                except BaseException as fault:  # noqa: BLE001 - passed on to the caller that waits
                    outer.set_exception(fault)

            operation(*args, **names).add_done_callback(done)
            return outer

        return mortal


class MortalCalls(VideoCalls):
    """The real calls, whose caller may die before or after each of them."""

    doom: Doom

    async def submit(self, task: VideoTask, body: Any) -> Any:
        self.doom.come("before the submit")
        submission = await super().submit(task, body)
        self.doom.come("after the submit")
        return submission

    async def status(self, task: VideoTask, *, urgent: bool = False) -> Any:
        self.doom.come("before the poll")
        report = await super().status(task, urgent=urgent)
        self.doom.come("after the poll")
        return report


POINTS = [
    "before place_task", "after place_task", "before the submit", "after the submit", "before advance_task", "after advance_task",
    "before the poll", "after the poll", "before advance_task", "after advance_task",
    "before the poll", "after the poll", "before advance_task", "after advance_task",
]  # fmt: skip
"""The points of a submit, a poll that reports a running task, and one that reports its success."""


async def live(directory: Path, ark: StandIn, doom: Doom) -> None:
    """Submit a task and poll it until it ends, as the handler and the job do, or die before."""
    clock, metrics = SystemClock(), Metrics()
    async with quick_bench(directory, ark) as gateway:  # for its account and its configuration
        account_id = gateway.account_id
    store = await open_store(directory / "gateway.db")
    try:
        mortal: Any = MortalStore(store, doom)
        config = load(directory / "config.toml", {"ARK_API_KEY": "key"})
        async with AsyncExitStack() as stack:
            upstreams = Upstreams(clock)
            stack.push_async_callback(upstreams.close)
            settings = in_force(config, upstreams.take(config.upstreams), pace=Pace(1, 2))
            calls = MortalCalls(settings, metrics, Routing(clock))
            calls.doom = doom
            jobs = VideoJobs(
                store=mortal, calls=calls, live=settings, clock=clock, metrics=metrics, jitter=lambda: 0.5, expect=lambda *_: None
            )
            poll = VideoPoll(mortal, jobs, calls, metrics)
            request, task, body = _drawn_up(account_id, clock.now_ms())
            await jobs.submit(request, task, body, NO_RATES)
            for status in ("running", "succeeded"):
                ark.videos.advance(next(iter(ark.videos.tasks)), status)
                pending = await store.task(task.id)
                assert pending is not None
                await poll(pending)
    finally:
        await store.close()


@pytest.mark.parametrize("point", range(len(POINTS) + 1), ids=[*(f"{number} {name}" for number, name in enumerate(POINTS)), "never"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int) -> None:
    look_quickly(monkeypatch, give_up_after_ms=GIVE_UP_MS)
    doom = Doom(point)
    async with StandIn() as ark:
        if point == len(POINTS):
            await live(tmp_path, ark, doom)
            assert doom.passed == POINTS
        else:
            with pytest.raises(Dead, match=POINTS[point]):
                await live(tmp_path, ark, doom)
        is_made = bool(ark.videos.tasks)
        for upstream_id in ark.videos.tasks:
            ark.videos.advance(upstream_id, "succeeded")

        async with quick_bench(tmp_path, ark) as restarted:
            listed = (await restarted.ask("/videos/tasks")).json["data"]
            tasks = [await ended(restarted, task["id"]) for task in listed]

            assert len(tasks) == int(point > 0)  # nothing was recorded, nothing was promised
            assert creates(ark) == int(point > 2)
            assert [task["status"] for task in tasks] == ["succeeded" if is_made else "failed"] * len(tasks)
            await restarted.assert_charged(SILENT if is_made else 0)


def _drawn_up(account_id: int, now_ms: int) -> tuple[NewRequest, VideoTask, dict[str, object]]:
    call = VideoCall(PROMPT, seed=11)
    request = NewRequest(
        id="vreq_1",
        kind=Kind.VIDEO,
        account_id=account_id,
        key_id="",
        model=MODEL,
        upstream="ark",
        upstream_model=MODEL,
        stream=False,
        hold_nanos=Nanos(SILENT),
        price="{}",
        created_at_ms=now_ms,
    )
    task = new_task(
        request_id=request.id,
        account_id=account_id,
        model=MODEL,
        upstream="ark",
        upstream_model=MODEL,
        call=call,
        safety_identifier="somebody",
        billing=VideoBilling.FORMULA,
        hold_nanos=Nanos(SILENT),
        quote_nanos=Nanos(SILENT),
        rate_nanos_per_kilotoken=8_000_000,
        now_ms=now_ms,
    )
    assert video_tokens(call) == 108_000
    return request, task, upstream_body(call, MODEL, "somebody")


# Many tasks at a time.


@pytest.mark.long
async def test_kill_nine_again_and_again_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Customers submit while the gateway is killed about every second: each task upstream is a customer's and is paid once."""
    look_quickly(monkeypatch, give_up_after_ms=3_000)
    balance = Nanos(BALANCE * 100)
    async with (
        StandIn(Settings(timeline=Timeline(0.3, 0.5))) as ark,
        gateway_process(tmp_path, ark.base_url, balance=balance, **QUICK) as gateway,
    ):
        given: set[str] = set()
        for _ in range(15):
            await gateway.start()
            await submit_until_killed(gateway, given)

        async with quick_bench(tmp_path, ark, balance=balance) as restarted:
            ids: list[str] = []
            while page := (await restarted.ask(f"/videos/tasks?limit=100&offset={len(ids)}")).json["data"]:
                ids += [task["id"] for task in page]
            tasks = [await ended(restarted, task_id) for task_id in ids]

            assert given <= set(ids), "a customer was given a task that is gone"
            assert len(ark.videos.tasks) == creates(ark) > 100
            assert len([task for task in tasks if task["status"] == "succeeded"]) == creates(ark)
            assert await restarted.balance() == (balance - creates(ark) * SILENT, 0)
            await assert_books_balance(restarted.store)


async def submit_until_killed(gateway: GatewayProcess, given: set[str]) -> None:
    """Run four customers that submit one task after the other, until kill -9."""

    async def customer(session: aiohttp.ClientSession) -> None:
        while True:
            async with session.post("/v1" + SUBMIT, json={"prompt": PROMPT}) as response:
                assert response.status == 200, await response.text()
                given.add((await response.json())["id"])

    async with aiohttp.ClientSession(gateway.origin, headers={"Authorization": f"Bearer {gateway.key}"}) as session:
        customers = asyncio.gather(*(customer(session) for _ in range(4)), return_exceptions=True)
        await asyncio.wait([customers], timeout=0.8)
        await gateway.kill()
        ends = await customers
    assert all(isinstance(end, aiohttp.ClientError) for end in ends), ends
