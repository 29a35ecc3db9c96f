"""A model with several routes: what makes the gateway ask the next one, what never does, and what is paid and told."""

import asyncio
from pathlib import Path

import orjson
import pytest

from proxy.demo.ark import LAST_CHUNK, chunk, error, known_error
from proxy.demo.ark.script import Close, Hang, Pause, Perform, Reset, Send, Step, Wait, answer_head, answer_json, answer_sse
from tests.support.gateway import Reply
from tests.support.routes import CHAT_MODELS, ROUTED, Routed, routed

HTML = b"<html><body>Bad Gateway</body></html>"
MESSAGES = [{"role": "user", "content": "Hello"}]
COST = 20 * 800 + 12 * 2000
"""Of the stand-in's default answer, in nano-yuan."""


def html(status: int) -> list[Step]:
    return [Send(answer_head(status, "text/html", body_bytes=len(HTML)) + HTML)]


def event(body: bytes) -> bytes:
    return b"data: " + body + b"\n\n"


ERROR_EVENT = event(orjson.dumps({"error": {"code": "ServerOverloaded", "message": "busy", "type": "TooManyRequests", "param": ""}}))
_DELTA = {"index": 0, "delta": {"content": "Hi", "role": "assistant"}}
CONTENT_EVENT = event(orjson.dumps({"id": "0217", "object": "chat.completion.chunk", "choices": [_DELTA]}))

MOVING: dict[str, tuple[list[Step], str]] = {
    "429": (known_error("RateLimitExceeded.EndpointRPMExceeded"), "limited"),
    "429 of the account": (known_error("AccountRateLimitExceeded"), "key_limited"),
    "429 without a body": ([Send(answer_head(429, "application/json", body_bytes=0))], "limited"),
    "500": (known_error("InternalServiceError"), "failed"),
    "502 told": (error(502, "InternalServiceError", "bad"), "failed"),
    "503 told": (error(503, "InternalServiceError", "bad", wrapped=False), "failed"),
    "401": (known_error("AuthenticationError"), "key_refused"),
    "overdue": (known_error("AccountOverdueError"), "key_refused"),
    "403": (known_error("AccessDenied"), "model_refused"),
    "404": (known_error("ModelNotOpen"), "model_refused"),
    "the set limit": (known_error("SetLimitExceeded"), "model_refused"),
}
STAYING: dict[str, list[Step]] = {
    "504": error(504, "InternalServiceError", "late"),
    "408": error(408, "InternalServiceError", "late"),
    "500 of a proxy": html(500),
    "502 of a proxy": html(502),
    "503 of a proxy": html(503),
    "429 of a proxy": html(429),
    "401 of a proxy": html(401),
    "403 of a proxy": html(403),
    "404 of a proxy": html(404),
    "500 without a body": [Send(answer_head(500, "application/json", body_bytes=0))],
    "a 500 of a code that is none": answer_json(500, {"error": {"message": "oops"}}),
    "a reset before the head": [Perform(), Reset()],
    "an end before the head": [Perform(), Close()],
    "a reset within the head": [Send(b"HTTP/1.1 200 OK\r\nContent-"), Reset()],
    "a 200 that is cut": [Send(answer_head(200, "application/json", body_bytes=100) + b"{"), Reset()],
    "a 200 that is no answer": answer_json(200, {"a": 1}),
    "a status of nobody's": answer_json(418, {"error": {"code": "Teapot", "message": "x"}}),
}


async def asked(house: Routed, *, stream: bool = False, **fields: object) -> tuple[Reply, str]:
    """Ask the routed model; return the reply and the request's id."""
    gateway = house.gateway
    count = len(gateway.log.chats)
    reply = await gateway.chat(model=ROUTED, stream=stream, **fields)
    line = (await gateway.log.until_chats(count + 1))[-1]
    return reply, str(line["request_id"])


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("case", MOVING)
async def test_where_nothing_was_bought_the_next_route_is_asked_and_paid_once(tmp_path: Path, case: str, stream: bool) -> None:
    script, result = MOVING[case]
    async with routed(tmp_path) as house:
        house.arks[0].enqueue(script)

        reply, identity = await asked(house, stream=stream)

        assert reply.status == 200
        assert house.calls() == [1, 1, 0]
        assert await house.results(identity) == [("u0", result), ("u1", "answered")]
        receipt = await house.receipt(identity)
        assert (receipt["route"], receipt["upstream"], receipt["key_name"]) == (f"u1/{CHAT_MODELS[1]}", "u1", "default")
        first, second = (ark.calls[0].json for ark in house.arks[:2])
        assert (first.pop("model"), second.pop("model")) == CHAT_MODELS[:2]
        assert first == second
        await house.gateway.assert_charged(COST)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("case", STAYING)
async def test_where_the_call_may_have_run_nothing_else_is_asked(tmp_path: Path, case: str, stream: bool) -> None:
    async with routed(tmp_path) as house:
        house.arks[0].enqueue(STAYING[case])

        reply, identity = await asked(house, stream=stream)

        assert reply.status in (500, 503)
        assert house.calls() == [1, 0, 0]
        assert await house.results(identity) == []
        assert (await house.receipt(identity))["upstream"] == "u0"
        await house.gateway.assert_charged(0)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_fault_of_the_customers_is_told_and_asked_of_nobody_else(tmp_path: Path, stream: bool) -> None:
    async with routed(tmp_path) as house:
        house.arks[0].enqueue(known_error("InvalidArgumentError.UnknownRole"))

        reply, _ = await asked(house, stream=stream)

        assert (reply.status, house.calls()) == (400, [1, 0, 0])


async def test_an_error_in_a_200_counts_like_a_status_where_nothing_came_before_it(tmp_path: Path) -> None:
    async with routed(tmp_path) as house:
        house.arks[0].enqueue(answer_sse(ERROR_EVENT))
        first, identity = await asked(house, stream=True)
        house.arks[0].enqueue(answer_json(200, {"error": {"code": "ServerOverloaded", "message": "busy"}}))

        assert first.status == 200
        assert b"[DONE]" in first.body
        assert b"ServerOverloaded" not in first.body
        assert await house.results(identity) == [("u0", "limited"), ("u1", "answered")]
        assert house.calls() == [1, 1, 0]
        await house.gateway.assert_charged(COST)


async def test_an_error_in_a_json_200_moves_on_too(tmp_path: Path) -> None:
    async with routed(tmp_path) as house:
        house.arks[0].enqueue(answer_json(200, {"error": {"code": "ServerOverloaded", "message": "busy"}}))

        reply, identity = await asked(house)

        assert (reply.status, await house.results(identity)) == (200, [("u0", "limited"), ("u1", "answered")])


async def test_a_stream_that_has_begun_is_never_asked_for_again(tmp_path: Path) -> None:
    async with routed(tmp_path) as house:
        house.arks[0].enqueue(answer_sse(CONTENT_EVENT + ERROR_EVENT))

        reply, _ = await asked(house, stream=True)

        assert (reply.status, house.calls()) == (200, [1, 0, 0])
        assert b"MODEL_UNAVAILABLE" in reply.body


async def test_an_upstream_that_cannot_be_reached_is_passed_by_with_all_its_routes(tmp_path: Path) -> None:
    async with routed(tmp_path, keys=("main", "spare")) as house:
        house.arks[0].stop_listening()

        reply, identity = await asked(house)

        assert reply.status == 200
        assert await house.results(identity) == [("u0", "unreachable"), ("u1", "answered")]
        await house.gateway.assert_charged(COST)


async def test_when_all_fail_the_last_ones_error_is_told_and_nothing_charged(tmp_path: Path) -> None:
    async with routed(tmp_path) as house:
        house.arks[0].enqueue(known_error("InternalServiceError"))
        house.arks[1].enqueue(known_error("AuthenticationError"))
        house.arks[2].enqueue(known_error("ServerOverloaded"))

        reply, identity = await asked(house)

        assert (reply.status, reply.error["message"]) == (503, "The model is at its limit just now")
        assert await house.results(identity) == [("u0", "failed"), ("u1", "key_refused"), ("u2", "limited")]
        assert house.calls() == [1, 1, 1]
        await house.gateway.assert_charged(0)


async def test_a_long_body_is_sent_once_but_goes_on_where_it_could_not_be_sent(tmp_path: Path) -> None:
    text = "x" * 300_000
    async with routed(tmp_path) as house:
        house.arks[0].enqueue(known_error("InternalServiceError"))
        refused, _ = await asked(house, messages=[{"role": "user", "content": text}])
        house.arks[0].stop_listening()
        house.arks[0].drop_idle()
        answered, identity = await asked(house, messages=[{"role": "user", "content": text}])

        assert (refused.status, answered.status) == (503, 200)
        assert house.calls() == [1, 1, 0]
        assert house.arks[1].calls[0].json["messages"][0]["content"] == text
        assert await house.results(identity) == [("u0", "unreachable"), ("u1", "answered")]


async def test_all_attempts_share_the_time_to_the_first_byte(tmp_path: Path) -> None:
    async with routed(tmp_path, first_byte_seconds=1.5) as house:
        house.arks[0].enqueue([Pause(1.0), *known_error("InternalServiceError")])
        house.arks[1].enqueue([Perform(), Hang()])
        loop = asyncio.get_running_loop()
        began = loop.time()

        reply, identity = await asked(house)

        assert loop.time() - began < 2.4
        assert reply.status == 503
        assert await house.results(identity) == [("u0", "failed"), ("u1", "unknown")]
        assert house.calls() == [1, 1, 0]


async def test_a_head_that_went_out_early_does_not_keep_from_asking_the_next(tmp_path: Path) -> None:
    async with routed(tmp_path, server="early_head_seconds = 0.2") as house:
        house.arks[0].enqueue([Pause(0.6), *known_error("InternalServiceError")])

        reply, identity = await asked(house, stream=True)

        assert reply.status == 200
        assert b"[DONE]" in reply.body
        assert await house.results(identity) == [("u0", "failed"), ("u1", "answered")]
        await house.gateway.assert_charged(COST)


@pytest.mark.parametrize("first", ["nothing", "the head", "a comment"])
async def test_nor_does_it_where_the_error_is_the_first_event(tmp_path: Path, first: str) -> None:
    begins = {
        "nothing": [Pause(0.5), *answer_sse(ERROR_EVENT)],
        "the head": [*answer_sse(b"", end=False), Pause(0.5), Send(chunk(ERROR_EVENT) + LAST_CHUNK)],
        "a comment": [*answer_sse(b": queued\n\n", end=False), Pause(0.5), Send(chunk(ERROR_EVENT) + LAST_CHUNK)],
    }
    async with routed(tmp_path, server="early_head_seconds = 0.2") as house:
        house.arks[0].enqueue(begins[first])
        house.arks[1].enqueue(begins[first])

        reply, identity = await asked(house, stream=True)

        assert reply.status == 200
        assert reply.body.startswith(b": ")
        assert reply.body.count(b"[DONE]") == 1
        assert b"error" not in reply.body
        assert await house.results(identity) == [("u0", "limited"), ("u1", "limited"), ("u2", "answered")]
        await house.gateway.assert_charged(COST)


@pytest.mark.parametrize("pause_seconds", [0.0, 0.5])
async def test_json_that_comes_instead_of_a_stream_has_a_head_of_its_own(tmp_path: Path, pause_seconds: float) -> None:
    """Its body may take longer than the early head waits: that would be the head of a stream, and the client would wait for its end."""
    usage = {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32}
    whole = orjson.dumps({"id": "0217", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}], "usage": usage})
    head = answer_head(200, "application/json", body_bytes=len(whole))
    async with routed(tmp_path, 2, server="early_head_seconds = 0.2") as house:
        house.arks[0].enqueue([Send(head), Pause(pause_seconds), Send(whole)])

        reply, _ = await asked(house, stream=True)

        assert (reply.status, reply.headers["Content-Type"], reply.body) == (200, "application/json", whole)
        await house.gateway.assert_charged(COST)


async def test_json_that_comes_after_an_early_head_is_an_error_within_the_stream(tmp_path: Path) -> None:
    async with routed(tmp_path, 2, server="early_head_seconds = 0.2") as house:
        house.arks[0].enqueue([Pause(0.5), *answer_json(200, {"id": "0217", "choices": []})])

        reply, _ = await asked(house, stream=True)

        assert (reply.status, reply.body.count(b"data:"), house.calls()) == (200, 1, [1, 0])
        assert b"INTERNAL_ERROR" in reply.body
        assert b"0217" not in reply.body
        await house.gateway.assert_charged(0)


async def test_when_all_fail_after_an_early_head_the_last_error_is_told_within_the_stream(tmp_path: Path) -> None:
    async with routed(tmp_path, 2, server="early_head_seconds = 0.2") as house:
        for ark in house.arks:
            ark.enqueue([Pause(0.5), *answer_sse(ERROR_EVENT)])

        reply, identity = await asked(house, stream=True)

        assert (reply.status, reply.body.count(b"data:")) == (200, 1)
        assert b"MODEL_UNAVAILABLE" in reply.body
        assert await house.results(identity) == [("u0", "limited"), ("u1", "limited")]
        await house.gateway.assert_charged(0)


async def test_a_client_that_leaves_while_the_first_thinks_is_not_answered_by_the_next(tmp_path: Path) -> None:
    release = asyncio.Event()
    async with routed(tmp_path) as house:
        house.arks[0].enqueue([Wait(release), *known_error("InternalServiceError")])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await house.gateway.chat(model=ROUTED)
        release.set()
        await house.gateway.log.until_chats(1)

        assert house.calls() == [1, 0, 0]
        assert (await house.gateway.balance())[1] == 0


async def test_one_key_for_one_answer_however_many_were_asked(tmp_path: Path) -> None:
    async with routed(tmp_path) as house:
        house.arks[0].enqueue(known_error("InternalServiceError"))
        body = {"model": ROUTED, "messages": MESSAGES}

        first = await house.gateway.ask("/chat/completions", body, headers={"Idempotency-Key": "k1"})
        again = await house.gateway.ask("/chat/completions", body, headers={"Idempotency-Key": "k1"})

        assert (first.status, again.body) == (200, first.body)
        assert house.calls() == [1, 1, 0]
        await house.gateway.assert_charged(COST)


async def test_a_model_of_one_route_is_asked_once(tmp_path: Path) -> None:
    async with routed(tmp_path, many=1) as house:
        house.arks[0].enqueue(known_error("InternalServiceError"))

        reply, identity = await asked(house)

        assert (reply.status, house.calls(), await house.results(identity)) == (503, [1], [])
        assert (await house.receipt(identity))["key_name"] == "default"
