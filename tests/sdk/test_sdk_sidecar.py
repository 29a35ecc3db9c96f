"""The sidecar as documented: the README's configuration and commands, and the guide's application; only Ark is a stand-in."""

import asyncio
import re
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.demo.ark import StandIn
from proxy.store.sqlite import open_store
from tests.support.books import assert_books_balance

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Sidecar\n")[2].partition("\n## ")[0]
GUIDE = (ROOT / "proxy/docs/sidecar.md").read_text(encoding="utf-8")
ARK = "https://ark.cn-beijing.volces.com/api/v3"
CREDIT = 100_000_000_000
CHARGE = 40_000
"""20 and 12 tokens at ¥0.8 and ¥2.0 per million, in nano-yuan."""


def block(language: str) -> str:
    """Return the one block in this language of the README's section and the guide."""
    (_, found) = f"{SECTION}\n{GUIDE}".split(f"```{language}\n")
    return found.partition("```")[0]


async def test_the_application_of_the_guide_spends_the_budget_of_the_sidecar_of_the_readme(directory: Path) -> None:
    *setting_up, serve = block("sh").splitlines()
    assert serve == "llm-proxy serve"  # `exec` replaces the shell: a signal to it reaches the gateway
    async with StandIn() as ark:
        (directory / "sidecar.toml").write_text(block("toml").replace(ARK, ark.base_url))

        async with sidecar(directory, "\n".join([*setting_up, f"exec {serve}"])) as gateway:
            mode = stat.S_IMODE((directory / "api.sock").stat().st_mode)
            said = await application(directory)
            gateway.send_signal(signal.SIGTERM)
            await gateway.wait()

    assert (said, mode, gateway.returncode) == ("Hello! How can I help you today?\n", 0o660, 0)
    store = await open_store(directory / "llm-proxy.db", read_only=True)
    account = await store.account("default")
    assert (account.balance_nanos, account.held_nanos) == (CREDIT - CHARGE, 0)
    await assert_books_balance(store)
    await store.close()


async def test_a_sidecar_without_a_budget_says_how_to_give_it_one(directory: Path) -> None:
    async with StandIn() as ark:
        (directory / "sidecar.toml").write_text(block("toml").replace(ARK, ark.base_url))
        *setting_up, serve = [line for line in block("sh").splitlines() if "account create" not in line]

        async with sidecar(directory, "\n".join([*setting_up, f"exec {serve}"])):
            with pytest.raises(AssertionError, match="402"):
                await application(directory)

        assert not ark.calls
    assert "llm-proxy account credit default AMOUNT" in (directory / "log").read_text()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory whose ``bin`` has the command, as after an installation."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/llm-proxy"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m proxy "$@"\n')
    command.chmod(0o755)
    return tmp_path


@asynccontextmanager
async def sidecar(directory: Path, commands: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the commands in a shell; yield once the last one has reported that it is ready, and kill it at the end if it still runs."""
    script = "set -e\n" + re.sub("ARK_API_KEY=…", "ARK_API_KEY=canary", commands)
    environment = {"PATH": f"{directory}/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(directory / "notify")}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd, (directory / "log").open("wb") as log:
        systemd.bind(str(directory / "notify"))
        process = await asyncio.create_subprocess_exec("sh", "-c", script, cwd=directory, env=environment, stdout=log, stderr=log)
        try:
            async with asyncio.timeout(30):
                assert await asyncio.get_running_loop().sock_recv(systemd, 100) == b"READY=1"
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def application(directory: Path) -> str:
    """Run the guide's program and return its output. Raises: AssertionError with its traceback if it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", block("python"), cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    return stdout.decode()
