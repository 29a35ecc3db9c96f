"""Opens the file: locks, checks and migrates it."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Literal

from proxy import ids
from proxy.core.days import CHINA, Zone
from proxy.store.errors import StoreRefusedError
from proxy.store.sqlite import spending
from proxy.store.sqlite.admission import Admission
from proxy.store.sqlite.batch import OpenHolds
from proxy.store.sqlite.file import damage, migrations, restore
from proxy.store.sqlite.file.connection import Connection, connection_to, is_damage
from proxy.store.sqlite.file.lock import FileLock
from proxy.store.sqlite.spending import Spending
from proxy.store.sqlite.store import SqliteStore
from proxy.store.sqlite.writer import Writer
from proxy.store.values import CommitStats

logger = logging.getLogger(__name__)


async def open_store(
    path: Path,
    *,
    on_commit: Callable[[CommitStats], None] | None = None,
    on_corrupt: Callable[[BaseException], None] | None = None,
    read_only: bool = False,
    zone: Zone = CHINA,
) -> SqliteStore:
    """Open a file, create it if there is none, and migrate it to the newest version.

    Args:
        on_commit: called after each transaction, on the loop.
        on_corrupt: called once, on the loop, when this process can write no more and should end.
        read_only: take no lock, create nothing, refuse writes; for reading while another process has the store.
        zone: time zone of days and months. What is opened to be read only has that of the file.

    Raises: StoreLockedError, StoreVersionError, StoreRefusedError (no such file, not ours, not to be opened).
    """
    path = await asyncio.to_thread(path.resolve)  # one lock for a file, whichever link leads to it
    async with AsyncExitStack() as opened:
        try:
            if read_only:
                return await _open_read_only(opened, path, zone)
            return await _open(opened, path, on_commit, on_corrupt, zone)
        except (sqlite3.Error, OSError) as error:
            advice = f": {migrations.RESTORE}" if is_damage(error) else ""
            raise StoreRefusedError(f"cannot open {path}: {error}{advice}") from error
    raise AssertionError("unreachable: the stack swallows nothing")


async def _open(
    opened: AsyncExitStack,
    path: Path,
    on_commit: Callable[[CommitStats], None] | None,
    on_corrupt: Callable[[BaseException], None] | None,
    zone: Zone,
) -> SqliteStore:
    """Open the store to write. Closing it takes these steps in reverse order."""
    connection = await open_file(opened, path)
    await connection.run(spending.adopt_zone, zone)
    migrations.sync_folder(path.parent)  # SQLite syncs the name of a new log too, but ignores a failure
    reader = await opened.enter_async_context(connection_to(path, "ro"))
    admission = Admission(path.parent)
    opened.callback(admission.close)
    open_holds = OpenHolds(ids.owner_id(), await connection.run(Spending.opened, zone))
    writer = Writer(connection, open_holds, on_commit=on_commit, on_corrupt=on_corrupt, admission=admission)
    opened.push_async_callback(writer.close)
    return SqliteStore(path, writer, reader, opened.pop_all(), zone, admission)


async def open_file(opened: AsyncExitStack, path: Path, *, is_of_move: bool = False) -> Connection:
    """Lock a file, look whether it is whole and ours, and migrate it; return the connection that writes.

    Args: is_of_move: whoever asks moves the file's ledger, and goes by its marks.
    """
    opened.callback(FileLock(path).release)
    if (kept := restore.finish(path)) is not None:
        logger.warning("a restore that was cut short is finished: the store that was there before is kept as %s", kept)
    migrations.create_file(path)
    was_left_open = damage.require_log(path)
    look = partial(_version, path, was_left_open=was_left_open, is_of_move=is_of_move)
    try:
        version = await look("ro")  # read-only: the file may not be ours
    except sqlite3.OperationalError as error:
        if not migrations.was_cut_while_made(path, error):
            raise
        version = await look("rw")
    connection = await opened.enter_async_context(connection_to(path, "rw"))
    await connection.run(migrations.migrate, version)
    return connection


async def _version(path: Path, mode: Literal["ro", "rw"], *, was_left_open: bool, is_of_move: bool) -> int:
    async with connection_to(path, mode) as visitor:
        version = await visitor.run(partial(migrations.version_of, is_of_move=is_of_move), path)
        if was_left_open:
            await visitor.run(damage.require_sound, path)
        return version


async def _open_read_only(opened: AsyncExitStack, path: Path, zone: Zone) -> SqliteStore:
    migrations.require_file(path)
    reader = await opened.enter_async_context(connection_to(path, "ro"))
    if await reader.run(migrations.version_of, path) != len(migrations.scripts()):
        raise StoreRefusedError(f"{path} has not been brought up to date yet: start the gateway once")
    its_zone = await reader.run(spending.zone_of)
    return SqliteStore(path, None, reader, opened.pop_all(), zone if its_zone is None else its_zone)
