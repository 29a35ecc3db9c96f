"""Changes of limits, each written in the order of its call. One that may be a first money limit is counted for before it is written.

Rule: nothing overtakes a change that was called for earlier.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from proxy.core.limits import LimitsChange
from proxy.tasks import TaskGroup

C = TypeVar("C")
T = TypeVar("T")


class LimitChanges:
    """The changes of one store that are under way."""

    def __init__(self) -> None:
        self._under_way = TaskGroup("limits")
        self._one_at_a_time = asyncio.Lock()

    def submit(
        self, change: LimitsChange, count: Callable[[], Awaitable[C]], write: Callable[[C | None], asyncio.Future[T]]
    ) -> asyncio.Future[T]:
        """Write a change at once, but for a money limit, and for whatever was called for after one.

        Args:
            count: returns what the books show, for a money limit.
            write: queues the change, and gets what was counted, or None.
        """
        if not change.limits_money and not len(self._under_way):
            return write(None)
        written: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._under_way.spawn(self._count_and_write(written, change, count, write), "change")
        return written

    async def drain(self) -> None:
        """Wait until all changes are written."""
        await self._under_way.drain()

    async def _count_and_write(
        self,
        written: asyncio.Future[T],
        change: LimitsChange,
        count: Callable[[], Awaitable[C]],
        write: Callable[[C | None], asyncio.Future[T]],
    ) -> None:
        try:
            async with self._one_at_a_time:
                result = await write(await count() if change.limits_money else None)
        except Exception as error:  # noqa: BLE001  whatever it is, the caller is told
            if not written.done():
                written.set_exception(error)
        else:
            if not written.done():
                written.set_result(result)
