"""The gateway's stop: what triggers it, and how long work under way then has to end."""

import asyncio
import logging
import os

from proxy.edge.body import BodyReader
from proxy.edge.listener import Listener
from proxy.exchange.flight import Relay
from proxy.live.settings import Live
from proxy.tasks import TaskGroup, first_of
from proxy.videos.tasks import VideoJobs

logger = logging.getLogger(__name__)

EXIT_STORE_FAILED = 70
EXIT_LEFT = 79
"""An operator asked this gateway to leave the others: who restarts whatever ends (systemd, the supervisor of workers) lets it be."""
CUT_SECONDS = 10.0
"""Seconds for cut requests to end."""
SETTLE_SECONDS = 30.0
"""Seconds for the store to commit the last settlements; the next start settles what is then still open."""
SUBMIT_DRAIN_SECONDS = 30.0
"""Seconds for submits whose customers have left; the next start looks for those that are cut."""


class StopSignal:
    """SIGTERM, SIGINT or a closed terminal: the first begins a drain, a second ends it."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.impatient = asyncio.Event()
        self.refusing = asyncio.Event()
        """Set once the last new connections had time to ask: later requests, on connections not closed yet, are refused."""
        self.is_leaving = False
        """True if it stops because an operator wants this gateway away."""
        self.has_failed = False
        """True if the gateway stops because a part of it that must never end has ended."""

    def request(self) -> None:
        """Ask to stop; a second call: to stop now."""
        (self.impatient if self.requested.is_set() else self.requested).set()

    def drain(self) -> None:
        """Ask to stop; a second call changes nothing."""
        self.requested.set()

    def cut(self) -> None:
        """Stop now."""
        self.requested.set()
        self.impatient.set()

    def leave(self) -> None:
        """Stop, and stay away."""
        self.is_leaving = True
        self.requested.set()

    def fail(self, fault: BaseException | None, part: str = "the scheduler") -> None:
        """Stop because a part has ended that must not: without the scheduler no video ends, nor its hold."""
        logger.critical("%s ended, so the gateway stops: %s", part, fault or "without a reason")
        self.has_failed = True
        self.requested.set()


async def drain_customers(
    listener: Listener, jobs: VideoJobs, relay: Relay, bodies: BodyReader, *, stop: StopSignal, live: Live
) -> None:
    """Accept no more customers, and wait for those connected."""
    stop.requested.set()  # already set after a signal, but not if the gateway ends by an exception
    jobs.watching.release()  # whoever waits for a video is answered now, and does not use up the drain's time
    listener.stop_accepting()
    await _drain_listener(listener, relay, bodies, stop, live)


async def drain_submits(jobs: VideoJobs) -> None:
    if left := await jobs.drain(SUBMIT_DRAIN_SECONDS):
        logger.warning("%d video submits or cancels were not answered in time; the next start looks after their tasks", left)


async def drain_settlements(settlements: TaskGroup) -> None:
    if left := await settlements.drain(SETTLE_SECONDS):
        logger.error("%d settlements could not be committed; the next start settles their requests as interrupted", left)
        await settlements.cancel()


def abort(fault: BaseException) -> None:
    """End the process at once: after a failed fsync nothing it writes can be trusted, and the next start recovers."""
    logger.critical("the store failed and must not be written any more: %s", fault)
    logging.shutdown()
    os._exit(EXIT_STORE_FAILED)


async def _drain_listener(listener: Listener, relay: Relay, bodies: BodyReader, stop: StopSignal, live: Live) -> None:
    """Wait until all requests have ended, the time is up or a second signal comes; then cut what is left."""
    drain_seconds = live.now.config.server.drain_seconds
    try:
        async with asyncio.timeout(drain_seconds):
            await listener.hear_newcomers()
            stop.refusing.set()
            await first_of(listener.entrance.wait_empty(), stop.impatient.wait())
    except TimeoutError:
        logger.warning("drain: %d requests are still under way after %g s", len(listener.entrance), drain_seconds)
    stop.refusing.set()
    relay.cut()
    bodies.cut()
    try:
        async with asyncio.timeout(CUT_SECONDS):
            await listener.entrance.wait_empty()
    except TimeoutError:
        logger.error("%d requests did not end when they were cut", len(listener.entrance))  # noqa: TRY400
