"""Customers who wait for a task to change (``?wait=``): told at once of a step of this process, and soon of one elsewhere.

Where several gateways share a store, any of them may take a step. There `run` asks the store for all tasks that are waited for, in one
query a round, and, less often, which of this gateway's own have ended, so that their slots are free again.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import islice

from proxy.core.video.record import TERMINAL
from proxy.core.video.view import public_status
from proxy.store.contract import VideoTasks
from proxy.store.errors import StoreError

logger = logging.getLogger(__name__)

ROUND_SECONDS = 0.25
OWN_ROUND_SECONDS = 2.0
OWN_TASKS_MAX = 1_000
"""Tasks of this gateway's that one look asks for; the next one asks for the next ones."""


class Watching:
    """Who waits for which task."""

    def __init__(self) -> None:
        self._watchers: dict[str, dict[asyncio.Event, str]] = {}
        """By task: each one's event, and the status that it knows."""
        self._has_released = False
        self._is_watched = asyncio.Event()

    @contextmanager
    def watching(self, task_id: str, status: str) -> Iterator[asyncio.Event]:
        """Return an event that is set once the task's published status is another than this, or waiting is over (`release`)."""
        change = asyncio.Event()
        if self._has_released:
            change.set()
        self._watchers.setdefault(task_id, {})[change] = status
        self._is_watched.set()
        try:
            yield change
        finally:
            watchers = self._watchers[task_id]
            del watchers[change]
            if not watchers:
                del self._watchers[task_id]

    def changed(self, task_id: str, status: str) -> None:
        """Tell those who know another status."""
        for change, known in self._watchers.get(task_id, {}).items():
            if known != status:
                change.set()

    def release(self) -> None:
        """End all waiting, now and from now on: the process ends."""
        self._has_released = True
        for watchers in self._watchers.values():
            for change in watchers:
                change.set()

    async def run(self, store: VideoTasks, own: Collection[str], ended: Callable[[str], None]) -> None:
        """Look at the store round after round, for ever.

        Args: own: tasks of this gateway's that go on as far as it knows; ended: told of each that has ended.
        """
        loop = asyncio.get_running_loop()
        looked_at, start = loop.time(), 0
        while True:
            if not self._watchers:
                self._is_watched.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, looked_at + OWN_ROUND_SECONDS - loop.time())):
                    await self._is_watched.wait()
            mine: list[str] = []
            if loop.time() >= looked_at + OWN_ROUND_SECONDS:
                looked_at = loop.time()
                start = start if start < len(own) else 0
                mine = list(islice(own, start, start + OWN_TASKS_MAX))
                start += OWN_TASKS_MAX
            await self._look(store, mine, ended)
            if self._watchers:
                await asyncio.sleep(ROUND_SECONDS)

    async def _look(self, store: VideoTasks, own: list[str], ended: Callable[[str], None]) -> None:
        asked = [*self._watchers, *own]
        if not asked:
            return
        try:
            states = await store.task_states(asked)
        except StoreError as fault:  # whoever waits waits on
            logger.warning("how %d videos are could not be read: %s", len(asked), fault)
            return
        for task_id, state in states.items():
            self.changed(task_id, public_status(state))
        for task_id in own:
            if states.get(task_id) in TERMINAL:
                ended(task_id)
