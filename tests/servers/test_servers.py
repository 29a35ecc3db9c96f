"""Servers of others as upstreams with ``dialect = "openai"``: their bytes as they are, billed by their usage."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.servers.conftest import Server
from tests.support.gateway import Reply
from tests.support.routes import ROUTED, Routed, routed

pytestmark = [pytest.mark.servers, pytest.mark.timeout(3600)]
FIRST = [", weight = 0", ", weight = 1"]
"""Nothing for the stand-in, all for the server."""
PROMPT = [{"role": "user", "content": "Say something, please"}]


async def asked(house: Routed, server: Server, **fields: Any) -> tuple[Reply, dict[str, Any]]:
    """Ask; return the reply and the receipt, and print what was charged for."""
    count = len(house.gateway.log.chats)
    server.forget()
    reply = await house.gateway.chat(**{"model": ROUTED, "messages": PROMPT, **fields})
    line = (await house.gateway.log.until_chats(count + 1))[-1]
    receipt = await house.receipt(str(line["request_id"]))
    print(f"\n{reply.status}, {len(reply.body)} bytes, {receipt['usage_source']}: {receipt['usage']}, ¥{receipt['charge']}")
    return reply, receipt


def usage_in(body: bytes) -> dict[str, Any] | None:
    """Return the last usage in a stream's body."""
    lines = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: {")]
    told = [usage for line in lines if (usage := orjson.loads(line).get("usage"))]
    return told[-1] if told else None


def tokens(usage: dict[str, Any]) -> tuple[int, int]:
    return usage["prompt_tokens"], usage["completion_tokens"]


async def test_litellms_proxy_answers_byte_for_byte_and_is_billed_by_its_usage(tmp_path: Path, litellm: Server) -> None:
    async with routed(tmp_path, 1, options=FIRST, upstream='dialect = "openai"\n', addresses=[litellm.base_url]) as house:
        reply, receipt = await asked(house, litellm)

        assert (reply.status, reply.body) == (200, litellm.body())
        assert receipt["usage_source"] == "reported"
        assert tokens(receipt["usage"]) == tokens(reply.json["usage"])

        reply, receipt = await asked(house, litellm, stream=True, stream_options={"include_usage": True})

        told = usage_in(reply.body)
        assert (reply.status, reply.body) == (200, litellm.body())
        assert told is not None
        assert (receipt["usage_source"], tokens(receipt["usage"])) == ("reported", tokens(told))

        reply, receipt = await asked(house, litellm, stream=True)  # without being asked for its usage by the client

        assert reply.status == 200
        assert receipt["usage_source"] == "reported"


async def test_llamas_server_answers_byte_for_byte_and_what_it_does_not_tell_is_estimated(tmp_path: Path, llama: Server) -> None:
    async with routed(tmp_path, 1, options=FIRST, upstream='dialect = "openai"\n', addresses=[llama.base_url]) as house:
        reply, receipt = await asked(house, llama, max_tokens=8)

        assert (reply.status, reply.body) == (200, llama.body())
        assert (receipt["usage_source"], tokens(receipt["usage"])) == ("reported", tokens(reply.json["usage"]))

        reply, receipt = await asked(house, llama, stream=True, max_tokens=8, stream_options={"include_usage": True})

        assert (reply.status, reply.body) == (200, llama.body())
        told = usage_in(reply.body)
        assert (receipt["usage_source"] == "reported") is (told is not None)
        assert receipt["usage"]["prompt_tokens"] >= 5


async def test_a_prompt_beyond_llamas_context_costs_nothing(tmp_path: Path, llama: Server) -> None:
    """A JSON answer says what is wrong. A stream ends behind its 200 without a word, so nobody knows."""
    async with routed(tmp_path, 1, options=FIRST, upstream='dialect = "openai"\n', addresses=[llama.base_url]) as house:
        long = [{"role": "user", "content": "word " * 400}]

        reply, _ = await asked(house, llama, max_tokens=8, messages=long)

        assert (reply.status, reply.json["error"]["code"]) == (400, "CONTEXT_LENGTH_EXCEEDED")

        reply, _ = await asked(house, llama, stream=True, max_tokens=8, messages=long)

        assert (reply.status, reply.headers["x-should-retry"]) == (500, "false")
        await house.gateway.assert_charged(0)
