"""Routes, upstreams and keys that a reload takes away, renames or mends while calls, videos and rests are under way."""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

from proxy.demo.ark import LAST_CHUNK, Answer, Check, Send, StandIn, Step, Wait, answer_sse, chunk, error, known_error
from tests.support.books import assert_books_balance
from tests.support.gateway import Reply
from tests.support.limits import limit_key
from tests.support.raw_chat import raw_chat
from tests.support.routes import CLIPS, PICTURES, ROUTED, Routed, keys_of, route, routed
from tests.support.scraping import scrape_socket
from tests.support.videos import SILENT, ask_operator, ended, submit, submitted

T = TypeVar("T")

COST = 20 * 800 + 12 * 2000
"""Of the stand-in's default answer, in nano-yuan."""
BOTH = f"{route(0, ', tier = 1')}, {route(1, ', tier = 2')}"
"""The routes of a gateway with two upstreams, as its file has them."""
RESTS_LONG = "health = { failures = 1, rest_seconds = [60, 60] }\n"
EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
END = (
    b'data: {"choices":[{"delta":{"content":"lo"},"finish_reason":"stop","index":0}],"id":"0217","usage":null}\n\n'
    b'data: {"choices":[],"id":"0217","usage":{"prompt_tokens":20,"completion_tokens":12,"total_tokens":32}}\n\n'
    b"data: [DONE]\n\n"
)
CANARY = "canary-9d1f"


async def reload(house: Routed, *changes: tuple[str, str]) -> list[str]:
    """Change the configuration, put it in force, and return the keys that changed."""
    path = house.gateway.directory / "config.toml"
    text = path.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    answer = orjson.loads(await ask_operator(house.gateway, "/operations/reload", {}))
    assert answer["needs_restart"] == []
    return [change["key"] for change in answer["changed"]]


def begin(call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    return asyncio.get_running_loop().create_task(call)


async def chat(house: Routed, text: str = "Hello", **fields: Any) -> Reply:
    return await house.gateway.chat(model=ROUTED, messages=[{"role": "user", "content": text}], **fields)


async def under_way(house: Routed, *then: Step) -> tuple["asyncio.Task[Reply]", asyncio.Event]:
    """Begin a call whose first upstream goes on with ``then`` once the event is set."""
    arrived, go_on = asyncio.Event(), asyncio.Event()
    house.arks[0].enqueue([Check(lambda _: arrived.set()), Wait(go_on), *then])
    asking = begin(chat(house))
    await arrived.wait()
    return asking, go_on


def rests(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if " rests for " in record.message]


# taken away


async def test_a_stream_by_a_route_that_is_taken_away_ends_well_and_the_next_call_goes_elsewhere(tmp_path: Path) -> None:
    finish = asyncio.Event()
    async with routed(tmp_path, 2) as house:
        house.arks[0].enqueue([*answer_sse(EVENT, end=False), Wait(finish), Send(chunk(END) + LAST_CHUNK)])
        async with raw_chat(house.gateway.origin, house.gateway.key, model=ROUTED, stream=True) as client:
            await client.head()
            await reload(house, (BOTH, route(1)))
            after = await chat(house)
            finish.set()
            _, is_whole = await client.chunks()

        assert (after.status, is_whole, house.calls()) == (200, True, [1, 1])
        receipts = [await house.receipt(str(line["request_id"])) for line in await house.gateway.log.until_chats(2)]
        assert [receipt["upstream"] for receipt in receipts] == ["u1", "u0"]
        await house.gateway.assert_charged(2 * COST)


@pytest.mark.parametrize("change", ["the first route", "the second route", "the model", "the upstream's name"])
async def test_a_call_that_fails_after_the_reload_goes_on_as_it_began(tmp_path: Path, change: str) -> None:
    """It keeps the routes and prices that it began with: what it holds was sized by them."""
    changes = {
        "the first route": (BOTH, route(1)),
        "the second route": (BOTH, route(0)),
        "the model": (f'id = "{ROUTED}"', 'id = "renamed"'),
        "the upstream's name": ("u1", "renamed"),
    }
    async with routed(tmp_path, 2) as house:
        asking, go_on = await under_way(house, *known_error("InternalServiceError"))
        await reload(house, changes[change])
        go_on.set()
        reply = await asking

        assert (reply.status, house.calls()) == (200, [1, 1])
        identity = str((await house.gateway.log.until_chats(1))[-1]["request_id"])
        assert await house.results(identity) == [("u0", "failed"), ("u1", "answered")]
        await house.gateway.assert_charged(COST)
        again = await house.gateway.chat(model="renamed" if change == "the model" else ROUTED)
        assert again.status == 200
        await assert_books_balance(house.gateway.store)


async def test_what_rests_is_forgotten_with_its_route_and_begins_well_when_it_is_back(tmp_path: Path) -> None:
    async with routed(tmp_path, 2, upstream=RESTS_LONG) as house:
        house.arks[0].enqueue(known_error("InternalServiceError"))
        await chat(house)
        await reload(house, (BOTH, route(1)))
        seen = await scrape_socket(house.gateway.admin_socket)
        await chat(house)
        await reload(house, (route(1), BOTH))
        back = await chat(house)

        assert seen.value("llm_proxy_resting", upstream="u0") == 0
        assert (back.status, house.calls()) == (200, [2, 2])
        await house.gateway.assert_charged(3 * COST)


async def test_an_upstream_with_videos_is_renamed_and_they_end_under_its_old_name(tmp_path: Path) -> None:
    async with routed(tmp_path, 1, poll_seconds="0.1, 0.1") as house:
        before = await submitted(house.gateway, model=CLIPS, duration=5)
        await reload(house, ("u0", "renamed"))
        after = await submitted(house.gateway, model=CLIPS, duration=5)

        ends = [(await ended(house.gateway, task))["status"] for task in (before, after)]

        assert ends == ["succeeded", "succeeded"]
        assert [(await house.receipt(task))["upstream"] for task in (before, after)] == ["u0", "renamed"]
        await house.gateway.assert_charged(2 * SILENT)


# another secret, another server


@pytest.mark.parametrize("secret", ["new-0", "default-0"], ids=["another", "the same"])
async def test_a_refusal_of_before_a_reload_does_not_count_after_it(tmp_path: Path, secret: str) -> None:
    """The secret is another one, or the upstream takes the same one again: who reloads has mended it."""
    async with routed(tmp_path, 2) as house:
        asking, go_on = await under_way(house, *known_error("AuthenticationError"))
        (tmp_path / "default-0.key").write_text(secret)
        assert await reload(house) == (["upstreams.u0.api_key"] if secret == "new-0" else [])
        go_on.set()
        passed_on = await asking
        after = await chat(house)

        assert (passed_on.status, after.status, house.calls()) == (200, 200, [2, 1])
        assert list(keys_of(house.arks[0].calls).elements()) == ["default-0", secret]
        seen = await scrape_socket(house.gateway.admin_socket)
        assert seen.value("llm_proxy_resting", upstream="u0") == 0
        await house.gateway.assert_charged(2 * COST)


async def test_an_upstream_that_moves_away_from_a_server_that_fails_is_asked_at_once(tmp_path: Path) -> None:
    async with routed(tmp_path, 2, upstream=RESTS_LONG) as house, StandIn() as elsewhere:
        old, go_on = await under_way(house, *known_error("InternalServiceError"))
        house.arks[0].enqueue(known_error("InternalServiceError"))
        await chat(house, "rests by it")
        moved = (f'[upstreams.u0]\nbase_url = "{house.arks[0].base_url}"', f'[upstreams.u0]\nbase_url = "{elsewhere.base_url}"')
        await reload(house, moved)
        first = await chat(house, "another")
        go_on.set()  # and so does the last call to the old server
        assert (await old).status == 200
        second = await chat(house, "yet another")

        assert (first.status, second.status) == (200, 200)
        assert ([call.path for call in elsewhere.calls], house.calls()) == (["/chat/completions"] * 2, [2, 2])
        await house.gateway.assert_charged(4 * COST)


# the only key of a pool


@pytest.mark.parametrize("refusal", ["AuthenticationError", "AccessDenied", "AccountOverdueError"])
async def test_the_only_key_is_refused_and_mended_by_a_reload(tmp_path: Path, refusal: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    said = error(401 if refusal == "AuthenticationError" else 403, refusal, f"the API key {CANARY} of account 2100{CANARY} is revoked")
    async with routed(tmp_path, 1, poll_seconds="0.1, 0.1") as house:
        (ark,) = house.arks
        before = await submitted(house.gateway, model=CLIPS, duration=5)
        key = ark.calls[0].headers["authorization"]
        ark.enqueue(lambda call: said if call.headers["authorization"] == key else [Answer()], "*", times=None)

        replies = [
            await chat(house),
            await chat(house, stream=True),
            await house.gateway.ask("/images/generations", {"model": PICTURES, "prompt": "a cat"}),
            await submit(house.gateway, model=CLIPS, duration=5),
        ]

        for reply in replies:
            assert (reply.status, reply.error["code"], reply.error["message"]) == (
                503,
                "MODEL_UNAVAILABLE",
                "The model is unavailable at present",
            )
            assert reply.headers["x-should-retry"] == "false"
            assert CANARY.encode() not in reply.body
        seen = await scrape_socket(house.gateway.admin_socket)
        assert seen.value("llm_proxy_upstream_errors_total", upstream="u0", cause="operator") == 4  # the alert that is critical
        assert seen.value("llm_proxy_resting", upstream="u0") >= 1
        assert any("upstream u0, key default" in line for line in rests(caplog))
        (tmp_path / "default-0.key").write_text("new-0")
        await reload(house)
        answered = [await chat(house), await chat(house, stream=True)]
        assert [reply.status for reply in answered] == [200, 200]
        assert (await ended(house.gateway, before))["status"] == "succeeded"
        assert (await scrape_socket(house.gateway.admin_socket)).value("llm_proxy_resting", upstream="u0") == 0
        await house.gateway.assert_charged(2 * COST + SILENT)


# all of it, under load


CALLS, AT_ONCE = 600, 12


async def test_reloads_under_load_lose_no_call_no_slot_and_no_connection(tmp_path: Path) -> None:
    """One upstream of two fails each third call, and is taken away, renamed, moved and given another secret all the while."""
    async with routed(tmp_path, 2, options=("", ""), upstream="health = { failures = 3, rest_seconds = [0.05, 0.1] }\n") as house:
        await limit_key(house.gateway, concurrent=AT_ONCE)  # a slot that is lost is missed by the next call
        ill, well = house.arks
        ill.enqueue(lambda call: known_error("InternalServiceError") if call.number % 3 == 0 else [Answer()], times=None)
        both, alone = f"{route(0)}, {route(1)}", route(1)
        changes = [
            (both, alone),
            (alone, both),
            ("u0", "renamed"),
            ("renamed", "u0"),
            ("connect_seconds = 2", "connect_seconds = 3"),
            ("connect_seconds = 3", "connect_seconds = 2"),
        ]
        numbers, statuses, reloads = iter(range(CALLS)), Counter[int](), 0

        async def customer() -> None:
            for number in numbers:
                statuses[(await chat(house, f"call {number}", stream=number % 3 == 0)).status] += 1

        calling = asyncio.gather(*(customer() for _ in range(AT_ONCE)))
        while not calling.done():
            (tmp_path / "default-0.key").write_text(f"key-{reloads // 2}")
            await reload(house, changes[reloads % len(changes)])
            reloads += 1
        await calling

        assert (statuses, reloads > 20, len(ill.calls) > CALLS / 10) == ({200: CALLS}, True, True)
        limits = (await house.gateway.ask("/account")).json["key"]["limits"]
        assert [limit["used"] for limit in limits] == [0]
        seen = await scrape_socket(house.gateway.admin_socket)
        assert seen.value("llm_proxy_upstream_connections", state="busy") == 0
        assert ill.open_connections + well.open_connections <= 2 * AT_ONCE
        await house.gateway.assert_charged(CALLS * COST)
