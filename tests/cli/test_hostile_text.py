"""Names of customers and answers of upstreams that hold escape sequences and hidden marks: no output of ours acts on a terminal."""

import asyncio
import csv
import io
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import typer.main
from aiohttp import web
from typer.testing import CliRunner

from proxy import cli
from proxy.cli import tables
from proxy.core.money import parse_yuan
from proxy.core.shown_text import csv_cell, shown
from proxy.demo import run as demo
from proxy.demo import tour
from proxy.demo.ark import StandIn, answer_json
from proxy.doctor import front
from proxy.store.sqlite import open_store
from tests.support.books import assert_books_balance
from tests.support.gateway import CANARY_KEY, MODEL
from tests.support.process import GatewayProcess, gateway_process
from tests.support.terminal import said_on_a_terminal

SEQUENCES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj\u2066\u200b\U000e0041\u2028\x85\x7f\ttab\r\nline"
"""Sets the window's title, clears the screen, writes in red and from right to left, hides, and breaks the line."""
ACCOUNT = f"=cmd|'/c calc'!A1{SEQUENCES}"
KEY = f"@SUM(1){SEQUENCES}"
ANSWER = f"chat-{SEQUENCES}"
USAGE = {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32}
SECONDS_MAX = 60.0
STYLES = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[hl]|\x1b\[[0-9]*[AKG]|\r\n|\r")
"""What a terminal gets of ours: colours, the progress bar's moves, and its own line ends."""


def acting(text: str) -> list[str]:
    """Return what a terminal would obey or not show."""
    return [char for char in text if char != "\n" and not char.isprintable()]


def request_of(gateway: GatewayProcess) -> str:
    """Return the id of the paid request whose answer had a hostile id."""
    with sqlite3.connect(gateway.directory / "gateway.db") as connection:
        ((request_id,),) = connection.execute("SELECT id FROM requests WHERE upstream_id <> ''").fetchall()
    connection.close()
    return str(request_id)


async def chat(gateway: GatewayProcess, **fields: Any) -> int:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{gateway.origin}/v1/chat/completions", json=body) as answer,
    ):
        await answer.read()
        return answer.status


def rename(directory: Path) -> None:
    """Give account and key names that are refused today, as a store of old or another program's hand may hold."""
    with sqlite3.connect(directory / "gateway.db") as connection:
        connection.execute("UPDATE accounts SET name = ? WHERE name = 'acme'", (ACCOUNT,))
        connection.execute("UPDATE keys SET name = ?", (KEY,))
    connection.close()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """A gateway with such names, after one paid call and one refused, whose upstream answered in escape sequences."""
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=parse_yuan("100")) as made:
        rename(tmp_path)
        await made.start()
        message = {"role": "assistant", "content": SEQUENCES}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        ark.enqueue(answer_json(200, {"id": ANSWER, "object": "chat.completion", "choices": choices, "usage": USAGE}))
        assert await chat(made) == 200
        ark.enqueue(answer_json(400, {"error": {"code": SEQUENCES, "message": SEQUENCES, "type": SEQUENCES, "param": SEQUENCES}}))
        ark.enqueue(answer_json(500, SEQUENCES.encode()))
        assert [await chat(made), await chat(made)] != [200, 200]
        yield made


def lines_of(gateway: GatewayProcess) -> dict[str, list[list[str]]]:
    """Return, for each command, the words of some calls of it. In this order they can run one after the other."""
    backup = str(gateway.directory / f"copy{SEQUENCES}.db")
    return {
        "account list": [[]],
        "account show": [[ACCOUNT], [f"nobody{SEQUENCES}"], ["\udcff"]],
        "account create": [[f"new{SEQUENCES}"], [ACCOUNT]],
        "account credit": [
            [ACCOUNT, "1.50"],
            [ACCOUNT, SEQUENCES],
            [ACCOUNT, "1", "--note", SEQUENCES],
            [ACCOUNT, "-900"],
            ["--request", f"req_{SEQUENCES}"],
            ["--request", request_of(gateway), SEQUENCES],
            [f"nobody{SEQUENCES}", "--request", request_of(gateway)],
            ["--request", request_of(gateway), "0.000001"],
            ["--request", request_of(gateway), "900"],
        ],
        "account set": [
            [ACCOUNT, "--discount", "0.5"],
            [ACCOUNT, "--discount", SEQUENCES],
            [ACCOUNT, "--spend", "900/day"],
            [ACCOUNT, "--models", SEQUENCES],
            [f"nobody{SEQUENCES}", "--rpm", "1"],
        ],
        "account suspend": [[f"nobody{SEQUENCES}"]],
        "account resume": [[ACCOUNT], [f"nobody{SEQUENCES}"]],
        "key create": [[ACCOUNT], [ACCOUNT, "--name", KEY], [f"nobody{SEQUENCES}"], [ACCOUNT, "--expires", SEQUENCES]],
        "key find": [["sk_aaaaa"], [f"sk_{SEQUENCES}"]],
        "key set": [[f"key_{SEQUENCES}", "--rpm", "1"], ["key_1", "--networks", SEQUENCES], ["key_1", "--spend", f"1/{SEQUENCES}"]],
        "key pause": [[f"key_{SEQUENCES}"]],
        "key resume": [[f"key_{SEQUENCES}"]],
        "key roll": [[f"key_{SEQUENCES}"], ["key_1", "--overlap", SEQUENCES[:20]]],
        "key list": [[], [ACCOUNT], [f"nobody{SEQUENCES}"]],
        "key revoke": [[f"key_{SEQUENCES}"], ["key_nobody-has"]],
        "usage": [
            ["--by", "model"],
            ["--by", "key"],
            ["--by", "day", "--csv"],
            ["--csv"],
            ["--since", SEQUENCES],
            ["--account", SEQUENCES],
        ],
        "receipt": [[request_of(gateway)], [f"req_{SEQUENCES}"]],
        "ledger verify": [[]],
        "backup": [[backup], [backup], [str(gateway.directory / f"copies{SEQUENCES}"), "--keep", "1"], [backup, "--keep", "1"]],
        "restore": [[backup], [f"none{SEQUENCES}"], ["none\udcff"]],
        "retention": [["--days", "7", "--dry-run"]],
        "reload": [[]],
        "check-config": [[], ["--diff"]],
        "doctor": [[]],
        "top": [["--once", "--every", "0.1"]],
        "serve": [],  # with a faulty configuration below, or it would run for ever
        "demo": [["--once"]],
        "nodes": [[]],
        "nodes drain": [["1"]],
        "store move": [
            ["--from", f"sqlite:none{SEQUENCES}", "--to", "postgresql://localhost:1/none"],
            ["--from", SEQUENCES, "--to", SEQUENCES],
            ["--from", f"sqlite:{backup}", "--to", f"postgresql://localhost:1/{SEQUENCES}"],
        ],
        "account close": [[f"nobody{SEQUENCES}"], [ACCOUNT], [ACCOUNT]],
    }


def commands() -> set[str]:
    """Return every command of the command line."""
    found = set()
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        found |= {f"{name} {child}" for child in getattr(command, "commands", ())}
        if not hasattr(command, "commands") or command.invoke_without_command:
            found.add(name)
    return found


async def in_process(gateway: GatewayProcess, command: str, words: list[str], config: Path | None = None) -> str:
    """Return all that a command writes to pipes, run by this process, which takes a tenth of the time. A bug fails the test."""
    named = [] if command == "demo" else ["--config", str(config or gateway.config)]
    runner = CliRunner(env={"ARK_API_KEY": CANARY_KEY})
    line = [*command.split(), *words, *named]
    ended = await asyncio.to_thread(runner.invoke, cli.app, line, prog_name="llm-proxy", catch_exceptions=False)
    return ended.stdout + ended.stderr


async def piped(gateway: GatewayProcess, line: list[str], **env: str) -> str:
    """Return all that a command writes to pipes."""
    ended = await asyncio.to_thread(subprocess.run, line, capture_output=True, timeout=SECONDS_MAX, env=gateway.environment(**env))
    return (ended.stdout + ended.stderr).decode()


def on_a_terminal(gateway: GatewayProcess, line: list[str]) -> str:
    """Return all that a command writes to a wide terminal, without our own styles."""
    said = said_on_a_terminal(line, gateway.environment(TERM="xterm-256color"), columns=1000)
    return STYLES.sub(lambda found: "\n" if "\n" in found[0] else "", said)


@pytest.mark.timeout(180)
async def test_no_command_writes_a_character_that_acts(gateway: GatewayProcess) -> None:
    lines = lines_of(gateway)
    faulty = gateway.directory / f"faulty{SEQUENCES}.toml"
    faulty.write_text('"a\\u001b[31m\\u009b\\u202e" = 1\n' + gateway.config.read_text())

    said = [await in_process(gateway, command, words) for command in lines for words in lines[command]]
    said += [await in_process(gateway, command, [], faulty) for command in ("serve", "check-config", "doctor", "usage")]
    said += [await in_process(gateway, "check-config", ["--diff"], faulty)]

    assert lines.keys() == commands()
    assert [(text, acting(text)) for text in said if acting(text)] == []
    assert all(said)
    everything = "".join(said)
    for hostile in (ACCOUNT, KEY, ANSWER, f"nobody{SEQUENCES}", f"copy{SEQUENCES}.db", f"faulty{SEQUENCES}.toml"):
        assert shown(hostile) in everything
    async with gateway.looked_into() as store:
        await assert_books_balance(store)


async def test_no_command_acts_on_a_terminal_but_by_its_own_styles(gateway: GatewayProcess) -> None:
    lines = [
        gateway.command("account", "list"),
        gateway.command("account", "show", f"nobody{SEQUENCES}"),
        gateway.command("key", "list"),
        gateway.command("receipt", request_of(gateway)),
        gateway.command("backup", str(gateway.directory / f"copy{SEQUENCES}.db")),
        gateway.command("top", "--once", "--every", "0.1"),
        gateway.command("account", "list", "--json"),
    ]

    said = [await asyncio.to_thread(on_a_terminal, gateway, line) for line in lines]

    assert [(text, acting(text)) for text in said if acting(text)] == []
    for text, hostile in zip(said, (ACCOUNT, f"nobody{SEQUENCES}", KEY, ANSWER, "copy\x1b]0", "llm-proxy top", ""), strict=True):
        assert shown(hostile) in text


async def test_json_is_the_exact_text_and_acts_on_no_terminal(gateway: GatewayProcess) -> None:
    listed = await piped(gateway, gateway.command("key", "list", "--json"))
    receipt = await piped(gateway, gateway.command("receipt", request_of(gateway), "--json"))

    assert (acting(listed), acting(receipt)) == ([], [])
    (key,) = orjson.loads(listed)["keys"]
    assert (key["account"], key["name"]) == (ACCOUNT, KEY)
    assert orjson.loads(receipt)["upstream_id"] == ANSWER


async def test_in_csv_names_are_text_and_amounts_are_numbers(gateway: GatewayProcess) -> None:
    written = await piped(gateway, gateway.command("usage", "--by", "key", "--csv"))

    (row,) = csv.DictReader(io.StringIO(written))
    assert csv_cell(ACCOUNT) in written
    assert row["account"] == "'" + shown(ACCOUNT)
    assert (row["requests"], row["prompt_tokens"], row["charge"]) == ("3", "20", "0.00004")


async def test_the_log_quotes_exactly_and_acts_on_no_terminal(gateway: GatewayProcess) -> None:
    await gateway.end_by(signal.SIGTERM)

    log = gateway.log.read_text()

    assert acting(log) == []
    requests = [line for line in map(orjson.loads, log.splitlines()) if line["event"] == "request"]
    assert [line["account"] for line in requests] == [ACCOUNT] * 3
    assert requests[0]["upstream_id"] == ANSWER


async def test_metrics_hold_no_name_of_a_customer_and_nothing_that_acts(gateway: GatewayProcess) -> None:
    connector = aiohttp.UnixConnector(str(gateway.directory / "admin.sock"))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://admin/metrics") as response:
        scrape = await response.text()

    assert acting(scrape) == []
    assert "cmd|" not in scrape
    assert "owned" not in scrape


async def test_the_log_on_a_terminal_is_not_acted_on(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=parse_yuan("1")) as gateway:
        rename(tmp_path)
        await gateway.start(stderr=slave)
        assert await chat(gateway) == 200
        gateway.config.write_text('"a\\u001b[31m\\nb\\u009b" = 1\n' + gateway.config.read_text())
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGHUP)
        said = b""
        async with asyncio.timeout(SECONDS_MAX):
            while b"unknown key" not in said:
                said += await asyncio.to_thread(os.read, master, 65_536)
    os.close(slave)
    os.close(master)

    log = said.decode().replace("\r\n", "\n")
    assert acting(log) == []
    assert shown(ACCOUNT) in log
    assert "a\\x1b[31m\\nb\\x9b: unknown key" in log


async def test_broken_books_name_an_account_without_its_sequences(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, "http://127.0.0.1:9")
    await gateway.set_up(parse_yuan("1"))
    rename(tmp_path)
    with sqlite3.connect(tmp_path / "gateway.db") as connection:
        connection.execute("UPDATE accounts SET balance_nanos = balance_nanos + 1 WHERE kind = 'customer'")
    connection.close()

    said = await piped(gateway, gateway.command("ledger", "verify"))

    assert acting(said) == []
    assert f"account {shown(ACCOUNT)}: balance" in said
    assert "the books do not hold" in said


async def test_what_stands_in_front_is_quoted_by_doctor_without_its_sequences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(front, "SLOW_SECONDS", 0.1)
    monkeypatch.setattr(front, "STREAM_SECONDS", 0.1)
    monkeypatch.setattr(front, "HELD_SECONDS", 0.1)
    asked = 0

    async def answer(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        error = {"error": {"code": SEQUENCES}}
        return web.json_response(error, headers={"x-request-id": f"req_{asked:026}", "Server": "a\x9b31m\u202e"})

    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        findings = [finding.view() async for finding in front.front(f"http://127.0.0.1:{runner.addresses[0][1]}")]
    finally:
        await runner.cleanup()
    tables.print_findings({"checks": findings})

    said = capsys.readouterr().out
    assert acting(said) == []
    assert "by way of a\\x9b31m\\u202e" in said
    assert f"is answered with 200 {shown(SEQUENCES)}" in said


async def test_a_bug_is_told_with_its_traceback_and_without_sequences(tmp_path: Path) -> None:
    script = f"def bug(**_): raise ValueError({SEQUENCES!r})\nfrom proxy import cli\ncli.app = bug\ncli.main()"
    gateway = GatewayProcess(tmp_path, "http://127.0.0.1:9")

    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True, env=gateway.environment())

    said = ended.stderr.decode()
    assert ended.returncode == 1
    assert said.startswith("Traceback (most recent call last):\n")
    assert f"ValueError: {shown(SEQUENCES.split(chr(10), maxsplit=1)[0])}" in said
    assert acting(said) == []


def test_a_step_of_the_tour_that_fails_quotes_what_was_answered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: object) -> int:
        raise tour.TourError(f"was answered with 400: [red]{SEQUENCES}[/nothing]")

    monkeypatch.setattr(demo._Demo, "tour", fails)

    assert demo.run(once=True) == 1

    said = capsys.readouterr().err.replace("\n", "")
    assert acting(said) == []
    assert "400: [red]\\x1b]0;owned" in said


def test_an_address_with_a_password_is_refused_and_not_printed(tmp_path: Path) -> None:
    ended = CliRunner().invoke(cli.app, ["doctor", "--url", "https://user:canary@llm.example.com/api/v1"])

    assert ended.exit_code == 2
    assert "must carry no user and no password" in ended.stderr
    assert "canary" not in ended.output


def test_a_path_that_is_no_utf_8_is_told_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_json({"file": "a\udcff", "more": ["\udcff"]})

    assert orjson.loads(capsys.readouterr().out) == {"file": "a\\udcff", "more": ["\\udcff"]}


WRITES = re.compile(r"sys\.std(?:out|err)\.write|typer\.echo|\bprint\(|console\.print\(")
PRINTERS = {
    *("cli/__init__.py", "cli/printing.py", "cli/shared.py", "cli/tables.py", "cli/usage_tables.py"),
    *("top/run.py", "demo/tour.py", "demo/run.py", "demo/failover.py"),
}
"""Modules that print, each through `core/shown_text.py`. Any other hands its text to these. (`demo/paste.py` holds an example, and
`demo/postgres_server.py` tells its parent where it is.)"""


def test_only_modules_that_escape_print() -> None:
    package = Path(cli.__file__).parent.parent
    writers = {
        str(path.relative_to(package))
        for room in ("cli", "top", "doctor", "operations", "demo")
        for path in (package / room).glob("*.py")
        if WRITES.search(path.read_text(encoding="utf-8"))
    }

    assert writers - {"demo/paste.py", "demo/postgres_server.py"} == PRINTERS


async def test_a_shell_is_offered_no_name_that_it_would_print_as_it_is(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, "http://127.0.0.1:9")
    await gateway.set_up(parse_yuan("1"))
    rename(tmp_path)
    store = await open_store(tmp_path / "gateway.db")
    await store.create_account("=plain", parse_yuan("1"), 0)
    await store.close()
    asked = {"_LLM_PROXY_COMPLETE": "complete_zsh", "LLM_PROXY_CONFIG": str(gateway.config)}

    accounts = await piped(gateway, gateway.command()[:-2], **asked, _TYPER_COMPLETE_ARGS="llm-proxy account show ")
    keys = await piped(gateway, gateway.command()[:-2], **asked, _TYPER_COMPLETE_ARGS="llm-proxy key revoke ")

    assert "=plain" in accounts
    assert "cmd" not in accounts
    assert "key_" in keys
    assert acting(accounts + keys) == []
