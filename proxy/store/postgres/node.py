"""This process as a node: its row, its beat, its view of the others, and its end.

Rule: what sets a node dead is one compare-and-swap on the beat that was observed (`end_node` in the schema); from then on none of its
writes is committed. A node that finds itself dead ends the process.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable

from proxy.store.errors import StoreFencedError
from proxy.store.postgres.connection import FAILURES, Connection, Connector
from proxy.store.postgres.lease import BEAT_SECONDS, Watch
from proxy.tasks import TaskGroup

logger = logging.getLogger(__name__)

_NAME_CHARACTERS_MAX = 100


class Node:
    """A living node. It beats from `start` to `close`, on a connection of its own, so that no write holds up a beat."""

    def __init__(
        self,
        connector: Connector,
        node_id: int,
        *,
        on_fenced: Callable[[BaseException], None],
        watch: Watch | None = None,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self.id = node_id
        self.seen_keys = 0
        """Version of keys, accounts and limits that this process goes by: told to the others with each beat."""
        self.keys_version = 0
        """The newest there is, as of the last beat."""
        self.living: dict[int, int] = {}
        """Beats of all living nodes, this one among them, as of the last beat."""
        self.confirmed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        """When the last beat that the database took was sent, by a clock that runs on while the machine sleeps."""
        self._connector = connector
        self._on_fenced = on_fenced
        self._watch = watch or Watch()
        self._beat_seconds = beat_seconds
        self._connection: Connection | None = None
        self._tasks = TaskGroup("node")
        self._is_fenced = False

    @classmethod
    async def enter(
        cls,
        connection: Connection,
        connector: Connector,
        *,
        on_fenced: Callable[[BaseException], None],
        watch: Watch | None = None,
        beat_seconds: float = BEAT_SECONDS,
    ) -> "Node":
        """Return a new node, which beats from `start` on: once the transaction of its row is committed."""
        name = f"{socket.gethostname()} {os.getpid()}"[:_NAME_CHARACTERS_MAX]
        node_id = await connection.fetchval("SELECT enter_node($1, '')", name)
        return cls(connector, node_id, on_fenced=on_fenced, watch=watch, beat_seconds=beat_seconds)

    def start(self) -> None:
        """Begin to beat."""
        self._tasks.spawn(self._beat_until_closed(), "beat", on_death=self._died)

    def seconds_unconfirmed(self) -> float:
        """Return the seconds since the last beat that is known to count. Above half a lease nothing may be bought any more."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.confirmed_at

    async def beat(self) -> None:
        """Count the beat up, look at the others', and set dead whose stood still. Raises: StoreFencedError; `FAILURES`."""
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = self._connection = await self._connector.connect(statement_seconds=self._beat_seconds * 2)
        sent_at, began = time.clock_gettime(time.CLOCK_BOOTTIME), asyncio.get_running_loop().time()
        rows = await connection.fetch("SELECT node_id, node_beat, keys_version FROM beat_node($1, $2)", self.id, self.seen_keys)
        beats = {node_id: beat for node_id, beat, _ in rows}
        if self.id not in beats:
            raise StoreFencedError(f"node {self.id} was set dead by another: its beat had stood still")
        self.confirmed_at, self.living, self.keys_version = sent_at, beats, rows[0][2]
        for other, still in self._watch.look(beats, began):
            if other != self.id and await connection.fetchval("SELECT end_node($1, $2)", other, still):
                logger.warning("node %d is dead: its beat stood still at %d", other, still)

    async def close(self) -> None:
        """Stop beating, and leave: what this node left open is anybody's from now on. Everything of it must be written by now."""
        await self._tasks.cancel()
        try:
            if not self._is_fenced:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connector.connect()
                await self._connection.execute("SELECT end_node($1, NULL)", self.id)
            if self._connection is not None:
                await self._connection.close(timeout=self._beat_seconds)
        except FAILURES as error:  # the others find it silent after a lease
            logger.warning("node %d could not say that it ends: %s", self.id, error)
            if self._connection is not None:
                self._connection.terminate()

    async def _beat_until_closed(self) -> None:
        while True:
            try:
                await self.beat()
            except StoreFencedError as error:
                self._is_fenced = True
                self._on_fenced(error)
                return
            except FAILURES as error:
                logger.warning("node %d could not beat: %s", self.id, error or type(error).__name__)
                if self._connection is not None:
                    self._connection.terminate()
            await asyncio.sleep(self._beat_seconds)

    def _died(self, error: BaseException | None) -> None:
        """Report that beating ended of a bug: a node that does not beat is dead before long."""
        if error is not None:
            self._on_fenced(error)
