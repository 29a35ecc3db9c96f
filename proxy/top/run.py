"""The loop of `top`: scrape, compute, draw, wait. The gateway may stop and come back meanwhile."""

import asyncio
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import orjson
from rich.console import Console
from rich.live import Live

from proxy.clock import Clock, iso
from proxy.config import UnixAddress
from proxy.core.shown_text import shown_json
from proxy.top.exposition import Scrape, parse
from proxy.top.figures import Figures, figures
from proxy.top.screen import Heading, frame
from proxy.top.terminal import keys_and_signals

ANSWER_SECONDS = 5.0
PIPE_COLUMNS, PIPE_LINES = 100, 200
"""Size of a frame without a terminal."""


class NoAnswerError(Exception):
    """The gateway does not answer on its admin socket; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of the command line."""

    address: UnixAddress
    every_seconds: float
    once: bool
    json: bool


async def run(asked: Asked, clock: Clock) -> None:
    """Show frames until told to stop; with ``once``, or without a terminal, show one.

    Raises: NoAnswerError: there is no gateway. A live screen waits for it instead.
    """
    connector = aiohttp.UnixConnector(path=str(asked.address.path))
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        top = _Top(asked, clock, session)
        if asked.once or not (asked.json or sys.stdout.isatty()):
            await top.look()
            await asyncio.sleep(asked.every_seconds)
            await top.look()
            top.print()
        elif asked.json:
            await top.stream()
        else:
            await top.show()


class _Top:
    def __init__(self, asked: Asked, clock: Clock, session: aiohttp.ClientSession) -> None:
        self._asked = asked
        self._clock = clock
        self._session = session
        self._last: Scrape | None = None
        self._figures: Figures | None = None
        self._silence = ""

    async def look(self) -> None:
        """Scrape once. Raises: NoAnswerError."""
        address = self._asked.address
        try:
            async with self._session.get("http://llm-proxy/metrics") as answer:
                now = parse(await answer.text(), time.monotonic())
        except TimeoutError:
            raise NoAnswerError(f"the gateway at {address} does not answer within {ANSWER_SECONDS:g} s: see its log") from None
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error.strerror or str(error.os_error)
            hint = (
                "run this as the gateway's user" if isinstance(error.os_error, PermissionError) else "start it with `llm-proxy serve`"
            )
            raise NoAnswerError(f"no gateway answers at {address} ({reason}): {hint}") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise NoAnswerError(f"what answers at {address} is no gateway ({type(error).__name__})") from None
        self._figures, self._last, self._silence = figures(now, self._last), now, ""

    async def show(self) -> None:
        """Draw on the whole screen until a key or a signal ends it."""
        stop, console = asyncio.Event(), Console(highlight=False, markup=False, emoji=False)
        with Live(console=console, screen=True, auto_refresh=False, transient=True) as live:

            def draw() -> None:
                live.update(self._frame(*console.size, keys="q quits"), refresh=True)

            with keys_and_signals(stop, draw):
                while not stop.is_set():
                    try:
                        await self.look()
                    except NoAnswerError as error:
                        self._silence, self._last = str(error), None
                    draw()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._asked.every_seconds if self._figures and self._figures.seconds else 1.0):
                            await stop.wait()

    async def stream(self) -> None:
        """Print a line of JSON after each scrape. Raises: NoAnswerError."""
        while True:
            await self.look()
            sys.stdout.write(shown_json(orjson.dumps(self._answer())).decode() + "\n")
            sys.stdout.flush()
            await asyncio.sleep(self._asked.every_seconds)

    def print(self) -> None:
        """Print one frame."""
        if self._asked.json:
            sys.stdout.write(shown_json(orjson.dumps(self._answer(), option=orjson.OPT_INDENT_2)).decode() + "\n")
            return
        is_terminal = sys.stdout.isatty()
        console = Console(highlight=False, markup=False, emoji=False, width=None if is_terminal else PIPE_COLUMNS)
        console.print(self._frame(console.width, PIPE_LINES, keys=""))

    def _frame(self, columns: int, lines: int, *, keys: str) -> Any:
        return frame(Heading(str(self._asked.address), self._now()[11:19] + " UTC", self._silence, keys), self._figures, columns, lines)

    def _answer(self) -> dict[str, Any]:
        assert self._figures is not None
        return {"at": self._now()} | asdict(self._figures)

    def _now(self) -> str:
        return iso(self._clock.now_ms())
