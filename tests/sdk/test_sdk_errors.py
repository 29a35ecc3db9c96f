"""The published error table as the ``openai`` package raises it: class, status, code, param and request id."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from proxy.demo.ark import Step, error, known_error
from tests.sdk.conftest import NewClient
from tests.support.gateway import MODEL, Bench

HELLO: Any = [{"role": "user", "content": "Hello"}]
Call = Callable[[AsyncOpenAI], Awaitable[object]]


def chat(**fields: Any) -> Call:
    return lambda client: client.chat.completions.create(**{"model": MODEL, "messages": HELLO, **fields})


HELLO_CALL = chat()
NO_PROMPT = error(400, "MissingParameter", "The prompt is missing.", param="prompt")


@dataclass(frozen=True)
class Case:
    code: str
    status: int
    raises: type[openai.APIStatusError]
    type: str
    param: str | None
    call: Call = HELLO_CALL
    upstream: tuple[Step, ...] = ()
    """The upstream's answers, if it is asked."""
    options: tuple[tuple[str, Any], ...] = ()
    """Options of the client."""


NO_KEY = chat(extra_headers={"Authorization": ""})
# More than the balance of ¥100: 10,000,000 tokens at ¥2/M for each of 6 choices are ¥120.
DEAR = chat(max_tokens=10_000_000, n=6)
BAD, AUTH = "invalid_request_error", "authentication_error"

CASES = [
    # as published
    Case("MISSING_API_KEY", 401, openai.AuthenticationError, AUTH, None, NO_KEY),
    Case("INVALID_API_KEY", 401, openai.AuthenticationError, AUTH, None, options=(("api_key", "sk_your_api_key"),)),
    Case("INSUFFICIENT_BALANCE", 402, openai.APIStatusError, "insufficient_balance_error", None, DEAR),
    Case("MISSING_MODEL", 400, openai.BadRequestError, BAD, "model", chat(model="")),
    Case("INVALID_MESSAGES", 400, openai.BadRequestError, BAD, "messages[0].role", chat(messages=[{"role": "robot", "content": ""}])),
    Case("MISSING_PROMPT", 400, openai.BadRequestError, BAD, "prompt", upstream=(*NO_PROMPT,)),
    Case("WRONG_ENDPOINT", 400, openai.BadRequestError, BAD, "model", chat(model="doubao-seedance-2-0")),
    Case("MODEL_NOT_FOUND", 404, openai.NotFoundError, BAD, "model", chat(model="gpt-4o")),
    Case("MODEL_NOT_FOUND", 404, openai.NotFoundError, BAD, "model", lambda client: client.models.retrieve("a/b/c")),
    Case("MODEL_UNAVAILABLE", 503, openai.InternalServerError, "service_unavailable_error", "model", chat(model="switched-off")),
    Case(
        "MODEL_UNAVAILABLE", 503, openai.InternalServerError, "service_unavailable_error", None,
        upstream=(*known_error("AuthenticationError"),),
    ),
    Case("INTERNAL_ERROR", 500, openai.InternalServerError, "api_error", None, upstream=(*error(418, "Teapot", "?"),)),
    # further ones
    Case("INVALID_PARAMETER", 400, openai.BadRequestError, BAD, "n", chat(n=0)),
    Case("CONTENT_REJECTED", 400, openai.BadRequestError, BAD, None, upstream=(*known_error("InputTextSensitiveContentDetected"),)),
    Case("NOT_FOUND", 404, openai.NotFoundError, BAD, None, lambda client: client.get("/nothing", cast_to=object)),
    Case("METHOD_NOT_ALLOWED", 405, openai.APIStatusError, BAD, None, lambda client: client.get("/chat/completions", cast_to=object)),
    Case("REQUEST_TOO_LARGE", 413, openai.APIStatusError, BAD, None, chat(user="x" * 67_108_864)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{case.code}-{number}" for number, case in enumerate(CASES)])
async def test_each_error_is_raised_as_its_class_with_its_code(gateway: Bench, new_client: NewClient, case: Case) -> None:
    client = new_client(**dict(case.options))
    if case.upstream:
        gateway.ark.enqueue(case.upstream)

    with pytest.raises(case.raises) as raised:
        await case.call(client)

    fault = raised.value
    assert (fault.status_code, fault.code, fault.type, fault.param) == (case.status, case.code, case.type, case.param)
    assert fault.request_id is not None
    assert fault.request_id.startswith("req_")
    assert fault.request_id == gateway.log.written[-1]["request_id"]
    assert gateway.log.written[-1]["code"] == case.code
    await gateway.assert_charged(0)
