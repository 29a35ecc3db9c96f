"""The only caller of `create_task`: its tasks are kept alive, named, logged when they fail, and waited for."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


class TaskGroup:
    """Background tasks of one owner. A task that ends with an exception is logged; with `on_death`, its owner is told."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(
        self,
        coroutine: Coroutine[Any, Any, T],
        name: str,
        *,
        on_death: Callable[[BaseException | None], None] | None = None,
    ) -> asyncio.Task[T]:
        """Start a task. `on_death` is for tasks that should never end: it gets the exception, or None, but not after a cancel."""
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{self._name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        if on_death is not None:
            task.add_done_callback(lambda ended: None if ended.cancelled() else on_death(ended.exception()))
        return task

    def keep(self, future: "asyncio.Future[Any]") -> None:
        """Make a drain wait for this future too, until it is released. Its result is left to its owner."""
        self._tasks.add(future)

    def release(self, future: "asyncio.Future[Any]") -> None:
        self._tasks.discard(future)

    async def drain(self, timeout_seconds: float | None = None) -> int:
        """Wait for the tasks, and for those that they start, and return how many are left after the timeout."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_seconds is None else loop.time() + timeout_seconds
        while self._tasks:
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left <= 0:
                break
            await asyncio.wait(self._tasks, timeout=left)
        return len(self._tasks)

    async def cancel(self) -> None:
        """Cancel all remaining tasks, and wait until they have ended."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exception := task.exception()) is not None:
            logger.error("task %s failed", task.get_name(), exc_info=exception)


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait until the first of several coroutines ends, and cancel the others. If it failed, raise its exception."""
    tasks = [asyncio.get_running_loop().create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
