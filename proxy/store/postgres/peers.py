"""This node among the others: `proxy.store.peers.Peers`, by what its beats show and a few statements of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from proxy.store.errors import NotSeenError
from proxy.store.postgres.connection import Connection
from proxy.store.postgres.node import Node, boot_seconds

PAUSE_SECONDS_FIRST = 0.02
PAUSE_SECONDS_MAX = 0.25
LATE_BEATS = 3
"""Beats beyond a lease until a silent node is set dead: the one that was just missed, the one that finds it, and one for the way."""


class PostgresPeers:
    """What `Node` knows, as the contract has it."""

    def __init__(self, node: Node, read: Callable[..., Awaitable[Any]], write: Callable[..., asyncio.Future[Any]]) -> None:
        """Args: read, write: run a function of a connection, with the arguments that follow it, as the store does."""
        self._node = node
        self._read = read
        self._write = write

    @property
    def node(self) -> int:
        return self._node.id

    @property
    def living(self) -> frozenset[int]:
        return frozenset(self._node.living)

    @property
    def serving(self) -> tuple[int, ...]:
        return self._node.serving

    @property
    def is_counted(self) -> bool:
        return self._node.is_counted or boot_seconds() - self._node.entered_at >= self._node.lease_seconds

    @property
    def lease_seconds(self) -> float:
        return self._node.lease_seconds

    @property
    def unconfirmed_seconds(self) -> float:
        return self._node.seconds_unconfirmed()

    def saw_nodes(self, nodes: Sequence[int]) -> None:
        self._node.saw_nodes(nodes)

    async def looked(self) -> None:
        await self._node.looked()

    @property
    def keys_version(self) -> int:
        return self._node.keys_version

    @property
    def keys_seconds(self) -> float:
        return boot_seconds() - self._node.keys_current_at

    def saw_keys(self, version: int) -> None:
        self._node.saw_keys(version)

    async def all_saw_keys(self) -> None:
        loop = asyncio.get_running_loop()
        version = await self._read(_keys_version)
        until = loop.time() + self._node.lease_seconds + LATE_BEATS * self._node.beat_seconds
        pause = PAUSE_SECONDS_FIRST
        while behind := await self._read(_behind, version):
            if loop.time() > until:
                raise NotSeenError(f"these gateways have not said that they go by it: {', '.join(behind)}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)

    async def take_job(self, name: str) -> bool:
        holder = await self._read(_holder, name)
        return bool(holder == self._node.id or (holder is None and await self._write(_take_job, name, self._node.id)))


async def _keys_version(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT version FROM versions WHERE what = 'keys'"))


async def _behind(connection: Connection, version: int) -> list[str]:
    """Return the names of living nodes that serve and go by an older version of the keys."""
    rows = await connection.fetch("SELECT name FROM nodes WHERE dead_at IS NULL AND serving AND seen_keys < $1 ORDER BY id", version)
    return [name for (name,) in rows]


async def _holder(connection: Connection, name: str) -> int | None:
    """Return the living node that has a job, or None."""
    holder: int | None = await connection.fetchval(
        "SELECT node_id FROM jobs JOIN nodes ON nodes.id = node_id WHERE jobs.name = $1 AND dead_at IS NULL", name
    )
    return holder


async def _take_job(connection: Connection, name: str, node_id: int) -> bool:
    """Take a job that nobody has, or somebody dead; return whether this node has it now."""
    holder = await connection.fetchval(
        """INSERT INTO jobs AS j (name, node_id) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET node_id = excluded.node_id
           WHERE j.node_id = excluded.node_id OR EXISTS (SELECT 1 FROM nodes WHERE id = j.node_id AND dead_at IS NOT NULL)
           RETURNING node_id""",
        *(name, node_id),
    )
    return bool(holder == node_id)
