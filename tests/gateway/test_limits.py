"""Limits of keys and accounts through a whole gateway: what is refused, in which order, with which words and headers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.clock import SystemClock, iso
from proxy.core.limits import SpendLimits
from proxy.core.money import Nanos, parse_yuan
from proxy.demo.ark import LAST_CHUNK, Call, Check, Reset, Send, Settings, StandIn, Timeline, Wait, answer_sse, chunk, error
from tests.support.books import assert_books_balance
from tests.support.gateway import MODEL, Bench, Reply, bench
from tests.support.limits import limit_account, limit_key, roll_key
from tests.support.raw import connect, request
from tests.support.raw_chat import raw_chat
from tests.support.store import reference
from tests.support.videos import ended, quick_bench, submit, submitted

HELLO = [{"role": "user", "content": "Hello"}]
CHARGE = 40_000
"""20 prompt tokens at ¥0.8 a million, and 12 of the answer at ¥2.0."""
USED_TOKENS = 32
IMAGE_MODEL = "doubao-seedream-5-0-260128"
EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
END = (
    b'data: {"choices":[{"delta":{"content":"lo"},"finish_reason":"stop","index":0}],"id":"0217","usage":null}\n\n'
    b'data: {"choices":[],"id":"0217","usage":{"prompt_tokens":20,"completion_tokens":12,"total_tokens":32}}\n\n'
    b"data: [DONE]\n\n"
)
HOUR_MS = 3_600_000


def now_ms() -> int:
    return SystemClock().now_ms()


def told(reply: Reply, name: str = "requests") -> tuple[str, str]:
    return reply.headers[f"x-ratelimit-limit-{name}"], reply.headers[f"x-ratelimit-remaining-{name}"]


def rates_in(headers: Mapping[str, str]) -> set[str]:
    return {name.lower() for name in headers if name.lower().startswith("x-ratelimit")}


# what a key may do


async def test_refusals_come_in_their_order(gateway: Bench) -> None:
    """One key that is over everything; each time its first refusal is taken away, the next one shows."""
    over: dict[str, Any] = {"models": ("image-*",), "networks": ("192.0.2.0/24",), "requests_per_minute": 1}
    past = now_ms() - 1
    body: Any = {"model": "nothing", "messages": HELLO}

    async def code(body: Any = body) -> tuple[int, str]:
        reply = await gateway.ask("/chat/completions", body)
        return reply.status, reply.error["code"]

    await limit_key(gateway, **over, expires_at_ms=past, paused_at_ms=past)
    await limit_account(gateway, paused_at_ms=past)
    assert (await gateway.chat()).error["message"] == f"This API key expired on {iso(past)}"
    await limit_key(gateway, **over, paused_at_ms=past)
    assert (await gateway.chat()).error["message"] == "This API key is paused"
    await limit_key(gateway, **over)
    assert await code() == (403, "ACCOUNT_SUSPENDED")
    await limit_account(gateway)
    assert await code() == (403, "NETWORK_NOT_ALLOWED")
    over["networks"] = ("127.0.0.0/8",)
    await limit_key(gateway, **over)
    assert await code(b"{") == (400, "INVALID_JSON")
    assert await code() == (404, "MODEL_NOT_FOUND")
    assert await code(body | {"model": "doubao-seedance-2-0"}) == (403, "MODEL_NOT_ALLOWED")
    over["models"] = ("doubao-*",)
    await limit_key(gateway, **over)
    assert await code(body | {"model": "doubao-seedance-2-0"}) == (400, "WRONG_ENDPOINT")
    assert await code(body | {"model": MODEL, "n": 0}) == (400, "INVALID_PARAMETER")
    dear = body | {"model": MODEL, "max_tokens": 10_000_000, "n": 6}
    assert await code(dear) == (402, "INSUFFICIENT_BALANCE")  # and gives its request back
    assert (await gateway.chat()).status == 200
    assert await code(dear) == (429, "RATE_LIMITED")
    await gateway.assert_charged(CHARGE)


async def test_a_secret_that_was_rolled_ends_when_it_was_told_to(gateway: Bench) -> None:
    before = now_ms()
    secret = await roll_key(gateway, overlap_ms=0)

    refused = await gateway.chat()

    assert (refused.status, refused.error["code"]) == (401, "INVALID_API_KEY")
    told, _, at = refused.error["message"].partition(" expired on ")
    assert told == "This API key was replaced by another one, and"
    assert iso(before) <= at <= iso(now_ms())
    gateway.key = secret
    assert (await gateway.chat()).status == 200
    await gateway.assert_charged(CHARGE)


async def test_both_secrets_of_a_rolled_key_share_what_is_counted(gateway: Bench) -> None:
    await limit_key(gateway, requests_per_minute=2)
    old, gateway.key = gateway.key, await roll_key(gateway, overlap_ms=HOUR_MS)

    statuses = [
        (await gateway.ask("/chat/completions", {"model": MODEL, "messages": HELLO}, key=key)).status for key in (old, gateway.key)
    ]
    refused = await gateway.chat()

    assert (statuses, refused.status, told(refused)) == ([200, 200], 429, ("2", "0"))
    await gateway.assert_charged(2 * CHARGE)


async def test_an_account_ends_with_all_its_keys(gateway: Bench) -> None:
    await limit_account(gateway, expires_at_ms=now_ms() - 1)

    refused = await gateway.ask("/account")

    assert (refused.status, refused.error["code"]) == (401, "INVALID_API_KEY")
    assert refused.error["message"].startswith("The account of this API key expired on ")


async def test_a_pause_ends_no_stream_that_is_under_way(gateway: Bench) -> None:
    paused = asyncio.Event()
    gateway.ark.enqueue([*answer_sse(EVENT, end=False), Wait(paused), Send(chunk(END) + LAST_CHUNK)])
    async with raw_chat(gateway.origin, gateway.key, stream=True, stream_options={"include_usage": True}) as client:
        await client.head()
        await limit_key(gateway, paused_at_ms=now_ms())
        assert (await gateway.chat()).error["message"] == "This API key is paused"
        paused.set()
        pieces, is_whole = await client.chunks()

    assert (b"".join(pieces), is_whole) == (EVENT + END, True)
    await gateway.assert_charged(CHARGE)


async def test_a_refused_call_is_logged_with_its_key(gateway: Bench) -> None:
    await limit_account(gateway, paused_at_ms=now_ms())

    await gateway.chat()

    (line,) = gateway.log.chats
    assert (line["account"], line["status"], line["code"]) == ("acme", 403, "ACCOUNT_SUSPENDED")


# models


async def test_only_the_models_of_a_key_are_listed_and_sold(gateway: Bench) -> None:
    await limit_key(gateway, models=("doubao-pro-*", "tiered/*"))
    await limit_account(gateway, models=("doubao-*",))

    listed = [model["id"] for model in (await gateway.ask("/models")).json["data"]]
    public = {model["id"] for model in (await gateway.ask("/models/public", key=None)).json["data"]}
    statuses = {
        "/models/tiered/chat": (await gateway.ask("/models/tiered/chat")).status,
        f"/models/{MODEL}": (await gateway.ask(f"/models/{MODEL}")).status,
    }
    refused = [
        await gateway.chat(model="tiered/chat"),
        await gateway.ask("/images/generations", {"prompt": "a lighthouse"}),
        await submit(gateway),
    ]

    assert listed == [MODEL]
    assert public > {MODEL, "tiered/chat", IMAGE_MODEL}
    assert statuses == {"/models/tiered/chat": 403, f"/models/{MODEL}": 200}
    for reply in refused:
        assert (reply.status, reply.error["code"], reply.error["type"]) == (403, "MODEL_NOT_ALLOWED", "permission_error")
        assert reply.error["param"] == "model"
    await gateway.assert_charged(0)


# networks


async def from_network(gateway: Bench, *forwarded: str) -> str:
    """Return the code of a call whose proxies wrote these values of ``X-Forwarded-For``; empty: it was answered."""
    async with connect(gateway.origin) as client:
        fields = [("Authorization", f"Bearer {gateway.key}"), *(("X-Forwarded-For", value) for value in forwarded)]
        answer = await client.ask(request("GET", "/v1/account", *fields))
    return "" if answer.status == 200 else str(answer.error["code"])


async def test_a_key_for_some_networks_is_refused_from_others(gateway: Bench) -> None:
    await limit_key(gateway, networks=("10.0.0.0/8", "::1/128"))
    refused = [await from_network(gateway), await from_network(gateway, "10.0.0.1")]  # anybody can write the header
    await limit_key(gateway, networks=("127.0.0.0/8",))
    await limit_account(gateway, networks=("127.0.0.1/32",))
    admitted = await from_network(gateway, "192.0.2.1")
    await limit_account(gateway, networks=("10.0.0.0/8",))

    assert (refused, admitted) == (["NETWORK_NOT_ALLOWED"] * 2, "")
    assert await from_network(gateway) == "NETWORK_NOT_ALLOWED"  # the stricter of the two counts


BEHIND = 'trusted_proxies = ["127.0.0.1", "10.0.0.0/8", "unix"]'


async def test_behind_trusted_proxies_the_right_most_other_address_counts(tmp_path: Path) -> None:
    async with bench(tmp_path, server=BEHIND) as gateway:
        await limit_key(gateway, networks=("192.0.2.0/24",))

        codes = {
            forwarded: await from_network(gateway, *forwarded)
            for forwarded in [
                ("192.0.2.7",),
                ("192.0.2.7, 10.1.1.1",),
                ("192.0.2.7", "10.1.1.1"),
                ("203.0.113.5, 192.0.2.7, 10.1.1.1",),
                ("::ffff:192.0.2.7",),
                ("192.0.2.7:55123",),
                # left of the right-most one that is not trusted stands what its sender likes
                ("192.0.2.7, 203.0.113.5",),
                ("192.0.2.7, 203.0.113.5, 10.1.1.1",),
                ("192.0.2.7, unknown",),
                ("10.1.1.1",),
                (),
                ("",),
                (", ".join(["192.0.2.7", *["10.1.1.1"] * 32]),),
            ]
        }

    admitted = [forwarded for forwarded, code in codes.items() if not code]
    assert admitted == list(codes)[:6]
    assert set(codes.values()) == {"", "NETWORK_NOT_ALLOWED"}


async def test_over_a_unix_socket_only_a_trusted_proxy_can_say_who_calls(tmp_path: Path) -> None:
    async def code(forwarded: str | None) -> int:
        headers = {"Authorization": f"Bearer {gateway.key}"} | ({} if forwarded is None else {"X-Forwarded-For": forwarded})
        connector = aiohttp.UnixConnector(path=str(tmp_path / "api.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://gateway/v1/account", headers=headers) as answer,
        ):
            return answer.status

    async with bench(tmp_path, listen=f"unix:{tmp_path}/api.sock", server='trusted_proxies = ["127.0.0.1"]') as gateway:
        await limit_key(gateway, networks=("0.0.0.0/0", "::/0"))
        untrusted = [await code(None), await code("192.0.2.7")]
        path = tmp_path / "config.toml"
        path.write_text(path.read_text().replace('["127.0.0.1"]', '["unix"]'))
        connector = aiohttp.UnixConnector(path=str(gateway.admin_socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://gateway/operations/reload", json={}) as reloaded,
        ):
            changed = [change["key"] for change in (await reloaded.json())["changed"]]
        trusted = [await code(None), await code("192.0.2.7")]

    assert changed == ["server.trusted_proxies"]
    assert (untrusted, trusted) == ([403, 403], [403, 200])


# requests a minute


async def test_of_calls_at_once_as_many_pass_as_the_bucket_holds_and_the_next_when_it_was_told(gateway: Bench) -> None:
    await limit_key(gateway, requests_per_minute=600)
    await limit_account(gateway, requests_per_minute=60)  # the stricter of the two

    replies = await asyncio.gather(*(gateway.chat() for _ in range(100)))

    passed, refused = ([reply for reply in replies if reply.status == status] for status in (200, 429))
    assert len(passed) + len(refused) == 100
    assert 60 <= len(passed) <= 60 + 20  # one more each second
    for reply in refused:
        assert (reply.error["code"], reply.error["type"]) == ("RATE_LIMITED", "rate_limit_error")
        assert reply.error["message"].startswith("This account may make 60 requests a minute; this one passes in ")
        assert 0 < int(reply.headers["retry-after-ms"]) <= 1000
        assert reply.headers["Retry-After"] == "1"
        assert told(reply) == ("60", "0")
    last = await gateway.chat()
    while last.status == 200:
        last = await gateway.chat()
    await asyncio.sleep(int(last.headers["retry-after-ms"]) / 1000)
    assert (await gateway.chat()).status == 200
    await assert_books_balance(gateway.store)


async def test_a_call_without_money_gives_its_request_back(gateway: Bench) -> None:
    await limit_key(gateway, requests_per_minute=1, concurrent=1, tokens_per_minute=10_000_000)
    for _ in range(3):
        refused = await gateway.chat(max_tokens=10_000_000, n=6)
        assert (refused.status, told(refused), told(refused, "tokens")) == (402, ("1", "1"), ("10000000", "10000000"))

    assert (await gateway.chat()).status == 200
    await gateway.assert_charged(CHARGE)


async def test_only_paid_calls_count_and_a_repeated_answer_does_not(gateway: Bench) -> None:
    await limit_key(gateway, requests_per_minute=2)
    key = {"Idempotency-Key": "once"}
    body = {"model": MODEL, "messages": HELLO}

    first = await gateway.ask("/chat/completions", body, headers=key)
    again = await gateway.ask("/chat/completions", body, headers=key)
    looked = await gateway.ask("/models")
    refused = await gateway.ask("/nothing/here")

    assert (first.body, told(first)) == (again.body, ("2", "1"))
    assert again.headers["idempotent-replayed"] == "true"
    assert (told(again), told(looked)) == (("2", "1"), ("2", "1"))
    assert (refused.status, rates_in(refused.headers)) == (404, set())  # no route, so no key was looked at
    await gateway.assert_charged(CHARGE)


async def test_every_answer_to_a_key_with_a_rate_tells_what_is_left_and_no_other_does(gateway: Bench) -> None:
    requests = {f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")}
    tokens = {name.replace("requests", "tokens") for name in requests}
    await limit_key(gateway, models=("*",), concurrent=5)
    assert not rates_in((await gateway.chat()).headers)
    await limit_key(gateway, requests_per_minute=6)
    assert rates_in((await gateway.chat(n=0)).headers) == requests
    await limit_key(gateway, tokens_per_minute=6)
    assert rates_in((await gateway.ask("/usage/req_nothing")).headers) == tokens
    await limit_key(gateway, tokens_per_minute=6, requests_per_minute=6)

    gateway.ark.enqueue(answer_sse(EVENT + END))
    async with raw_chat(gateway.origin, gateway.key, stream=True, max_tokens=1) as client:
        status, stream = await client.head()
        await client.chunks()
    shared = (await gateway.ask("/account", headers={"Origin": "https://app.example"})).headers["Access-Control-Expose-Headers"]

    assert (status, rates_in(stream)) == (200, requests | tokens)
    assert (stream["x-ratelimit-remaining-requests"], stream["x-ratelimit-remaining-tokens"]) == ("5", "5")
    assert stream["x-ratelimit-reset-requests"].endswith(("ms", "s"))
    assert {name.strip() for name in shared.split(",")} > requests | tokens
    await gateway.assert_charged(2 * CHARGE)


# tokens a minute


async def test_tokens_are_counted_by_their_bound_and_corrected_by_the_usage(gateway: Bench) -> None:
    await limit_key(gateway, tokens_per_minute=60_000)
    asked = asyncio.Event()
    gateway.ark.enqueue([*answer_sse(EVENT, end=False), Wait(asked), Send(chunk(END) + LAST_CHUNK)])

    async with raw_chat(gateway.origin, gateway.key, stream=True, max_tokens=50_000, n=1) as client:
        _, headers = await client.head()
        under_way = int(headers["x-ratelimit-remaining-tokens"])
        refused = await gateway.chat(max_tokens=20_000)
        asked.set()
        await client.chunks()
    settled = int(told(await gateway.ask("/account"), "tokens")[1])

    # "Hello" has 5 bytes and its message a few more: at least one token
    assert 9_990 <= under_way <= 9_999 + 1_000  # 1,000 more each second
    assert (refused.status, refused.error["code"]) == (429, "RATE_LIMITED")
    assert refused.error["message"].startswith("This key may use 60000 tokens a minute, and this request counts 2000")
    assert int(refused.headers["retry-after-ms"]) <= 10_010
    assert settled >= 60_000 - USED_TOKENS
    await gateway.assert_charged(CHARGE)


async def test_a_call_larger_than_its_bucket_passes_when_it_is_full_and_the_debt_is_paid_by_waiting(gateway: Bench) -> None:
    await limit_key(gateway, tokens_per_minute=10)

    first = await gateway.chat(max_tokens=1_000)
    second = await gateway.chat(max_tokens=1_000)

    assert (first.status, told(first, "tokens")) == (200, ("10", "0"))
    assert first.headers["x-ratelimit-reset-tokens"].startswith("3m1")  # 32 of 10 a minute: 3.2 minutes
    assert second.status == 429
    assert 180 < int(second.headers["Retry-After"]) <= 192
    assert "this one passes in 3m1" in second.error["message"]
    await gateway.assert_charged(CHARGE)


# requests at a time


def _seen(arrived: asyncio.Event, _: Call) -> None:
    arrived.set()


async def occupied(gateway: Bench) -> int:
    """Return how many slots of the key are taken, as the customer reads it."""
    limits = (await gateway.ask("/account")).json["key"]["limits"]
    return next(int(limit["used"]) for limit in limits if limit["kind"] == "concurrent")


async def test_a_slot_is_taken_until_its_stream_is_settled(gateway: Bench) -> None:
    await limit_key(gateway, concurrent=1)
    go_on = asyncio.Event()
    gateway.ark.enqueue([*answer_sse(EVENT, end=False), Wait(go_on), Send(chunk(END) + LAST_CHUNK)])

    async with raw_chat(gateway.origin, gateway.key, stream=True) as client:
        await client.head()
        refused = await gateway.chat()
        go_on.set()
        await client.chunks()
    passed = await gateway.chat()

    assert (refused.status, refused.error["code"], refused.headers["Retry-After"]) == (429, "RATE_LIMITED", "1")
    assert refused.error["message"] == "This key may have 1 requests under way at a time, and has 1"
    assert (passed.status, await occupied(gateway)) == (200, 0)
    await gateway.assert_charged(2 * CHARGE)


async def test_a_slot_comes_back_however_its_call_ends(tmp_path: Path) -> None:
    async with bench(tmp_path, disconnect="cancel") as gateway:
        await limit_key(gateway, concurrent=1)
        for steps in (error(500, "InternalServiceError", "?"), [Reset()], error(400, "InvalidParameter", "no"), answer_sse(EVENT)):
            gateway.ark.enqueue(steps)
            async with raw_chat(gateway.origin, gateway.key, stream=True) as client:
                await client.head()
        await gateway.log.until_chats(4)
        assert await occupied(gateway) == 0
        # a client that leaves in the middle, and one that leaves before anything came
        for begins in (answer_sse(EVENT, end=False), []):
            arrived = asyncio.Event()
            gateway.ark.enqueue([Check(partial(_seen, arrived)), *begins, Wait(asyncio.Event())])
            lines = len(gateway.log.chats)
            async with raw_chat(gateway.origin, gateway.key, stream=True) as client:
                await arrived.wait()
                if begins:
                    await client.head()
                assert await occupied(gateway) == 1
            await gateway.log.until_chats(lines + 1)
            assert await occupied(gateway) == 0
        for path, body in (("/images/generations", {"prompt": "p", "n": 2}), ("/images/generations", {"prompt": " "})):
            await gateway.ask(path, body)
            assert await occupied(gateway) == 0
        await assert_books_balance(gateway.store)


async def test_a_video_has_its_slot_until_it_is_settled_across_a_restart_too(tmp_path: Path) -> None:
    async with StandIn(Settings(timeline=Timeline(1000, 1000))) as ark:
        async with quick_bench(tmp_path, ark) as gateway:
            first = await submitted(gateway)
            await limit_key(gateway, concurrent=1)  # counts what began before it
            refused = await submit(gateway)
            key = gateway.key
            assert (refused.status, refused.error["code"], await occupied(gateway)) == (429, "RATE_LIMITED", 1)
        async with quick_bench(tmp_path, ark) as gateway:
            gateway.key = key  # a second start adds one more
            assert await occupied(gateway) == 1
            assert (await submit(gateway)).status == 429
            assert (await gateway.chat()).status == 429
            for task_id in list(ark.videos.tasks):
                for status in ("running", "succeeded"):
                    ark.videos.advance(task_id, status)
            assert (await ended(gateway, first))["status"] == "succeeded"
            assert await occupied(gateway) == 0
            assert (await submit(gateway)).status == 200
            await assert_books_balance(gateway.store)


async def test_a_video_that_is_refused_gives_its_slot_back(gateway: Bench) -> None:
    await limit_key(gateway, concurrent=1, requests_per_minute=1)
    await gateway.store.credit_account("acme", Nanos(-parse_yuan("100")), "", 0, reference())

    refused = [await submit(gateway) for _ in range(2)]

    assert [reply.status for reply in refused] == [402, 402]
    assert (await occupied(gateway), told(refused[-1])) == (0, ("1", "1"))
    await assert_books_balance(gateway.store)


# what a customer reads


async def test_a_customer_reads_the_limits_of_his_key_and_of_his_account(gateway: Bench) -> None:
    plain = (await gateway.ask("/account")).json
    expires = now_ms() + HOUR_MS
    spend = SpendLimits(parse_yuan("5"), None, parse_yuan("50.5"))
    await limit_key(
        gateway, expires_at_ms=expires, models=("doubao-*",), requests_per_minute=1, tokens_per_minute=60, concurrent=3, spend=spend
    )
    await limit_account(gateway, requests_per_minute=2)
    await gateway.chat(max_tokens=100)

    full = (await gateway.ask("/account")).json

    key, limits = full.pop("key"), full.pop("limits")
    assert (plain.pop("key")["limits"], plain.pop("limits")) == ([], [])
    assert full == plain | {"balance": "99.99996", "available": "99.99996"}
    resets = [limit.pop("resets_at") for limit in key["limits"]]
    tokens = key["limits"][3]["used"]
    assert USED_TOKENS - 10 <= tokens <= USED_TOKENS  # one fewer each second
    assert key == {
        "id": (await gateway.store.keys())[0].id,
        "name": "test",
        "expires_at": iso(expires),
        "models": ["doubao-*"],
        "limits": [
            {"kind": "spend", "per": "day", "limit": "5.00", "used": "0.00004"},
            {"kind": "spend", "per": "total", "limit": "50.50", "used": "0.00004"},
            {"kind": "requests", "per": "minute", "limit": 1, "used": 1},
            {"kind": "tokens", "per": "minute", "limit": 60, "used": tokens},
            {"kind": "concurrent", "per": None, "limit": 3, "used": 0},
        ],
    }
    assert resets[0].endswith("T16:00:00.000Z")  # midnight at UTC+8
    assert (resets[1], resets[4], all(resets[2:4])) == (None, None, True)
    assert [(limit["kind"], limit["limit"], limit["used"]) for limit in limits] == [("requests", 2, 1)]
    await gateway.assert_charged(CHARGE)


@pytest.fixture
async def sidecar(tmp_path: Path) -> AsyncIterator[Bench]:
    """A gateway that asks for no key."""
    async with bench(tmp_path, server='auth = "none"') as running:
        account = await running.store.credit_account("default", parse_yuan("1"), "", 0, reference())
        running.account_id = account.account.id
        yield running


async def test_where_no_key_is_asked_for_the_limits_of_the_account_count(sidecar: Bench) -> None:
    unlimited = await sidecar.ask("/account", key=None)
    await limit_account(sidecar, requests_per_minute=1, models=(MODEL,))

    passed = await sidecar.ask("/chat/completions", {"model": MODEL, "messages": HELLO}, key=None)
    refused = await sidecar.ask("/chat/completions", {"model": MODEL, "messages": HELLO}, key=None)
    account = (await sidecar.ask("/account", key=None)).json

    assert (unlimited.json["key"], unlimited.json["limits"]) == (None, [])
    assert (passed.status, refused.status, told(refused)) == (200, 429, ("1", "0"))
    assert (account["key"], account["limits"][0]["limit"]) == (None, 1)
    await limit_account(sidecar, paused_at_ms=now_ms())
    assert (await sidecar.ask("/models", key=None)).error["code"] == "ACCOUNT_SUSPENDED"
    await assert_books_balance(sidecar.store)
