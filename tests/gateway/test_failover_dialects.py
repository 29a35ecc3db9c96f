"""A model with routes of two dialects: what each is sent, whose words count, what is paid, and what its customer reads of it."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.demo.ark import known_error
from proxy.demo.ark.script import Step, answer_json, answer_sse, error
from tests.support.books import assert_books_balance
from tests.support.gateway import Reply
from tests.support.routes import CHAT_MODELS, ROUTED, Routed, routed

OPENAI = 'dialect = "openai"\n'
QUIET = OPENAI + "asks_usage = false\n"
"""A service that refuses to be asked for the usage of a stream."""
ARK_FIRST, OPENAI_FIRST = ("", OPENAI), (OPENAI, "")
TEXT = "你好, hello!"
"""14 bytes of UTF-8: 4 tokens of 4 bytes."""
ARKS_COST = 20 * 800 + 12 * 2000
"""The stand-in's default answer to a call that asks for no thought, in nano-yuan."""
THOUGHTLESS = {"type": "disabled"}
DEEPSEEKS = {"prompt_tokens": 30, "completion_tokens": 7, "prompt_cache_hit_tokens": 10, "prompt_cache_miss_tokens": 20}
DEEPSEEKS_COST = 20 * 800 + 10 * 160 + 7 * 2000
CANARY = "canary-9d1f"
"""In every word of an upstream's that no customer may read."""


def openai_error(status: int, code: str | None, kind: str = "server_error", message: str = "") -> list[Step]:
    return answer_json(status, {"error": {"message": f"{message} {CANARY} org-{CANARY}", "type": kind, "code": code, "param": None}})


def ark_error(status: int, code: str) -> list[Step]:
    return error(status, code, f"the account 2100{CANARY} has a problem")


def events(usage: dict[str, Any] | None, *, id_: str = "chatcmpl-1") -> list[bytes]:
    """Return the events of OpenAI's stream; the one of the usage comes before the last."""
    said: list[dict[str, Any]] = [
        {"id": id_, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in ("你好", ", hel", "lo!")
    ]
    said.append({"id": id_, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    told = [] if usage is None else [{"id": id_, "choices": [], "usage": usage}]
    return [*(b"data: %b\n\n" % orjson.dumps(each) for each in (*said, *told)), b"data: [DONE]\n\n"]


def openai_answer(stream: bool, usage: dict[str, Any] | None) -> tuple[list[Step], bytes]:
    """Return an answer of OpenAI's, and what a customer who did not ask for the usage reads of it."""
    if stream:
        told = events(usage)
        return answer_sse(b"".join(told)), b"".join(told if usage is None else [*told[:-2], told[-1]])
    message = {"role": "assistant", "content": TEXT}
    whole: dict[str, Any] = {"id": "chatcmpl-1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    whole |= {} if usage is None else {"usage": usage}
    return answer_json(200, whole), orjson.dumps(whole)


async def asked(house: Routed, **fields: Any) -> tuple[Reply, dict[str, Any]]:
    """Ask the routed model; return the reply and the operator's receipt."""
    gateway = house.gateway
    count = len(gateway.log.chats)
    reply = await gateway.chat(model=ROUTED, **fields)
    line = (await gateway.log.until_chats(count + 1))[-1]
    return reply, await house.receipt(str(line["request_id"]))


def told(receipt: dict[str, Any]) -> list[tuple[str, str]]:
    return [(attempt["upstream"], attempt["result"]) for attempt in receipt["attempts"]]


STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])

ARKS_TROUBLES = {
    "500": (ark_error(500, "InternalServiceError"), "failed"),
    "429": (ark_error(429, "RateLimitExceeded.EndpointRPMExceeded"), "limited"),
    "401": (ark_error(401, "AuthenticationError"), "key_refused"),
    "404": (ark_error(404, "ModelNotOpen"), "model_refused"),
}
OPENAIS_TROUBLES = {
    "500": (openai_error(500, None), "failed"),
    "429": (openai_error(429, "rate_limit_exceeded", "requests"), "limited"),
    "429 of the quota": (openai_error(429, "insufficient_quota", "insufficient_quota"), "key_refused"),
    "401": (openai_error(401, "invalid_api_key", "invalid_request_error"), "key_refused"),
    "404": (openai_error(404, "model_not_found", "invalid_request_error"), "model_refused"),
}


@STREAMS
@pytest.mark.parametrize("case", ARKS_TROUBLES)
async def test_from_ark_to_openai(tmp_path: Path, case: str, stream: bool) -> None:
    script, result = ARKS_TROUBLES[case]
    steps, read = openai_answer(stream, DEEPSEEKS)
    async with routed(tmp_path, 2, each=ARK_FIRST) as house:
        house.arks[0].enqueue(script)
        house.arks[1].enqueue(steps)

        reply, receipt = await asked(house, stream=stream, temperature=0.5)

        assert (reply.status, reply.body) == (200, read)
        assert told(receipt) == [("u0", result), ("u1", "answered")]
        assert (receipt["route"], receipt["upstream"], receipt["usage_source"]) == (f"u1/{CHAT_MODELS[1]}", "u1", "reported")
        assert (receipt["usage"]["prompt_tokens"], receipt["usage"]["cached_tokens"]) == (30, 10)
        await house.gateway.assert_charged(DEEPSEEKS_COST)


@STREAMS
@pytest.mark.parametrize("case", OPENAIS_TROUBLES)
async def test_from_openai_to_ark(tmp_path: Path, case: str, stream: bool) -> None:
    script, result = OPENAIS_TROUBLES[case]
    async with routed(tmp_path, 2, each=OPENAI_FIRST) as house:
        house.arks[0].enqueue(script)

        reply, receipt = await asked(house, stream=stream, thinking=THOUGHTLESS)

        assert reply.status == 200
        assert CANARY.encode() not in reply.body
        assert told(receipt) == [("u0", result), ("u1", "answered")]
        assert (receipt["route"], receipt["usage_source"]) == (f"u1/{CHAT_MODELS[1]}", "reported")
        await house.gateway.assert_charged(ARKS_COST)


# on the wire


@STREAMS
@pytest.mark.parametrize("each", [("", QUIET), (QUIET, "")], ids=["ark first", "openai first"])
async def test_each_is_sent_what_it_takes_and_nothing_else_differs(tmp_path: Path, each: tuple[str, str], stream: bool) -> None:
    options = {"stream_options": {"include_usage": True, "chunk_include_usage": False}} if stream else {}
    async with routed(tmp_path, 2, each=each) as house:
        house.arks[0].enqueue(openai_error(500, None) if each[0] else ark_error(500, "InternalServiceError"))
        house.arks[1].enqueue(openai_answer(stream, None if each[1] else DEEPSEEKS)[0])

        reply, _ = await asked(house, stream=stream, user="someone", **options)

        assert reply.status == 200
        bodies = [ark.calls[0].json for ark in house.arks]
        assert [body.pop("model") for body in bodies] == list(CHAT_MODELS[:2])
        sent = [body.pop("stream_options", None) for body in bodies]
        assert sent == [None if lines else options.get("stream_options") for lines in each]
        assert bodies[0] == bodies[1]
        assert [ark.calls[0].headers["authorization"] for ark in house.arks] == ["Bearer default-0", "Bearer default-1"]
        await assert_books_balance(house.gateway.store)


@STREAMS
async def test_one_that_tells_no_usage_is_paid_by_its_bytes_though_the_first_would_have_told(tmp_path: Path, stream: bool) -> None:
    async with routed(tmp_path, 2, each=("", QUIET)) as house:
        house.arks[0].enqueue(ark_error(500, "InternalServiceError"))
        steps, read = openai_answer(stream, None)
        house.arks[1].enqueue(steps)

        reply, receipt = await asked(house, stream=stream, messages=[{"role": "user", "content": "x" * 81}])

        assert (reply.status, reply.body) == (200, read)
        assert (receipt["usage_source"], receipt["upstream"]) == ("estimated", "u1")
        await house.gateway.assert_charged(21 * 800 + 4 * 2000)


async def test_one_that_tells_its_usage_is_paid_by_it_though_the_first_never_does(tmp_path: Path) -> None:
    async with routed(tmp_path, 2, each=(QUIET, "")) as house:
        house.arks[0].enqueue(openai_error(503, None))

        _, receipt = await asked(house, stream=True, thinking=THOUGHTLESS)

        assert house.arks[1].calls[0].json["stream_options"] == {"include_usage": True}
        assert receipt["usage_source"] == "reported"
        await house.gateway.assert_charged(ARKS_COST)


@pytest.mark.parametrize("each", [("", QUIET), (QUIET, ""), ARK_FIRST, OPENAI_FIRST])
@STREAMS
async def test_a_long_body_that_could_not_be_sent_goes_to_the_other_dialect(
    tmp_path: Path, each: tuple[str, str], stream: bool
) -> None:
    """Nothing of it was sent, so nothing was bought; and it is not kept twice: one is made of the other."""
    text = "x" * 400_000 + "你好"
    async with routed(tmp_path, 2, each=each) as house:
        house.arks[0].stop_listening()
        house.arks[1].enqueue(openai_answer(stream, DEEPSEEKS)[0])

        reply, receipt = await asked(house, stream=stream, messages=[{"role": "developer", "content": text}], user="someone")

        assert (reply.status, told(receipt)) == (200, [("u0", "unreachable"), ("u1", "answered")])
        sent = house.arks[1].calls[0].json
        asks = {"stream_options": {"include_usage": True}} if stream and "false" not in each[1] else {}
        said = {"model": CHAT_MODELS[1], "messages": [{"role": "system", "content": text}], "stream": stream, "user": "someone"}
        assert sent == said | asks
        await house.gateway.assert_charged(DEEPSEEKS_COST)


async def test_a_long_body_that_was_sent_is_sent_to_nobody_else(tmp_path: Path) -> None:
    async with routed(tmp_path, 2, each=("", QUIET)) as house:
        house.arks[0].enqueue(ark_error(500, "InternalServiceError"))

        reply, receipt = await asked(house, messages=[{"role": "user", "content": "x" * 400_000}])

        assert (reply.status, house.calls(), receipt["upstream"]) == (503, [1, 0], "u0")
        assert CANARY.encode() not in reply.body
        await house.gateway.assert_charged(0)


# whose words count


async def test_the_words_of_the_other_dialect_prove_nothing_at_ark(tmp_path: Path) -> None:
    async with routed(tmp_path, 2, each=ARK_FIRST) as house:
        house.arks[0].enqueue(openai_error(500, None))

        reply, receipt = await asked(house)

        assert (reply.status, house.calls(), told(receipt)) == (503, [1, 0], [])
        assert reply.headers["x-should-retry"] == "false"  # it may have run
        await house.gateway.assert_charged(0)


async def test_an_error_is_read_in_the_dialect_of_the_route_that_tells_it(tmp_path: Path) -> None:
    """Ark's error comes first, then one of OpenAI's from its own route, which is proof there, then one at Ark's, which is none."""
    async with routed(tmp_path, 4, each=("", OPENAI, "", OPENAI)) as house:
        house.arks[0].enqueue(ark_error(500, "InternalServiceError"))
        house.arks[1].enqueue(openai_error(500, None))
        house.arks[2].enqueue(openai_error(500, None))

        reply, receipt = await asked(house)

        assert (reply.status, house.calls()) == (503, [1, 1, 1, 0])
        assert told(receipt) == [("u0", "failed"), ("u1", "failed"), ("u2", "unknown")]
        await house.gateway.assert_charged(0)


@STREAMS
@pytest.mark.parametrize(
    ("first", "last", "status", "message"),
    [
        (ark_error(401, "AuthenticationError"), openai_error(429, "rate_limit_exceeded"), 503, "The model is at its limit just now"),
        (ark_error(500, "InternalServiceError"), openai_error(401, "invalid_api_key"), 503, "The model is unavailable at present"),
        (ark_error(500, "InternalServiceError"), openai_error(503, None), 503, "The model is unavailable just now"),
    ],
)
async def test_when_both_fail_the_last_ones_error_is_told_in_our_words(
    tmp_path: Path, first: list[Step], last: list[Step], status: int, message: str, stream: bool
) -> None:
    async with routed(tmp_path, 2, each=ARK_FIRST) as house:
        house.arks[0].enqueue(first)
        house.arks[1].enqueue(last)

        reply, receipt = await asked(house, stream=stream)

        assert (reply.status, reply.error["code"], reply.error["message"]) == (status, "MODEL_UNAVAILABLE", message)
        assert CANARY.encode() not in reply.body + repr(reply.headers).encode()
        assert (receipt["upstream"], len(receipt["attempts"])) == ("u1", 2)
        await house.gateway.assert_charged(0)


@STREAMS
async def test_a_refusal_by_the_second_is_told_by_our_field_names_and_not_by_its_model(tmp_path: Path, stream: bool) -> None:
    async with routed(tmp_path, 3, each=("", OPENAI, "")) as house:
        house.arks[0].enqueue(known_error("ServerOverloaded"))
        said = {"message": f"`{CHAT_MODELS[1]}` takes top_p up to 1", "type": "invalid_request_error", "code": None, "param": "top_p"}
        house.arks[1].enqueue(answer_json(400, {"error": said}))

        reply, receipt = await asked(house, stream=stream, top_p=3)

        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "INVALID_PARAMETER", "top_p")
        assert CHAT_MODELS[1].encode() not in reply.body
        assert (house.calls(), told(receipt)) == ([1, 1, 0], [("u0", "limited"), ("u1", "refused")])
        await house.gateway.assert_charged(0)


# within a stream


@pytest.mark.parametrize("each", [ARK_FIRST, OPENAI_FIRST], ids=["ark first", "openai first"])
async def test_an_error_as_the_first_event_makes_the_other_asked(tmp_path: Path, each: tuple[str, str]) -> None:
    said = (
        {"code": "ServerOverloaded", "message": CANARY} if not each[0] else {"message": f"overloaded {CANARY}", "type": "server_error"}
    )
    async with routed(tmp_path, 2, each=each) as house:
        house.arks[0].enqueue(answer_sse(b"data: %b\n\n" % orjson.dumps({"error": said})))
        steps, read = openai_answer(True, DEEPSEEKS)
        house.arks[1].enqueue(steps)

        reply, receipt = await asked(house, stream=True)

        assert (reply.status, reply.body) == (200, read)
        assert [upstream for upstream, _ in told(receipt)] == ["u0", "u1"]
        await house.gateway.assert_charged(DEEPSEEKS_COST)


async def test_a_break_of_the_second_is_told_in_our_words_and_asked_of_nobody_else(tmp_path: Path) -> None:
    async with routed(tmp_path, 3, each=("", OPENAI, "")) as house:
        house.arks[0].enqueue(ark_error(500, "InternalServiceError"))
        broken = orjson.dumps({"error": {"message": f"CUDA out of memory {CANARY}", "type": "server_error", "code": 500}})
        house.arks[1].enqueue(answer_sse(b"".join(events(None)[:2]) + b"data: %b\n\n" % broken))

        reply, receipt = await asked(house, stream=True)

        assert (reply.status, house.calls()) == (200, [1, 1, 0])
        assert reply.body.startswith(b"".join(events(None)[:2]))
        assert b"MODEL_UNAVAILABLE" in reply.body
        assert CANARY.encode() not in reply.body
        assert b"[DONE]" not in reply.body
        assert receipt["usage_source"] == "estimated"
        await assert_books_balance(house.gateway.store)
