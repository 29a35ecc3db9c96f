"""A crowd of clients that connect all at once: the process, and how it is told to come. ``python -m tests.bench.crowd``.

It reads a `Coming` a line, and prints an `Arrival` a line. One plain epoll loop: a client costs some 30 µs of CPU, so the crowd
is no slower than what it comes to.
"""

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.bench.clients import request
from tests.bench.jobs import Job, Spread, Target
from tests.bench.limits import raise_open_files
from tests.bench.processes import ROOT, Running, SpoiltError, stop

COME_SECONDS = 120.0
"""Longer than the kernel's second, third and fourth try of a connection that was dropped (1 + 2 + 4 + 8 s … after the first)."""
_READ_BYTES = 65_536
_OK = b"HTTP/1.1 200"


class Coming(msgspec.Struct, frozen=True):
    """So many clients, each with one JSON request for this target."""

    target: Target
    clients: int


class Arrival(msgspec.Struct, frozen=True):
    """Times from the first client's connect to each one's first byte, in ms, and how many were refused, cut or never answered."""

    firsts: Spread
    failed: int


class Crowd:
    """The clients. Their connections stay open until they come again."""

    def __init__(self) -> None:
        self._clients: dict[int, socket.socket] = {}
        self._events = select.epoll()

    def come(self, coming: Coming) -> Arrival:
        """Connect all at once, ask, and return when each had its first byte, or has failed."""
        self._leave()
        job = Job(kind="json", target=coming.target, connections=coming.clients, seconds=0)
        asked = [request(coming.target, job.body, turn) for turn in range(coming.clients)]
        made = [socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in asked]
        self._clients = {client.fileno(): client for client in made}
        began = time.monotonic()
        for client in made:
            client.connect_ex(("127.0.0.1", coming.target.port))
            self._events.register(client, select.EPOLLOUT)
        return self._hear(dict(zip(self._clients, asked, strict=True)), began)

    def _hear(self, to_send: dict[int, bytes], began: float) -> Arrival:
        firsts: list[float] = []
        failed, waiting = 0, set(to_send)
        while waiting and (left := began + COME_SECONDS - time.monotonic()) > 0:
            for descriptor, _ in self._events.poll(left):
                client = self._clients[descriptor]
                try:
                    if (asked := to_send.pop(descriptor, None)) is not None:
                        client.send(asked)
                        self._events.modify(descriptor, select.EPOLLIN)
                        continue
                    is_ok = client.recv(_READ_BYTES).startswith(_OK)
                except OSError:
                    is_ok = False
                self._events.unregister(descriptor)
                waiting.discard(descriptor)
                if is_ok:
                    firsts.append((time.monotonic() - began) * 1000)
                else:
                    failed += 1
        return Arrival(Spread.of(firsts), failed + len(waiting))

    def _leave(self) -> None:
        for client in self._clients.values():
            client.close()
        self._events.close()
        self._events = select.epoll()


class CrowdProcess:
    """A running crowd."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def come(self, target: Target, clients: int) -> Arrival:
        """Let so many clients come at once. Raises: SpoiltError."""
        process = self._running.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(Coming(target, clients)) + b"\n")
        ready, _, _ = select.select([process.stdout], [], [], COME_SECONDS + 10)
        line = process.stdout.readline() if ready else b""
        if not line:
            raise SpoiltError(f"the crowd went silent: {self._running.log_tail()}")
        return msgspec.json.decode(line, type=Arrival)


@contextmanager
def crowd(directory: Path) -> Iterator[CrowdProcess]:
    """Run a crowd in its own process."""
    log = directory / "crowd.log"
    with log.open("ab") as errors:
        command = [sys.executable, "-m", "tests.bench.crowd"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, bufsize=0)
    assert process.stdin is not None
    try:
        yield CrowdProcess(Running("crowd", process, log))
    finally:
        process.stdin.close()
        stop(process)


def main() -> None:
    raise_open_files()
    waiting = Crowd()
    for line in sys.stdin.buffer:
        print(msgspec.json.encode(waiting.come(msgspec.json.decode(line, type=Coming))).decode(), flush=True)


if __name__ == "__main__":
    main()
