"""The watchdog's beats, received on a datagram socket as by systemd, from real parts. A part that hangs stops them for as long."""

import asyncio
import logging
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.gateway.watchdog import BEATS_A_PERIOD, Watchdog
from proxy.jobs.scheduler import DueWork, Scheduler
from proxy.store.errors import StoreUnavailableError
from proxy.store.sqlite import open_store
from proxy.store.sqlite.store import SqliteStore
from proxy.systemd import notify, watchdog_seconds

PERIOD_SECONDS = 0.15
INTERVAL_SECONDS = PERIOD_SECONDS / BEATS_A_PERIOD
PATIENCE_SECONDS = 20


@dataclass
class Systemd:
    """The receiver of beats."""

    socket: socket.socket
    address: str

    def beat(self) -> None:
        notify("WATCHDOG=1", {"NOTIFY_SOCKET": self.address})

    async def hears(self, beats: int = 1) -> None:
        """Wait for `beats` more beats."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(beats):
                assert await asyncio.get_running_loop().sock_recv(self.socket, 100) == b"WATCHDOG=1"

    def heard(self) -> int:
        """Read all waiting beats and return their number."""
        for count in range(1_000):
            try:
                self.socket.recv(100)
            except BlockingIOError:
                return count
        raise AssertionError("beats without end")


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(str(tmp_path / "notify"))
        yield Systemd(listening, str(tmp_path / "notify"))


@asynccontextmanager
async def watched(systemd: Systemd, **parts: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    watchdog = Watchdog(PERIOD_SECONDS, parts, systemd.beat)
    watchdog.start()
    yield
    await watchdog.close()


class Complaint(logging.Handler):
    """Waits for the log line that names the late part."""

    def __init__(self) -> None:
        super().__init__()
        self.came = asyncio.Event()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
        self.came.set()


@pytest.fixture
async def complaint() -> AsyncIterator[Complaint]:
    handler, logger = Complaint(), logging.getLogger("proxy.gateway.watchdog")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


async def assert_silent(systemd: Systemd, complaint: Complaint, name: str) -> None:
    """Wait until a part is reported late, then for three more intervals, and check that no beat came."""
    systemd.heard()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await complaint.came.wait()
    systemd.heard()  # drop a beat that was already on its way
    await asyncio.sleep(3 * INTERVAL_SECONDS)
    assert systemd.heard() == 0
    assert name in complaint.text


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await open_store(tmp_path / "gateway.db")
    yield opened
    await opened.close()


async def test_a_healthy_idle_gateway_beats_on_and_writes_nothing(systemd: Systemd, store: SqliteStore) -> None:
    files = sorted(store.path.parent.glob("gateway.db*"))
    scheduler, _ = scheduler_of(Agenda())

    async with watched(systemd, writer=store.turn, scheduler=scheduler.turn):
        await systemd.hears(1)
        before = [(file.stat().st_size, file.read_bytes()) for file in files if not file.name.endswith("-shm")]
        await systemd.hears(8)

    assert [(file.stat().st_size, file.read_bytes()) for file in files if not file.name.endswith("-shm")] == before
    await scheduler.close()


async def test_a_loop_that_hangs_does_not_beat(systemd: Systemd) -> None:
    async with watched(systemd):
        await systemd.hears(1)
        systemd.heard()

        threading.Event().wait(6 * INTERVAL_SECONDS)  # blocks the loop

        assert systemd.heard() == 0
        await systemd.hears(1)


async def test_a_writer_stuck_on_its_thread_stops_the_beats(systemd: Systemd, store: SqliteStore, complaint: Complaint) -> None:
    released = threading.Event()
    async with watched(systemd, writer=store.turn):
        await systemd.hears(2)
        stuck = store._write(lambda _: released.wait(PATIENCE_SECONDS))  # like a system call that does not return

        await assert_silent(systemd, complaint, "writer")

        released.set()
        await stuck
        await systemd.hears(2)


async def test_a_long_queue_of_writes_is_work_and_not_death(store: SqliteStore) -> None:
    queued = [store._write(lambda _: None) for _ in range(20_000)]

    await store.turn()

    assert sum(write.done() for write in queued) < len(queued) / 2
    await asyncio.gather(*queued)


async def test_a_writer_whose_transaction_fails_is_alive(systemd: Systemd, store: SqliteStore) -> None:
    await store._write(lambda connection: connection.execute("PRAGMA busy_timeout = 0").fetchall())
    with closing(sqlite3.connect(store.path, isolation_level=None)) as foreigner:
        foreigner.execute("BEGIN IMMEDIATE")
        async with watched(systemd, writer=store.turn):
            with pytest.raises(StoreUnavailableError, match="locked"):
                await store._write(lambda _: None)

            await systemd.hears(3)


class Agenda:
    """An agenda on which nothing is ever due; its queries may hang."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()

    async def due(self, now_ms: int, limit: int) -> Sequence["Thing"]:
        await self.answers.wait()
        return []

    async def next_due_at_ms(self, after_ms: int) -> int | None:
        return None


@dataclass(frozen=True)
class Thing:
    id: str


def scheduler_of(agenda: Agenda) -> tuple[Scheduler, list[BaseException | None]]:
    deaths: list[BaseException | None] = []
    scheduler = Scheduler(on_death=deaths.append)
    scheduler.whenever_due(DueWork(agenda, SystemClock()), _work, "things")
    return scheduler, deaths


async def _work(_: Thing) -> None:
    raise AssertionError("nothing is due")


async def test_a_scheduler_that_hangs_stops_the_beats(systemd: Systemd, complaint: Complaint) -> None:
    agenda = Agenda()
    scheduler, _ = scheduler_of(agenda)
    async with watched(systemd, scheduler=scheduler.turn):
        await systemd.hears(2)
        agenda.answers.clear()

        await assert_silent(systemd, complaint, "scheduler")

        agenda.answers.set()
        await systemd.hears(2)
    await scheduler.close()


async def test_a_drain_after_the_schedulers_end_is_not_taken_for_a_hang(systemd: Systemd) -> None:
    scheduler, _ = scheduler_of(Agenda())
    async with watched(systemd, scheduler=scheduler.turn):
        await systemd.hears(1)

        await scheduler.close()

        await systemd.hears(4)


def test_only_the_process_that_systemd_means_is_watched() -> None:
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000"}) == 30
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "0"}) is None
    assert watchdog_seconds({}) is None
