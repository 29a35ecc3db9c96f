"""A real process as systemd sees it: refused starts, and watchdog messages from the start to the end of a drain."""

import asyncio
import signal
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

from proxy.core.money import parse_yuan
from proxy.demo.ark import Hang, StandIn, answer_sse
from tests.support.books import assert_books_balance
from tests.support.process import gateway_process
from tests.support.raw_chat import raw_chat

EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
BALANCE = parse_yuan("100")
PATIENCE_SECONDS = 30


async def test_books_that_do_not_hold_where_something_is_open_refuse_the_start(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, "http://127.0.0.1:9/api/v3", balance=BALANCE) as gateway:
        with closing(sqlite3.connect(tmp_path / "gateway.db")) as books, books:
            books.execute("UPDATE accounts SET held_nanos = 1 WHERE kind = 'customer'")

        ended = await gateway.run("serve")

        assert ended.returncode == 1
        assert "the books do not hold, held = sum of open holds: account acme: held 1, its open requests say 0" in ended.stderr


async def test_it_beats_from_its_start_to_the_end_of_its_drain(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd:
        systemd.bind(str(tmp_path / "notify"))

        async def heard(word: bytes, times: int = 1) -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while times:
                    times -= await asyncio.get_running_loop().sock_recv(systemd, 200) == word

        async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE, drain_seconds=3600) as gateway:
            env = gateway.environment(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="300000")
            with gateway.log.open("wb") as log:
                gateway.process = await asyncio.create_subprocess_exec(*gateway.command("serve"), env=env, stdout=log, stderr=log)
            await heard(b"READY=1")
            await heard(b"WATCHDOG=1", times=3)
            ark.enqueue([*answer_sse(EVENT, end=False), Hang()])
            async with raw_chat(gateway.origin, gateway.key, stream=True) as client:
                await client.head()

                gateway.process.send_signal(signal.SIGTERM)
                await heard(b"STOPPING=1")
                await heard(b"WATCHDOG=1", times=3)

                assert await gateway.end_by(signal.SIGTERM) == 0
        async with gateway.looked_into() as store:
            await assert_books_balance(store)
