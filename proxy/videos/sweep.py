"""Ends video tasks that nothing else can end any more, so that every hold ends.

Polls decide first: a task that is overdue while its upstream cannot be asked may have succeeded all the same. So it is swept only once
the upstream itself has forgotten it. A lost submit is swept once the search for it was given up.
"""

import logging

from proxy.clock import Clock
from proxy.core.video.answers import SUBMIT_MS_MAX
from proxy.core.video.record import TaskState, VideoTask
from proxy.core.video.report import DeadlinePassed
from proxy.core.video.task import LOOKUP_UNANSWERED_MS, RECORD_LIFE_MS
from proxy.store.contract import VideoTasks
from proxy.videos.tasks import VideoJobs

logger = logging.getLogger(__name__)

EVERY_SECONDS = 60.0


class OverdueTasks:
    """Ends the open tasks that are overdue."""

    def __init__(self, store: VideoTasks, jobs: VideoJobs, clock: Clock) -> None:
        self._store = store
        self._jobs = jobs
        self._clock = clock

    async def __call__(self) -> None:
        now_ms = self._clock.now_ms()
        for task in await self._store.open_tasks():
            if is_overdue(task, now_ms):
                step = await self._jobs.advance(task.id, DeadlinePassed())
                logger.warning("video %s is overdue: swept, it is %s now", task.id, step.task.state.value)


def is_overdue(task: VideoTask, now_ms: int) -> bool:
    """Return whether nothing else is expected to end the task."""
    if task.state is not TaskState.SUBMITTING:
        return task.expires_at_ms is not None and now_ms >= max(task.expires_at_ms, task.created_at_ms + RECORD_LIFE_MS)
    if task.lost_at_ms is None:
        return now_ms >= task.created_at_ms + SUBMIT_MS_MAX
    return now_ms >= task.lost_at_ms + LOOKUP_UNANSWERED_MS
