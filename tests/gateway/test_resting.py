"""What rests is passed by and never refused for that; keys take turns; pictures go on like chats; videos keep their key."""

import asyncio
import logging
from pathlib import Path

import pytest

from proxy.demo.ark import TASKS, known_error
from proxy.demo.ark.script import Perform, Reset, error
from tests.support.gateway import Reply
from tests.support.routes import CLIPS, PICTURES, ROUTED, Routed, keys_of, routed
from tests.support.scraping import scrape_socket
from tests.support.videos import ask_operator, ended, stored, submitted

SHARED = ("", "", "")
"""Options of three routes of one tier and weight."""
IMAGE_NANOS = 180_000_000


async def chat(house: Routed, text: str = "Hello", **fields: object) -> Reply:
    return await house.gateway.chat(model=ROUTED, messages=[{"role": "user", "content": text}], **fields)


async def reload(house: Routed, before: str, after: str) -> None:
    """Put a changed configuration in force."""
    path = house.gateway.directory / "config.toml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    await ask_operator(house.gateway, "/operations/reload", {})


async def test_calls_are_shared_out_by_weight_and_keys_take_turns(tmp_path: Path) -> None:
    async with routed(tmp_path, 2, options=(", weight = 3", ""), keys=("main", "spare")) as house:
        for number in range(16):
            assert (await chat(house, f"Hello {number}")).status == 200

        assert house.calls() == [12, 4]
        assert keys_of(house.arks[0].calls) == {"main-0": 6, "spare-0": 6}


async def test_a_conversation_keeps_its_route_and_key(tmp_path: Path) -> None:
    async with routed(tmp_path, options=SHARED, keys=("main", "spare")) as house:
        for number in range(9):
            await chat(house, "the same beginning")
            await chat(house, f"another {number}")
            await chat(house, f"whatever {number}", prompt_cache_key="c-1")

        for which in ("the same beginning", "c-1"):
            asked = [call for ark in house.arks for call in ark.calls if which.encode() in call.body]
            assert (len(asked), len(keys_of(asked))) == (9, 1)


async def test_a_conversation_keeps_its_route_and_key_through_a_reload(tmp_path: Path) -> None:
    async with routed(tmp_path, options=SHARED, keys=("main", "spare")) as house:
        for number in range(4):
            await chat(house, "the same beginning")
            await chat(house, f"another {number}")
        await reload(house, "connect_seconds = 2\nidle_seconds = 5", "connect_seconds = 3\nidle_seconds = 6")
        for number in range(4):
            await chat(house, "the same beginning")
            await chat(house, f"yet another {number}")

        asked = [call for ark in house.arks for call in ark.calls if b"the same beginning" in call.body]
        assert (len(asked), len(keys_of(asked))) == (8, 1)


async def test_a_refused_key_rests_until_a_reload_and_the_other_is_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with routed(tmp_path, 1, keys=("main", "spare")) as house:
        (ark,) = house.arks
        ark.enqueue(known_error("AuthenticationError"))
        for number in range(4):
            assert (await chat(house, f"Hello {number}")).status == 200
        refused, *others = (call.headers["authorization"] for call in ark.calls)
        assert refused not in others
        await ask_operator(house.gateway, "/operations/reload", {})
        for number in range(4):
            await chat(house, f"Hello again {number}")

        assert len(keys_of(ark.calls[5:])) == 2
        told = [record.message for record in caplog.records if record.name == "proxy.upstream.routing"]
        assert len(told) == 2
        assert "rests for 600 s: upstream 401 AuthenticationError" in told[0]
        assert told[1].endswith("is asked again")


async def test_so_many_failures_let_it_rest_and_one_call_finds_out_that_it_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    health = "health = { failures = 2, rest_seconds = [0.3, 0.3] }"
    async with routed(tmp_path, 2, upstream=health) as house:
        house.arks[0].enqueue(known_error("InternalServiceError"), times=2)
        for number in range(5):
            assert (await chat(house, f"Hello {number}")).status == 200
        assert house.calls() == [2, 5]
        seen = await scrape_socket(house.gateway.admin_socket)
        assert seen.value("llm_proxy_resting", upstream="u0", key="default") == 1
        await asyncio.sleep(0.35)
        for number in range(3):
            await chat(house, f"Hello again {number}")

        assert house.calls() == [5, 5]
        told = [record.message for record in caplog.records if record.name == "proxy.upstream.routing"]
        assert [line.split(f"model {ROUTED} ")[1] for line in told] == [
            "rests for 0.3 s: upstream 500 InternalServiceError",
            "answers again",
        ]
        seen = await scrape_socket(house.gateway.admin_socket)
        assert seen.value("llm_proxy_resting", upstream="u0") == 0
        attempts = {
            result: seen.value("llm_proxy_route_attempts_total", upstream="u0", result=result) for result in ("failed", "answered")
        }
        assert attempts == {"failed": 2, "answered": 3}


async def test_the_only_route_is_asked_although_it_rests_but_not_while_its_own_retry_after_runs(tmp_path: Path) -> None:
    async with routed(tmp_path, 1) as house:
        (ark,) = house.arks
        ark.enqueue(known_error("ServerOverloaded"))
        refused, answered = await chat(house), await chat(house)
        assert (refused.status, answered.status, len(ark.calls)) == (503, 200, 2)

        ark.enqueue(error(429, "ServerOverloaded", "busy", headers={"retry-after": "30"}))
        told, at_once = await chat(house), await chat(house)

        assert (told.status, at_once.status, len(ark.calls)) == (503, 503, 3)
        assert at_once.error["code"] == "MODEL_UNAVAILABLE"
        assert 28 <= float(at_once.headers["Retry-After"]) <= 30
        assert (await house.gateway.balance())[1] == 0


async def test_a_retry_after_of_another_route_is_waited_for_elsewhere(tmp_path: Path) -> None:
    async with routed(tmp_path, 2) as house:
        house.arks[0].enqueue(error(429, "ServerOverloaded", "busy", headers={"retry-after": "30"}))

        replies = [await chat(house, f"Hello {number}") for number in range(3)]

        assert [reply.status for reply in replies] == [200, 200, 200]
        assert house.calls() == [1, 3]


# pictures


async def paint(house: Routed, **fields: object) -> Reply:
    return await house.gateway.ask("/images/generations", {"model": PICTURES, "prompt": "a cat", **fields})


@pytest.mark.parametrize("code", ["InternalServiceError", "ServerOverloaded", "AuthenticationError", "ModelNotOpen"])
async def test_pictures_go_on_to_the_next_route_and_are_paid_once(tmp_path: Path, code: str) -> None:
    async with routed(tmp_path) as house:
        house.arks[0].enqueue(known_error(code), "/images/generations", times=2)

        reply = await paint(house, n=2)

        assert (reply.status, len(reply.json["data"])) == (200, 2)
        assert house.calls("/images/generations") == [2, 2, 0]
        receipt = await house.receipt(reply.json["request_id"])
        assert (receipt["upstream"], len(receipt["attempts"])) == ("u1", 4)
        await house.gateway.assert_charged(2 * IMAGE_NANOS)


async def test_a_picture_that_may_have_been_made_is_asked_for_once(tmp_path: Path) -> None:
    async with routed(tmp_path) as house:
        house.arks[0].enqueue([Perform(), Reset()], "/images/generations")

        reply = await paint(house)

        assert (reply.status, house.calls("/images/generations")) == (503, [1, 0, 0])
        await house.gateway.assert_charged(0)


async def test_pictures_pass_by_what_cannot_be_reached(tmp_path: Path) -> None:
    async with routed(tmp_path) as house:
        house.arks[0].stop_listening()

        reply = await paint(house)

        assert (reply.status, house.calls("/images/generations")) == (200, [0, 1, 0])
        await house.gateway.assert_charged(IMAGE_NANOS)


# videos


async def test_a_video_stays_with_the_key_that_it_was_submitted_by_even_where_it_is_taken_out(tmp_path: Path) -> None:
    async with routed(tmp_path, 1, keys=("main", "spare"), poll_seconds="0.1, 0.1") as house:
        (ark,) = house.arks
        tasks = [await submitted(house.gateway, model=CLIPS, duration=5) for _ in range(2)]
        by_key = [str((await house.receipt(task))["key_name"]) for task in tasks]
        assert sorted(by_key) == ["main", "spare"]
        await reload(house, 'main = "file:main-0.key", ', "")
        first = len(ark.calls)
        for task in tasks:
            assert (await ended(house.gateway, task))["status"] == "succeeded"

        submits = ark.calls_to(TASKS, "POST")
        assert [call.headers["authorization"] for call in submits] == [f"Bearer {key}-0" for key in by_key]
        for task, key in zip(tasks, by_key, strict=True):
            upstream_id = (await stored(house.gateway, task)).upstream_id
            asked = [call for call in ark.calls[first:] if upstream_id in call.target]
            assert asked
            assert keys_of(asked).keys() == {f"{key}-0"}
