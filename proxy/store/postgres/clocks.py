"""How far the database's clock is from this machine's."""

import asyncio
from collections.abc import Callable

from proxy.store.postgres.connection import Connection
from proxy.store.server_facts import ClockOffset

LOOKS = 5


async def clock_offset(connection: Connection, now_ms: Callable[[], int]) -> tuple[ClockOffset, float]:
    """Return the offset as the quickest of some looks shows it, and that look's round trip in seconds."""
    loop = asyncio.get_running_loop()
    looks = []
    for _ in range(LOOKS):
        before, began = now_ms(), loop.time()
        database_ms: float = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8 * 1000")
        took = loop.time() - began
        looks.append((took, ClockOffset(database_ms / 1000 - before / 1000 - took / 2, took / 2 + 0.001)))
    took, offset = min(looks, key=lambda look: look[0])
    return offset, took
