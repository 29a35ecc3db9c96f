"""Ark's refusals, mapped to the customer's errors. Pure.

The table is ``ark-api.md`` §7.6. Key, balance, quota and model access upstream concern the operator: a customer sees a model that is
unavailable. Codes decide; messages only where one code of Ark's has several meanings. Ark's own message is shown only for a fault in
the customer's own request, and only if all its words are plain; else the gateway sends a sentence of its own.
"""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.core.ark.plain_text import public_param
from proxy.core.ark.text import ArkError, is_moderation, public_message, read_error
from proxy.core.catalog import UNAVAILABLE_RETRY_AFTER_SECONDS
from proxy.core.errors import (
    ContentRejectedError,
    GatewayError,
    InternalError,
    InvalidMessagesError,
    InvalidParameterError,
    MissingPromptError,
    ModelUnavailableError,
    WrongEndpointError,
)
from proxy.core.settlement import Outcome

RETRY_AFTER_SECONDS = 2.0
"""Retry delay for a customer whose call hit a rate limit; Ark itself names no time."""
OUTAGE_RETRY_AFTER_SECONDS = 5.0

_OPERATOR_CODES = re.compile(
    r"AccountOverdue|OperationDenied|AccessDenied|AuthenticationError|InvalidAccountStatus|ModelNotOpen|InvalidEndpointOrModel"
    r"|UnsupportedModel|InvalidEndpoint\.|InvalidSubscription|SetLimitExceeded"
)
_WRONG_ENDPOINT = re.compile(r"does not support (?:this api|content generation|image generation)", re.IGNORECASE)
_QUEUED = re.compile(r"queue", re.IGNORECASE)
_LIMIT_CODES = re.compile(r".*RateLimitExceeded|QuotaExceeded|ServerOverloaded|RequestBurstTooFast|InflightBatchsizeExceeded")
_INPUT_CODES = re.compile(
    r"(?:Missing|Invalid)Parameter|InvalidArgumentError|InvalidImageURL|OutofContextError|.*(?:Sensitive|RiskDetection)"
)
_MESSAGE_CODES = ("OutofContext", "InvalidImageURL", "InvalidArgument")
_SAFE_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,79}")
_SENTENCES = (
    ("OutofContext", "The input is longer than the context of the model"),
    ("InvalidImageURL", "An image could not be read"),
    ("MissingParameter", "A parameter is missing"),
    ("InvalidParameter.UnsupportedParameter", "A parameter is not supported by the model"),
)
"""Sentences for codes whose message may not be shown and that name no field."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Result of an upstream's failure: the customer's error, the outcome on the receipt, and a note for the operator."""

    error: GatewayError
    outcome: Outcome
    note: str
    """Status and code only: messages carry account numbers and model ids."""
    operator: bool = False
    """The operator must act: key, balance, quota, access."""


def read_refusal(status: int, body: bytes | dict[str, Any], upstream_model: str, *, messages: bool = True) -> Refusal:
    """Return the refusal for an answer that is an error.

    Args:
        status: the upstream's status; 200 for an error inside a stream.
        upstream_model: the model's id upstream, which is cut from messages.
        messages: faults in the input are `INVALID_MESSAGES` (chat), else `INVALID_PARAMETER` (images, videos).
    """
    said = read_error(status, _parsed(body) if isinstance(body, bytes) else body)
    if said is None and status == 200:
        return _senseless("upstream 200 without an answer")
    said = said or ArkError(status, "", "")
    code = said.code if _SAFE_CODE.fullmatch(said.code) else ""
    note = f"upstream {status} {code}".rstrip()
    if status == 200:
        status = _status_of(code)
    shown = public_message(said.message.replace(f"model {upstream_model}", "model").replace(upstream_model, "the model"))
    if status == 401 or _OPERATOR_CODES.match(code) or (code == "QuotaExceeded" and not _QUEUED.search(said.message)):
        return _for_the_operator(note)
    if status in (403, 404):
        return _for_the_operator(note)
    if status == 429:
        error: GatewayError = ModelUnavailableError("The model is at its limit just now", retry_after_seconds=RETRY_AFTER_SECONDS)
        return Refusal(error, Outcome.UPSTREAM_ERROR, note)
    if code == "ContentSecurityDetectionError" or status >= 500 or code == "InternalServiceError":
        return outage(note)
    if is_moderation(code):
        return Refusal(ContentRejectedError(shown or "The content was rejected by moderation"), Outcome.REFUSED, note)
    if status in (400, 409, 413, 422):
        return Refusal(_customers_fault(code, said, shown, messages=messages), Outcome.REFUSED, note)
    return _senseless(note)


def outage(note: str, *, should_retry: bool | None = None) -> Refusal:
    """Return the refusal for a failure that is nobody's fault: an unavailable model, to be tried again in a while."""
    error = ModelUnavailableError(
        "The model is unavailable just now", retry_after_seconds=OUTAGE_RETRY_AFTER_SECONDS, should_retry=should_retry
    )
    return Refusal(error, Outcome.UPSTREAM_ERROR, note)


def _senseless(note: str) -> Refusal:
    """Return the refusal for a meaningless answer: the upstream may have worked, and a retry might charge the operator twice."""
    return Refusal(InternalError("The model gave an unexpected answer", should_retry=False), Outcome.UPSTREAM_ERROR, note)


def _for_the_operator(note: str) -> Refusal:
    error = ModelUnavailableError("The model is unavailable just now", retry_after_seconds=UNAVAILABLE_RETRY_AFTER_SECONDS)
    return Refusal(error, Outcome.UPSTREAM_ERROR, note, operator=True)


def _status_of(code: str) -> int:
    """Return the status that belongs to a code found inside a 200."""
    if _LIMIT_CODES.match(code):
        return 429
    return 400 if _INPUT_CODES.match(code) else 500


def _customers_fault(code: str, said: ArkError, shown: str, *, messages: bool) -> GatewayError:
    param = public_param(said.param)
    if _WRONG_ENDPOINT.search(said.message):
        return WrongEndpointError("The model does not support this endpoint", param="model")
    if code.startswith("MissingParameter") and (param in ("prompt", "text") or "prompt" in said.message):
        return MissingPromptError(shown or "The prompt is missing", param="prompt")
    if messages and (not param or param.startswith("messages") or code.startswith(_MESSAGE_CODES)):
        return InvalidMessagesError(shown or _sentence(code, param, "The messages were refused"), param=param or "messages")
    return InvalidParameterError(shown or _sentence(code, param, "The request was refused"), param=param)


def _sentence(code: str, param: str | None, otherwise: str) -> str:
    """Return a sentence of the gateway's for a refusal whose message may not be shown."""
    if param is not None:
        return f"The parameter {param} {'is missing' if code.startswith('MissingParameter') else 'was refused'}"
    return next((sentence for start, sentence in _SENTENCES if code.startswith(start)), otherwise)


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None  # gateways in front of Ark answer in HTML or plain text
