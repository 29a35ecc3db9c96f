"""Mapping of Ark's refusals: the edge cases of its rules. The whole table is tested on real sockets in tests/gateway."""

from typing import Any

import orjson
import pytest

from proxy.core.ark.refusal import Refusal, read_refusal
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


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'"text"', b"{}", b'{"error":{}}', b'{"error":null}'])
@pytest.mark.parametrize(("status", "code"), [(200, "INTERNAL_ERROR"), (302, "INTERNAL_ERROR"), (502, "MODEL_UNAVAILABLE")])
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
