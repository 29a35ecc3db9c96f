"""Opens the database: brings the schema up to date, counts days in one time zone, and makes this process a node."""

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from proxy.clock import SystemClock
from proxy.core.days import CHINA, Zone
from proxy.store.errors import StoreRefusedError
from proxy.store.postgres import migrations, zones
from proxy.store.postgres.clocks import clock_offset
from proxy.store.postgres.connection import CONNECT_SECONDS, FAILURES, Connection, Connector, Readers, words_of
from proxy.store.postgres.lease import Watch
from proxy.store.postgres.node import Node
from proxy.store.postgres.session import Session
from proxy.store.postgres.store import PostgresStore
from proxy.store.postgres.writer import Writer
from proxy.store.server_facts import CLOCK_SECONDS_COMFORT, CLOCK_SECONDS_MAX
from proxy.store.values import CommitStats

logger = logging.getLogger(__name__)


async def open_store(
    url: str,
    *,
    password: str = "",
    on_commit: Callable[[CommitStats], None] | None = None,
    on_corrupt: Callable[[BaseException], None] | None = None,
    read_only: bool = False,
    serves: bool = False,
    zone: Zone = CHINA,
    watch: Watch | None = None,
    beat_seconds: float | None = None,
) -> PostgresStore:
    """Open a database, make the schema if it is empty, and bring it to the newest version.

    Args:
        url: ``postgresql://…`` without a password.
        on_commit: called after each transaction, on the loop.
        on_corrupt: called once, on the loop, when this node is dead and its process should end.
        read_only: make nothing, be no node, refuse writes.
        serves: this node answers customers.
        zone: time zone of days and months. What is opened to be read only has that of the ledger.
        watch, beat_seconds: of this node; others than the ordinary ones are for tests.

    Raises: StoreVersionError, StoreRefusedError (no such database, not ours, not to be opened, folded by another time zone; one that
    serves: by a clock that is not the database's).
    """
    connector, name = Connector(url, password), name_of(url)
    async with AsyncExitStack() as opened:
        try:
            connection = await connector.connect(statement_seconds=None)
            try:
                if read_only:
                    await migrations.require_current(connection, name)
                    its_zone = await zones.zone_of(connection)
                    readers = Readers(connector)
                    opened.push_async_callback(readers.close)
                    return PostgresStore(name, connector, None, None, readers, opened.pop_all(), its_zone or zone)
                if serves:
                    await _require_clock(connection, name)
                await migrations.migrate(connection, name)
                return await _open(opened, connection, connector, name, on_commit, on_corrupt, serves, zone, watch, beat_seconds)
            finally:
                await connection.close(timeout=CONNECT_SECONDS)
        except FAILURES as error:
            raise StoreRefusedError(f"cannot open {name}: {words_of(error)}") from error
    raise AssertionError("unreachable: the stack swallows nothing")


async def _require_clock(connection: Connection, name: str) -> None:
    """Check that this machine's clock agrees with the database's. Raises: StoreRefusedError."""
    offset, _ = await clock_offset(connection, SystemClock().now_ms)
    if offset.surely_seconds > CLOCK_SECONDS_MAX:
        raise StoreRefusedError(
            f"the clock of {name} is {offset} this machine's: due times and the days of limits are read by every gateway, "
            "so synchronise both (timedatectl, chronyc), then start"
        )
    if offset.surely_seconds > CLOCK_SECONDS_COMFORT:
        logger.warning("the clock of %s is %s this machine's: synchronise both", name, offset)


async def _open(
    opened: AsyncExitStack,
    connection: Connection,
    connector: Connector,
    name: str,
    on_commit: Callable[[CommitStats], None] | None,
    on_corrupt: Callable[[BaseException], None] | None,
    serves: bool,
    zone: Zone,
    watch: Watch | None,
    beat_seconds: float | None,
) -> PostgresStore:
    """Become a node. Closing the store takes these steps in reverse order: the writer ends before its node does."""
    writers: list[Writer] = []

    def fenced(error: BaseException) -> None:
        for writer in writers:
            writer.break_off(error)

    async with connection.transaction():
        await migrations.lock(connection)  # nobody else counts in another time zone meanwhile, nor moves the ledger away
        await migrations.require_unmarked(connection, name)
        await zones.adopt(connection, zone)
        node = await Node.enter(connection, connector, on_fenced=fenced, serves=serves, watch=watch, beat_seconds=beat_seconds)
    readers = Readers(connector)
    opened.push_async_callback(readers.close)
    opened.push_async_callback(node.close)
    await node.start()
    writer = Writer(Session(connector, node.id), zone, on_commit=on_commit, on_corrupt=on_corrupt)
    writers.append(writer)
    opened.push_async_callback(writer.close)
    return PostgresStore(name, connector, writer, node, readers, opened.pop_all(), zone)


def name_of(url: str) -> str:
    """Return what messages call a database: user, host and name, and nothing of what follows them."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return f"postgresql://{user.partition(':')[0]}{at}{host}{parts.path}"
