"""Whatever ends a call gives back what it took: its slot, its tokens a minute, its hold, and its try of a route that rests.

Each way of ending is driven through a whole gateway, and then looked at from outside: by the customer, the operator and Prometheus.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

from proxy.billing.holds import INTERRUPTED
from proxy.core.catalog import Kind
from proxy.core.limits import SpendLimits
from proxy.core.money import Nanos, format_yuan, parse_yuan
from proxy.demo.ark import TASKS, Answer, Check, Close, Hang, Pause, Perform, Reset, Send, Step, Wait, answer_sse, error, known_error
from proxy.demo.ark.script import answer_head, answer_json
from proxy.store.values import IdempotencyClaim, NewRequest
from proxy.upstream import upstreams
from proxy.upstream.http1.connection import Limits as PoolLimits
from tests.support.gateway import BALANCE, Bench, Reply
from tests.support.limits import limit_account, limit_key
from tests.support.raw import connect, request
from tests.support.raw_chat import raw_chat
from tests.support.routes import CLIPS, PICTURES, ROUTED, Routed, routed
from tests.support.scraping import scrape_socket
from tests.support.videos import ask_operator, cancel, ended, look_quickly, submit

TOKENS = 2_000
"""What each chat takes of its key's tokens a minute until it is settled."""
USED_TOKENS = 32
"""What the stand-in's default answer used."""
SLOTS = 2
DAY = parse_yuan("5")
LITTLE = SpendLimits(parse_yuan("0.5"), None, None)
IMAGES = "/images/generations"
DELTA = b'data: {"id":"0217","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"}}]}\n\n'
HTML = b"<html>Bad Gateway</html>"

T = TypeVar("T")

Ending = Callable[[Routed], Awaitable[int]]
"""Ends calls in its way, and returns how many of them were admitted: so many requests a minute are gone."""


async def limited(house: Routed) -> None:
    """Limit the key and its account in everything that is counted."""
    limits: dict[str, Any] = {"tokens_per_minute": 6_000, "spend": SpendLimits(DAY, None, None)}
    await limit_key(house.gateway, requests_per_minute=6, concurrent=SLOTS, **limits)
    await limit_account(house.gateway, requests_per_minute=7, concurrent=SLOTS + 1, **limits)


async def used(gateway: Bench, whose: str) -> dict[str, Any]:
    """Return what the key or its account has taken of each limit, as its customer reads it."""
    told = (await gateway.ask("/account")).json
    return {limit["kind"]: limit["used"] for limit in (told["key"] if whose == "key" else told)["limits"]}


async def assert_given_back(house: Routed, admitted: int) -> None:
    gateway = house.gateway
    for whose in ("key", "account"):
        taken = await used(gateway, whose)
        assert (whose, taken["concurrent"], taken["requests"]) == (whose, 0, admitted)
        assert 0 <= taken["tokens"] <= max(0, admitted) * USED_TOKENS + 1, (whose, taken)  # settled by usage, or not at all
    balance, held = await gateway.balance()
    assert held == 0
    (key,) = orjson.loads(await ask_operator(gateway, "/operations/key.list", {"account": "acme"}))["keys"]
    (spend,) = key["spend"]
    assert (spend["held"], spend["spent"]) == ("0.00", format_yuan(Nanos(BALANCE - balance)))
    seen = await scrape_socket(gateway.admin_socket)
    gauges = {"open_holds": 0, "held_yuan": 0, "open_streams": 0, "draining_streams": 0, "requests_in_flight": 1}  # the scrape itself
    assert {name: seen.value(f"llm_proxy_{name}") for name in gauges} == gauges
    assert orjson.loads(await ask_operator(gateway, "/operations/ledger.verify", {}))["holds"] is True


def begin(call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    return asyncio.get_running_loop().create_task(call)


async def chat(house: Routed, *, stream: bool = False, **fields: Any) -> Reply:
    return await house.gateway.chat(model=ROUTED, stream=stream, **{"max_tokens": TOKENS, **fields})


def both(house: Routed, script: Sequence[Step], path: str = "/chat/completions") -> None:
    for ark in house.arks:
        ark.enqueue(script, path)


# refused before anything is asked


async def all_rest(house: Routed) -> int:
    both(house, error(429, "ServerOverloaded", "busy", headers={"retry-after": "30"}))
    replies = [await chat(house) for _ in range(3)]
    assert [reply.status for reply in replies] == [503, 503, 503]
    assert house.calls() == [1, 1]
    return 1


async def no_money(house: Routed) -> int:
    await limit_key(house.gateway, requests_per_minute=6, concurrent=SLOTS, tokens_per_minute=6_000)
    await limit_account(house.gateway, requests_per_minute=7, concurrent=SLOTS + 1, tokens_per_minute=6_000)
    assert [(await chat(house, stream=stream, max_tokens=10_000_000, n=6)).status for stream in (False, True)] == [402, 402]
    await limited(house)
    return 0


async def over_a_money_limit(house: Routed) -> int:
    await limit_key(house.gateway, requests_per_minute=6, concurrent=SLOTS, tokens_per_minute=6_000, spend=LITTLE)
    reply = await chat(house, max_tokens=1_000_000)
    pictures = await house.gateway.ask(IMAGES, {"model": PICTURES, "prompt": "a cat", "n": 4})
    video = await submit(house.gateway, model=CLIPS, duration=5)
    assert [each.error["code"] for each in (reply, pictures, video)] == ["KEY_LIMIT_REACHED"] * 3
    await limited(house)
    return 0


async def over_a_rate_of_the_account(house: Routed) -> int:
    await limit_account(house.gateway, requests_per_minute=1)
    replies = [await chat(house) for _ in range(3)]
    picture = await house.gateway.ask(IMAGES, {"model": PICTURES, "prompt": "a cat"})
    video = await submit(house.gateway, model=CLIPS, duration=5)
    assert [each.status for each in (*replies, picture, video)] == [200, 429, 429, 429, 429]
    await limited(house)
    await limit_account(house.gateway, requests_per_minute=7, concurrent=SLOTS + 1, tokens_per_minute=6_000)
    return 1


async def no_slot(house: Routed) -> int:
    go_on = asyncio.Event()
    house.arks[0].enqueue([Wait(go_on), *known_error("InternalServiceError")], times=SLOTS)
    calls = [begin(chat(house, messages=[{"role": "user", "content": str(at)}])) for at in range(SLOTS)]
    await house.arks[0].wait_for_calls(SLOTS)
    picture = await house.gateway.ask(IMAGES, {"model": PICTURES, "prompt": "a cat"})
    refused = [await chat(house), picture, await submit(house.gateway, model=CLIPS, duration=5)]
    assert [reply.status for reply in refused] == [429, 429, 429]
    assert (await used(house.gateway, "key"))["concurrent"] == SLOTS
    go_on.set()
    assert [(await call).status for call in calls] == [200] * SLOTS
    return SLOTS


async def a_key_that_another_call_has(house: Routed) -> int:
    """The second call waits without a slot; one of another body, and one whose key is claimed in the store, are refused."""
    go_on = asyncio.Event()
    house.arks[0].enqueue([Wait(go_on), *known_error("InternalServiceError")])
    body = {"model": ROUTED, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": TOKENS}
    ask = partial(house.gateway.ask, "/chat/completions", headers={"Idempotency-Key": "k"})
    calls = [begin(ask(body)) for _ in range(3)]
    await house.arks[0].wait_for_calls(1)
    assert (await used(house.gateway, "key"))["concurrent"] == 1
    assert (await ask({**body, "n": 2})).status == 409
    go_on.set()
    assert [(await call).status for call in calls] == [200] * 3

    store, digest = house.gateway.store, b"\0" * 32
    elsewhere = NewRequest(
        id="req_elsewhere",
        kind=Kind.CHAT,
        account_id=house.gateway.account_id,
        key_id=(await store.keys("acme"))[0].id,
        model=ROUTED,
        upstream="u0",
        upstream_model="m",
        stream=False,
        hold_nanos=Nanos(1),
        price='{"input":"0.8","output":"2.0"}',
        created_at_ms=1,
        claim=IdempotencyClaim("claimed", digest),
    )
    await store.place_hold(elsewhere)
    assert (await house.gateway.ask("/chat/completions", body, headers={"Idempotency-Key": "claimed"})).status == 409
    await store.settle("req_elsewhere", INTERRUPTED, 2)
    return 1


async def faults_of_the_client(house: Routed) -> int:
    gateway = house.gateway
    statuses = [
        (await chat(house, messages=[])).status,
        (await chat(house, n=0)).status,
        (await gateway.ask("/chat/completions", b"{")).status,
        (await gateway.chat(model="nothing")).status,
        (await gateway.ask(IMAGES, {"model": PICTURES, "prompt": " "})).status,
        (await submit(gateway, model=CLIPS, duration=-5)).status,
    ]
    assert statuses == [400, 400, 400, 404, 400, 400]
    return 0


async def a_body_that_does_not_come(house: Routed) -> int:
    head = f"POST /v1/{{}} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {house.gateway.key}\r\nContent-Length: 1000\r\n\r\n{{{{"
    statuses = []
    for path in ("chat/completions", "images/generations", "videos/generations"):
        async with connect(house.gateway.origin) as client:
            await client.send(head.format(path).encode())
            statuses.append((await client.answer()).status)
        async with connect(house.gateway.origin) as client:
            await client.send(head.format(path).encode())  # and leaves
    assert statuses == [408] * 3
    for path in ("/chat/completions", IMAGES, "/videos/generations"):
        await house.gateway.log.until(path, 2)
    return 0


# upstreams that fail


def failing(script: Sequence[Step], *, stream: bool) -> Ending:
    async def end(house: Routed) -> int:
        both(house, script)
        assert (await chat(house, stream=stream)).status in (400, 500, 503)
        return 1

    return end


def passed_on(script: Sequence[Step], *, stream: bool) -> Ending:
    async def end(house: Routed) -> int:
        house.arks[0].enqueue(script)
        assert (await chat(house, stream=stream)).status == 200
        assert house.calls() == [1, 1]
        return 1

    return end


MOVING: dict[str, list[Step]] = {
    "429": known_error("RateLimitExceeded.EndpointRPMExceeded"),
    "429 of the account": known_error("AccountRateLimitExceeded"),
    "500": known_error("InternalServiceError"),
    "401": known_error("AuthenticationError"),
    "403": known_error("AccessDenied"),
    "404": known_error("ModelNotOpen"),
    "an error as the first event": answer_sse(b'data: {"error":{"code":"ServerOverloaded","message":"busy"}}\n\n'),
}
STAYING: dict[str, list[Step]] = {
    "400": known_error("InvalidArgumentError.UnknownRole"),
    "504": error(504, "InternalServiceError", "late"),
    "html": [Send(answer_head(500, "text/html", body_bytes=len(HTML)) + HTML)],
    "a reset": [Perform(), Reset()],
    "an end": [Perform(), Close()],
    "half a head": [Send(b"HTTP/1.1 200 OK\r\nContent-"), Reset()],
    "no head in time": [Hang()],
    "a body that is cut": [Send(answer_head(200, "application/json", body_bytes=100) + b"{"), Reset()],
    "a body that stands still": [Send(answer_head(200, "application/json", body_bytes=100) + b"{"), Hang()],
    "compressed": answer_json(200, {}, {"content-encoding": "gzip"}),
    "no answer": answer_json(200, {"a": 1}),
    "no HTTP": [Send(b"\0\1\2"), Hang()],
}
FAILURES: dict[str, Ending] = {
    f"{name}, {'stream' if stream else 'json'}{how}": ending(script, stream=stream)
    for stream in (False, True)
    for how, ending, scripts in (
        ("", failing, {**STAYING, **MOVING}),
        (" and the next answers", passed_on, MOVING),
    )
    for name, script in scripts.items()
    if stream or "event" not in name
}


async def a_stream_that_breaks(house: Routed) -> int:
    for end in (Reset(), Hang()):
        house.arks[0].enqueue([*answer_sse(DELTA, end=False), end])
        assert b"MODEL_UNAVAILABLE" in (await chat(house, stream=True)).body
    return 2


async def unreachable(house: Routed) -> int:
    house.arks[0].stop_listening()
    assert (await chat(house)).status == 200
    house.arks[1].stop_listening()
    for ark in house.arks:
        ark.drop_idle()
    picture = await house.gateway.ask(IMAGES, {"model": PICTURES, "prompt": "a cat", "n": 2})
    video = await submit(house.gateway, model=CLIPS, duration=5)
    replies = [await chat(house), await chat(house, stream=True), picture, video]
    assert [reply.status for reply in replies] == [503] * 4
    return 5


async def a_head_that_went_out_early(house: Routed) -> int:
    both(house, [Pause(0.3), *known_error("InternalServiceError")])
    assert b"MODEL_UNAVAILABLE" in (await chat(house, stream=True)).body
    house.arks[0].enqueue([Pause(0.3), *answer_json(200, {"a": 1})])
    assert (await chat(house, stream=True)).status == 200
    return 2


# clients that leave


def leaves(steps: Sequence[Step], *, stream: bool, head: bool = False, reset: bool = False) -> Ending:
    """Return an ending in which the client leaves once the upstream was asked, or once the answer's head is there."""

    async def end(house: Routed) -> int:
        arrived = asyncio.Event()
        house.arks[0].enqueue([Check(lambda _: arrived.set()), *steps])
        async with raw_chat(house.gateway.origin, house.gateway.key, model=ROUTED, stream=stream, max_tokens=TOKENS) as client:
            await arrived.wait()
            if head:
                await client.head()
            assert (await used(house.gateway, "key"))["concurrent"] == 1
            client.leave(reset=reset)
        await house.gateway.log.until_chats(1)
        return 1

    return end


async def leaves_at_once(house: Routed) -> int:
    """Before the hold, within it, or as the upstream is dialled: whenever it is seen."""
    for _ in range(5):
        async with raw_chat(house.gateway.origin, house.gateway.key, model=ROUTED, max_tokens=TOKENS) as client:
            client.leave(reset=True)
    lines = await house.gateway.log.until_chats(5)
    return sum(line["account"] == "acme" and line["status"] != 429 for line in lines)


async def leaves_while_the_next_is_asked(house: Routed) -> int:
    asked = asyncio.Event()
    house.arks[0].enqueue(known_error("InternalServiceError"))
    house.arks[1].enqueue([Check(lambda _: asked.set()), Hang()])
    async with raw_chat(house.gateway.origin, house.gateway.key, model=ROUTED, max_tokens=TOKENS) as client:
        await asked.wait()
        client.leave()
    await house.gateway.log.until_chats(1)
    return 1


LEAVING: dict[str, Ending] = {
    f"{'stream' if stream else 'json'}, {when}{', reset' if reset else ''}": leaves(steps, stream=stream, head=head, reset=reset)
    for reset in (False, True)
    for stream, when, head, steps in (
        (False, "before the head", False, [Hang()]),
        (True, "before the head", False, [Hang()]),
        (False, "and the upstream ends", False, [Pause(0.1), *known_error("InternalServiceError")]),
        (True, "after the head", True, [*answer_sse(DELTA, end=False), Hang()]),
        (True, "after the head, and the upstream breaks", True, [*answer_sse(DELTA, end=False), Pause(0.1), Reset()]),
    )
}


# pictures and videos


async def pictures(house: Routed) -> int:
    moving, refused = known_error("InternalServiceError"), known_error("InvalidParameter")
    statuses = []
    cases: Sequence[tuple[list[Step], int]] = ((moving, 1), (refused, 2), ([Perform(), Reset()], 2), ([Hang()], 2))
    for script, times in cases:
        house.arks[0].enqueue(script, IMAGES, times=times)
        statuses.append((await house.gateway.ask(IMAGES, {"model": PICTURES, "prompt": "a cat", "n": 2})).status)
    assert statuses == [200, 400, 503, 503]
    return 4


async def pictures_whose_client_leaves(house: Routed) -> int:
    arrived = asyncio.Event()
    house.arks[0].enqueue([Check(lambda _: arrived.set()), Hang()], IMAGES, times=2)
    asking = begin(house.gateway.ask(IMAGES, {"model": PICTURES, "prompt": "a cat", "n": 2}))
    await arrived.wait()
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    await house.gateway.log.until(IMAGES, 1)
    return 1


async def videos(house: Routed) -> int:
    """Made, refused by the upstream, lost and found, cancelled, failed."""
    gateway, (ark, _) = house.gateway, house.arks
    first = (await submit(gateway, model=CLIPS, duration=5)).json["id"]
    assert (await used(gateway, "key"))["concurrent"] == 1
    await ended(gateway, first)
    ark.enqueue(known_error("InvalidParameter"), TASKS)
    assert (await submit(gateway, model=CLIPS, duration=5)).status == 400
    ark.enqueue([Perform(), Reset()], TASKS)
    await ended(gateway, (await submit(gateway, model=CLIPS, duration=5)).json["id"])
    queued = (await submit(gateway, model=CLIPS, duration=5)).json["id"]
    assert (await cancel(gateway, queued)).status in (200, 409)
    await ended(gateway, queued)
    return 4


async def a_video_whose_client_leaves(house: Routed) -> int:
    arrived, go_on = asyncio.Event(), asyncio.Event()
    house.arks[0].enqueue([Check(lambda _: arrived.set()), Wait(go_on), *known_error("InternalServiceError")], TASKS)
    asking = begin(submit(house.gateway, model=CLIPS, duration=5))
    await arrived.wait()
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    assert (await used(house.gateway, "key"))["concurrent"] == 1
    go_on.set()
    await house.gateway.log.until("/videos/generations", 1)
    return 1


ENDINGS: dict[str, Ending] = {
    **{
        ending.__name__.replace("_", " "): ending
        for ending in (
            all_rest,
            no_money,
            over_a_money_limit,
            over_a_rate_of_the_account,
            no_slot,
            a_key_that_another_call_has,
            faults_of_the_client,
            a_body_that_does_not_come,
            a_stream_that_breaks,
            unreachable,
            a_head_that_went_out_early,
            leaves_at_once,
            leaves_while_the_next_is_asked,
            pictures,
            pictures_whose_client_leaves,
            videos,
            a_video_whose_client_leaves,
        )
    },
    **FAILURES,
    **LEAVING,
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_a_call_gives_back_what_it_took(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look_quickly(monkeypatch)
    async with attacked(tmp_path, server="early_head_seconds = 0.1\n" if "early" in name else "") as house:
        admitted = await ENDINGS[name](house)

        await assert_given_back(house, admitted)


@asynccontextmanager
async def attacked(directory: Path, **options: Any) -> AsyncIterator[Routed]:
    """Run a gateway whose key and account are limited in everything, in front of two upstreams, with short times."""
    upstream = "requests_per_second = 1000\nlist_requests_per_second = 200\n"
    times: Any = {"first_byte_seconds": 1, "idle_seconds": 1, "drain_after_seconds": 0.2, "body_seconds": 0.5}
    async with routed(directory, 2, upstream=upstream, poll_seconds="0.05, 0.1", **{**times, **options}) as house:
        await limited(house)
        yield house


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_pool_without_a_free_connection_is_passed_by(tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "Limits", partial(PoolLimits, connections_max=1))
    go_on = asyncio.Event()
    async with attacked(tmp_path) as house:
        both(house, [Wait(go_on), Answer()])
        await limit_key(
            house.gateway, requests_per_minute=6, tokens_per_minute=12_000, spend=SpendLimits(DAY, None, None), concurrent=4
        )
        await limit_account(house.gateway, requests_per_minute=7, tokens_per_minute=12_000, concurrent=4)
        waiting = []
        for ark in house.arks:  # the second call finds the first upstream's only connection taken
            waiting.append(begin(chat(house, stream=stream, messages=[{"role": "user", "content": ark.origin}])))
            await ark.wait_for_calls(1)

        crowded_out = await chat(house, stream=stream)
        go_on.set()
        replies = [await call for call in waiting]

        assert (crowded_out.status, crowded_out.error["message"]) == (503, "The model is unavailable just now")
        assert [reply.status for reply in replies] == [200, 200]
        assert (await chat(house, stream=stream)).status == 200
        await assert_given_back(house, 4)


@pytest.mark.parametrize("drain_seconds", [0.2, 5])
async def test_after_a_stop_nothing_is_taken_any_more(tmp_path: Path, drain_seconds: float) -> None:
    """One call waits for its first route, one for its second, one streams, two wait for pictures: the stop cuts them, or they end."""
    slow, cut = [Pause(0.5), *known_error("InternalServiceError")], drain_seconds < 0.5
    async with AsyncExitStack() as stack:
        async with attacked(tmp_path, drain_seconds=drain_seconds) as house:
            gateway, key = house.gateway, house.gateway.key
            await limit_key(gateway, requests_per_minute=6, concurrent=5)
            await limit_account(gateway, requests_per_minute=7, concurrent=5)
            house.arks[0].enqueue([*answer_sse(DELTA, end=False), Pause(0.5), Reset()])
            stream = await stack.enter_async_context(raw_chat(gateway.origin, key, model=ROUTED, stream=True))
            await stream.head()
            house.arks[0].enqueue(known_error("InternalServiceError"))
            house.arks[1].enqueue(slow)
            waits = [await stack.enter_async_context(raw_chat(gateway.origin, key, model=ROUTED))]
            await house.arks[1].wait_for_calls(1)
            house.arks[0].enqueue(slow)
            waits.append(await stack.enter_async_context(raw_chat(gateway.origin, key, model=ROUTED)))
            await house.arks[0].wait_for_calls(3)
            house.arks[0].enqueue([Hang()], IMAGES, times=2)
            picture = await stack.enter_async_context(connect(gateway.origin))
            fields = (("Authorization", f"Bearer {key}"), ("Content-Type", "application/json"))
            await picture.send(request("POST", f"/v1{IMAGES}", *fields, body=orjson.dumps({"model": PICTURES, "prompt": "p", "n": 2})))
            await house.arks[0].wait_for_calls(5)
            assert (await used(gateway, "key"))["concurrent"] == 4
        statuses = [(await client.head())[0] for client in waits] + [(await picture.answer()).status]
        _, is_whole = await stream.chunks()

    assert (statuses, is_whole) == ([503, 503 if cut else 200, 503], True)
    async with attacked(tmp_path) as house:
        house.gateway.key = key
        taken = await used(house.gateway, "account")
        assert (taken["concurrent"], taken["requests"], (await house.gateway.balance())[1]) == (0, 0, 0)
        assert await house.gateway.store.open_requests() == []
        assert orjson.loads(await ask_operator(house.gateway, "/operations/ledger.verify", {}))["holds"] is True


# the one try of what has rested


HEALTH = "health = { failures = 1, rest_seconds = [0.5, 60] }\n"
REST_SECONDS = 0.6
PATHS = {"chat": "/chat/completions", "pictures": IMAGES, "videos": TASKS}


async def ask(house: Routed, kind: str) -> Reply:
    """Make one call of a kind, with nothing that is special about it."""
    if kind == "videos":
        return await submit(house.gateway, model=CLIPS, duration=5)
    return await (chat(house) if kind == "chat" else house.gateway.ask(IMAGES, {"model": PICTURES, "prompt": "a cat"}))


async def is_poor(house: Routed, kind: str) -> int:
    await limit_key(house.gateway, spend=SpendLimits(Nanos(1), None, None))
    return (await ask(house, kind)).status


async def asks_too_often(house: Routed, kind: str) -> int:
    await limit_account(house.gateway, requests_per_minute=1)
    other = house.gateway.ask(IMAGES, {"prompt": "a cat"}) if kind == "chat" else house.gateway.chat()  # of models with one route
    assert (await other).status == 200
    return (await ask(house, kind)).status


async def leaves_before_the_answer(house: Routed, kind: str) -> int:
    arrived = asyncio.Event()
    house.arks[0].enqueue([Check(lambda _: arrived.set()), Hang()], PATHS[kind])
    asking = begin(ask(house, kind))
    await arrived.wait()
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    route = {"chat": PATHS["chat"], "pictures": IMAGES}[kind]
    await house.gateway.log.until(route, 2)
    return 0


async def sends_what_is_refused(house: Routed, kind: str) -> int:
    """No route is at fault: this one works again."""
    house.arks[0].enqueue(known_error("InvalidParameter"), PATHS[kind])
    return (await ask(house, kind)).status


@pytest.mark.parametrize(
    ("kind", "spoils", "status", "asked"),
    [
        *((kind, is_poor, 402, 0) for kind in PATHS),
        *((kind, asks_too_often, 429, 0) for kind in PATHS),
        *((kind, leaves_before_the_answer, 0, 1) for kind in ("chat", "pictures")),
        *((kind, sends_what_is_refused, 400, 1) for kind in PATHS),
    ],
)
async def test_a_call_that_shows_nothing_leaves_the_try_of_a_route_to_the_next(
    tmp_path: Path,
    kind: str,
    spoils: Callable[[Routed, str], Awaitable[int]],
    status: int,
    asked: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else a customer without money, who asks again and again, would keep everybody from a route that has long been well."""
    async with routed(tmp_path, 2, upstream=HEALTH, drain_after_seconds=0.1, model="") as house:
        house.arks[0].enqueue(known_error("InternalServiceError"), PATHS[kind])
        await ask(house, kind)
        await asyncio.sleep(REST_SECONDS)
        before = house.calls(PATHS[kind])

        caplog.set_level(logging.INFO)
        assert await spoils(house, kind) == status
        assert (status == 400) is any("answers again" in record.message for record in caplog.records)
        await limit_key(house.gateway)
        await limit_account(house.gateway)
        reply = await ask(house, kind)

        assert reply.status == 200
        after = house.calls(PATHS[kind])
        assert [now - then for now, then in zip(after, before, strict=True)] == [asked + 1, 0]
        seen = await scrape_socket(house.gateway.admin_socket)
        assert seen.value("llm_proxy_resting", upstream="u0") == 0
