"""The real command as a process of its own, beside a real gateway, which some tests kill."""

import asyncio
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
import pytest

from proxy.cli import client
from proxy.cli.client import perform
from proxy.clock import SystemClock
from proxy.config import Config, load
from proxy.store.errors import StoreError, StoreLockedError, StoreUnavailableError
from proxy.store.sqlite import open_store
from proxy.tasks import TaskGroup

ROOT = Path(__file__).parents[2]
CONFIG = """
[server]
listen = ["unix:api.sock"]
drain_seconds = 5
[upstreams.ark]
base_url = "http://127.0.0.1:9"
api_key = "env:ARK_API_KEY"
[[models]]
id = "m"
kind = "chat"
price = { input = 1, output = 2 }
"""

Serve = Callable[[], Coroutine[Any, Any, asyncio.subprocess.Process]]


class Ended(NamedTuple):
    code: int | None
    stdout: str
    stderr: str

    @property
    def answer(self) -> Any:
        assert self.code == 0, self.stderr
        return orjson.loads(self.stdout)


def file_of(config: Config) -> Path:
    assert config.store.path is not None
    return config.store.path


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ARK_API_KEY": "canary-key", **more}


async def start(directory: Path, *argv: str, **env: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proxy",
        *argv,
        cwd=directory,
        env=environment(**env),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(directory: Path, *argv: str, **env: str) -> Ended:
    process = await start(directory, *argv, **env)
    stdout, stderr = await process.communicate()
    return Ended(process.returncode, stdout.decode(), stderr.decode())


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return load(path, {"ARK_API_KEY": "canary-key"})


@pytest.fixture
async def serve(tmp_path: Path, config: Config) -> AsyncIterator[Serve]:
    """Yield a function that starts a gateway; it returns once the gateway has told systemd, played by this test, that it is ready."""
    started: list[asyncio.subprocess.Process] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd:
        systemd.bind(str(tmp_path / "notify"))

        async def serving() -> asyncio.subprocess.Process:
            process = await start(tmp_path, "serve", NOTIFY_SOCKET=str(tmp_path / "notify"))
            started.append(process)
            async with asyncio.timeout(20):
                assert await asyncio.get_running_loop().sock_recv(systemd, 100) == b"READY=1"
            return process

        yield serving

        for process in started:
            if process.returncode is None:
                process.kill()
            await process.communicate()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def models_status(directory: Path, key: str) -> int:
    connector = aiohttp.UnixConnector(path=str(directory / "api.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://gateway/v1/models", headers={"Authorization": f"Bearer {key}"}) as response,
    ):
        return response.status


async def test_a_key_works_once_it_is_made_and_stops_once_it_is_revoked(tmp_path: Path, serve: Serve) -> None:
    gateway = await serve()
    await run(tmp_path, "account", "create", "acme", "--credit", "1")

    key = (await run(tmp_path, "key", "create", "acme", "--json")).answer
    while_alive = await models_status(tmp_path, key["key"])
    await run(tmp_path, "key", "revoke", key["id"])
    once_revoked = await models_status(tmp_path, key["key"])

    assert (while_alive, once_revoked) == (200, 401)
    assert (await run(tmp_path, "ledger", "verify")).code == 0  # reads while the gateway writes
    gateway.send_signal(signal.SIGTERM)
    _, log = await gateway.communicate()
    assert gateway.returncode == 0
    assert "canary" not in log.decode()


@pytest.mark.parametrize(
    ("server", "mode"),
    [
        ('auth = "keys"', 0o666),
        ('auth = "none"', 0o660),
        ('socket_mode = "0660"', 0o660),
        ('auth = "none"\nsocket_mode = "0666"', 0o666),
        ('auth = "none"\nsocket_mode = "0600"', 0o600),
    ],
)
async def test_a_proxy_under_another_user_may_open_the_customers_socket_and_only_the_owner_the_operators(
    tmp_path: Path, config: Config, serve: Serve, server: str, mode: int
) -> None:
    (tmp_path / "config.toml").write_text(CONFIG.replace("drain_seconds = 5", f"drain_seconds = 5\n{server}"))

    await serve()

    assert mode_of(tmp_path / "api.sock") == mode
    assert mode_of(tmp_path / "admin.sock") == 0o600


async def test_a_refusal_of_the_running_gateway_reads_like_one_of_the_command(tmp_path: Path, serve: Serve) -> None:
    await serve()

    refused = await run(tmp_path, "key", "create", "nobody")

    assert refused == Ended(1, "", "there is no account nobody\n→ `llm-proxy account list` shows all accounts\n")


async def test_after_a_kill_the_socket_file_that_is_left_confuses_nobody(tmp_path: Path, serve: Serve) -> None:
    gateway = await serve()
    await run(tmp_path, "account", "create", "acme", "--credit", "1")
    gateway.kill()
    await gateway.wait()
    assert (tmp_path / "admin.sock").is_socket()

    credited = await run(tmp_path, "account", "credit", "acme", "-0.25", "--json")

    assert credited.answer["balance"] == "0.75"
    await serve()  # the next gateway replaces the file
    assert (await run(tmp_path, "account", "show", "acme", "--json")).answer["balance"] == "0.75"


async def test_commands_at_the_same_time_wait_for_each_other(tmp_path: Path, config: Config) -> None:
    await run(tmp_path, "account", "create", "acme")

    ended = await asyncio.gather(*(run(tmp_path, "account", "credit", "acme", "1") for _ in range(4)))

    assert [command.code for command in ended] == [0, 0, 0, 0], ended
    assert (await run(tmp_path, "account", "show", "acme", "--json")).answer["balance"] == "4.00"


async def test_a_gateway_that_stands_still_is_given_up_and_the_doubt_is_told(
    config: Config, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.2)
    gateway = await serve()
    gateway.send_signal(signal.SIGSTOP)

    async with asyncio.timeout(10):
        with pytest.raises(StoreUnavailableError) as caught:
            await perform(config, SystemClock(), "account.create", {"account": "acme"})
    gateway.send_signal(signal.SIGCONT)

    assert "in 0.2 s: the change may have been made, or may be yet: look with `llm-proxy account show`" in str(caught.value)


@pytest.mark.parametrize(
    ("owner", "advice"), [("root", "(run this as root)"), ("llm-proxy", "(run this as llm-proxy, or as root)")], ids=["root", "other"]
)
async def test_who_may_not_open_the_admin_socket_is_told_who_may(
    config: Config, monkeypatch: pytest.MonkeyPatch, owner: str, advice: str
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")  # simulated: tests may run as root, to whom nothing is refused

    monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", refuse, raising=False)
    monkeypatch.setattr(Path, "owner", lambda _: owner)

    with pytest.raises(StoreUnavailableError) as caught:
        await perform(config, SystemClock(), "account.create", {"account": "acme"})

    assert str(caught.value).endswith(f"cannot be opened: Permission denied {advice}")


async def test_a_second_gateway_on_the_same_store_does_not_start(tmp_path: Path, serve: Serve) -> None:
    gateway = await serve()

    second = await run(tmp_path, "serve")

    assert second.code == 1
    assert f"in use by another process (pid {gateway.pid}" in second.stderr


async def test_the_doctor_sees_the_gateway_that_runs_and_its_limits(tmp_path: Path, serve: Serve) -> None:
    gateway = await serve()

    told = await run(tmp_path, "doctor", "--json")

    checks = {check["check"]: check for check in orjson.loads(told.stdout)["checks"]}
    assert told.code == 1  # there is no upstream
    assert checks["gateway"]["says"] == f"runs (pid {gateway.pid}) and answers the operator"
    assert checks["address"]["says"] == f"unix:{tmp_path}/api.sock is listened on"
    assert "for the gateway that runs" in checks["descriptors"]["says"]
    assert checks["upstream ark"]["state"] == "failed"
    assert "canary" not in told.stdout + told.stderr


async def test_a_restore_beside_a_running_gateway_is_refused_and_after_a_kill_it_is_not(tmp_path: Path, serve: Serve) -> None:
    gateway = await serve()
    await run(tmp_path, "account", "create", "acme", "--credit", "1")
    assert (await run(tmp_path, "backup", "monday.db")).code == 0

    refused = await run(tmp_path, "restore", "monday.db")
    gateway.kill()
    await gateway.wait()
    restored = await run(tmp_path, "restore", "monday.db")

    assert refused.code == 1
    assert f"in use by another process (pid {gateway.pid}, " in refused.stderr
    assert restored.code == 0, restored.stderr
    await serve()
    assert (await run(tmp_path, "account", "show", "acme", "--json")).answer["balance"] == "1.00"


async def test_a_damaged_store_is_refused_at_the_start_with_the_way_back(tmp_path: Path, config: Config) -> None:
    file_of(config).write_bytes(b"\0" * 8192)

    ended = await run(tmp_path, "serve")

    assert ended.code == 1
    assert "restore from a backup: llm-proxy restore BACKUP" in ended.stderr


def test_an_answer_that_cannot_be_written_is_told_apart_from_a_change_not_made(tmp_path: Path, config: Config) -> None:
    command = [sys.executable, "-m", "proxy", "account", "create", "acme"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(command, cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE)

    assert (ended.returncode, ended.stderr) == (1, b"done, but the answer could not be written: No space left on device\n")
    assert subprocess.run([*command[:-2], "show", "acme"], cwd=tmp_path, env=environment(), capture_output=True).returncode == 0


def test_a_reader_that_has_seen_enough_is_no_incident(tmp_path: Path, config: Config) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    ended = subprocess.run(
        [sys.executable, "-m", "proxy", "check-config"], cwd=tmp_path, env=environment(), stdout=writing, stderr=subprocess.PIPE
    )

    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


async def test_a_lock_with_nobody_behind_the_socket_is_explained(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOCK_WAIT_SECONDS", 0.0)
    store = await open_store(file_of(config))

    with pytest.raises(StoreLockedError) as caught:
        await perform(config, SystemClock(), "account.create", {"account": "acme"})

    assert f"(pid {os.getpid()}, " in str(caught.value)
    assert f"and nothing answers at unix:{file_of(config).parent}/admin.sock" in str(caught.value)
    await store.close()


async def test_a_gateway_without_an_admin_door_must_be_stopped_for_a_change(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOCK_WAIT_SECONDS", 0.0)
    (tmp_path / "config.toml").write_text('admin.listen = "off"\n' + CONFIG)
    store = await open_store(file_of(config))

    with pytest.raises(StoreLockedError, match=r'admin\.listen is "off": stop that process first$'):
        await perform(load(config.path, {}, require_secrets=False), SystemClock(), "account.create", {"account": "acme"})

    await store.close()


async def test_a_command_that_finds_the_lock_taken_goes_on_when_it_is_let_go(config: Config) -> None:
    store = await open_store(file_of(config))
    commands = TaskGroup("commands")
    waiting = commands.spawn(perform(config, SystemClock(), "account.create", {"account": "acme"}), "create")
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done

    await store.close()

    assert (await waiting)["name"] == "acme"


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (b"", StoreUnavailableError, "the change may have been made"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", StoreUnavailableError, "the change may have been made"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 4\r\n\r\noops", StoreUnavailableError, "answered with status 502"),
        (
            b'HTTP/1.1 503 Busy\r\nContent-Length: 35\r\n\r\n{"error":{"message":"disk is full"}}',
            StoreError,
            "disk is full",
        ),
    ],
)
async def test_a_gateway_that_does_not_answer_properly_is_never_taken_for_a_change_made(
    config: Config, reply: bytes, error: type[Exception], message: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(reply)
        writer.close()

    assert config.admin.listen is not None
    async with await asyncio.start_unix_server(answer, config.admin.listen.path):
        with pytest.raises(error, match=message):
            await perform(config, SystemClock(), "account.create", {"account": "acme"})

    assert not file_of(config).exists()
