"""Videos through a running gateway: submit one, wait for its end, cancel it, read the admin socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.core.video import task as video_task
from proxy.core.video.record import VideoTask
from proxy.core.video.task import Pace
from proxy.demo.ark import TASKS, StandIn
from tests.support.gateway import Bench, Reply, bench

MODEL = "doubao-seedance-1-5-pro-251215"
PROMPT = "一只橙色的猫咪在阳光下慵懒地伸懒腰 canary-prompt-3b91"
SUBMIT = "/videos/generations"
SILENT = 864_000_000
"""720p, 5 s: 1280 · 720 · 24 · 5 / 1024 = 108,000 tokens, at 8,000 nano-yuan each."""
ENDED_SECONDS_MAX = 30
"""Limit of the wait for a task's end."""
QUICK = {"poll_seconds": "0.02, 0.05", "upstream": "requests_per_second = 1000\nlist_requests_per_second = 200"}


@asynccontextmanager
async def quick_bench(directory: Path, ark: StandIn | None = None, **options: Any) -> AsyncIterator[Bench]:
    """Run a gateway that polls its tasks every few milliseconds."""
    async with bench(directory, ark=ark, **{**QUICK, **options}) as gateway:
        yield gateway


def look_quickly(monkeypatch: pytest.MonkeyPatch, *, give_up_after_ms: int = video_task.LOOKUP_MS) -> None:
    """Look for lost submits every few milliseconds instead of every few seconds, and give up after `give_up_after_ms`."""
    monkeypatch.setattr(video_task, "LOOKUP_PACE", Pace(first_ms=20, longest_ms=50))
    monkeypatch.setattr(video_task, "LOOKUP_MS", give_up_after_ms)


async def submit(gateway: Bench, *, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    return await gateway.ask(SUBMIT, {"prompt": PROMPT, **fields}, headers=headers)


async def submitted(gateway: Bench, **fields: Any) -> str:
    """Submit a task that is accepted, and return its id."""
    reply = await submit(gateway, **fields)
    assert reply.status == 200, reply.body
    return str(reply.json["id"])


async def look(gateway: Bench, task_id: str, *, wait: float = 0) -> dict[str, Any]:
    reply = await gateway.ask(f"/videos/tasks/{task_id}?wait={wait:g}")
    assert reply.status == 200, reply.body
    return dict(reply.json)


async def ended(gateway: Bench, task_id: str) -> dict[str, Any]:
    """Wait until a task has ended, and return it."""
    async with asyncio.timeout(ENDED_SECONDS_MAX):
        while (task := await look(gateway, task_id, wait=5))["status"] not in ("succeeded", "failed"):
            pass
        return task


async def cancel(gateway: Bench, task_id: str) -> Reply:
    return await gateway.ask(f"/videos/tasks/{task_id}", method="DELETE")


async def stored(gateway: Bench, task_id: str) -> VideoTask:
    """Return a task as it is in the store."""
    task = await gateway.store.task(task_id)
    assert task is not None
    return task


def creates(ark: StandIn) -> int:
    """Return the number of calls upstream that create a task."""
    return len(ark.calls_to(TASKS, "POST"))


async def ask_operator(gateway: Bench, path: str, body: object = None) -> str:
    """Return the answer of the admin socket."""
    connector = aiohttp.UnixConnector(path=str(gateway.admin_socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request("GET" if body is None else "POST", f"http://gateway{path}", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.text()
