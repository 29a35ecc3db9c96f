"""The blocks of the guide for nginx and Caddy, each run as it stands in front of a real gateway."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from proxy.core.money import parse_yuan
from proxy.demo.ark import TASKS, Answer, Hang, Pause, Send, Wait, answer_sse, chunk
from proxy.doctor import front
from tests.support.gateway import Bench, bench
from tests.support.images import PRICE, ROUTE, paint
from tests.support.limits import limit_key
from tests.support.proxies import DEFAULT_READ_SECONDS, caddy, nginx
from tests.support.videos import look, submitted

CHAT = {"model": "doubao-pro-32k", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
END = (
    b'data: {"choices":[{"delta":{"content":"lo"},"finish_reason":"stop","index":0}],"id":"0217","usage":null}\n\n'
    b'data: {"choices":[],"id":"0217","usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}\n\n'
    b"data: [DONE]\n\n"
)
CHARGE = 10 * 800 + 2 * 2000
"""10 prompt tokens at ¥0.8 a million and 2 completion tokens at ¥2, in nano-yuan."""
LARGE_BYTES = 20_000_000


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Bench]:
    """A gateway whose upstream stops once its client has left."""
    async with bench(tmp_path, disconnect="cancel", body_seconds=30, first_byte_seconds=30) as running:
        yield running


@pytest.fixture(params=["nginx", "caddy"])
async def behind(request: pytest.FixtureRequest, gateway: Bench) -> AsyncIterator[Bench]:
    """The gateway through a proxy."""
    async with {"nginx": nginx, "caddy": caddy}[request.param](gateway) as seen:
        yield seen


async def test_a_request_with_large_pictures_passes(behind: Bench) -> None:
    picture = "data:image/png;base64," + "A" * LARGE_BYTES

    answer = await paint(behind, image_url=picture, task_type="image_to_image")

    assert answer.status == 200, answer.body
    assert len(behind.ark.calls_to(ROUTE)[0].body) > LARGE_BYTES
    await behind.assert_charged(PRICE)


async def test_a_stream_passes_piece_by_piece(behind: Bench) -> None:
    seen = asyncio.Event()
    behind.ark.enqueue([*answer_sse(EVENT, end=False), Wait(seen), Send(chunk(END) + b"0\r\n\r\n")])
    headers = {"Authorization": f"Bearer {behind.key}"}

    async with behind.session.post(behind.base_url + "/chat/completions", json=CHAT, headers=headers) as answer:
        first = await answer.content.readany()
        seen.set()  # only now the rest is sent: the first piece was held by nobody
        rest = await answer.read()

    assert first == EVENT
    assert rest.endswith(b"data: [DONE]\n\n")
    await behind.log.until_chats(1)
    await behind.assert_charged(CHARGE)


async def test_a_picture_that_takes_longer_than_proxies_wait_by_default_arrives(behind: Bench) -> None:
    behind.ark.enqueue([Pause(DEFAULT_READ_SECONDS * 1.5), Answer()], ROUTE)

    answer = await paint(behind)

    assert answer.status == 200, answer.body
    await behind.assert_charged(PRICE)


async def test_a_client_that_leaves_is_noticed(behind: Bench) -> None:
    behind.ark.enqueue([*answer_sse(EVENT, end=False), Hang()])
    headers = {"Authorization": f"Bearer {behind.key}"}

    async with behind.session.post(behind.base_url + "/chat/completions", json=CHAT, headers=headers) as answer:
        await answer.content.readany()
        assert answer.connection is not None
        assert answer.connection.transport is not None
        answer.connection.transport.abort()  # close() would first wait for TLS to be closed by the other side
    await behind.ark.wait_closed_by_peer(1)
    (line,) = await behind.log.until_chats(1)

    assert (line["outcome"], line["usage"]) == ("client_gone", "estimated")
    await behind.assert_charged(parse_yuan(str(line["cost"])))


async def test_a_wait_for_a_video_passes(behind: Bench) -> None:
    task_id = await submitted(behind)

    waiting = asyncio.gather(look(behind, task_id, wait=DEFAULT_READ_SECONDS * 1.5), look(behind, task_id, wait=60))
    await behind.ark.wait_for_calls(1, TASKS + "/*")
    (asked,) = behind.ark.videos.tasks
    await asyncio.sleep(DEFAULT_READ_SECONDS * 1.4)  # the first wait's own time
    behind.ark.videos.advance(asked, "failed")

    assert [task["status"] for task in await waiting] == ["pending", "failed"]
    await behind.assert_charged(0)


# `doctor --url` through nginx.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "HELD_SECONDS", 1.0)
    monkeypatch.setattr(front, "SLOW_SECONDS", DEFAULT_READ_SECONDS * 2.0)
    monkeypatch.setattr(front, "STREAM_SECONDS", 0.5)


async def told(seen: Bench) -> dict[str, str]:
    return {finding.check: str(finding.state) async for finding in front.front(seen.base_url) if finding.state != "ok"}


async def test_doctor_finds_nothing_wrong_with_the_guides_nginx(gateway: Bench, quick: None) -> None:
    async with nginx(gateway, plain=True) as seen:
        assert await told(seen) == {}


@pytest.mark.parametrize(
    ("without", "finding"),
    [
        ("client_max_body_size", {"front: large requests": "failed"}),
        ("proxy_read_timeout", {"front: slow answers": "failed"}),
        ("proxy_request_buffering", {"front: requests": "warning"}),
    ],
)
async def test_doctor_finds_what_each_line_of_the_guides_nginx_is_for(
    gateway: Bench, quick: None, without: str, finding: dict[str, str]
) -> None:
    async with nginx(gateway, plain=True, without=without) as seen:
        assert await told(seen) == finding
    await gateway.assert_charged(0)


@pytest.mark.parametrize(("proxy", "statuses"), [(nginx, [200, 403]), (caddy, [403, 200])], ids=["nginx", "caddy"])
async def test_the_address_that_a_trusted_proxy_reports_is_the_callers(
    tmp_path: Path, proxy: Callable[[Bench], AbstractAsyncContextManager[Bench]], statuses: list[int]
) -> None:
    """nginx adds to what its client sent, and the client is on a trusted machine itself; Caddy believes no client."""
    async with bench(tmp_path, server='trusted_proxies = ["127.0.0.1"]') as gateway, proxy(gateway) as seen:
        found = []
        for network in ("192.0.2.0/24", "127.0.0.0/8"):
            await limit_key(gateway, networks=(network,))
            found.append((await seen.ask("/account", headers={"X-Forwarded-For": "192.0.2.7"})).status)

    assert found == statuses
