"""Ark's refusals as a customer sees them: every code of its table is mapped, free, and reveals nothing about the operator."""

import gzip
import logging
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from proxy.demo.ark import CANARIES, FAULTS, answer_json, answer_sse, error, known_error
from tests.support.gateway import CANARY_KEY, Bench, bench

SECRETS = (*CANARIES, CANARY_KEY, "doubao-seed-2-0-lite-260428", "ep-20260101-canary", "127.0.0.1")

OPERATOR = (503, "MODEL_UNAVAILABLE", None, "upstream_error")
LIMIT = (503, "MODEL_UNAVAILABLE", "2", "upstream_error")
OUTAGE = (503, "MODEL_UNAVAILABLE", "5", "upstream_error")
CONTEXT = (400, "CONTEXT_LENGTH_EXCEEDED", None, "refused")
MESSAGES = (400, "INVALID_MESSAGES", None, "refused")
PARAMETER = (400, "INVALID_PARAMETER", None, "refused")
CONTENT = (400, "CONTENT_REJECTED", None, "refused")

SENSELESS = (500, "INTERNAL_ERROR", None, "upstream_error")
NO_RETRY_MENDS = (OPERATOR, CONTENT, CONTEXT, SENSELESS)
"""With `x-should-retry: false`. Of a limit and an outage a retry is right, and SDKs make none of another 400."""

MAPPED = {
    # 400: the customer's
    "MissingParameter": MESSAGES,
    "InvalidParameter": PARAMETER,
    "InvalidParameter.UnsupportedParameter": PARAMETER,
    "InvalidArgumentError.UnknownRole": MESSAGES,
    "InvalidImageURL.EmptyURL": MESSAGES,
    "InvalidImageURL.InvalidFormat": MESSAGES,
    "OutofContextError": CONTEXT,
    "InputTextSensitiveContentDetected": CONTENT,
    "InputImageSensitiveContentDetected.PrivacyInformation": CONTENT,
    "OutputTextSensitiveContentDetected": CONTENT,
    "OutputImageSensitiveContentDetected": CONTENT,
    "SensitiveContentDetected": CONTENT,
    "InputTextRiskDetection": CONTENT,
    # the operator's key, balance, quota, access, configuration
    "InvalidEndpoint.ClosedEndpoint": OPERATOR,
    "InvalidSubscription": OPERATOR,
    "AuthenticationError": OPERATOR,
    "InvalidAccountStatus": OPERATOR,
    "AccountOverdueError": OPERATOR,
    "OperationDenied.ServiceOverdue": OPERATOR,
    "OperationDenied.ServiceNotOpen": OPERATOR,
    "AccessDenied": OPERATOR,
    "InvalidEndpointOrModel.NotFound": OPERATOR,
    "InvalidEndpointOrModel.ModelIDAccessDisabled": OPERATOR,
    "ModelNotOpen": OPERATOR,
    "UnsupportedModel": OPERATOR,
    "ResourceNotFound": OPERATOR,
    "QuotaExceeded": OPERATOR,
    "SetLimitExceeded": OPERATOR,
    # limits that pass
    "RateLimitExceeded.EndpointRPMExceeded": LIMIT,
    "RateLimitExceeded.EndpointTPMExceeded": LIMIT,
    "ModelAccountRpmRateLimitExceeded": LIMIT,
    "ModelAccountTpmRateLimitExceeded": LIMIT,
    "ModelAccountIpmRateLimitExceeded": LIMIT,
    "APIAccountRpmRateLimitExceeded": LIMIT,
    "AccountRateLimitExceeded": LIMIT,
    "InflightBatchsizeExceeded": LIMIT,
    "ServerOverloaded": LIMIT,
    "RequestBurstTooFast": LIMIT,
    # outages
    "ContentSecurityDetectionError": OUTAGE,
    "InternalServiceError": OUTAGE,
}
NOT_OF_CHAT = {"InvalidAction.RunningTaskDeletion"}


def test_every_code_of_arks_is_in_the_table() -> None:
    assert MAPPED.keys() | NOT_OF_CHAT == FAULTS.keys()


async def assert_refused(gateway: Bench, expected: tuple[int, str, str | None, str], *, stream: bool) -> str:
    """Make a call; check status, code, Retry-After, outcome and that no secret shows anywhere; return the message."""
    answer = await gateway.chat(stream=stream)

    status, code, retry_after, outcome = expected
    assert (answer.status, answer.error["code"], answer.headers.get("Retry-After")) == (status, code, retry_after)
    assert answer.headers.get("x-should-retry") == ("false" if expected in NO_RETRY_MENDS else None)
    assert answer.headers["Content-Type"] == "application/json"
    receipt = (await gateway.ask(f"/usage/{answer.headers['x-request-id']}")).json
    assert (receipt["outcome"], receipt["usage_source"], receipt["cost"], receipt["http_status"]) == (outcome, "none", "0.00", status)
    shown = f"{answer.headers} {answer.body.decode()} {receipt} {gateway.log.written}"
    assert [secret for secret in SECRETS if secret in shown] == []
    await gateway.assert_charged(0)
    message: str = answer.error["message"]
    return message


@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "bare"])
@pytest.mark.parametrize("code", MAPPED)
async def test_a_refusal_is_mapped_and_tells_nothing_of_the_operators(
    gateway: Bench, caplog: pytest.LogCaptureFixture, code: str, wrapped: bool
) -> None:
    caplog.set_level(logging.INFO)
    gateway.ark.enqueue(known_error(code, wrapped))

    await assert_refused(gateway, MAPPED[code], stream=wrapped)

    assert len(gateway.ark.calls) == 1
    assert [secret for secret in SECRETS[:-1] if secret in caplog.text] == []


async def test_a_queue_that_is_full_is_a_limit_and_not_the_operators_quota(gateway: Bench) -> None:
    gateway.ark.enqueue(known_error("QuotaExceeded", message="The number of queued tasks has reached its limit."))

    await assert_refused(gateway, LIMIT, stream=False)


async def test_a_model_that_makes_something_else_is_the_wrong_endpoint(gateway: Bench) -> None:
    said = "The parameter model specified in the request is not valid: the requested model doubao-seedream does not support this api."
    gateway.ark.enqueue(error(400, "InvalidParameter", said, param="model"))

    await assert_refused(gateway, (400, "WRONG_ENDPOINT", None, "refused"), stream=True)


async def test_a_customers_fault_is_explained_in_clean_words(gateway: Bench) -> None:
    said = "The model doubao-seed-2-0-lite-260428 of account 2100987654 takes at most 10 images."
    gateway.ark.enqueue(error(400, "InvalidParameter", said, param="messages"))

    message = await assert_refused(gateway, MESSAGES, stream=False)

    assert message.endswith("takes at most 10 images.")


_OVERDUE = {"code": "AccountOverdueError", "message": "Your account 2100987654 is overdue. Request id: 0217canary"}


@pytest.mark.parametrize(
    "body",
    [
        {"error": _OVERDUE},
        _OVERDUE,
        {"ResponseMetadata": {"RequestId": "0217canary", "Error": {"Code": "AccountOverdueError", "Message": _OVERDUE["message"]}}},
        {"choices": [], **_OVERDUE},
    ],
    ids=["wrapped", "bare", "metadata", "beside choices"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_inside_a_200_is_one_in_every_shape(gateway: Bench, body: dict[str, Any], stream: bool) -> None:
    gateway.ark.enqueue(answer_json(200, body))

    await assert_refused(gateway, OPERATOR, stream=stream)


@pytest.mark.parametrize("choices", [{}, {"choices": None}, {"choices": {}}, {"choices": "2100987654"}])
async def test_a_200_without_a_list_of_choices_is_no_answer_and_free(gateway: Bench, choices: dict[str, Any]) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 12}
    gateway.ark.enqueue(answer_json(200, {"id": "0217", "note": "account 2100987654", "usage": usage, **choices}))

    await assert_refused(gateway, SENSELESS, stream=False)


@pytest.mark.parametrize("status", [300, 304, 402, 405, 410])
async def test_a_status_of_a_wrong_address_or_an_unpaid_account_is_the_operators(gateway: Bench, status: int) -> None:
    gateway.ark.enqueue(answer_json(status, b"" if status == 304 else b"{}"))

    await assert_refused(gateway, OPERATOR, stream=False)


@pytest.mark.parametrize("status", [418, 451])
async def test_a_status_that_nobody_expects_is_an_internal_error(gateway: Bench, status: int) -> None:
    gateway.ark.enqueue(answer_json(status, b"{}"))

    await assert_refused(gateway, SENSELESS, stream=False)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_compressed_unasked_is_an_outage(gateway: Bench, stream: bool) -> None:
    gateway.ark.enqueue(answer_json(200, gzip.compress(b'{"choices":[]}'), headers={"content-encoding": "gzip"}))

    answer = await gateway.chat(stream=stream)

    assert (answer.status, answer.error["code"]) == (503, "MODEL_UNAVAILABLE")
    await gateway.assert_charged(0)


async def test_the_sdk_raises_its_own_class_and_shows_our_code_and_id(tmp_path: Path) -> None:
    async with bench(tmp_path) as gateway, openai.AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.key, max_retries=0) as client:
        raised = []
        for code in ("OutofContextError", "AuthenticationError", "ServerOverloaded"):
            gateway.ark.enqueue(known_error(code))
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(model="doubao-pro-32k", messages=[{"role": "user", "content": "Hello"}])
            raised.append((type(caught.value), caught.value.code, caught.value.request_id))

        ids = [line["request_id"] for line in gateway.log.chats]
        assert raised == [
            (openai.BadRequestError, "CONTEXT_LENGTH_EXCEEDED", ids[0]),
            (openai.InternalServerError, "MODEL_UNAVAILABLE", ids[1]),
            (openai.InternalServerError, "MODEL_UNAVAILABLE", ids[2]),
        ]
        await gateway.assert_charged(0)


# Errors inside a stream.

_EVENT = b'data: {"choices":[{"delta":{"content":"Hello"},"index":0}],"id":"0217","usage":null}\n\n'
_USAGE = b'"usage":{"prompt_tokens":20,"completion_tokens":12}'
_DONE = b"data: [DONE]\n\n"
_SAID = b'{"code":"AccountOverdueError","message":"Your account 2100987654 is overdue. Request id: 0217canary"}'


@pytest.mark.parametrize("size", [1, None])
@pytest.mark.parametrize(
    ("event", "code"),
    [
        (b"data: " + _SAID + b"\n\n", "MODEL_UNAVAILABLE"),
        (b'data: {"ResponseMetadata":{"Error":{"Code":"AccountOverdueError","Message":"2100987654"}}}\n\n', "MODEL_UNAVAILABLE"),
        (b'data: {"err\\u006fr":' + _SAID + b"}\n\n", "MODEL_UNAVAILABLE"),
        (b'{"error":' + _SAID + b"}\n\n", "MODEL_UNAVAILABLE"),
        (b"upstream connect error, account 2100987654\n\n", "INTERNAL_ERROR"),
        (b"data: upstream connect error, account 2100987654\n\n", "INTERNAL_ERROR"),
    ],
    ids=["bare", "metadata", "escaped", "no field", "text", "data of text"],
)
async def test_an_error_in_any_shape_within_a_stream_is_replaced_by_ours(
    gateway: Bench, caplog: pytest.LogCaptureFixture, event: bytes, code: str, size: int | None
) -> None:
    caplog.set_level(logging.INFO)
    gateway.ark.enqueue(answer_sse(_EVENT + event + _EVENT + _DONE, cut=size))

    answer = await gateway.chat(stream=True)

    assert answer.body.startswith(_EVENT + b'data: {"error":')
    assert answer.body.count(b"\n\n") == 2
    assert orjson.loads(answer.body[len(_EVENT) + 6 :])["error"]["code"] == code
    assert [secret for secret in ("2100987654", "0217canary", "connect") if secret in f"{answer.body.decode()} {caplog.text}"] == []
    await gateway.assert_charged(2_000)  # the prompt's 5 bytes are 0 tokens at least; one event × 2,000


async def test_usage_beside_an_error_within_a_stream_is_charged(gateway: Bench) -> None:
    gateway.ark.enqueue(answer_sse(_EVENT + b'data: {"error":{"code":"InternalServiceError"},' + _USAGE + b"}\n\n"))

    answer = await gateway.chat(stream=True)

    receipt = (await gateway.ask(f"/usage/{answer.headers['x-request-id']}")).json
    assert (receipt["outcome"], receipt["usage_source"]) == ("upstream_error", "reported")
    await gateway.assert_charged(40_000)  # 20 × 800 + 12 × 2,000


@pytest.mark.parametrize("size", [1, None])
async def test_nothing_that_follows_done_is_passed_on(gateway: Bench, size: int | None) -> None:
    whole = _EVENT + b'data: {"choices":[],' + _USAGE + b"}\n\n" + _DONE
    gateway.ark.enqueue(answer_sse(whole + b'data: {"error":' + _SAID + b"}\n\n: 2100987654\n\n" + _EVENT, cut=size))

    answer = await gateway.chat(stream=True, stream_options={"include_usage": True})

    assert answer.body == whole
    receipt = (await gateway.ask(f"/usage/{answer.headers['x-request-id']}")).json
    assert (receipt["outcome"], receipt["usage_source"]) == ("complete", "reported")
    await gateway.assert_charged(40_000)


@pytest.mark.parametrize(
    "said",
    [
        "size is bad for account_2100987654",
        "key ark-CANARYKEY-1234567890 is bad",
        "deepseek-v3-2-251201 cannot",
        "/data00/tiger/server.py line 88",
        "dial fe80::1",
    ],
)
async def test_a_message_with_anything_of_the_operators_is_replaced_by_ours(gateway: Bench, said: str) -> None:
    gateway.ark.enqueue(error(400, "InvalidParameter", said, param="messages.acct2100987654"))

    answer = await gateway.chat()

    assert answer.error == {
        "type": "invalid_request_error",
        "code": "INVALID_MESSAGES",
        "message": "The messages were refused",
        "param": "messages",
    }
    await gateway.assert_charged(0)
