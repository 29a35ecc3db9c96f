"""The load process: reads one job from standard input, and prints its report. ``python -m tests.bench.load``."""

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import uvloop

from tests.bench.clients import Client, JsonClient, StreamClient, Tally, request
from tests.bench.jobs import BEGIN, END, Job, Report, Spread
from tests.bench.limits import raise_open_files

SAMPLED_MAX = 64
"""Number of streams whose time stamps are read."""
BATCH_SECONDS = 0.02
OPEN_SECONDS = COUNTED_SECONDS = 60.0
RUN_OUT_SECONDS = 60.0
STALLED_RECEIVE_BYTES, INTERNET_SEGMENT_BYTES = 16_384, 1460

C = TypeVar("C", bound=Client)


class Load:
    """One running job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._body = job.body
        self._tally = Tally()
        self._seconds = 0.0

    async def run(self) -> Report:
        """Run the job and return its report."""
        await {"json": self._json, "streams": self._streams, "paced": self._paced, "firsts": self._firsts}[self._job.kind]()
        tally = self._tally
        return Report(
            seconds=self._seconds,
            answers=tally.answers,
            failed=tally.failed,
            chunks=tally.chunks,
            reads=tally.reads,
            joined=tally.joined,
            delays=Spread.of(tally.delays),
            waits=Spread.of(tally.waits),
        )

    async def _json(self) -> None:
        clients = await self._open(JsonClient)
        for client in clients:
            client.ask()
        await self._count()
        for client in clients:
            client.stopping = True
        await self._run_out(clients)

    async def _firsts(self) -> None:
        clients = await self._open(lambda asked, tally: StreamClient(asked, tally, again=True))
        for client in clients:
            client.ask()
        await self._count()
        for client in clients:
            client.again = False
        await self._run_out(clients)

    async def _streams(self) -> None:
        """Begin streams little by little; count once all have begun."""
        clients = self._stream_clients()
        batch = max(1, int(self._job.opened_a_second * BATCH_SECONDS))
        for first in range(0, len(clients), batch):
            await asyncio.gather(*(self._connect(client) for client in clients[first : first + batch]))
            for client in clients[first : first + batch]:
                client.ask()
            await asyncio.sleep(BATCH_SECONDS)
        await _until(lambda: all(client.began or client.gone.done() for client in clients), OPEN_SECONDS)
        await self._count()
        if self._job.held:
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
        stalled = clients[: self._job.stalled]
        for client in clients if self._job.leaves or self._job.held else stalled:
            client.leave()
        await self._run_out(clients)

    def _stream_clients(self) -> list[StreamClient]:
        job = self._job
        every = max(1, job.connections // SAMPLED_MAX)
        clients = []
        for turn in range(job.connections):
            stalls = turn < job.stalled
            asked = request(job.target, self._body, turn)
            clients.append(StreamClient(asked, self._tally, sampled=not stalls and turn % every == 0, stalls=stalls))
        return clients

    async def _paced(self) -> None:
        """Send requests at fixed times, each on a free connection: a slow answer delays no later request."""
        clients = await self._open(StreamClient)
        turns = int(self._job.rate * (self._job.warm_seconds + self._job.seconds))
        await asyncio.gather(self._count(), self._ask_on_time(clients, time.monotonic(), turns))
        await self._run_out(clients)

    async def _ask_on_time(self, clients: Sequence[StreamClient], begin: float, turns: int) -> None:
        for turn in range(turns):
            due = begin + turn / self._job.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            free = next((client for client in clients if not client.busy and not client.gone.done()), None)
            if free is None:
                self._tally.failed += 1
            else:
                free.ask()

    async def _open(self, make: Callable[[bytes, Tally], C]) -> list[C]:
        clients = [make(request(self._job.target, self._body, turn), self._tally) for turn in range(self._job.connections)]
        await asyncio.gather(*(self._connect(client) for client in clients))
        return clients

    async def _connect(self, client: Client) -> None:
        await asyncio.get_running_loop().create_connection(lambda: client, sock=await self._socket())

    async def _socket(self) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        if self._job.stalled:
            # As over the internet: on loopback the kernel buffers megabytes for a stalled client, and hides what the gateway buffers.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_RECEIVE_BYTES)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, INTERNET_SEGMENT_BYTES)
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self._job.target.port))
        return made

    async def _count(self) -> None:
        await asyncio.sleep(self._job.warm_seconds)
        self._tally.is_open, began = True, time.monotonic()
        print(BEGIN, flush=True)
        await asyncio.sleep(self._job.seconds)
        await _until(self._tally.has_counted, COUNTED_SECONDS)
        self._tally.is_open, self._seconds = False, time.monotonic() - began
        print(END, flush=True)

    async def _run_out(self, clients: Sequence[Client]) -> None:
        """Wait for requests in progress, so that none reaches into the next measurement; then close."""
        await _until(lambda: not any(client.busy and not client.gone.done() for client in clients), RUN_OUT_SECONDS)
        for client in clients:
            client.leave()


async def _until(reached: Callable[[], bool], seconds: float) -> None:
    """Wait for a state, at most ``seconds``: a contender that does not reach it shows that in its figures."""
    deadline = time.monotonic() + seconds
    while not reached() and time.monotonic() < deadline:  # noqa: ASYNC110  thousands of clients, polled now and then
        await asyncio.sleep(BATCH_SECONDS)


def main() -> None:
    raise_open_files()
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    report = uvloop.run(Load(job).run())
    print(msgspec.json.encode(report).decode(), flush=True)


if __name__ == "__main__":
    main()
