"""Mapping of Ark's refusals: the edge cases of its rules. The whole table is tested on real sockets in tests/gateway."""

from typing import Any

import orjson
import pytest

from proxy.core.ark.refusal import Refusal, read_refusal, with_delay
from proxy.core.settlement import Outcome

MODEL = "doubao-seed-2-0-lite-260428"


def refused(status: int, code: str = "", message: str = "", param: str = "", *, messages: bool = True) -> Refusal:
    body = orjson.dumps({"error": {"code": code, "message": message, "param": param}})
    return read_refusal(status, body, upstream_model=MODEL, messages=messages)


@pytest.mark.parametrize(
    ("status", "code", "message", "is_operators", "retry_after"),
    [
        (401, "", "", True, None),
        (401, "SomethingNew", "", True, None),
        (403, "SomethingNew", "", True, None),
        (404, "SomethingNew", "", True, None),
        (400, "AccountOverdueError", "", True, None),  # whatever the status
        (429, "QuotaExceeded", "Your free trial quota is exhausted.", True, None),
        (429, "QuotaExceeded", "Too many tasks in the queue.", False, 2),
        (429, "SomethingNew", "", False, 2),
        (429, "", "", False, 2),
        (500, "InternalServiceError", "", False, 5),
        (500, "", "", False, None),
        (504, "InternalServiceError", "", False, None),  # a proxy on the way stopped waiting
        (503, "SomethingNew", "", False, 5),
        (400, "ContentSecurityDetectionError", "", False, 5),
        # about waiting, so it had begun, whatever the code proves otherwise
        (500, "RequestTimeOut", "Request timed out, please try again later.", False, None),
        (500, "InternalServiceError", "The service timed out.", False, None),
        (503, "DeadlineExceeded", "", False, None),
        (408, "RequestTimeout", "", False, None),
        # another server's code: a gateway's may be of an answer that it lost
        (500, "do_request_failed", "", False, None),
    ],
)
def test_what_is_not_the_customers_is_an_unavailable_model(
    status: int, code: str, message: str, is_operators: bool, retry_after: float | None
) -> None:
    refusal = refused(status, code, message)

    assert (refusal.error.status, refusal.error.code, refusal.error.retry_after_seconds) == (503, "MODEL_UNAVAILABLE", retry_after)
    assert refusal.error.should_retry is (False if retry_after is None else None)
    assert (refusal.outcome, refusal.operator) == (Outcome.UPSTREAM_ERROR, is_operators)
    assert refusal.note == f"upstream {status} {code}".rstrip()


OF_THE_OPERATOR = [
    # (status, the error as other servers tell it)
    (402, {"message": "Insufficient Balance", "type": "unknown_error", "param": None, "code": "invalid_request_error"}),  # DeepSeek
    (402, {}),
    (405, {}),
    (410, {}),
    (301, {}),
    (429, {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}),  # OpenAI
    (429, {"message": "Your account is suspended, please check your plan", "type": "exceeded_current_quota_error"}),  # Moonshot
    (429, {"message": "您的账户已欠费，请充值后重试", "code": ""}),  # Zhipu
    (429, {"message": "x", "code": "1113"}),  # the same by its code
    (400, {"message": "Access denied, please make sure your account is in good standing.", "code": "Arrearage"}),  # DashScope
    (400, {"message": "Your credit balance is too low to access the API.", "type": "invalid_request_error"}),  # Anthropic
    (400, {"message": "API key not valid. Please pass a valid API key.", "code": 400}),  # Gemini
    (400, {"message": "Model Not Exist", "type": "invalid_request_error", "code": "invalid_request_error"}),  # DeepSeek
    (400, {"message": "The model has been decommissioned", "code": "model_decommissioned"}),  # Groq
]


@pytest.mark.parametrize(("status", "said"), OF_THE_OPERATOR)
def test_another_servers_word_for_the_operators_fault_is_no_limit_that_passes(status: int, said: dict[str, Any]) -> None:
    refusal = read_refusal(status, orjson.dumps({"error": said}), upstream_model=MODEL)

    assert (refusal.error.code, refusal.operator, refusal.error.message) == (
        "MODEL_UNAVAILABLE",
        True,
        "The model is unavailable at present",
    )
    assert (refusal.error.should_retry, refusal.error.retry_after_seconds) == (False, None)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            503,
            {"message": "The engine is currently overloaded, please try again later", "type": "server_error", "code": None},
        ),  # OpenAI
        (529, {"message": "Overloaded", "type": "overloaded_error"}),  # Anthropic
        (503, {"message": "Loading model", "type": "unavailable_error", "code": 503}),  # llama.cpp
        (429, {"message": "The engine is currently overloaded", "type": "engine_overloaded_error"}),  # Moonshot
        (429, {"message": "您当前使用该API的并发数过高", "code": "1302"}),  # Zhipu
    ],
)
def test_a_server_that_is_too_busy_to_begin_may_be_asked_again(status: int, said: dict[str, Any]) -> None:
    error = read_refusal(status, orjson.dumps({"error": said}), upstream_model=MODEL).error

    assert (error.code, error.should_retry, error.retry_after_seconds is not None) == ("MODEL_UNAVAILABLE", None, True)


@pytest.mark.parametrize("messages", [True, False])
@pytest.mark.parametrize("body", [b"<html>413</html>", b'{"error":{"code":"rate_limit_exceeded","message":"Request too large"}}'])
def test_what_is_too_large_upstream_is_told_as_that(body: bytes, messages: bool) -> None:
    refusal = read_refusal(413, body, upstream_model=MODEL, messages=messages)

    assert (refusal.error.status, refusal.error.code, refusal.outcome) == (413, "REQUEST_TOO_LARGE", Outcome.REFUSED)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (None, 2), ("7", 7), (" 20 ", 20), ("1.5", 1.5), ("0", 1), ("3600", 3_600), ("-1", 2), ("soon", 2),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 2), ("9" * 10, 2), ("٣", 2),
    ],
)  # fmt: skip
def test_the_upstreams_own_delay_is_told_where_waiting_helps(told: str | None, seconds: float) -> None:
    assert with_delay(refused(429), told).error.retry_after_seconds == seconds
    assert with_delay(refused(401), told).error.retry_after_seconds is None
    assert with_delay(refused(502), told).error.retry_after_seconds is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'"text"', b"{}", b'{"error":{}}', b'{"error":null}'])
@pytest.mark.parametrize(("status", "code"), [(200, "INTERNAL_ERROR"), (302, "MODEL_UNAVAILABLE"), (502, "MODEL_UNAVAILABLE")])
def test_a_body_that_says_nothing_leaves_the_status_to_decide(body: bytes, status: int, code: str) -> None:
    refusal = read_refusal(status, body, upstream_model=MODEL)

    assert (refusal.error.code, refusal.outcome) == (code, Outcome.UPSTREAM_ERROR)
    assert (refusal.error.should_retry, refusal.error.retry_after_seconds) == (False, None)  # it may have run


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ServerOverloaded", "MODEL_UNAVAILABLE"),
        ("ModelAccountTpmRateLimitExceeded", "MODEL_UNAVAILABLE"),
        ("InternalServiceError", "MODEL_UNAVAILABLE"),
        ("SomethingNew", "MODEL_UNAVAILABLE"),
        ("AccountOverdueError", "MODEL_UNAVAILABLE"),
        ("OutputTextSensitiveContentDetected", "CONTENT_REJECTED"),
        ("OutofContextError", "CONTEXT_LENGTH_EXCEEDED"),
    ],
)
def test_an_error_within_a_stream_has_the_status_of_its_code(code: str, expected: str) -> None:
    error: dict[str, Any] = {"code": code, "message": "m"}

    assert read_refusal(200, error, upstream_model=MODEL).error.code == expected


@pytest.mark.parametrize(
    ("param", "messages", "code", "shown"),
    [
        ("messages", True, "INVALID_MESSAGES", "messages"),
        ("messages[2].content", True, "INVALID_MESSAGES", "messages[2].content"),
        ("", True, "INVALID_MESSAGES", "messages"),
        ("temperature", True, "INVALID_PARAMETER", "temperature"),
        ("size", False, "INVALID_PARAMETER", "size"),
        ("", False, "INVALID_PARAMETER", None),
        ("<script>", False, "INVALID_PARAMETER", None),
        ("account.2100123456", False, "INVALID_PARAMETER", None),
        ("acct2100123456", True, "INVALID_MESSAGES", "messages"),
        ("messages.2100123456", True, "INVALID_MESSAGES", "messages"),
    ],
)
def test_a_fault_of_the_input_names_its_place(param: str, messages: bool, code: str, shown: str | None) -> None:
    refusal = refused(400, "InvalidParameter", "is wrong", param, messages=messages)

    assert (refusal.error.code, refusal.error.param, refusal.outcome) == (code, shown, Outcome.REFUSED)


def test_messages_and_notes_hold_nothing_of_the_operators() -> None:
    said = f"Model {MODEL} of account 2100987654 (ep-20260101-abcde, AKLTcanary12345) is wrong. Request id: 021765952525000c0ffee"

    refusal = refused(400, "Invalid Code 2100987654", said)

    shown = f"{refusal.error.body()} {refusal.note}"
    assert [secret for secret in (MODEL, "2100987654", "ep-2026", "AKLT", "0217", "Request id") if secret in shown] == []


@pytest.mark.parametrize(
    ("code", "param", "messages", "shown"),
    [
        ("InvalidParameter", "size", False, "The parameter size was refused"),
        ("InvalidParameter", "messages[2].content", True, "The parameter messages[2].content was refused"),
        ("MissingParameter", "size", False, "The parameter size is missing"),
        ("InvalidParameter", "account.2100123456", False, "The request was refused"),
        ("InvalidParameter.UnsupportedParameter", "", False, "A parameter is not supported by the model"),
        ("OutofContextError", "", False, "The input is longer than the context of the model"),
        ("InvalidImageURL.InvalidFormat", "", True, "An image could not be read"),
        ("InvalidParameter", "", True, "The messages were refused"),
        ("InputTextSensitiveContentDetected", "", True, "The content was rejected by moderation"),
    ],
)
def test_a_message_with_one_word_that_is_not_plain_is_replaced_by_ours(code: str, param: str, messages: bool, shown: str) -> None:
    refusal = refused(400, code, "It is wrong, /data00/tiger/server.py line 88", param, messages=messages)

    assert refusal.error.message == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("of /data00/x: expected a value <= 32768, but got 65536", "The parameter max_tokens was refused (expected: <= 32768)"),
        ("at /data00/x: must be in [0, 2]", "The parameter max_tokens was refused (expected: in [0, 2])"),
        ("at /data00/x: at most 10 are allowed", "The parameter max_tokens was refused (expected: at most 10)"),
        ("at /data00/x: less than or equal to 4096.", "The parameter max_tokens was refused (expected: less than or equal to 4096)"),
        ("at most 2100123456 of /data00/x", "The parameter max_tokens was refused"),
        ("at most 2100-123-456 of /data00/x", "The parameter max_tokens was refused"),
        ("/data00/x is bad", "The parameter max_tokens was refused"),
    ],
)
def test_a_sentence_of_ours_keeps_the_bound_of_one_that_may_not_be_shown(message: str, shown: str) -> None:
    assert refused(400, "InvalidParameter", message, "max_tokens").error.message == shown


@pytest.mark.parametrize("upstream_model", ["plain", "m", "text"])
def test_only_the_models_id_as_a_word_is_cut(upstream_model: str) -> None:
    said = orjson.dumps({"error": {"code": "InvalidParameter", "message": f"max_tokens of {upstream_model} must be plainly smaller"}})

    refusal = read_refusal(400, said, upstream_model=upstream_model)

    assert refusal.error.message == "max_tokens of the model must be plainly smaller"


def test_a_plain_message_is_shown() -> None:
    said = f"The model {MODEL} of account 2100987654 takes at most 10 images. Request id: 021765952525000c0ffee"

    assert refused(400, "InvalidParameter", said, "messages").error.message == "The model of account takes at most 10 images."
