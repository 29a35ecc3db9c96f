"""The only code that advances video tasks: every report goes through `advance`, and whoever waits is told.

Metrics, log, waiting customers and the scheduler are told when a step is durable, by the step's own future: a caller that stops waiting
changes nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import orjson

from proxy.billing.holds import HOLD_REFUSALS, RETRY_SECONDS_FIRST, RETRY_SECONDS_MAX, hold_refused
from proxy.billing.idempotency import kept
from proxy.clock import Clock
from proxy.core.catalog import Kind
from proxy.core.errors import GatewayError
from proxy.core.money import format_yuan
from proxy.core.rates import Rates
from proxy.core.video.record import TaskState, VideoTask
from proxy.core.video.report import Report, SubmitUnknown
from proxy.core.video.task import Step, advance
from proxy.core.video.view import created_task, hold_advice, public_status
from proxy.live.settings import Live
from proxy.store.contract import VideoTasks
from proxy.store.errors import StoreUnavailableError, UpstreamIdTakenError
from proxy.store.values import NewRequest, StoredAnswer
from proxy.tasks import TaskGroup
from proxy.telemetry.metrics import Metrics
from proxy.videos.calls import Submission, VideoCalls
from proxy.videos.watching import Watching

logger = logging.getLogger(__name__)

T = TypeVar("T")

SUBMIT_SECONDS_MAX = 120.0
"""Limit for the answer to a submit. Ark takes a task in a second or two, a picture of 30 MB in some more."""
SUBMIT_MARGIN_SECONDS = 60.0


class Alone(asyncio.Lock):
    """One task's lock, alive while somebody uses it, and the number of cancels that have had it in that time."""

    cancels = 0


class VideoJobs:
    """Submits and advances tasks."""

    def __init__(
        self,
        *,
        store: VideoTasks,
        calls: VideoCalls,
        live: Live,
        clock: Clock,
        metrics: Metrics,
        jitter: Callable[[], float],
        expect: Callable[[str, int], None],
    ) -> None:
        """Args: jitter: draws from [0, 1); expect: called with an upstream and a due time just stored."""
        self._store = store
        self._calls = calls
        self._live = live
        self._clock = clock
        self._metrics = metrics
        self._jitter = jitter
        self._expect = expect
        self._submits = TaskGroup("submit")
        self.watching = Watching()
        """Customers who wait for a task."""
        self._alone: WeakValueDictionary[str, Alone] = WeakValueDictionary()
        self._rates: dict[str, Rates] = {}
        """By task: the rates that its call was admitted to, until it is settled."""

    # the life of a task

    def submit(
        self, request: NewRequest, task: VideoTask, body: Mapping[str, object], rates: Rates
    ) -> "asyncio.Task[Step | GatewayError]":
        """Record a task and its hold, then submit it, then record the result. A client that leaves does not cut it.

        Returns: the step, or the customer's error. InsufficientBalanceError, IdempotencyConflictError or ModelUnavailableError:
        nothing was recorded; any other error of a refused submit: nothing was charged.
        """
        self._rates[task.id] = rates
        return self._submits.spawn(self._submit(request, task, body), task.id)

    def occupied(self, rates: Mapping[str, Rates]) -> None:
        """Keep the slots of tasks that the last process left, until they are settled."""
        self._rates.update(rates)

    async def advance(self, task_id: str, report: Report, answer: StoredAnswer | None = None, *, keeps_claim: bool = False) -> Step:
        """Store the step that a report leads to, and return it once it is durable.

        Args: keeps_claim: more is to come of whoever reports, before anybody else may look at the task.

        Raises: StoreUnavailableError; KeyError: no such task; UpstreamIdTakenError: the report's id is another task's.
        """
        now_ms, jitter = self._clock.now_ms(), self._jitter()
        before: list[TaskState] = []

        def decide(task: VideoTask) -> Step:
            before.append(task.state)
            return advance(task, report, now_ms, pace=self._live.now.pace, jitter=jitter)

        step = self._store.advance_task(task_id, decide, now_ms, answer, keeps_claim=keeps_claim)
        step.add_done_callback(partial(self._tell, before))
        return await asyncio.shield(step)

    async def record(self, task_id: str, report: Report, answer: StoredAnswer | None = None) -> Step:
        """Do as `advance`, and retry until the store takes it: the report cannot be had again."""
        delay = RETRY_SECONDS_FIRST
        while True:
            try:
                return await self.advance(task_id, report, answer)
            except StoreUnavailableError as fault:
                logger.error("video %s waits to be recorded as %s: %s", task_id, type(report).__name__, fault)  # noqa: TRY400
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_SECONDS_MAX)

    def alone(self, task_id: str) -> "Alone":
        """Return the lock that a cancel has from its look at the task to its result, so that no poll records anything in between."""
        return self._alone.setdefault(task_id, Alone())

    def finish(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Run what a leaving client cannot cut, and `drain` waits for."""
        return self._submits.spawn(work, name)

    async def recover(self) -> int:
        """Begin to look for the submits that dead owners left without an answer, and return how many those are."""
        tasks = await self._store.orphaned_tasks()
        unanswered = [task for task in tasks if task.state is TaskState.SUBMITTING and task.lost_at_ms is None]
        why = SubmitUnknown("the process ended")
        await asyncio.gather(*(self.advance(task.id, why, submit_answer(task)) for task in unanswered))
        return len(unanswered)

    async def drain(self, timeout_seconds: float) -> int:
        """Wait for the submits and cancels under way and cut those that are left; return how many. The next start looks for them."""
        left = await self._submits.drain(timeout_seconds)
        await self._submits.cancel()
        return left

    async def watch(self) -> None:
        """Look what other gateways do, for ever: with tasks that customers wait for, and with this gateway's own."""
        await self.watching.run(self._store, self._rates, self._end_slots)

    # steps

    async def _submit(self, request: NewRequest, task: VideoTask, body: Mapping[str, object]) -> Step | GatewayError:
        if (refused := await self._place(request, task)) is not None:
            return refused
        submission = await self._sent(task, body)
        answer = _answer(request, task, submission.error)
        try:
            step = await self.record(task.id, submission.report, answer)
        except UpstreamIdTakenError as fault:
            # A look-up took this very task for another one: only the list, or the deadline, can end the doubt.
            logger.error("video %s: %s", task.id, fault)  # noqa: TRY400
            step = await self.record(task.id, SubmitUnknown("answered with an id that another task has"), answer)
        return submission.error or step

    async def _place(self, request: NewRequest, task: VideoTask) -> GatewayError | None:
        due_at_ms = task.created_at_ms + round((SUBMIT_SECONDS_MAX + SUBMIT_MARGIN_SECONDS) * 1000)
        is_placed = False
        try:
            await self._store.place_task(request, task, due_at_ms)
            is_placed = True
        except HOLD_REFUSALS as fault:
            return hold_refused(fault, hold_advice(task))
        finally:
            if not is_placed:
                self._rates.pop(task.id).withdraw(0)
        self._expect(task.upstream, due_at_ms)
        return None

    async def _sent(self, task: VideoTask, body: Mapping[str, object]) -> Submission:
        try:
            async with asyncio.timeout(SUBMIT_SECONDS_MAX):
                return await self._calls.submit(task, body)
        except TimeoutError:
            logger.warning("video %s: its submit was not answered within %g s, it is looked for", task.id, SUBMIT_SECONDS_MAX)
            return Submission(SubmitUnknown(f"no answer within {SUBMIT_SECONDS_MAX:g} s"))
        except Exception as fault:  # the task is recorded, and may exist upstream: it must go on whatever failed
            logger.exception("video %s: its submit failed, it is looked for", task.id)
            return Submission(SubmitUnknown(f"failed by {type(fault).__name__}"))

    def _tell(self, before: list[TaskState], stored: "asyncio.Future[Step]") -> None:
        """Announce a step that is durable."""
        if stored.cancelled() or stored.exception() is not None:
            return  # its caller is told
        step = stored.result()
        task = step.task
        if step.due_at_ms is not None:
            self._expect(task.upstream, step.due_at_ms)
        if step.news:
            logger.warning("video %s: %s", task.id, step.news)
        if public_status(before[-1]) != public_status(task.state):
            self.watching.changed(task.id, public_status(task.state))
        if step.settlement is not None:
            self._end_slots(task.id)
            self._metrics.settled(Kind.VIDEO, task.model, step.settlement)
            seconds = (step.settlement.total_ms or 0) / 1000
            cost, note = format_yuan(step.settlement.charge_nanos, 4), step.settlement.note
            logger.info(
                "video %s of %s %s after %.1f s: %s, charged ¥%s%s",
                *(task.id, task.model, task.state.value, seconds, step.settlement.outcome.value, cost, note and f" ({note})"),
            )

    def _end_slots(self, task_id: str) -> None:
        """Give the slots of a task back that has ended, wherever."""
        if (rates := self._rates.pop(task_id, None)) is not None:
            rates.end(0, 0, self._clock.monotonic())


def submit_answer(task: VideoTask) -> StoredAnswer:
    """Return the answer to a submit that may have succeeded, also for its repeats."""
    return StoredAnswer(200, orjson.dumps(created_task(task)))


def _answer(request: NewRequest, task: VideoTask, error: GatewayError | None) -> StoredAnswer | None:
    """Return the answer kept under the request's idempotency key, if any."""
    if error is not None:
        return kept(request.claim, error.status, orjson.dumps(error.body()))
    answer = submit_answer(task)
    return kept(request.claim, answer.status, answer.body)
