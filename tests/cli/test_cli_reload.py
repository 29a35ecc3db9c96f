"""`reload`, `check-config --diff`, a configuration from the environment alone, and the exit status of `serve`."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import orjson
import pytest

from proxy.core.money import parse_yuan
from proxy.demo.ark import StandIn
from proxy.store.sqlite import open_store
from tests.support.books import assert_books_balance
from tests.support.gateway import CANARY_KEY
from tests.support.process import GatewayProcess, gateway_process

ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9/api/v3"
CHEAP, DEAR = 'input = "0.8", output = "2.0", cached', 'input = "1.6", output = "4.0", cached'
PRICE_LINE = '  models."doubao-pro-32k".price  0.8 in, 2 out, 0.16 cached /M → 1.6 in, 4 out, 0.16 cached /M\n'


def edit(gateway: GatewayProcess, *changes: tuple[str, str]) -> None:
    text = gateway.config.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    gateway.config.write_text(text)


async def test_what_a_reload_would_change_is_shown_then_it_changes(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, NOWHERE, balance=parse_yuan("1")) as gateway:
        await gateway.start()
        edit(gateway, (CHEAP, DEAR))

        shown = await gateway.run("check-config", "--diff")
        done = await gateway.run("reload")
        again = await gateway.run("check-config", "--diff")

        assert (shown.returncode, shown.stdout) == (0, "a reload would change:\n" + PRICE_LINE)
        assert (done.returncode, done.stdout) == (0, "in force now:\n" + PRICE_LINE)
        assert (again.returncode, again.stdout) == (0, "nothing is different from what runs\n")


async def test_what_needs_a_restart_is_shown_apart_and_left_alone(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, NOWHERE, balance=parse_yuan("1")) as gateway:
        await gateway.start()
        address = gateway.origin.removeprefix("http://")
        edit(gateway, (address, "127.0.0.1:9"), ("drain_seconds = 5", "drain_seconds = 6"))

        done = await gateway.run("reload")
        as_json = await gateway.run("reload", "--json")

        restart = f"needs a restart:\n  server.listen  {address} → 127.0.0.1:9\n"
        assert (done.returncode, done.stdout) == (0, f"in force now:\n  server.drain_seconds  5 → 6\n{restart}")
        assert orjson.loads(as_json.stdout) == {
            "file": str(gateway.config),
            "changed": [],
            "needs_restart": [{"key": "server.listen", "before": [address], "after": ["127.0.0.1:9"]}],
        }


async def test_of_a_key_only_that_it_changed_is_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("canary-other-key")
    async with gateway_process(tmp_path, NOWHERE, balance=parse_yuan("1")) as gateway:
        await gateway.start()
        edit(gateway, ('"env:ARK_API_KEY"', '"file:key"'))

        shown = [await gateway.run("check-config", "--diff"), await gateway.run("check-config", "--diff", "--json")]

        assert shown[0].stdout == "a reload would change:\n  upstreams.ark.api_key  changed\n"
        assert "canary" not in "".join(one.stdout + one.stderr for one in shown)


@pytest.mark.parametrize("command", [("reload",), ("check-config", "--diff")])
async def test_a_file_with_faults_is_told_and_changes_nothing(tmp_path: Path, command: tuple[str, ...]) -> None:
    async with gateway_process(tmp_path, NOWHERE, balance=parse_yuan("1")) as gateway:
        await gateway.start()
        edit(gateway, (CHEAP, 'input = 0.8, output = "2.0", cached'), ("env:ARK_API_KEY", "env:NONE"))

        faulty = await gateway.run(*command)
        edit(gateway, ("input = 0.8", 'input = "0.8"'))
        of_the_gateway = await gateway.run(*command)  # the command needs no key, the gateway does

        assert (faulty.returncode, faulty.stdout) == (1, "")
        assert f'{gateway.config}: models[0] "doubao-pro-32k".price.input: must be a string' in faulty.stderr
        said = "not reloaded, nothing has changed" if command == ("reload",) else "a reload would be refused"
        fault = (
            f"{gateway.config}: upstreams.ark.api_key: the environment variable NONE is not set: "
            'export it, or name a "file:PATH" or "credential:NAME"'
        )
        assert (of_the_gateway.returncode, of_the_gateway.stderr) == (1, f"{said}:\n{fault}\n")


@pytest.mark.parametrize("command", [("reload",), ("check-config", "--diff"), ("check-config", "--diff", "--json")])
async def test_without_a_gateway_it_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    async with gateway_process(tmp_path, NOWHERE, balance=parse_yuan("1")) as gateway:
        ended = await gateway.run(*command)
        edit(gateway, ('"unix:admin.sock"', '"off"'))
        without_a_door = await gateway.run(*command)

        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == f"no gateway runs: nothing answers at unix:{tmp_path}/admin.sock\n"
        assert without_a_door.returncode == 1
        assert "it cannot be asked" in without_a_door.stderr


# the environment alone


def bare(directory: Path, *words: str, **env: str) -> "subprocess.Popen[bytes]":
    """Run a command with only these variables in its environment."""
    command = [sys.executable, "-m", "proxy", *words]
    return subprocess.Popen(
        command, cwd=directory, env={"PYTHONPATH": str(ROOT), **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


async def test_a_gateway_with_no_file_at_all_answers_a_chat(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.setblocking(False)
        async with StandIn() as ark, aiohttp.ClientSession() as session:
            env = {
                "LLM_PROXY_SERVER__LISTEN": f"127.0.0.1:{port}",
                "LLM_PROXY_STORE__URL": "sqlite:data/books.db",
                "LLM_PROXY_UPSTREAMS__ARK__BASE_URL": ark.base_url,
                "LLM_PROXY_UPSTREAMS__ARK__API_KEY": CANARY_KEY,
                "LLM_PROXY_MODELS": '[{"id": "m", "kind": "chat", "price": {"input": "0.8", "output": "2.0"}}]',
            }
            (tmp_path / "data").mkdir()
            checked = bare(tmp_path, "check-config", "--json", **env).communicate()
            gateway = bare(tmp_path, "serve", NOTIFY_SOCKET=str(tmp_path / "notify"), **env)
            try:
                async with asyncio.timeout(30):
                    assert await asyncio.get_running_loop().sock_recv(notified, 100) == b"READY=1"

                def command(*words: str) -> bytes:
                    process = bare(tmp_path, *words, **env)
                    stdout, stderr = process.communicate(timeout=30)
                    assert process.returncode == 0, stderr
                    return stdout

                await asyncio.to_thread(command, "account", "create", "acme", "--credit", "1")
                key = orjson.loads(await asyncio.to_thread(command, "key", "create", "acme", "--json"))["key"]
                body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
                url, headers = f"http://127.0.0.1:{port}/v1/chat/completions", {"Authorization": f"Bearer {key}"}
                async with session.post(url, json=body, headers=headers) as response:
                    status = response.status
                unchanged = await asyncio.to_thread(command, "reload")
                doctor = await asyncio.to_thread(bare(tmp_path, "doctor", "--json", **env).communicate)
            finally:
                gateway.send_signal(signal.SIGTERM)
                await asyncio.to_thread(gateway.communicate)

            assert (status, gateway.returncode) == (200, 0)
            assert ark.calls[0].headers["authorization"] == f"Bearer {CANARY_KEY}"
            assert unchanged == b"nothing is different from what runs\n"
            described = orjson.loads(checked[0])
            assert (described["file"], set(described["environment"])) == (None, set(env))
            assert described["store"]["path"] == str(tmp_path / "data/books.db")
            assert {one["check"] for one in orjson.loads(doctor[0])["checks"]} >= {"configuration", "gateway"}
            assert CANARY_KEY.encode() not in checked[0] + checked[1] + doctor[0] + doctor[1]
    store = await open_store(tmp_path / "data/books.db", read_only=True)
    assert (await store.account("acme")).balance_nanos == parse_yuan("1") - 40_000
    await assert_books_balance(store)
    await store.close()


@pytest.mark.parametrize(
    ("file", "env", "said"),
    [
        ("typo = 1", {}, "config.toml: typo: unknown key"),
        ("[", {}, "config.toml: is no valid TOML"),
        (None, {}, "no configuration: $LLM_PROXY_CONFIG is not set"),
        (None, {"LLM_PROXY_CONFIG": "none.toml"}, "none.toml: cannot be read"),
        (None, {"LLM_PROXY_SERVER__LISTEN": "x"}, "LLM_PROXY_MODELS: at least one [[models]] table is needed"),
        (None, {"LLM_PROXY_SEVER__LISTEN": "x"}, "LLM_PROXY_SEVER__LISTEN: stands for no key"),
    ],
)
def test_serve_exits_with_78_for_a_faulty_configuration_and_other_commands_with_1(
    tmp_path: Path, file: str | None, env: dict[str, str], said: str
) -> None:
    if file is not None:
        (tmp_path / "config.toml").write_text(file)
    if Path("/etc/llm-proxy/config.toml").exists():
        pytest.skip("this machine has a configuration of its own")

    codes = {}
    for words in (("serve",), ("check-config",), ("account", "list")):
        process = bare(tmp_path, *words, **env)
        _, stderr = process.communicate()
        codes[words[0]] = process.returncode
        assert said in stderr.decode()

    assert codes == {"serve": os.EX_CONFIG, "check-config": 1, "account": 1}


def test_what_else_keeps_serve_from_starting_is_exit_1(tmp_path: Path) -> None:
    env = {
        "LLM_PROXY_SERVER__LISTEN": "systemd",
        "LLM_PROXY_UPSTREAMS__ARK__BASE_URL": NOWHERE,
        "LLM_PROXY_UPSTREAMS__ARK__API_KEY": "k",
        "LLM_PROXY_MODELS": '[{"id": "m", "kind": "chat", "price": {"input": "1", "output": "1"}}]',
    }

    process = bare(tmp_path, "serve", **env)
    _, stderr = process.communicate()

    assert (process.returncode, b"systemd passed no sockets" in stderr) == (1, True)
