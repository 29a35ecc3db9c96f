"""A way to a PostgreSQL server that stands still at one message, so that a test can kill whoever sent it just then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from proxy.tasks import TaskGroup

_SOCKET = ".s.PGSQL.5432"


class Stop:
    """Unix sockets, passed on up to a message that has certain bytes in it."""

    def __init__(self, url: str, folder: Path) -> None:
        parts = urlsplit(url)
        self._server = f"{parse_qs(parts.query)['host'][0]}/{_SOCKET}"
        self._folder = folder
        self.url = f"postgresql://{parts.netloc}{parts.path}?host={folder}"
        self.once_seen = b""
        """`at` counts only after a message with these bytes."""
        self.at = b""
        self.is_answered = False
        """The message arrives, and what does not is its answer."""
        self.reached = asyncio.Event()
        self._tasks = TaskGroup("stop")

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._enter, self._folder / _SOCKET)

    async def close(self) -> None:
        await self._tasks.cancel()

    def _enter(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self._tasks.spawn(self._connected(reader, client), "connection")

    async def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_unix_connection(self._server)
        stands = asyncio.Event()
        self._tasks.spawn(self._back(answers, client, stands), "back")
        with suppress(ConnectionError):
            while message := await reader.read(2**20):
                if self._is_here(message):
                    stands.set()
                    if not self.is_answered:
                        self.reached.set()
                        await reader.read()  # until whoever sent it is gone
                        break
                server.write(message)
                await server.drain()
        server.close()
        client.close()

    def _is_here(self, message: bytes) -> bool:
        if self.once_seen:
            if self.once_seen in message:
                self.once_seen = b""
            return False
        if not self.at or self.at not in message:
            return False
        self.at = b""
        return True

    async def _back(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter, stands: asyncio.Event) -> None:
        with suppress(ConnectionError):
            while answer := await answers.read(2**20):
                if stands.is_set():
                    self.reached.set()  # the server has done it
                    continue
                client.write(answer)
                await client.drain()
        if not stands.is_set():
            client.close()


@asynccontextmanager
async def stop_before(url: str, folder: Path) -> AsyncIterator[Stop]:
    """Lend such a way to the server of a URL. ``folder``: for its socket, with a short path."""
    stop = Stop(url, folder)
    listening = await stop.listen()
    try:
        yield stop
    finally:
        listening.close()
        await stop.close()
        await listening.wait_closed()
