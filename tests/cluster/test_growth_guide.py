"""The guide for growth: its commands, its tables and its block for nginx, each run as it stands, but for names of this machine."""

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.config import load
from proxy.store import open_store
from proxy.store.errors import StoreMovedError
from tests.support.cluster import CHAT, Cluster, cluster
from tests.support.postgres import database
from tests.support.proxies import blocks_of, nginx_with, replaced
from tests.support.whole_ledger import fill, shown

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "proxy/docs/growth.md"
FILE, BACK, URL = (
    "sqlite:/var/lib/llm-proxy/llm-proxy.db",
    "sqlite:/var/lib/llm-proxy/back.db",
    "postgresql://llm-proxy@db.internal/llm-proxy",
)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
CALLS = 30


def moves() -> list[list[str]]:
    """Return the words of each `llm-proxy store move` in the guide, after the program's name."""
    lines = [line for block in blocks_of("sh", GUIDE) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("llm-proxy ")]


async def run(words: list[str], directory: Path) -> None:
    """Run a command of the guide, which must succeed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", *words), cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_its_commands_move_a_ledger_out_and_back(tmp_path: Path) -> None:
    (tmp_path / "pg-password").write_text("not-asked-for\n")
    async with database(is_empty=True) as url:
        there, back = f"sqlite:{tmp_path}/llm-proxy.db", f"sqlite:{tmp_path}/back.db"
        store = await open_store(there)
        await fill(store)
        before = await shown(store)
        await store.close()

        for words in moves():
            own = [{FILE: there, BACK: back, URL: url}.get(word, word) for word in words]
            assert own != words, "the guide moves something else now"
            await run(own, tmp_path)

        store = await open_store(back)
        assert await shown(store) == before
        await store.close()
        for left in (there, url):
            with pytest.raises(StoreMovedError):
                await open_store(left)


def test_its_tables_are_a_configuration_with_that_of_the_example(tmp_path: Path) -> None:
    (tmp_path / "pg-password").write_text("geheim\n")
    example = (ROOT / "config.example.toml").read_text(encoding="utf-8")
    (tmp_path / "config.toml").write_text(example)
    blocks = blocks_of("toml", GUIDE)
    assert len(blocks) == 2

    for block in blocks:
        keys = {f"LLM_PROXY_{table}__{key}".upper(): value for table, its in tomllib.loads(block).items() for key, value in its.items()}
        env = {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in keys.items()}
        config = load(tmp_path / "config.toml", env | {"ARK_API_KEY": "canary"})

        assert config.store.url.startswith("postgresql://llm-proxy@")
        assert config.store.password.reveal() == ("geheim" if "LLM_PROXY_STORE__PASSWORD" in env else "")


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[tuple[Cluster, str, aiohttp.ClientSession]]:
    """Three gateways behind nginx: the cluster, the address of nginx, and a session that trusts it."""
    async with cluster(tmp_path, 3) as made:
        (block,) = blocks_of("nginx", GUIDE)
        upstreams = [(f"127.0.0.1:808{n}", member.origin.removeprefix("http://")) for n, member in enumerate(made.members, start=1)]
        async with nginx_with(replaced(block, *upstreams), tmp_path) as (origin, session):
            yield made, origin, session


async def call(made: Cluster, origin: str, session: aiohttp.ClientSession, **fields: Any) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {made.key}"}
    async with session.post(f"{origin}/v1/chat/completions", json={**CHAT, **fields}, headers=headers) as answer:
        return answer.status, await answer.read()


async def taken_by(made: Cluster) -> Counter[int]:
    """Return how many requests each living gateway has settled, by its place."""
    rows = {}
    for place, member in enumerate(made.members):
        if member.process is not None and member.process.returncode is None:
            rows[place] = sum(value for name, value in (await member.metrics()).items() if name.startswith("llm_proxy_requests_total{"))
    return Counter({place: int(count) for place, count in rows.items()})


@pytest.mark.timeout(120)
async def test_three_gateways_behind_nginx_share_the_work_and_one_ledger(three: tuple[Cluster, str, aiohttp.ClientSession]) -> None:
    made, origin, session = three
    before = await made.balance()

    answers = await asyncio.gather(*(call(made, origin, session, stream=n % 2 == 0) for n in range(CALLS)))

    assert {status for status, _ in answers} == {200}
    assert all(body.endswith(b"data: [DONE]\n\n") for n, (_, body) in enumerate(answers) if n % 2 == 0)
    taken = await taken_by(made)
    assert set(taken) == {0, 1, 2}
    assert min(taken.values()) > 0, taken
    after = await made.balance()
    assert after[0] < before[0]
    assert after[1] == 0


@pytest.mark.timeout(180)
async def test_a_gateway_that_is_updated_loses_no_call_and_one_that_is_killed_none_that_come_after(
    three: tuple[Cluster, str, aiohttp.ClientSession],
) -> None:
    made, origin, session = three
    stopped = asyncio.Event()
    statuses: Counter[int] = Counter()

    async def customer() -> None:
        while not stopped.is_set():
            statuses[(await call(made, origin, session))[0]] += 1

    async with asyncio.TaskGroup() as customers:
        for _ in range(4):
            customers.create_task(customer())
        assert await made.members[0].end_by(signal.SIGTERM) == 0
        stopped.set()
    await made.members[1].kill()
    later = [(await call(made, origin, session))[0] for _ in range(CALLS)]

    assert set(statuses) == {200}
    assert statuses[200] > 0
    assert set(later) == {200}
    await made.until("SELECT held_nanos = 0 FROM accounts WHERE name = 'acme'")
