"""A disk that is full, that cannot be written, or that lies: nobody is served for nothing, and what was said stands.

The rules: new paid work is refused with 503, what is under way ends and is settled when it can be, reads go on, and with room all goes
on by itself. After a failed fsync the process ends and writes no more. A damaged file is refused at start, with what to do.
"""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from proxy.gateway.shutdown import EXIT_STORE_FAILED
from proxy.store.sqlite.admission import RESERVE_BYTES
from tests.support.promises import Faults
from tests.support.stand import CHECKPOINT_FRAMES, Stand, stand
from tests.support.strace import injected, needs_strace

needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
SECONDS_TO_RECOVER = 30.0
STREAMS = 10
DISK_BYTES = RESERVE_BYTES + 16_000_000
FULL = "a disk that is full, read-only or failing: new work is 503, streams end and are settled, reads go on, it recovers by itself"
FSYNC = "an fsync that fails ends the process and is never tried again: nothing that was acknowledged is lost"
DAMAGE = "a damaged store is refused at start, and told what to do: a deleted log, flipped bytes in log and pages"

Breaks = Callable[[Stand], AbstractAsyncContextManager[None]]


# full, read-only


@asynccontextmanager
async def full(one: Stand, *, but_for_bytes: int = 0) -> AsyncIterator[None]:
    """Fill the file system of the store with something else."""
    ballast = one.gateway.directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
        file.truncate(file.tell() - but_for_bytes)
    yield
    ballast.unlink()


def failing(error: str) -> Breaks:
    """Let every write to a place in a file fail: those of SQLite, that is."""
    return lambda one: injected(one.gateway.pid, "pwrite64", f"error={error}")


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("no file system may be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@dataclass(frozen=True, slots=True)
class RealDisk:
    """An ext4 of its own, which turns read-only at an error, as most servers' do."""

    image: Path
    place: Path

    def mount(self) -> bool:
        return run("mount", "-o", "loop,errors=remount-ro", self.image, self.place)

    def unmount(self) -> bool:
        return run("umount", self.place)

    def fail(self) -> None:
        """Let the kernel find an error: it aborts the journal, and every write from here on is refused with EROFS."""
        assert run("sync", "--file-system", self.place)  # the configuration, which nobody has made durable
        device = Path(subprocess.run(["findmnt", "-no", "SOURCE", self.place], capture_output=True, text=True).stdout.strip())
        Path("/sys/fs/ext4", device.name, "trigger_fs_error").write_text("by a test\n")


def run(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def real_disk(tmp_path: Path) -> object:
    disk = RealDisk(tmp_path / "image", tmp_path / "disk")
    disk.place.mkdir()
    with disk.image.open("wb") as image:
        image.truncate(DISK_BYTES + 16_000_000)
    if shutil.which("mkfs.ext4") is None or not run("mkfs.ext4", "-q", disk.image) or not disk.mount():
        pytest.skip("no ext4 of a test's own may be mounted here")
    yield disk
    disk.unmount()


async def reads_go_on(one: Stand, session: aiohttp.ClientSession) -> None:
    await one.reads_go_on(session)
    request_id = next(iter(one.hands.whole))
    async with session.get(f"/v1/usage/{request_id}", headers=one.headers(await owner(one, request_id))) as answer:
        assert answer.status == 200, await answer.text()


async def owner(one: Stand, request_id: str) -> str:
    async with one.gateway.looked_into() as store:
        found = await store.receipt(request_id)
    assert found is not None
    return found[0].account


async def outlives(directory: Path, faults: Faults, breaks: Breaks) -> None:
    """Break the disk under open streams, look that all is as it is promised, mend it, and look again."""
    async with stand(directory) as one:
        assert await one.start()
        await one.customers(4, calls=5)
        async with aiohttp.ClientSession(one.gateway.origin) as session, asyncio.TaskGroup() as streams:
            one.books.gate.clear()
            asked = len(one.books.chats)
            for number in range(STREAMS):
                streams.create_task(one.want(session, "stream with usage", f"{number:03d}"))
            await one.ark.wait_until(lambda: len(one.books.chats) == asked + STREAMS)
            async with breaks(one):
                one.books.gate.set()
                for _ in range(3):
                    await one.refused(session)
                    faults.injected += 1
                await reads_go_on(one, session)
            async with asyncio.timeout(SECONDS_TO_RECOVER):
                await one.taken_again(session)
        await one.customers(4, calls=5)
        await one.all_ended()
        faults.cost(await one.losses(all_ended=True))
        assert not one.gateway.has_ended
        assert not {name for name in one.outcomes if "interrupted" in name}


@needs_mount
@pytest.mark.promise(FULL)
async def test_a_full_disk_is_outlived(small_disk: Path, faults: Faults) -> None:
    await outlives(small_disk, faults, full)


@needs_mount
@pytest.mark.promise(FULL)
async def test_on_a_disk_that_is_nearly_full_what_is_open_is_settled_and_nothing_new_is_taken(small_disk: Path, faults: Faults) -> None:
    """Holds would still fit, one by one, until the settlements of those before them did not."""
    async with stand(small_disk) as one:
        assert await one.start()
        async with aiohttp.ClientSession(one.gateway.origin) as session, asyncio.TaskGroup() as streams:
            one.books.gate.clear()
            for number in range(STREAMS):
                streams.create_task(one.want(session, "stream with usage", f"{number:03d}"))
            await one.ark.wait_until(lambda: len(one.books.chats) == STREAMS)
            async with full(one, but_for_bytes=4_000_000):
                await ready(one, session, is_ready=False)
                for _ in range(3):
                    assert await one.refused(session) == 0  # none is taken that would then wait for its settlement
                    faults.injected += 1
                assert len(one.books.chats) == STREAMS
                one.books.gate.set()
                await one.all_ended()
                faults.cost(await one.losses(all_ended=True))
                await reads_go_on(one, session)
            await ready(one, session, is_ready=True)
            await one.taken_again(session)
        faults.cost(await one.losses(all_ended=True))
        assert one.outcomes == {"chat complete": STREAMS + 1}


async def ready(one: Stand, session: aiohttp.ClientSession, *, is_ready: bool) -> None:
    """Return once ``/readyz`` says so."""
    async with asyncio.timeout(SECONDS_TO_RECOVER):
        while (await one.readiness(session) == 200) is not is_ready:  # noqa: ASYNC110  the other process has no event for it
            await asyncio.sleep(0.02)


@needs_strace
@pytest.mark.promise(FULL)
@pytest.mark.parametrize("error", ["ENOSPC", "EROFS", "EIO"])
async def test_a_disk_that_cannot_be_written_is_outlived(tmp_path: Path, faults: Faults, error: str) -> None:
    await outlives(tmp_path, faults, failing(error))


@needs_mount
@pytest.mark.promise(FULL)
async def test_a_store_on_a_disk_that_is_read_only_is_refused_in_words(small_disk: Path) -> None:
    async with stand(small_disk) as one:
        one.gateway.log = small_disk.parent / "gateway.log"
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)  # noqa: ASYNC221  nothing else runs here

        assert not await one.start()

        assert await one.gateway.ended() == 1
        assert "cannot start: cannot open" in one.gateway.log.read_text()
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)  # noqa: ASYNC221
        assert await one.start()


@asynccontextmanager
async def immutable(one: Stand) -> AsyncIterator[None]:
    """Forbid every write to the files that the store holds open: no mount can be made read-only under those."""
    files = [one.gateway.directory / f"gateway.db{ending}" for ending in ("", "-wal")]
    if not run("chattr", "+i", *files):
        pytest.skip("no file may be made immutable here")
    yield
    assert run("chattr", "-i", *files)


@needs_mount
@pytest.mark.promise(FULL)
async def test_files_that_may_not_be_written_for_a_while_are_outlived(real_disk: RealDisk, faults: Faults) -> None:
    await outlives(real_disk.place, faults, immutable)


@needs_mount
@pytest.mark.promise(FULL)
async def test_a_file_system_that_turns_read_only_is_read_on_and_once_it_is_mended_nothing_is_lost(
    real_disk: RealDisk, faults: Faults
) -> None:
    """Linux lets nobody make an ext4 writable again that has found an error: it is unmounted, so the gateway stops."""
    async with stand(real_disk.place) as one:
        one.gateway.log = real_disk.image.parent / "gateway.log"
        assert await one.start(is_hasty=False)  # no stream ends for its client without its settlement
        await one.customers(4, calls=5)
        async with aiohttp.ClientSession(one.gateway.origin) as session, asyncio.TaskGroup() as streams:
            one.books.gate.clear()
            asked = len(one.books.chats)
            for number in range(STREAMS):
                streams.create_task(broken_off(one, session, f"{number:03d}"))
            await one.ark.wait_until(lambda: len(one.books.chats) == asked + STREAMS)
            real_disk.fail()
            one.books.gate.set()
            for _ in range(CHECKPOINT_FRAMES):
                assert await one.refused(session) == 0
                faults.injected += 1
            await ready(one, session, is_ready=False)
            await reads_go_on(one, session)
            assert not one.gateway.has_ended
            await one.gateway.kill()
        assert not await one.start()
        assert "cannot start: cannot open" in one.gateway.log.read_text()
        assert real_disk.unmount()
        assert real_disk.mount()

        assert await one.start()

        faults.cost(await one.recovered())
        await one.customers(4, calls=5)
        await one.all_ended()
        faults.cost(await one.losses(all_ended=True))


async def broken_off(one: Stand, session: aiohttp.ClientSession, account: str) -> None:
    with pytest.raises(aiohttp.ClientError):
        await one.want(session, "stream with usage", account)


# fsync


@needs_strace
@pytest.mark.promise(FSYNC)
async def test_an_fsync_that_fails_ends_the_process_and_nothing_is_lost(tmp_path: Path, faults: Faults) -> None:
    async with stand(tmp_path) as one:
        for nth in (1, 3, 5, 8, 13, 21):  # the second is of the folder, which SQLite does not heed, and `open_store` has done
            assert await one.start()
            faults.cost(await one.recovered())
            async with injected(one.gateway.pid, "fsync,fdatasync", f"error=EIO:when={nth}"):
                await asyncio.wait_for(one.customers(), SECONDS_TO_RECOVER)
                assert await one.gateway.ended() == EXIT_STORE_FAILED
            faults.injected += 1
            faults.cost(await one.losses())
        assert await one.start()
        await one.all_ended()
        faults.cost(await one.losses(all_ended=True))


@needs_strace
@pytest.mark.promise(FSYNC)
@pytest.mark.parametrize(("call", "codes"), [("fdatasync", {EXIT_STORE_FAILED}), ("fsync", {1})], ids=["its commit", "the folder"])
async def test_so_does_one_that_fails_while_the_next_process_recovers(
    tmp_path: Path, faults: Faults, call: str, codes: set[int]
) -> None:
    async with stand(tmp_path) as one:
        await one.start(die_at="first byte after", hits=5)
        await one.customers()
        async with injected(one.gateway.zygote_pid, call, "error=EIO:when=1"):
            assert not await one.start()
            assert await one.gateway.ended() in codes
        faults.injected += 1
        faults.cost(await one.losses())

        assert await one.start()
        faults.cost(await one.recovered())
        await one.all_ended()
        faults.cost(await one.losses(all_ended=True))


# damage


def deleted_log(database: Path) -> None:
    database.with_name(database.name + "-wal").unlink()


def flipped_frame(database: Path) -> None:
    _flip(database.with_name(database.name + "-wal"), 32 + 24 + 100)


def flipped_page(database: Path) -> None:
    """The root of a table or an index is not what it was."""
    content = database.read_bytes()
    database.write_bytes(content[: 4 * 4096] + b"\xff" * 64 + content[4 * 4096 + 64 :])


def _flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.promise(DAMAGE)
async def test_a_damaged_store_is_refused_with_what_to_do_and_starts_again_once_it_is_mended(tmp_path: Path, faults: Faults) -> None:
    async with stand(tmp_path) as one:
        await one.start(checkpoint_frames=100_000)
        await one.customers(4, calls=10)
        await one.gateway.kill()
        files = [tmp_path / f"gateway.db{ending}" for ending in ("", "-wal", "-shm")]
        kept = {file: file.read_bytes() for file in files}
        for damage in (deleted_log, flipped_frame, flipped_page):
            damage(tmp_path / "gateway.db")

            assert not await one.start(), damage
            assert await one.gateway.ended() == 1
            last = one.gateway.log.read_text().splitlines()[-1]
            assert "cannot start" in last
            assert "llm-proxy restore" in last

            faults.injected += 1
            for file, content in kept.items():
                file.write_bytes(content)
        assert await one.start()
        await one.all_ended()
        faults.cost(await one.losses(all_ended=True))


@pytest.mark.promise(DAMAGE)
async def test_a_damaged_store_is_replaced_by_its_backup(tmp_path: Path) -> None:
    async with stand(tmp_path) as one:
        await one.start()
        await one.customers(4, calls=5)
        await one.all_ended()
        backup = await one.gateway.run("backup", str(tmp_path / "backup.db"))
        assert backup.returncode == 0, backup.stderr
        one.gateway.send(signal.SIGTERM)
        assert await one.gateway.ended() == 0
        _flip(tmp_path / "gateway.db", 3)
        assert not await one.start()
        assert "llm-proxy restore" in one.gateway.log.read_text().splitlines()[-1]

        restored = await one.gateway.run("restore", str(tmp_path / "backup.db"))

        assert restored.returncode == 0, restored.stderr
        assert await one.start()
        assert await one.losses(all_ended=True) == []
