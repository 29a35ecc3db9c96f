"""The way to a PostgreSQL server, as a test breaks it: cut before a message arrives, cut before its answer does, late, or closed."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from proxy.tasks import TaskGroup

_SOCKET = ".s.PGSQL.5432"


class Way:
    """Unix sockets, passed on. A message is known by bytes that stand in it, such as a request's id."""

    def __init__(self, url: str, folder: Path) -> None:
        parts = urlsplit(url)
        self._server = f"{parse_qs(parts.query)['host'][0]}/{_SOCKET}"
        self._folder = folder
        self.url = f"postgresql://{parts.netloc}{parts.path}?host={folder}"
        self.cut_before = b""
        """A message with these bytes never arrives: the way is cut, once."""
        self.cut_answer = b""
        """The answer to a message with these bytes never arrives: the way is cut once the server has given it, once."""
        self.hold_back = b""
        """A message with these bytes is held back, once, and its way cut; `deliver_late` sends it."""
        self.is_pooler = False
        """It says another process id than the server's, as a pooler does."""
        self.is_closed = False
        """Nothing passes, and nobody is let in."""
        self.cuts = 0
        self.has_cut = asyncio.Event()
        self.late_answered = asyncio.Event()
        """The server has answered what was delivered late."""
        self._late: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._delivered: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._stale: set[asyncio.StreamWriter] = set()
        self._tasks = TaskGroup("way")

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._enter, self._folder / _SOCKET)

    def go_stale(self) -> None:
        """Cut each connection that is open now at its next message, as one whose server has gone without a word."""
        self._stale = set(self._open)

    def close_all(self) -> None:
        """Close the way: connections are cut, and no new ones made, until `is_closed` is false again."""
        self.is_closed = True
        for writer in self._open:
            writer.transport.abort()

    async def close(self) -> None:
        """Cut whatever is open, and return once nothing is."""
        self.close_all()
        for server, _ in self._late:
            server.transport.abort()
        await self._tasks.drain()

    async def deliver_late(self) -> None:
        """Send on what was held back, after its sender has given it up."""
        late, self._late = self._late, []
        for server, message in late:
            self._delivered.add(server)
            server.write(message)
            await server.drain()

    def _enter(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self._tasks.spawn(self._connected(reader, client), "connection")

    async def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_unix_connection(self._server)
        self._open |= {client, server}
        if self.is_closed:
            self.close_all()
            return
        swallows = asyncio.Event()
        self._tasks.spawn(self._back(answers, client, server, swallows), "back")
        with suppress(ConnectionError):
            while message := await reader.read(2**20):
                if self.hold_back and self.hold_back in message:
                    self.hold_back = b""
                    self._late.append((server, message))
                    self._open.discard(server)
                    self._cut(client)
                    return
                if client in self._stale or (self.cut_before and self.cut_before in message):
                    self.cut_before = b""
                    self._cut(client, server)
                    return
                if self.cut_answer and self.cut_answer in message:
                    self.cut_answer = b""
                    swallows.set()
                server.write(message)
                await server.drain()
        server.close()

    async def _back(
        self, answers: asyncio.StreamReader, client: asyncio.StreamWriter, server: asyncio.StreamWriter, swallows: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while answer := await answers.read(2**20):
                if server in self._delivered:
                    self.late_answered.set()
                    server.transport.abort()
                    return
                if swallows.is_set():
                    self._cut(client, server)
                    return
                client.write(_with_another_pid(answer) if self.is_pooler else answer)
                await client.drain()
        client.close()

    def _cut(self, *writers: asyncio.StreamWriter) -> None:
        self.cuts += 1
        self.has_cut.set()
        for writer in writers:
            writer.transport.abort()


def _with_another_pid(answer: bytes) -> bytes:
    """Return the server's first answer with another process id in its BackendKeyData (``K``, of 12 bytes)."""
    head = b"K\x00\x00\x00\x0c"
    begin, found, rest = answer.partition(head)
    return begin + found + b"\x00\x00\x00\x01" + rest[4:] if found else answer


@asynccontextmanager
async def short_way_to(url: str) -> AsyncIterator[Way]:
    """Lend such a way with a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="way-") as folder:  # pytest's own paths are too long for a socket
        async with way_to(url, Path(folder)) as way:
            yield way


@asynccontextmanager
async def way_to(url: str, folder: Path) -> AsyncIterator[Way]:
    """Lend a way to the server of a URL. ``folder``: for its socket, with a short path."""
    way = Way(url, folder)
    listening = await way.listen()
    try:
        yield way
    finally:
        listening.close()
        await way.close()
        await listening.wait_closed()
