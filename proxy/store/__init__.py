"""The only way to a database: `contract` says what a store does, and the URL names the engine that does it.

An engine is imported where it is opened, so that a gateway loads no other engine, nor its third-party packages.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.core.days import CHINA, Zone
from proxy.store.contract import Store
from proxy.store.errors import StoreRefusedError
from proxy.store.moves import How, Moved
from proxy.store.progress import Report
from proxy.store.server_facts import ServerFacts
from proxy.store.values import CommitStats, Restored


async def open_store(
    url: str,
    *,
    on_commit: Callable[[CommitStats], None] | None = None,
    on_corrupt: Callable[[BaseException], None] | None = None,
    read_only: bool = False,
    serves: bool = False,
    zone: Zone = CHINA,
    password: str = "",
) -> Store:
    """Open the store that a URL names, create it where there is none, and bring it to the newest version.

    Args:
        url: ``sqlite:PATH`` or ``postgresql://…``, as ``[store] url`` of a loaded configuration.
        on_commit: called on the loop for each transaction.
        on_corrupt: called on the loop, once, when this process can write no more and should end.
        read_only: create nothing, take no lock, refuse writes: for reading while another process has the store.
        serves: this process answers customers: rates are shared out among all that do, and changes of keys wait for them.
        zone: time zone of days and months. It may change as long as no request is folded into days; a reader has the writer's.
        password: of a database server; it is kept out of the URL, which messages show.

    Raises: StoreLockedError, StoreVersionError, StoreRefusedError (no such store, not ours, not to be opened, folded by
    another time zone).
    """
    if is_shared(url):
        with _installed():
            from proxy.store import postgres  # noqa: PLC0415
        return await postgres.open_store(
            url, password=password, on_commit=on_commit, on_corrupt=on_corrupt, read_only=read_only, serves=serves, zone=zone
        )
    from proxy.store.sqlite import opening  # noqa: PLC0415

    return await opening.open_store(_file_of(url), on_commit=on_commit, on_corrupt=on_corrupt, read_only=read_only, zone=zone)


async def inspect(url: str, password: str, now_ms: Callable[[], int]) -> ServerFacts:
    """Return what one look at the server shows that keeps a shared store. Nothing is changed.

    Args: now_ms: this machine's clock, which is compared with the database's.

    Raises: StoreRefusedError: it cannot be reached, or the database is another program's; StoreVersionError.
    """
    with _installed():
        from proxy.store import postgres  # noqa: PLC0415
    return await postgres.inspect(url, password, now_ms)


@contextmanager
def _installed() -> Iterator[None]:
    """Import the engine for servers in this context. Raises: StoreRefusedError: what it needs is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise StoreRefusedError(
            f"a store in PostgreSQL needs a package that is not installed ({error.name}): pip install 'llm-proxy[postgres]'"
        ) from error


def is_shared(url: str) -> bool:
    """Return whether several processes may write to the store that a URL names: none of them then holds it alone (`Peers`)."""
    return url.startswith("postgresql://")


async def move_ledger(
    source: str,
    target: str,
    *,
    password: str = "",
    how: How,
    now_ms: Callable[[], int],
    report: Report | None = None,
) -> Moved:
    """Move a ledger from one engine to the other: all of it or nothing, and at no moment can both be started.

    Args:
        source, target: as ``[store] url`` of a loaded configuration. The target is empty; no gateway has either open.
        password: of the database server.

    Raises: StoreError: the message says what became of the move, and what to do.
    """
    if is_shared(source) == is_shared(target):
        raise StoreRefusedError(
            "a ledger is moved from a file to a database server, or back: one URL is sqlite:PATH, the other postgresql://…"
        )
    from proxy.store import move as course  # noqa: PLC0415
    from proxy.store.sqlite.move import SqliteSource, SqliteTarget  # noqa: PLC0415

    with _installed():
        from proxy.store.postgres.move import PostgresSide  # noqa: PLC0415
    if is_shared(target):
        async with SqliteSource.opened(_file_of(source)) as leaving, PostgresSide.opened(target, password, report) as arriving:
            return await course.move(leaving, arriving, how, now_ms, report)
    async with SqliteTarget.opened(_file_of(target)) as new, PostgresSide.opened(source, password, report) as old:
        return await course.move(old, new, how, now_ms, report)


def restore(url: str, source: Path, when: str, report: Report | None = None) -> Restored:
    """Put a verified copy of a backup in the store's place; the old store is kept under a name of its own.

    Args:
        source: a backup, or a store that no process has open; it is only read.
        when: part of the name that the old store is kept under, such as ``20261123T080000Z``.

    Raises: StoreLockedError, StoreVersionError, StoreRefusedError: the store is as it was.
    """
    if is_shared(url):
        raise StoreRefusedError("a database server is restored by its own means, such as a point-in-time recovery, not from a file")
    from proxy.store.sqlite.file import restore as of_file  # noqa: PLC0415

    return of_file.restore(_file_of(url), source, when, report)


def unfinished_restore(url: str) -> Path | None:
    """Return the copy that the next opening puts in place, where a restore was cut short."""
    if is_shared(url):
        return None
    from proxy.store.sqlite.file import restore as of_file  # noqa: PLC0415

    return of_file.decided_for(_file_of(url).resolve())


def holder_pid(url: str) -> int | None:
    """Return the pid of the process that has the store's file open to write: 0 where it is not known, None where there is none."""
    if is_shared(url):
        return None
    from proxy.store.sqlite.file import lock  # noqa: PLC0415

    return lock.holder_pid(_file_of(url).resolve())


def _file_of(url: str) -> Path:
    """Raises: StoreRefusedError."""
    scheme, _, path = url.partition(":")
    if scheme != "sqlite" or not path:
        raise StoreRefusedError(f"no engine keeps a store at {url!r}: sqlite:PATH and postgresql://… are known")
    return Path(path)
