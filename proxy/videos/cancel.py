"""Cancels: one at a time for each task, a few at a time for each account. A task that ends meanwhile is not called cancelled.

Ark cancels a queued task by the same DELETE that removes the record of an ended one, with its video, and answers both alike. So the
task is looked up afterwards: a cancelled one stays on record for a day, one that had ended is gone.
"""

import asyncio
from collections import Counter

from proxy.core.errors import GatewayError, ModelUnavailableError, RateLimitedError, TaskNotFoundError, TaskRunningError
from proxy.core.video import failure
from proxy.core.video.record import VideoTask
from proxy.core.video.report import CancelConfirmed, Polled, PollFailed, PollFailure, RecordDeleted
from proxy.store.contract import VideoTasks
from proxy.store.errors import StoreUnavailableError
from proxy.videos.calls import VideoCalls
from proxy.videos.tasks import VideoJobs

CANCELS_MAX = 4
"""Of one account at a time, each of another task. They are urgent calls, and delay everybody's polls."""

CLAIM_SECONDS_MAX = 15.0
"""Time that a cancel waits for another gateway's poll of its task: one takes `STATUS_SECONDS_MAX` at most, once it has its turn."""
CLAIM_PAUSE_SECONDS, CLAIM_PAUSE_SECONDS_MAX = 0.05, 0.5

_Result = VideoTask | GatewayError | StoreUnavailableError


class VideoCancels:
    def __init__(self, store: VideoTasks, jobs: VideoJobs, calls: VideoCalls) -> None:
        self._store = store
        self._jobs = jobs
        self._calls = calls
        self._under_way: dict[str, asyncio.Task[_Result]] = {}
        self._counts: Counter[int] = Counter()
        """Cancels under way in this process, by account."""

    async def cancel(self, task: VideoTask) -> VideoTask:
        """Cancel a task that is queued upstream, and return its new state. Calls made meanwhile share this one's result.

        Raises:
            TaskRunningError: it is still being submitted, or it runs, or it has ended.
            ModelUnavailableError: the upstream does not say the task's state, or whether it is cancelled.
            RateLimitedError: the account has too many cancels under way.
            StoreUnavailableError: what was seen could not be stored.
        """
        if not task.upstream_id and not task.ended:
            raise TaskRunningError("The task is still being handed over; try again in a moment", retry_after_seconds=2)
        result = await asyncio.shield(self._under_way.get(task.id) or self._begin(task))
        if isinstance(result, Exception):
            raise result
        return result

    def _begin(self, task: VideoTask) -> "asyncio.Task[_Result]":
        if not task.cancellable:
            raise _too_late(task)
        if self._counts[task.account_id] >= CANCELS_MAX:
            raise RateLimitedError(f"More than {CANCELS_MAX} tasks are being cancelled at a time", retry_after_seconds=1)

        def forget(_: object) -> None:
            del self._under_way[task.id]
            self._counts[task.account_id] -= 1
            if not self._counts[task.account_id]:
                del self._counts[task.account_id]

        self._counts[task.account_id] += 1
        cancel = self._under_way[task.id] = self._jobs.finish(self._cancel(task), f"cancel of {task.id}")
        cancel.add_done_callback(forget)
        return cancel

    async def _cancel(self, task: VideoTask) -> _Result:
        try:
            await self._calls.cancel_turn(task)  # first, so that the DELETE need not wait after the look
            async with (alone := self._jobs.alone(task.id)):
                alone.cancels += 1
                await self._claim(task.id)
                seen = await self._seen(task.id)
                return seen if seen.error == failure.CANCELLED else await self._deleted(seen)
        except (GatewayError, StoreUnavailableError) as fault:
            return fault

    async def _claim(self, task_id: str) -> None:
        """Have the task for oneself, so that no other gateway records what it saw before the cancel: its poll ends in a moment.

        Raises: ModelUnavailableError: it does not end.
        """
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + CLAIM_SECONDS_MAX, CLAIM_PAUSE_SECONDS
        while not await self._store.claim_task(task_id):
            if loop.time() >= until:
                raise _unanswered()
            await asyncio.sleep(pause)
            pause = min(pause * 2, CLAIM_PAUSE_SECONDS_MAX)

    async def _seen(self, task_id: str) -> VideoTask:
        """Return the task if it is seen to be queued, or already cancelled: a DELETE would remove a finished one's video."""
        task = await self._store.task(task_id)
        if task is None:
            raise TaskNotFoundError("There is no such task")
        if not task.cancellable:  # a poll was faster
            raise _too_late(task)
        seen = await self._calls.status(task, urgent=True)
        task = (await self._jobs.advance(task_id, seen, keeps_claim=True)).task
        if not isinstance(seen, Polled) and not task.ended:
            raise _unanswered()
        if task.error == failure.CANCELLED or (isinstance(seen, Polled) and seen.status == "queued" and task.cancellable):
            return task
        raise _too_late(task)

    async def _deleted(self, task: VideoTask) -> VideoTask:
        await self._claim(task.id)  # for the time that is to come
        has_worked = await self._calls.cancel(task)
        seen = await self._calls.status(task, urgent=True)
        task = (await self._jobs.record(task.id, _report(seen) if has_worked else seen)).task
        if task.error == failure.CANCELLED:
            return task
        raise _unanswered() if task.cancellable else _too_late(task)


def _report(seen: Polled | PollFailed) -> CancelConfirmed | RecordDeleted | Polled | PollFailed:
    """Return the report for a task that is seen so after a DELETE that worked."""
    match seen:
        case Polled(status="cancelled" | "canceled"):
            return CancelConfirmed()
        case PollFailed(kind=PollFailure.NOT_FOUND):
            return RecordDeleted()
    return seen


def _too_late(task: VideoTask) -> TaskRunningError:
    why = "The task has ended" if task.ended else "The task is being generated and cannot be cancelled any more"
    return TaskRunningError(why, should_retry=False)  # SDKs would try a 409 again


def _unanswered() -> ModelUnavailableError:
    return ModelUnavailableError("The task could not be cancelled just now", retry_after_seconds=2)
