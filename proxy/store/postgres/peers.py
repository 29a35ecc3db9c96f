"""This node among the others: `proxy.store.peers.Peers`, by what its beats show and a few statements of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from proxy.store.errors import NotSeenError, StoreRefusedError
from proxy.store.peers import FORGET_NODES_MAX, Introduction, NodeState
from proxy.store.postgres.batch import shown
from proxy.store.postgres.connection import KEYS_CHANNEL, Connection
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

    def forget_dead(self) -> asyncio.Future[int]:
        return self._write(_forget_dead)

    def introduce(self, introduction: Introduction) -> asyncio.Future[None]:
        return self._write(_introduce, self._node.id, introduction)

    @property
    def is_asked_to_leave(self) -> bool:
        return self._node.is_asked_to_leave

    async def dismiss(self, node: int) -> bool:
        await self._write(_ask_to_leave, node)
        pause = PAUSE_SECONDS_FIRST
        while (
            has_left := await self._read(_end_of, node)
        ) is None:  # as long as it drains; one that dies is found by this node's beats too
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)
        return bool(has_left)


async def nodes(connection: Connection) -> list[NodeState]:
    """Return the living nodes, oldest first."""
    rows = await connection.fetch(
        """SELECT id, name, program, serving, address, settings, draining OR leave,
             floor(extract(epoch FROM started_at) * 1000)::bigint, extract(epoch FROM clock_timestamp() - beat_at)::float8,
             (SELECT version FROM versions WHERE what = 'keys') - seen_keys
           FROM nodes WHERE dead_at IS NULL ORDER BY id"""
    )
    return [
        NodeState(node_id, name, program, serves, Introduction(*told), entered_at_ms, max(silent, 0.0), max(behind, 0))
        for node_id, name, program, serves, *told, entered_at_ms, silent, behind in rows
    ]


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


async def _introduce(connection: Connection, node_id: int, told: Introduction) -> None:
    await connection.execute(
        "UPDATE nodes SET address = $2, settings = $3, draining = $4 WHERE id = $1",
        *(node_id, shown(told.address), told.settings, told.is_draining),
    )


async def _ask_to_leave(connection: Connection, node_id: int) -> None:
    """Raises: StoreRefusedError."""
    asked = await connection.fetchval(
        "UPDATE nodes SET leave = true WHERE id = $1 AND serving AND dead_at IS NULL RETURNING id", node_id
    )
    if asked is None:
        raise StoreRefusedError(await _why_not(connection, node_id))
    await connection.execute(f"NOTIFY {KEYS_CHANNEL}")  # whoever hears of it looks at once


async def _why_not(connection: Connection, node_id: int) -> str:
    row = await connection.fetchrow(
        """SELECT name, serving, has_left, to_char(dead_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
           FROM nodes WHERE id = $1""",
        node_id,
    )
    if row is None:
        return f"there is no gateway {node_id}"
    name, serves, has_left, dead_at = row
    if dead_at is not None:
        how = "it left" if has_left else "its beat stood still, and the others set it dead"
        return f"gateway {node_id} ({name}) is dead since {dead_at}: {how}"
    assert not serves
    return f"node {node_id} ({name}) is no gateway: it carries out a command, and ends with it"


async def _end_of(connection: Connection, node_id: int) -> bool | None:
    """Return whether a node has left; False: it was set dead; None: it lives."""
    left: bool | None = await connection.fetchval("SELECT has_left FROM nodes WHERE id = $1 AND dead_at IS NOT NULL", node_id)
    return left


async def _take_job(connection: Connection, name: str, node_id: int) -> bool:
    """Take a job that nobody has, or somebody dead; return whether this node has it now."""
    holder = await connection.fetchval(
        """INSERT INTO jobs AS j (name, node_id) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET node_id = excluded.node_id
           WHERE j.node_id = excluded.node_id OR EXISTS (SELECT 1 FROM nodes WHERE id = j.node_id AND dead_at IS NOT NULL)
           RETURNING node_id""",
        *(name, node_id),
    )
    return bool(holder == node_id)


async def _forget_dead(connection: Connection) -> int:
    """Delete nodes by whose row nothing is decided any more. Its absence fences as it did: no write of such a node passes."""
    forgotten = await connection.fetch(
        """SELECT id FROM nodes AS n WHERE dead_at < clock_timestamp() - interval '1 day'
             AND NOT EXISTS (SELECT 1 FROM requests WHERE node_id = n.id AND settled_at_ms IS NULL)
             AND NOT EXISTS (SELECT 1 FROM video_tasks JOIN requests USING (id)
               WHERE due_at_ms IS NOT NULL AND n.id IN (node_id, claimed_by))
             AND NOT EXISTS (SELECT 1 FROM jobs WHERE node_id = n.id)
           ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED""",
        FORGET_NODES_MAX,
    )
    ids = [node_id for (node_id,) in forgotten]
    await connection.execute("DELETE FROM node_writes WHERE node_id = ANY ($1::bigint[])", ids)
    await connection.execute("DELETE FROM nodes WHERE id = ANY ($1::bigint[])", ids)
    return len(ids)
