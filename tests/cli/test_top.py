"""`llm-proxy top` on a pseudo-terminal beside a real gateway: it draws, follows the size, quits, and restores the terminal."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from proxy.demo.ark import StandIn
from tests.support.process import GatewayProcess, gateway_process

SECONDS_MAX = 20.0


class Terminal:
    """A pseudo-terminal that runs `top`."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self._master = master
        self._said = b""
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            self._said += os.read(self._master, 65_536)
        except OSError:  # no process has it open any more
            asyncio.get_running_loop().remove_reader(self._master)
        self._news.set()

    async def shows(self, pattern: str, since: int = 0) -> int:
        """Wait until the pattern is shown, and return the length of the output so far."""
        async with asyncio.timeout(SECONDS_MAX):
            while not re.search(pattern.encode(), self._said[since:]):
                self._news.clear()
                await self._news.wait()
        return len(self._said)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def modes(self) -> object:
        return termios.tcgetattr(self._master)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)


@asynccontextmanager
async def top_on_a_terminal(gateway: GatewayProcess, *words: str) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def own_the_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = await asyncio.create_subprocess_exec(
        *gateway.command("top", "--every", "0.1", *words),
        stdin=slave, stdout=slave, stderr=slave, env=gateway.environment(TERM="xterm-256color"),
        preexec_fn=own_the_terminal,
    )  # fmt: skip
    terminal = Terminal(process, master)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        terminal.close()
        os.close(slave)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=10**12) as one:  # type: ignore[arg-type]
        await one.start()
        yield one


Leave = Callable[[Terminal], None]
WAYS_OUT: dict[str, Leave] = {
    "q": lambda terminal: terminal.press(b"q"),
    "Ctrl-C": lambda terminal: terminal.press(b"\x03"),
    "SIGTERM": lambda terminal: terminal.process.send_signal(signal.SIGTERM),
}


@pytest.mark.parametrize("way", WAYS_OUT)
async def test_it_ends_well_and_gives_the_terminal_back(gateway: GatewayProcess, way: str) -> None:
    async with top_on_a_terminal(gateway) as terminal:
        modes = terminal.modes()
        await terminal.shows(r"streams.*0 open")

        WAYS_OUT[way](terminal)

        assert await asyncio.wait_for(terminal.process.wait(), SECONDS_MAX) == 0
        await terminal.shows(r"\x1b\[\?1049l")  # back on the main screen
        assert terminal.modes() == modes


async def test_it_follows_the_size_of_the_terminal(gateway: GatewayProcess) -> None:
    async with top_on_a_terminal(gateway) as terminal:
        said = await terminal.shows(r"q quits")

        terminal.resize(40, 10)

        await terminal.shows(r"llm-proxy top[^\r\n]{0,4}…", since=said)


async def test_it_waits_for_a_gateway_that_stops_and_comes_back(gateway: GatewayProcess) -> None:
    async with top_on_a_terminal(gateway) as terminal:
        said = await terminal.shows(r"streams")

        assert await gateway.end_by(signal.SIGTERM) == 0
        said = await terminal.shows(r"no gateway answers", since=said)
        await gateway.start()

        await terminal.shows(r"0 open", since=said)


async def test_one_frame_for_a_pipe_and_one_as_json(gateway: GatewayProcess) -> None:
    printed = await gateway.run("top", "--once", "--every", "0.1")
    document = await gateway.run("top", "--once", "--json", "--every", "0.1")
    piped = await gateway.run("top", "--every", "0.1")

    assert printed.returncode == document.returncode == piped.returncode == 0
    assert printed.stdout.splitlines()[0].startswith("llm-proxy top  unix:")
    assert "\x1b" not in printed.stdout
    assert "0 open" in piped.stdout
    assert orjson.loads(document.stdout)["streams"] == 0


async def test_without_a_gateway_it_says_what_to_do(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, "http://127.0.0.1:9")

    ended = await gateway.run("top", "--once")

    assert ended.returncode == 1
    assert "start it with `llm-proxy serve`" in ended.stderr
    assert sys.executable not in ended.stderr
