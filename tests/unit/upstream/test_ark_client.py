"""The aiohttp client: the class of a failure depends on whether a request was sent. Mapping with mocks, the rest over sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import aiohttp
import orjson
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aioresponses import aioresponses

from proxy.config import Secret, UpstreamConfig
from proxy.core.json_text import STRUCTURES_MAX
from proxy.demo.ark import Close, Hang, Pause, Perform, Reset, Send, StandIn, Step, Wait, answer_head, answer_json, lost
from proxy.upstream.ark_client import IMAGES_PATH, TASKS_PATH, ArkClient, Reply
from proxy.upstream.failures import UpstreamBrokenError, UpstreamFailure, UpstreamTimeoutError, UpstreamUnreachableError

ORIGIN = "http://ark.test/api/v3"
IMAGE = {"model": "doubao-seedream-5-0-260128", "prompt": "a cat"}
TASK = {"model": "doubao-seedance-1-5-pro-251215", "content": [{"type": "text", "text": "a cat"}]}
KEY = "the-upstream-key"


def upstream(base_url: str, *, connect: float = 5.0, first_byte: float = 5.0) -> UpstreamConfig:
    return UpstreamConfig("ark", base_url, {"default": Secret(KEY)}, connect, first_byte, 5.0, 20.0, 1.0)


@pytest.fixture
async def ark() -> AsyncIterator[StandIn]:
    async with StandIn() as standin:
        yield standin


# Mapping.


class Response(aiohttp.ClientResponse):
    """aioresponses 0.7.9 does not know the argument that aiohttp 3.14 added."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, stream_writer=Mock(output_size=0), **kwargs)


def key(port: int = 443) -> ConnectionKey:
    return ConnectionKey("ark.test", port, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (aiohttp.ClientConnectorError(key(), ConnectionRefusedError(111, "refused")), UpstreamUnreachableError),
        (aiohttp.ClientConnectorDNSError(key(), OSError("unknown host")), UpstreamUnreachableError),
        (aiohttp.ClientConnectorSSLError(key(), OSError("handshake")), UpstreamUnreachableError),
        (aiohttp.ClientConnectorCertificateError(key(), ValueError("expired")), UpstreamUnreachableError),
        (aiohttp.ServerDisconnectedError(), UpstreamBrokenError),
        (aiohttp.ClientOSError(32, "broken pipe"), UpstreamBrokenError),
        (aiohttp.ClientPayloadError("not all of it"), UpstreamBrokenError),
        (aiohttp.ClientResponseError(None, (), status=400, message="Bad status line"), UpstreamBrokenError),  # type: ignore[arg-type]
        (ConnectionResetError(104, "reset"), UpstreamBrokenError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_a_failure_is_unreachable_only_where_nothing_was_asked(fault: Exception, named: type[UpstreamFailure]) -> None:
    with aioresponses() as mocked:
        mocked.post(ORIGIN + IMAGES_PATH, exception=fault)

        async with ArkClient(upstream(ORIGIN)) as client:
            with pytest.raises(UpstreamFailure) as raised:
                await client.create_image([orjson.dumps(IMAGE)])

    assert type(raised.value) is named
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("fault", "phase"),
    [
        (aiohttp.ConnectionTimeoutError(), "connect"),
        (aiohttp.SocketTimeoutError(), "first_byte"),
        (TimeoutError(), "first_byte"),
    ],
)
async def test_a_timeout_tells_its_phase(fault: Exception, phase: str) -> None:
    with aioresponses() as mocked:
        mocked.post(ORIGIN + TASKS_PATH, exception=fault)

        async with ArkClient(upstream(ORIGIN)) as client:
            with pytest.raises(UpstreamTimeoutError) as raised:
                await client.create_task(TASK)

    assert raised.value.phase == phase


@pytest.mark.parametrize(
    ("status", "body", "headers", "reply"),
    [
        (200, b'{"id":"cgt-1"}', {}, Reply(200, {"id": "cgt-1"}, None)),
        (429, b'{"error":{"code":"QuotaExceeded"}}', {"Retry-After": "7"}, Reply(429, {"error": {"code": "QuotaExceeded"}}, "7")),
        (502, b"<html>Bad Gateway</html>", {}, Reply(502, None, None)),
        (200, b"", {}, Reply(200, None, None)),
        (302, b"", {"Location": "http://elsewhere.test/"}, Reply(302, None, None)),
        (200, b'{"id": NaN}', {}, Reply(200, None, None)),
    ],
)
async def test_an_answer_of_any_status_is_a_reply(status: int, body: bytes, headers: dict[str, str], reply: Reply) -> None:
    with aioresponses() as mocked:
        mocked.post(ORIGIN + TASKS_PATH, status=status, body=body, headers=headers, response_class=Response)

        async with ArkClient(upstream(ORIGIN)) as client:
            assert await client.create_task(TASK) == reply


# Real sockets.


async def test_the_five_calls_go_where_ark_expects_them(ark: StandIn) -> None:
    async with ArkClient(upstream(ark.base_url)) as client:
        image = await client.create_image([orjson.dumps(IMAGE)])
        task_id = (await client.create_task(TASK)).answer["id"]  # type: ignore[index]
        asked = await client.get_task(task_id)
        listed = await client.list_tasks(model=TASK["model"], service_tier="default", page_size=10, page_num=1)  # type: ignore[arg-type]
        deleted = await client.delete_task(task_id)

    assert [reply.status for reply in (image, asked, listed, deleted)] == [200] * 4
    assert isinstance(listed.answer, dict)
    assert [task["id"] for task in listed.answer["items"]] == [task_id]
    assert [(call.method, call.path) for call in ark.calls] == [
        ("POST", IMAGES_PATH),
        ("POST", TASKS_PATH),
        ("GET", f"{TASKS_PATH}/{task_id}"),
        ("GET", TASKS_PATH),
        ("DELETE", f"{TASKS_PATH}/{task_id}"),
    ]
    assert ark.calls[3].query == {
        "page_num": ["1"],
        "page_size": ["10"],
        "filter.model": ["doubao-seedance-1-5-pro-251215"],
        "filter.service_tier": ["default"],
    }
    sent = ark.calls[0].headers
    assert (sent["authorization"], sent["accept-encoding"], sent["content-type"]) == (f"Bearer {KEY}", "identity", "application/json")


async def test_an_id_stays_one_segment_of_the_path_whatever_it_holds(ark: StandIn) -> None:
    async with ArkClient(upstream(ark.base_url)) as client:
        await client.get_task("a/../b?c=1#d%2F&é")

        for no_id in ("", ".", ".."):
            with pytest.raises(ValueError, match="no id"):
                await client.delete_task(no_id)

    (call,) = ark.calls
    assert call.target == f"/api/v3{TASKS_PATH}/a%2F..%2Fb%3Fc%3D1%23d%252F%26%C3%A9"


async def test_a_body_of_megabytes_arrives_whole(ark: StandIn) -> None:
    picture = "data:image/png;base64," + "A" * 3_000_000

    body: list[bytes | memoryview] = [orjson.dumps(IMAGE)[:-1] + b",", orjson.dumps({"image": picture})[1:]]
    left: list[int] = []
    async with ArkClient(upstream(ark.base_url)) as client:
        reply = await client.create_image(body, lambda: left.append(len(body)))

    assert reply.status == 200
    assert left == [0], "the body is let go once it is sent"
    assert ark.calls[0].json["image"] == picture
    assert int(ark.calls[0].headers["content-length"]) == len(orjson.dumps({**IMAGE, "image": picture}))


@pytest.mark.parametrize("end", [Reset(), Close()])
async def test_an_answer_lost_after_the_work_was_done_is_broken_and_not_asked_for_again(ark: StandIn, end: Reset | Close) -> None:
    ark.enqueue(lost(end), TASKS_PATH)

    async with ArkClient(upstream(ark.base_url)) as client:
        with pytest.raises(UpstreamBrokenError):
            await client.create_task(TASK)

    assert len(ark.videos.tasks) == len(ark.calls) == 1


async def test_an_answer_cut_in_its_middle_is_broken(ark: StandIn) -> None:
    ark.enqueue([Send(answer_head(200, "application/json", body_bytes=100) + b'{"data":['), Reset()], IMAGES_PATH)

    async with ArkClient(upstream(ark.base_url)) as client:
        with pytest.raises(UpstreamBrokenError):
            await client.create_image([orjson.dumps(IMAGE)])


async def test_what_is_no_http_is_broken(ark: StandIn) -> None:
    ark.enqueue([Send(b"SSH-2.0-OpenSSH_9.6\r\n"), Close()], IMAGES_PATH)

    async with ArkClient(upstream(ark.base_url)) as client:
        with pytest.raises(UpstreamBrokenError):
            await client.create_image([orjson.dumps(IMAGE)])


async def test_an_answer_longer_than_the_limit_is_broken_before_it_is_read(ark: StandIn) -> None:
    piece = b"400\r\n" + b" " * 1024 + b"\r\n"
    endless: list[Step] = [Send(answer_head(200, "application/json", chunked=True)), *[Send(piece)] * 64, Hang()]
    ark.enqueue(endless, IMAGES_PATH)

    async with ArkClient(upstream(ark.base_url), answer_bytes_max=10_000) as client:
        with pytest.raises(UpstreamBrokenError, match="longer than 10000 bytes"):
            await client.create_image([orjson.dumps(IMAGE)])


@pytest.mark.parametrize(("count", "is_read"), [(STRUCTURES_MAX - 1, True), (STRUCTURES_MAX, False)])
async def test_a_crowd_of_values_is_not_parsed_on_the_loop(ark: StandIn, count: int, is_read: bool) -> None:
    """16 MB of empty objects took 0.4 s."""
    ark.enqueue(answer_json(200, [{}] * count), TASKS_PATH)

    async with ArkClient(upstream(ark.base_url)) as client:
        reply = await client.create_task(TASK)

    assert (reply.answer is not None) == is_read


@pytest.mark.parametrize(
    ("steps", "phase"),
    [
        ([Perform(), Hang()], "first_byte"),
        ([Send(answer_head(200, "application/json", body_bytes=100) + b"{"), Hang()], "idle"),
    ],
)
async def test_an_upstream_that_falls_silent_is_a_timeout(ark: StandIn, steps: list[Step], phase: str) -> None:
    ark.enqueue(steps, TASKS_PATH)

    async with ArkClient(upstream(ark.base_url, first_byte=0.1)) as client:
        with pytest.raises(UpstreamTimeoutError) as raised:
            await client.create_task(TASK)

    assert raised.value.phase == phase


async def test_an_answer_that_drips_in_is_a_timeout_all_the_same(ark: StandIn) -> None:
    drops: list[Step] = [step for _ in range(1000) for step in (Send(b" "), Pause(0.02))]
    ark.enqueue([Send(answer_head(200, "application/json", body_bytes=1000)), *drops], IMAGES_PATH)

    async with ArkClient(upstream(ark.base_url, connect=0.1, first_byte=0.2)) as client:
        with pytest.raises(UpstreamTimeoutError):
            await client.create_image([orjson.dumps(IMAGE)])

    assert ark.calls[0].bytes_sent < 1000


async def test_a_refused_connection_is_unreachable(ark: StandIn) -> None:
    ark.stop_listening()

    async with ArkClient(upstream(ark.base_url)) as client:
        with pytest.raises(UpstreamUnreachableError):
            await client.create_image([orjson.dumps(IMAGE)])


@asynccontextmanager
async def mute() -> AsyncIterator[str]:
    """Yield the base URL of a listener that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/api/v3"


async def test_a_handshake_that_never_ends_is_a_connect_timeout() -> None:
    async with mute() as base_url, ArkClient(upstream(base_url, connect=0.1)) as client:
        with pytest.raises(UpstreamTimeoutError) as raised:
            await client.create_task(TASK)

    assert raised.value.phase == "connect"


async def test_tls_that_is_none_is_unreachable(ark: StandIn) -> None:
    ark.enqueue_connection([Send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Close()])

    async with ArkClient(upstream(ark.base_url.replace("http:", "https:"))) as client:
        with pytest.raises(UpstreamUnreachableError):
            await client.create_image([orjson.dumps(IMAGE)])

    assert ark.calls == []


async def test_a_call_that_finds_no_free_connection_in_time_was_not_asked(ark: StandIn) -> None:
    ark.enqueue([Hang()], IMAGES_PATH)

    async with ArkClient(upstream(ark.base_url, connect=0.1), connections_max=1) as client, asyncio.TaskGroup() as group:
        first = group.create_task(ended(client.create_image, [orjson.dumps(IMAGE)]))
        await ark.wait_for_calls(1)
        second = await ended(client.create_image, [orjson.dumps(IMAGE)])
        await client.close()

    assert isinstance(second, UpstreamTimeoutError)
    assert second.phase == "connect"
    assert isinstance(first.result(), UpstreamBrokenError)
    assert len(ark.calls) == 1


async def ended(call: Callable[..., Any], *args: Any) -> object:
    try:
        return await call(*args)
    except UpstreamFailure as failure:
        return failure


async def test_what_creates_never_goes_over_a_kept_connection(ark: StandIn) -> None:
    async with ArkClient(upstream(ark.base_url)) as client:
        await client.create_image([orjson.dumps(IMAGE)])
        await client.create_image([orjson.dumps(IMAGE)])
        await client.get_task("cgt-1")
        await client.get_task("cgt-2")
        await client.create_task(TASK)

    connections = [call.connection for call in ark.calls]
    assert len(set(connections)) == 4
    assert connections[2] == connections[3]


async def test_a_kept_connection_that_died_is_no_failure_of_a_question(ark: StandIn) -> None:
    async with ArkClient(upstream(ark.base_url)) as client:
        await client.get_task("cgt-1")
        await ark.wait_until(lambda: ark.drop_idle(reset=True) == 1)
        reply = await client.get_task("cgt-2")

    assert reply.status == 404


async def test_a_redirect_is_not_followed(ark: StandIn) -> None:
    ark.enqueue(answer_json(307, b"", {"location": f"{ark.base_url}/elsewhere"}), IMAGES_PATH)

    async with ArkClient(upstream(ark.base_url)) as client:
        reply = await client.create_image([orjson.dumps(IMAGE)])

    assert (reply.status, reply.answer) == (307, None)
    assert len(ark.calls) == 1


async def test_a_closed_client_asks_nothing(ark: StandIn) -> None:
    client = await ArkClient(upstream(ark.base_url)).open()
    await client.close()

    with pytest.raises(UpstreamUnreachableError):
        await client.create_image([orjson.dumps(IMAGE)])

    assert ark.calls == []


async def test_a_renewed_client_asks_anew_and_its_calls_under_way_end_as_they_began(ark: StandIn) -> None:
    finish = asyncio.Event()
    ark.enqueue([Wait(finish), *answer_json(200, {"data": []})], IMAGES_PATH)
    async with StandIn() as other, ArkClient(upstream(ark.base_url)) as client, asyncio.TaskGroup() as group:
        await client.get_task("cgt-1")  # leaves a keep-alive connection
        under_way = group.create_task(client.create_image([orjson.dumps(IMAGE)]))
        await ark.wait_for_calls(2)

        client.renew(upstream(other.base_url), Secret("another-key"))
        await client.get_task("cgt-2")
        await ark.wait_until(lambda: ark.open_connections == 1)
        finish.set()

        assert (await under_way).status == 200
        assert [call.headers["authorization"] for call in (*ark.calls, *other.calls)] == [f"Bearer {KEY}"] * 2 + ["Bearer another-key"]
        await ark.wait_until(lambda: ark.open_connections == 0)


async def test_a_client_that_is_closed_closes_what_it_had_before_it_was_renewed(ark: StandIn) -> None:
    ark.enqueue([Hang()], IMAGES_PATH)
    async with asyncio.TaskGroup() as group:
        async with ArkClient(upstream(ark.base_url)) as client:
            under_way = group.create_task(ended(client.create_image, [orjson.dumps(IMAGE)]))
            await ark.wait_for_calls(1)
            client.renew(upstream(ark.base_url, connect=1.0), Secret(KEY))

        assert isinstance(await under_way, UpstreamBrokenError)
