"""Hostile strings and shapes in every field and header of every endpoint: no answer is a 500 of the gateway's."""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.core.images import request as images
from proxy.core.money import parse_yuan
from proxy.core.video import request as videos
from proxy.store.sqlite import open_store
from tests.support.books import assert_books_balance
from tests.support.gateway import MODEL, Bench, Reply, bench
from tests.support.injections import INJECTIONS

pytestmark = pytest.mark.asyncio(loop_scope="module")

IMAGES, VIDEOS = "doubao-seedream-5-0-260128", "doubao-seedance-1-5-pro-251215"
RICH = parse_yuan("1000000")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rich(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """A gateway whose account can pay for whatever is asked; its books are checked at the end.

    It draws from a generator of its own: Hypothesis, in another thread, takes a draw in the midst of its own for one of a strategy's.
    """
    own = random.Random()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(random, "random", own.random)
        patched.setattr(random, "getrandbits", own.getrandbits)
        async with bench(tmp_path_factory.mktemp("rich"), balance=RICH, poll_seconds="60, 60") as gateway:
            yield gateway
            await assert_books_balance(gateway.store)


def assert_not_our_fault(reply: Reply, what: object) -> None:
    assert reply.status < 500 or (reply.status == 503 and reply.error["code"] == "MODEL_UNAVAILABLE"), (what, reply.status, reply.body)
    if reply.status >= 400:
        assert reply.error["message"]


# SQL and similar languages.


def goes_through_with(text: str) -> dict[str, dict[str, Any]]:
    """Return a call of each endpoint with the text in all free text fields."""
    said = [{"role": "user", "content": text, "name": text}]
    return {
        "/chat/completions": {"model": MODEL, "messages": said, "user": text, "stop": [text], "metadata": {text: text}},
        "/images/generations": {"prompt": f"a {text}", "model": IMAGES, "user": text, "metadata": {text: text}},
        "/videos/generations": {"prompt": f"a {text}", "model": VIDEOS, "user": text, "metadata": {text: text}},
    }


def chosen_by(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return calls with the text in fields that select or price something."""
    said = [{"role": "user", "content": text}]
    return [
        ("/chat/completions", {"model": text, "messages": said}),
        ("/chat/completions", {"model": MODEL, "messages": [{"role": text, "content": text}]}),
        ("/chat/completions", {"model": MODEL, "messages": said, "service_tier": text, "n": text, "max_tokens": text}),
        ("/images/generations", {"prompt": "x", "model": text}),
        ("/images/generations", {"prompt": "x", "size": text, "n": text}),
        ("/videos/generations", {"prompt": "x", "model": text}),
        ("/videos/generations", {"prompt": "x", "resolution": text, "duration": text, "service_tier": text}),
    ]


def places_with(text: str) -> list[tuple[str, str]]:
    part = quote(text, safe="")
    return [
        ("GET", f"/models/{part}"),
        ("GET", f"/usage/{part}"),
        ("GET", f"/videos/tasks/{part}?wait={part}"),
        ("DELETE", f"/videos/tasks/{part}"),
        ("GET", f"/videos/tasks?limit={part}&offset={part}"),
    ]


def header_of(text: str) -> str:
    """Return the part of a text that a header can carry."""
    return "".join(char for char in text if " " <= char <= "~").strip() or "x"


async def inject(gateway: Bench, text: str) -> None:
    word = header_of(text)
    headers = {"User-Agent": word, "x-request-id": word, "Referer": word, "Cookie": word}
    for path, body in goes_through_with(text).items():
        key = f"{path[1]}{INJECTIONS.index(text)}{word}".replace(" ", "/**/")
        reply = await gateway.ask(path, body, headers=headers | {"Idempotency-Key": key})
        assert reply.status == 200, (path, text, reply.body)
    for path, body in chosen_by(text):
        assert_not_our_fault(await gateway.ask(path, body, headers=headers), (path, text))
    for method, path in places_with(text):
        assert_not_our_fault(await gateway.ask(path, method=method), (method, path))
    assert (await gateway.ask("/models", key=word)).status in (400, 401)


async def shape_of(gateway: Bench) -> tuple[list[str], list[str]]:
    """Return the names of the accounts and the ids of the keys in the file."""
    assert (await gateway.ask("/account")).json["name"] == "acme"
    store = await open_store(gateway.directory / "gateway.db", read_only=True)
    try:
        accounts = [account.name for account in await store.accounts()]
        keys = [key.id for key in await store.keys()]
    finally:
        await store.close()
    return accounts, keys


@pytest.mark.timeout(300)
async def test_five_hundred_injections_in_every_field_and_header_are_only_strings(rich: Bench) -> None:
    assert len(INJECTIONS) >= 500
    before = await shape_of(rich)

    for start in range(0, len(INJECTIONS), 10):
        await asyncio.gather(*(inject(rich, text) for text in INJECTIONS[start : start + 10]))

    assert await shape_of(rich) == before
    assert len([task async for task in all_tasks(rich)]) >= len(INJECTIONS)
    await assert_books_balance(rich.store)


async def all_tasks(gateway: Bench) -> AsyncIterator[dict[str, Any]]:
    offset = 0
    while page := (await gateway.ask(f"/videos/tasks?limit=100&offset={offset}")).json["data"]:
        for task in page:
            yield task
        offset += len(page)


# Every shape.


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["auto", "user", "text", "image_url", MODEL, IMAGES, VIDEOS, "flex", "default", "1024x1024", "720p", "adaptive", "https://x/y.png"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer"]) | JSON, "content": st.text(max_size=30) | JSON},
    optional={"tool_calls": JSON, "tool_call_id": JSON, "name": JSON},
)
FIELDS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "/chat/completions": st.fixed_dictionaries(
        {"model": st.just(MODEL) | JSON, "messages": st.lists(MESSAGE, min_size=1, max_size=3) | JSON},
        optional=dict.fromkeys(
            ("stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "tools", "tool_choice", "response_format",
             "thinking", "reasoning_effort", "temperature", "seed", "stop", "service_tier", "user", "logprobs", "metadata"),
            JSON,
        ),
    ),
    "/images/generations": st.fixed_dictionaries(
        {"prompt": st.text(max_size=30) | JSON},
        optional=dict.fromkeys([*sorted(images.PUBLISHED_KEYS - {"prompt"}), "watermark", "stream"], JSON),
    ),
    "/videos/generations": st.fixed_dictionaries(
        {"prompt": st.text(max_size=30) | JSON},
        optional=dict.fromkeys([*sorted(videos.PUBLISHED_KEYS - {"prompt"}), "watermark", "content"], JSON),
    ),
}  # fmt: skip


def as_bytes(fields: dict[str, Any]) -> bytes:
    """Return JSON as written by clients whose integers are not limited to 64 bits."""
    try:
        return orjson.dumps(fields)
    except TypeError:  # an integer beyond 64 bits, a lone surrogate
        return repr_json(fields).encode("utf-8", "surrogatepass")


def repr_json(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{repr_json(key)}:{repr_json(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(repr_json, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return '"' + "".join(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else char for char in value) + '"'
    return repr(value)


@pytest.mark.parametrize("path", FIELDS)
async def test_no_shape_of_a_body_is_the_gateways_fault(rich: Bench, path: str) -> None:
    loop = asyncio.get_running_loop()
    statuses: set[int] = set()

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(fields=FIELDS[path])
    def ask(fields: dict[str, Any]) -> None:
        reply = asyncio.run_coroutine_threadsafe(rich.ask(path, as_bytes(fields)), loop).result(30)
        statuses.add(reply.status)
        assert_not_our_fault(reply, fields)

    await asyncio.to_thread(ask)
    assert {200, 400} <= statuses, "the shapes are all of one kind"
    await assert_books_balance(rich.store)


# The loop.


class Lag:
    """The longest delay of the loop while it is watched."""

    def __init__(self) -> None:
        self.seconds_max = 0.0


@asynccontextmanager
async def watched() -> AsyncIterator[Lag]:
    """Measure every millisecond how late the loop is."""
    loop, lag = asyncio.get_running_loop(), Lag()
    handle: asyncio.TimerHandle

    def look(due: float) -> None:
        nonlocal handle
        lag.seconds_max = max(lag.seconds_max, loop.time() - due)
        handle = loop.call_later(0.001, look, loop.time() + 0.001)

    handle = loop.call_later(0.001, look, loop.time() + 0.001)
    try:
        yield lag
    finally:
        handle.cancel()


HEAVY: dict[str, bytes] = {
    # values that parse slowly for their size, as large as is accepted
    "small values": b'{"a":[' + b"1," * 990_000 + b"1]}",
    "small objects": b'{"a":[' + b'{"b":1},' * 49_000 + b"1]}",
    "deep arrays": b'{"a":[' + (b"[" * 90 + b"]" * 90 + b",") * 1_000 + b"1]}",
    "keys": b"{" + b",".join(b'"k%d":1' % number for number in range(400_000)) + b"}",
    "escapes": b'{"a":"' + b"\\u0041" * 1_000_000 + b'"}',
    "long numbers": b'{"a":[' + (b"0." + b"1" * 300 + b",") * 10_000 + b"1]}",
    "messages": b'{"model":"doubao-pro-32k","messages":[' + b'{"role":"user","content":"x"},' * 9_999 + b'{"role":"robot"}]}',
    "parts": b'{"model":"doubao-pro-32k","messages":[{"role":"user","content":[' + b'{"type":"text","text":"x"},' * 20_000 + b"1]}]}",
    "crowds": b"[" * 5_000_000,
}


@pytest.mark.parametrize("document", HEAVY.values(), ids=HEAVY.keys())
async def test_a_heavy_body_holds_the_loop_up_no_longer_than_a_few_times_its_parsing(refusing: Bench, document: bytes) -> None:
    """Parsing cannot be interrupted. All other work on a body must not take a multiple of that time."""
    gc.collect()
    gc.freeze()  # as `serve` does: else each large body would trigger a collection of the whole test run's heap
    reference = min([seconds_of(lambda: orjson.loads(document)) for _ in range(TRIES)])
    moved = min([await lag_of(lambda: refusing.ask("/models/" + "x" * 100)) for _ in range(TRIES)])

    lag = min([await lag_of(lambda: refusing.ask("/chat/completions", document)) for _ in range(TRIES)])

    assert lag < 6 * reference + 10 * moved + COPIES * seconds_of(lambda: bytearray(document)), (lag, reference, moved)


TRIES = 5
"""The fastest try counts, since other load on the machine only adds time."""
COPIES = 20
"""Allowed copies of a body's bytes, from the client's buffers to ours: the test's client runs on the same loop."""


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    with suppress(orjson.JSONDecodeError):
        work()
    return time.perf_counter() - began


async def lag_of(ask: Callable[[], Awaitable[Reply]]) -> float:
    async with watched() as lag:
        reply = await ask()
    assert reply.status in (400, 404)
    return lag.seconds_max
