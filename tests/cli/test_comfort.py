"""Completion in a real bash, working examples in the help, refusals that advise, progress bars on terminals only."""

import asyncio
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from proxy import cli
from proxy.cli.examples import EXAMPLES, examples
from proxy.core.money import Nanos
from proxy.store.sqlite import open_store
from tests.support.store import NOW_MS, new_key, new_request, settlement

ROOT = Path(__file__).parents[2]
CONFIG = """
[upstreams.ark]
base_url = "http://127.0.0.1:9"
api_key = "env:ARK_API_KEY"
[[models]]
id = "m"
kind = "chat"
price = { input = 1, output = 2 }
"""


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Set up the command on the PATH, a configuration, and a store with accounts and keys; return the environment."""
    (tmp_path / "config.toml").write_text(CONFIG)
    command = tmp_path / "bin/llm-proxy"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m proxy "$@"\n')
    command.chmod(0o755)

    async def fill() -> None:
        store = await open_store(tmp_path / "llm-proxy.db")
        for name in ("acme", "acorn", "globex"):
            await store.create_account(name, Nanos(10**9), NOW_MS)
        await store.create_key("acme", new_key("key_old", name="production"))
        await store.create_key("acme", new_key("key_live"))
        await store.revoke_key("key_old", NOW_MS)
        await store.place_hold(new_request("req_old", account_id=3))
        await store.settle("req_old", settlement(30), NOW_MS)
        await store.close()

    asyncio.run(fill())
    return {"PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}


def ask(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["llm-proxy", *words], cwd=environment["HOME"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


# completion

IN_BASH = """
eval "$(_LLM_PROXY_COMPLETE=source_bash llm-proxy)"
COMP_WORDS=({words}) COMP_CWORD={at}
_llm_proxy_completion llm-proxy
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["acc"], ["account"]),
        (["ledger", ""], ["verify"]),
        (["account", "show", "ac"], ["acme", "acorn"]),
        (["account", "credit", "g"], ["globex"]),
        (["account", "create", "ac"], []),
        (["key", "revoke", ""], ["key_live"]),
        (["usage", "--account", "acm"], ["acme"]),
        (["usage", "--by", "d"], ["day"]),
        (["account", "show", "--config", "/nowhere.toml", "ac"], []),
    ],
)
def test_bash_completes_commands_accounts_and_keys(installed: dict[str, str], words: list[str], completed: list[str]) -> None:
    script = IN_BASH.format(words=" ".join(shlex.quote(word) for word in ("llm-proxy", *words)), at=len(words))

    done = subprocess.run(["bash", "-c", script], cwd=installed["HOME"], env=installed, capture_output=True, text=True, check=False)

    assert (done.stdout.split(), done.stderr) == (completed, "")


def test_completion_can_be_installed(installed: dict[str, str]) -> None:
    shown = subprocess.run(
        ["bash", "-c", "llm-proxy --install-completion bash || llm-proxy --install-completion"],
        cwd=installed["HOME"], env=installed, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert shown.returncode == 0, shown.stderr
    assert "completion installed" in shown.stdout


# help


def commands() -> Iterator[tuple[str, Any]]:
    group: Any = typer.main.get_command(cli.app)
    yield "", group
    for name, command in group.commands.items():
        children = getattr(command, "commands", None)
        if children is None or command.invoke_without_command:
            yield name, command
        if children is not None:
            yield from ((f"{name} {child}", leaf) for child, leaf in children.items())


def test_each_command_has_an_example_at_the_end_of_its_help() -> None:
    lacking = [name for name, command in commands() if not command.epilog or command.epilog != examples(name)]

    assert lacking == []
    assert set(EXAMPLES) == {name for name, _ in commands()}


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_each_example_is_understood(line: str) -> None:
    program, *words = shlex.split(line)
    command: Any = typer.main.get_command(cli.app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]

    command.make_context("example", list(words))

    assert program == "llm-proxy"


# advice in refusals


@pytest.mark.parametrize(
    ("words", "says", "advice"),
    [
        ("account show acne", "there is no account acne", "did you mean acme? `llm-proxy account list` shows all accounts"),
        ("key create zzz", "there is no account zzz", "`llm-proxy account list` shows all accounts"),
        ("account create acme", "there is an account acme already", "to add money: `llm-proxy account credit acme AMOUNT`"),
        ("account credit acme 1e3", "amount: no decimal number", "write yuan with a point and no unit, such as 12.50"),
        ("account credit acme -- -9", "account acme has ¥0.99", "`llm-proxy account show acme` says what is held"),
        ("key revoke key_x", "there is no key key_x", "`llm-proxy key list` shows all keys with their ids"),
        ("receipt req_x", "there is no request req_x", "its id is in the x-request-id of its answer"),
        ("backup config.toml", "exists: a backup is never written over", "name another file, such as"),
        ("restore gone.db", "there is no file", "name what `llm-proxy backup` wrote"),
    ],
)
def test_a_refusal_says_what_to_do_next(installed: dict[str, str], words: str, says: str, advice: str) -> None:
    refused = ask(installed, *words.split())

    first, second = refused.stderr.splitlines()
    assert refused.returncode in (1, 2)
    assert says in first
    assert second.startswith(f"→ {advice}")


def test_a_missing_store_says_how_it_comes_to_be(installed: dict[str, str]) -> None:
    (Path(installed["HOME"]) / "llm-proxy.db").unlink()

    refused = ask(installed, "usage")

    assert "→ `llm-proxy serve` makes it, or the first `llm-proxy account create NAME`" in refused.stderr


# retention


def test_old_requests_are_counted_then_folded_and_a_receipt_says_where_it_went(installed: dict[str, str]) -> None:
    rehearsed = ask(installed, "retention", "--days", "8", "--dry-run")
    before = ask(installed, "usage", "--csv").stdout
    folded = ask(installed, "retention", "--days", "8")
    again = ask(installed, "retention", "--days", "8", "--json")

    assert re.search(r"requests +1\n", rehearsed.stdout)
    assert re.search(r"folded +1\n", folded.stdout)
    assert '"folded": 0' in again.stdout
    assert ask(installed, "usage", "--csv").stdout == before
    gone = ask(installed, "receipt", "req_old")
    assert gone.returncode == 1
    assert gone.stderr == (
        "request req_old of account acme was folded into the daily sums of 2025-11-25, its receipt is gone: ¥0.0000001 held, "
        "¥0.00000003 charged. See `llm-proxy usage --account acme --since 2025-11-25 --until 2025-11-26`\n"
    )
    cut = ask(installed, "usage", "--since", "2025-11-25T12:00")
    assert (
        cut.stderr
        == "Of 2025-11-25 there are daily sums: they count whole if the period includes its 00:00 (UTC+08:00), else not at all.\n"
    )
    twice = ask(installed, "usage", "--since", "2025-11-25T12:00", "--until", "2025-11-25T13:00")
    assert twice.stderr == cut.stderr  # a day is named once
    assert ask(installed, "ledger", "verify").returncode == 0


@pytest.mark.parametrize(("words", "says"), [((), "retention.request_days is 0"), (("--days", "7"), "--days must be at least 8")])
def test_how_long_to_keep_must_be_said_and_be_long_enough(installed: dict[str, str], words: tuple[str, ...], says: str) -> None:
    refused = ask(installed, "retention", *words)

    assert (refused.returncode, says in refused.stderr) == (2, True)


# bars


def on_a_terminal(environment: dict[str, str], *words: str) -> tuple[str, str]:
    """Run a command of which only standard error is a terminal; return standard output and standard error."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["llm-proxy", *words],
        cwd=environment["HOME"],
        env={**environment, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
    )
    os.close(slave)
    drawn = b""
    while piece := _read(master):
        drawn += piece
    printed, _ = process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 0, drawn
    return printed, drawn.decode()


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65_536)
    except OSError:  # the terminal is closed
        return b""


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        (("ledger", "verify"), "checks of the books"),
        (("backup", "copy.db"), "pages copied"),
        (("retention", "--days", "8"), "requests folded"),
    ],
)
def test_a_long_command_shows_how_far_it_is_on_a_terminal_alone(installed: dict[str, str], words: tuple[str, ...], stage: str) -> None:
    printed, drawn = on_a_terminal(installed, *words)

    assert stage in drawn
    assert re.search(r"(\d+) of \1", drawn), "it never came to its end"
    assert "\x1b" not in printed


def test_a_restore_shows_its_copy_and_its_checks(installed: dict[str, str]) -> None:
    ask(installed, "backup", "copy.db")

    _, drawn = on_a_terminal(installed, "restore", "copy.db")

    assert "bytes copied" in drawn
    assert "checks of the books" in drawn


def test_there_is_no_bar_in_a_pipe_or_beside_json(installed: dict[str, str]) -> None:
    assert ask(installed, "ledger", "verify").stderr == ""
    assert on_a_terminal(installed, "ledger", "verify", "--json")[1] == ""
