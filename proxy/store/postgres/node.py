"""This process as a node: its row, its beat, its view of the others, and its end.

Rule: what sets a node dead is one compare-and-swap on the beat that was observed (`end_node` in the schema); from then on none of its
writes is committed. A node that finds itself dead ends the process.

Changes of keys are heard of at once (``LISTEN``), over the connection of the beats, and told again by each beat: nothing depends on a
notice, which a pooler swallows and the connection's end loses.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from proxy import __version__
from proxy.store.errors import StoreFencedError
from proxy.store.postgres import lease
from proxy.store.postgres.connection import FAILURES, KEYS_CHANNEL, Connection, Connector, words_of
from proxy.store.postgres.lease import Watch
from proxy.tasks import TaskGroup

logger = logging.getLogger(__name__)

DEAF_SECONDS = 1.0
"""Longest time between two beats where a pooler swallows notices."""
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
        beat_seconds: float | None = None,
    ) -> None:
        self.id = node_id
        self.seen_keys = 0
        """Version of keys, accounts and limits that this process goes by: told to the others with each beat."""
        self.keys_version = 0
        """The newest there is, as of the last beat."""
        self.living: dict[int, int] = {}
        """Beats of all living nodes, this one among them, as of the last beat."""
        self.serving: tuple[int, ...] = ()
        """Those of them that answer customers, in the order in which they came."""
        self.is_counted = False
        """Whether each node that serves and came before this one shares limits out to it, too: by the last beat, and for good."""
        self.seen_node = 0
        """The newest node that this one shares limits out to: told to the others with each beat."""
        self.is_asked_to_leave = False
        """True once an operator asked this node to end, as of the last beat."""
        self.beat_seconds = lease.BEAT_SECONDS if beat_seconds is None else beat_seconds
        self.entered_at = self.confirmed_at = boot_seconds()
        """When this node came, and when the last beat that the database took was sent."""
        self.keys_current_at = self.confirmed_at
        """When it was last known that there is no newer version of the keys than this process goes by."""
        self._connector = connector
        self._on_fenced = on_fenced
        self._watch = watch or Watch(lease.LEASE_SECONDS, lease.GAP_BEATS * self.beat_seconds)
        self._connection: Connection | None = None
        self._hears = False
        self._due = asyncio.Event()
        self._looked: list[asyncio.Future[None]] = []
        self._tasks = TaskGroup("node")
        self._is_fenced = False

    @classmethod
    async def enter(
        cls,
        connection: Connection,
        connector: Connector,
        *,
        on_fenced: Callable[[BaseException], None],
        serves: bool = False,
        watch: Watch | None = None,
        beat_seconds: float | None = None,
    ) -> "Node":
        """Return a new node, which beats from `start` on: once the transaction of its row is committed."""
        name = f"{socket.gethostname()} {os.getpid()}"[:_NAME_CHARACTERS_MAX]
        node_id = await connection.fetchval("SELECT enter_node($1, $2, $3)", name, __version__, serves)
        return cls(connector, node_id, on_fenced=on_fenced, watch=watch, beat_seconds=beat_seconds)

    @property
    def lease_seconds(self) -> float:
        return self._watch.lease_seconds

    async def start(self) -> None:
        """Beat for the first time, and go on from then on. Raises: StoreFencedError; `FAILURES`."""
        await self.beat()
        self.entered_at = self.confirmed_at
        self._tasks.spawn(self._beat_until_closed(), "beat", on_death=self._died)

    def seconds_unconfirmed(self) -> float:
        """Return the seconds since the last beat that is known to count. Above half a lease nothing may be bought any more."""
        return boot_seconds() - self.confirmed_at

    def saw_keys(self, version: int) -> None:
        """Go by this version of the keys from now on, and tell the others at once."""
        self.seen_keys = version
        if version >= self.keys_version:
            self.keys_current_at = self.confirmed_at
        self._due.set()

    def saw_nodes(self, nodes: Sequence[int]) -> None:
        """Share limits out to these from now on, and tell the others at once: one that has just come waits for it."""
        if (newest := max(nodes, default=0)) != self.seen_node:
            self.seen_node = newest
            self._due.set()

    async def looked(self) -> None:
        """Return after the next beat that the database takes."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._looked.append(future)
        await future

    async def beat(self) -> None:
        """Count the beat up, look at the others', and set dead whose stood still. Raises: StoreFencedError; `FAILURES`."""
        connection = await self._connected()
        sent_at, began = boot_seconds(), asyncio.get_running_loop().time()
        rows = await connection.fetch(
            "SELECT node_id, node_beat, node_serving, node_seen, node_leave, keys_version FROM beat_node($1, $2, $3)",
            *(self.id, self.seen_keys, self.seen_node),
        )
        beats = {node_id: beat for node_id, beat, *_ in rows}
        if self.id not in beats:
            raise StoreFencedError(f"node {self.id} was set dead by another: its beat had stood still")
        self.confirmed_at, self.living, self.keys_version = sent_at, beats, rows[0][5]
        self.serving = tuple(node_id for node_id, _, serves, *_ in rows if serves)
        # Ids follow the order of coming. One that came later counts this one from its first look on.
        unaware = [node_id for node_id, _, serves, seen, *_ in rows if serves and node_id < self.id and seen < self.id]
        self.is_counted = self.is_counted or not unaware
        self.is_asked_to_leave = any(node_id == self.id and leaves for node_id, _, _, _, leaves, _ in rows)
        if self.keys_version <= self.seen_keys:
            self.keys_current_at = sent_at
        for other, still in self._watch.look(beats, began):
            if other != self.id and await connection.fetchval("SELECT end_node($1, $2)", other, still):
                logger.warning("node %d is dead: its beat stood still at %d", other, still)
                self._due.set()  # whoever waits for its death hears of it by the next look
        looked, self._looked = self._looked, []
        for future in looked:
            if not future.done():
                future.set_result(None)

    async def close(self) -> None:
        """Stop beating, and leave: what this node left open is anybody's from now on. Everything of it must be written by now."""
        await self._tasks.cancel()
        try:
            if not self._is_fenced:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connector.connect()
                await self._connection.execute("SELECT end_node($1, NULL)", self.id)
            if self._connection is not None:
                await self._connection.close(timeout=self.beat_seconds)
        except FAILURES as error:  # the others find it silent after a lease
            logger.warning("node %d could not say that it ends: %s", self.id, words_of(error))
            if self._connection is not None:
                self._connection.terminate()

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            self._connection = connection = await self._connector.connect(statement_seconds=self.beat_seconds * 2)
            self._hears = not self._connector.is_pooled
            if self._hears:
                await connection.add_listener(KEYS_CHANNEL, self._notified)
        return self._connection

    def _notified(self, *_: object) -> None:
        self._due.set()

    async def _beat_until_closed(self) -> None:
        while True:
            await self._rest()
            try:
                await self.beat()
            except StoreFencedError as error:
                self._is_fenced = True
                self._on_fenced(error)
                return
            except FAILURES as error:
                logger.warning("node %d could not beat: %s", self.id, words_of(error))
                if self._connection is not None:
                    self._connection.terminate()
                    self._connection = None
                self._due.clear()  # else a server that is gone is asked without a pause

    async def _rest(self) -> None:
        """Wait until the next beat is due, or there is something to be told or heard."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.beat_seconds if self._hears else min(self.beat_seconds, DEAF_SECONDS)):
                await self._due.wait()
        self._due.clear()

    def _died(self, error: BaseException | None) -> None:
        """Report that beating ended of a bug: a node that does not beat is dead before long."""
        if error is not None:
            self._on_fenced(error)


def boot_seconds() -> float:
    """Return the seconds of a clock that runs on while the process is stopped and the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
