"""Work on a video task that is due: poll it or, while it is not known whether the upstream has it, look for it."""

import asyncio
import logging
from collections.abc import Sequence

from proxy.core.video.answers import find_lost, lone_unmarked, unproven
from proxy.core.video.record import Next, TaskState, VideoTask
from proxy.core.video.report import Found, LookupFailed, NotFound, Polled, SubmitUnknown
from proxy.core.video.task import longest_delay_ms
from proxy.live.settings import Live
from proxy.store.contract import VideoTasks
from proxy.store.errors import UpstreamIdTakenError
from proxy.store.peers import Peers
from proxy.telemetry.metrics import Metrics
from proxy.videos.calls import VideoCalls
from proxy.videos.tasks import VideoJobs

logger = logging.getLogger(__name__)

KNOWN_MS = 3_600_000
"""Tasks made up to this long before a lost one can still own a list entry that looks like it. Twice the limit is plenty."""
DUE_MARGIN_MS = 60_000
"""For tasks recorded a moment after the clock was read."""
ASKED_MAX = 8
"""List entries asked for one by one in a look-up. Ark shows the seed of a task that has succeeded, but perhaps not in the list."""
_EVER = 2**62


class DueVideos:
    """One upstream's due tasks, for the scheduler: an upstream that hangs does not delay the others' tasks.

    A task due later than the longest delay allows is due too: the clock has been set back. Its poll sets a new due time.

    Where several gateways poll, lost submits are looked for by one of them for each upstream, which allows one list a second.
    """

    def __init__(self, store: VideoTasks, upstream: str, live: Live, peers: Peers | None = None) -> None:
        self._store = store
        self._peers = peers
        self._upstream = upstream
        self._live = live

    async def due(self, now_ms: int, limit: int) -> Sequence[VideoTask]:
        with_lost = True
        if self._peers is not None:
            if not self._peers.is_counted:
                return []  # it may not ask the upstream yet
            with_lost = await self._peers.take_job(f"lists:{self._upstream}")
        due = await self._store.due_tasks(now_ms, limit, self._upstream, with_lost=with_lost)
        if len(due) >= limit:
            return due
        ahead_ms = now_ms + longest_delay_ms(self._live.now.pace) + DUE_MARGIN_MS
        ahead = await self._store.due_tasks(_EVER, limit - len(due), self._upstream, ahead_ms, with_lost=with_lost)
        return [*due, *ahead]

    async def next_due_at_ms(self, after_ms: int) -> int | None:
        return await self._store.next_due_at_ms(after_ms, self._upstream)


class VideoPoll:
    """Polls one task, or looks it up."""

    def __init__(self, store: VideoTasks, jobs: VideoJobs, calls: VideoCalls, metrics: Metrics) -> None:
        self._store = store
        self._jobs = jobs
        self._calls = calls
        self._metrics = metrics

    async def __call__(self, task: VideoTask) -> None:
        match task.next:
            case Next.POLL:
                await self._poll(task)
            case Next.LOOK_UP if task.lost_at_ms is None:
                # A submit gives up before its task is due, so this one has died.
                await self._jobs.advance(task.id, SubmitUnknown("no word from the submit"))
            case Next.LOOK_UP:
                await self._look_up(task)

    async def _poll(self, task: VideoTask) -> None:
        alone = self._jobs.alone(task.id)
        cancels, is_being_cancelled = alone.cancels, alone.locked()
        seen = await self._calls.status(task)
        logger.debug("video %s: the upstream says %s", task.id, seen.status if isinstance(seen, Polled) else seen.kind)
        async with alone:
            # An answer read during a cancel may date from before its DELETE: a deleted video would be charged.
            if is_being_cancelled or alone.cancels != cancels:
                seen = await self._calls.status(task)
            await self._jobs.advance(task.id, seen)

    async def _look_up(self, task: VideoTask) -> None:
        items = await self._calls.listed(task)
        report = LookupFailed() if items is None else await self._find(task, items)
        if not isinstance(report, LookupFailed):
            self._metrics.video_polled(task.upstream, "found" if isinstance(report, Found) else "not_found")
        try:
            step = await self._jobs.advance(task.id, report)
        except UpstreamIdTakenError:  # taken by a task recorded after we had looked
            step = await self._jobs.advance(task.id, NotFound())
        if step.task.state is TaskState.PENDING and not step.ignored:
            logger.info("video %s: its lost submit is found, as %s", task.id, step.task.upstream_id)

    async def _find(self, task: VideoTask, items: Sequence[object]) -> Found | NotFound:
        """Tell the lost task apart from all others.

        The order of reading matters: a task submitted before the list was read is in one of the two answers, as a rival still without
        an answer or as a known id. A submit that was given up stays a rival: its task may have been made all the same.
        """
        since_ms = task.created_at_ms - KNOWN_MS
        rivals = await self._store.unanswered_tasks(task.upstream, since_ms)
        known = await self._store.known_upstream_ids(task.upstream, since_ms)
        found = find_lost(task, items, known, rivals)
        await asyncio.sleep(0)  # each look at ten thousand entries takes 30 ms
        asked = unproven(task, items, known)[-ASKED_MAX:]  # the oldest: made the soonest after the submit
        if isinstance(found, Found) or not asked:
            return found
        entries = await asyncio.gather(*(self._calls.entry(task, upstream_id) for upstream_id in asked))
        seen = [*_without(items, asked), *entries]
        found = find_lost(task, seen, known, rivals)
        return found if isinstance(found, Found) else lone_unmarked(task, seen, known, rivals)


def _without(items: Sequence[object], upstream_ids: Sequence[str]) -> list[object]:
    return [item for item in items if not isinstance(item, dict) or item.get("id") not in upstream_ids]
