"""A real process as its operator sees it: its own figures of memory and descriptors against the kernel's, and its journal lines."""

import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest

from proxy.core.money import parse_yuan
from proxy.demo.ark import StandIn
from tests.support.process import GatewayProcess, gateway_process
from tests.support.scraping import scrape_socket

BODY = {"model": "doubao-pro-32k", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """Yield a gateway that is set up but not started, with the stand-in for Ark."""
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=parse_yuan("100")) as process:
        yield process


async def chat(gateway: GatewayProcess, **fields: object) -> int:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{gateway.origin}/v1/chat/completions", json={**BODY, **fields}) as answer,
    ):
        await answer.read()
        return answer.status


async def test_what_the_process_takes_is_what_the_kernel_says(gateway: GatewayProcess) -> None:
    before = time.time()  # noqa: TID251  the wall clock, outside the gateway
    await gateway.start()
    assert gateway.process is not None
    proc = Path(f"/proc/{gateway.process.pid}")

    seen = await scrape_socket(gateway.directory / "admin.sock")

    assert before - 1 <= seen.value("process_start_time_seconds") <= time.time()  # noqa: TID251
    resident = int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert 0.8 * resident < seen.value("process_resident_memory_bytes") < 1.2 * resident
    assert abs(seen.value("process_open_fds") - len(list((proc / "fd").iterdir()))) <= 2  # the scrape's own connection
    assert 0 < seen.value("process_cpu_seconds_total") < 60
    assert seen.value("llm_proxy_store_bytes") == (gateway.directory / "gateway.db").stat().st_size
    assert seen.value("llm_proxy_wal_bytes") == (gateway.directory / "gateway.db-wal").stat().st_size
    assert seen.value("llm_proxy_tasks") > 0


async def test_every_line_to_the_journal_has_its_priority_in_front(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.log.touch()
    journal = gateway.log.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{journal.st_dev}:{journal.st_ino}")

    await gateway.start()
    assert await chat(gateway) == 200
    await scrape_socket(gateway.directory / "admin.sock")  # a later answer, by which the line of the earlier one is written
    await gateway.kill()
    await gateway.start()  # finds what the killed process left, and logs it
    await chat(gateway, model="none-such")
    await gateway.end_by(signal.SIGTERM)

    lines = gateway.log.read_bytes().splitlines()
    assert all(re.fullmatch(rb"<[23467]>\{.*\}", line) for line in lines), lines
    said = [(int(line[1:2]), orjson.loads(line[3:])) for line in lines]
    assert {entry["level"]: priority for priority, entry in said}["info"] == 6
    assert [entry["status"] for _, entry in said if entry.get("route") == "/chat/completions"] == [200, 404]


async def test_a_file_gets_no_priorities_though_the_variable_is_inherited(
    gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "9:12345")

    await gateway.start()
    await gateway.end_by(signal.SIGTERM)

    assert all(line.startswith(b'{"time":"') for line in gateway.log.read_bytes().splitlines())
