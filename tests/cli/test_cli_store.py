"""`llm-proxy store move` as an operator types it: what it prints, what it refuses, and that no password is ever shown."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest

from proxy.core.money import Nanos
from proxy.store import open_store
from tests.support.postgres import database
from tests.support.store import NOW_MS

ROOT = Path(__file__).parents[2]
PASSWORD = "canary-geheim"
USAGE = 2


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with database(is_empty=True) as lent:
        yield lent


@pytest.fixture
async def file(tmp_path: Path) -> str:
    store = await open_store(f"sqlite:{tmp_path}/books.db")
    await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.close()
    return "sqlite:books.db"  # from the working directory


async def run(directory: Path, *words: str, **env: str) -> Ended:
    """Run the command in a directory; whatever it says never has the password in it."""
    command = [sys.executable, "-m", "proxy", "store", "move", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), **env}
    ended = await asyncio.to_thread(
        subprocess.run, command, cwd=directory, env=environment, capture_output=True, text=True, timeout=100
    )
    assert PASSWORD not in ended.stdout + ended.stderr
    return Ended(ended.returncode, ended.stdout, ended.stderr)


async def test_a_move_says_what_arrived_and_what_is_next(tmp_path: Path, file: str, url: str) -> None:
    ended = await run(tmp_path, "--from", file, "--to", url)

    assert ended.code == 0, ended.stderr
    assert "ok    balance = credits - debits" in ended.stdout
    assert [line.split()[:2] for line in ended.stdout.splitlines() if " transfers " in f" {line} " and not line.startswith("ok")] == [
        ["1", "transfers"]
    ]
    assert f'sqlite:{tmp_path}/books.db starts no more. Next: set store.url = "{url}", then start the gateway.' in ended.stderr


async def test_a_move_answers_a_program_in_json(tmp_path: Path, file: str, url: str) -> None:
    ended = await run(tmp_path, "--from", file, "--to", url, "--json")

    answer = orjson.loads(ended.stdout)
    assert (answer["from"], answer["to"], answer["state"], answer["holds"]) == (f"sqlite:{tmp_path}/books.db", url, "moved", True)
    rows = {table["table"]: table["rows"] for table in answer["tables"]}
    assert (rows["accounts"], rows["transfers"], rows["requests"]) == (3, 1, 0)
    assert ended.stderr == ""


async def test_a_gateway_on_what_was_moved_ends_and_says_where_it_is(tmp_path: Path, file: str, url: str) -> None:
    await run(tmp_path, "--from", file, "--to", url)

    again = await run(tmp_path, "--from", file, "--to", url)

    assert again.code == 1
    assert again.stderr.startswith(f"sqlite:{tmp_path}/books.db was moved to {url} at ")
    assert f'set store.url = "{url}"' in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "sqlite:books.db", "--to", f"postgresql://u:{PASSWORD}@h/d"], "--to must not carry a password"),
        (["--from", f"postgresql://u:{PASSWORD}@h/d", "--to", "sqlite:new.db"], "--from must not carry a password"),
        (["--from", "sqlite:books.db", "--to", f"postgresql://h/d?password={PASSWORD}"], "--to must not carry a password"),
        (["--from", "sqlite:books.db", "--to", f"mysql://u:{PASSWORD}@h/d"], "--to must not carry a password"),
        (["--from", "sqlite:books.db", "--to", f"postgresql://h/d?pasword={PASSWORD}"], "is not known here"),
        (["--from", "books.db", "--to", "postgresql://h/d"], '--from must be "sqlite:PATH" or "postgresql://USER@HOST/DATABASE"'),
        (["--from", "sqlite:a.db", "--to", "postgresql://h/d", "--password", PASSWORD], "--password: "),
        (["--from", "sqlite:a.db", "--to", "postgresql://h/d", "--password", "env:NOT_SET"], "NOT_SET is not set"),
        (["--from", "sqlite:a.db", "--to", "postgresql://h/d", "--resume", "--abandon"], "exclude one another"),
        (["--from", "sqlite:a.db"], "Missing option '--to'"),
    ],
)
async def test_wrong_usage_is_refused_without_a_secret(tmp_path: Path, words: list[str], said: str) -> None:
    ended = await run(tmp_path, *words)

    assert ended.code == USAGE
    assert said in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("reference", ["env:PG", "file:pg-password"])
async def test_the_password_is_sent_and_never_shown(tmp_path: Path, file: str, reference: str) -> None:
    """A server that asks for the password in the clear gets it; one that refuses it is quoted without it."""
    (tmp_path / "pg-password").write_text(f"{PASSWORD}\n")
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4), "big")
        await reader.readexactly(length - 4)
        writer.write(b"R\0\0\0\x08\0\0\0\x03")  # AuthenticationCleartextPassword
        await reader.readexactly(1)
        got.append(await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4))
        error = b'SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "u"\0\0'
        writer.write(b"E" + (len(error) + 4).to_bytes(4, "big") + error)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable"
    ended = await run(tmp_path, "--from", file, "--to", target, "--password", reference, PG=PASSWORD)
    server.close()

    assert got == [PASSWORD.encode() + b"\0"]
    assert ended.code == 1
    assert 'password authentication failed for user "u"' in ended.stderr


async def test_a_file_that_is_not_there_is_not_made(tmp_path: Path, url: str) -> None:
    ended = await run(tmp_path, "--from", "sqlite:nothing.db", "--to", url)

    assert (ended.code, ended.stderr) == (1, f"there is nothing to move at {tmp_path}/nothing.db\n")
    assert list_of(tmp_path) == []


def list_of(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
