"""Builds what videos need: the jobs, their calls and cancels, and the due work of each upstream.

Three steps, in this order: build, `take_up` what the last process left, `start`. A task that advances tells its upstream's due work
when it is due, so due work is built before the first task is taken up. It runs only once all are.
"""

import logging
import random

from proxy.clock import Clock
from proxy.core.video.record import VideoTask
from proxy.jobs.held import held
from proxy.jobs.scheduler import DueWork, Scheduler
from proxy.live.settings import Live, Settings
from proxy.store.contract import Store
from proxy.telemetry.metrics import Metrics
from proxy.upstream.routing import Routing
from proxy.videos import sweep
from proxy.videos.calls import VideoCalls
from proxy.videos.cancel import VideoCancels
from proxy.videos.poll import DueVideos, VideoPoll
from proxy.videos.sweep import OverdueTasks
from proxy.videos.tasks import VideoJobs

SHARED_SLEEP_SECONDS_MAX = 1.0
"""Longest sleep between looks where other gateways submit, too: only the store knows of their tasks."""

logger = logging.getLogger(__name__)


class Videos:
    """Everything that advances video tasks. Its builder closes it: the scheduler first, then `jobs`, then `calls`."""

    def __init__(self, *, store: Store, scheduler: Scheduler, live: Live, clock: Clock, metrics: Metrics, routing: Routing) -> None:
        self._store = store
        self._scheduler = scheduler
        self._live = live
        self._clock = clock
        self._due: dict[str, DueWork[VideoTask]] = {}
        """By upstream, so that one that hangs does not delay the others' tasks."""
        self.calls = VideoCalls(live, metrics, routing)
        self.jobs = VideoJobs(
            store=store, calls=self.calls, live=live, clock=clock, metrics=metrics, jitter=random.random, expect=self._expect
        )
        self.cancels = VideoCancels(store, self.jobs, self.calls)
        self._poll = VideoPoll(store, self.jobs, self.calls, metrics)

    async def take_up(self) -> None:
        """Make due work for every upstream that has tasks or may get some, and look for the submits whose answer was lost."""
        with_tasks = {task.upstream for task in await self._store.open_tasks()}  # also of upstreams that a reload removed
        for upstream in {*self._live.now.upstreams, *with_tasks}:
            self._due[upstream] = self._due_work(upstream)
        if lost := await self.jobs.recover():
            logger.warning("looking for %d video submits that the last process left without an answer", lost)

    def start(self) -> None:
        """Let the scheduler poll what is due and sweep what is overdue, until it is closed."""
        for upstream, due_work in self._due.items():
            self._schedule(upstream, due_work)
        sweeping = held(self._store.peers, "sweep", OverdueTasks(self._store, self.jobs, self._clock))
        self._scheduler.every(sweep.EVERY_SECONDS, sweeping, "the sweep of overdue videos")

    def poll_added(self, settings: Settings) -> None:
        """Begin to poll the upstreams that a reload added. Those that it removed are still polled, for the tasks they have."""
        for upstream in settings.upstreams.keys() - self._due.keys():
            self._due[upstream] = self._due_work(upstream)
            self._schedule(upstream, self._due[upstream])

    def _due_work(self, upstream: str) -> DueWork[VideoTask]:
        peers = self._store.peers
        agenda = DueVideos(self._store, upstream, self._live, peers)
        return DueWork(agenda, self._clock, sleep_seconds_max=None if peers is None else SHARED_SLEEP_SECONDS_MAX)

    def _schedule(self, upstream: str, due_work: DueWork[VideoTask]) -> None:
        self._scheduler.whenever_due(due_work, self._poll, f"videos of {upstream}")

    def _expect(self, upstream: str, due_at_ms: int) -> None:
        self._due[upstream].expect(due_at_ms)
