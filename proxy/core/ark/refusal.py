"""Ark's refusals, mapped to the customer's errors. Pure.

The table is ``ark-api.md`` §7.6. Key, balance, quota and model access upstream concern the operator: a customer sees a model that is
unavailable. Codes decide; messages only where one code of Ark's has several meanings. Ark's own message is shown only for a fault in
the customer's own request, and only if all its words are plain; else the gateway sends a sentence of its own.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.core.ark.context_length import overflow_error, read_overflow
from proxy.core.ark.identifiers import own_names
from proxy.core.ark.named_field import refused_chat_field
from proxy.core.ark.plain_text import is_plain_text, public_param
from proxy.core.ark.text import ArkError, is_moderation, public_message, read_chat_error, read_error
from proxy.core.catalog import Dialect
from proxy.core.errors import (
    ContentRejectedError,
    GatewayError,
    InternalError,
    InvalidMessagesError,
    InvalidParameterError,
    MissingPromptError,
    ModelUnavailableError,
    RequestTooLargeError,
    WrongEndpointError,
)
from proxy.core.health import Trouble
from proxy.core.settlement import Outcome

RETRY_AFTER_SECONDS = 2.0
"""Retry delay for a customer whose call hit a rate limit and whose upstream names no time; Ark does not."""
OUTAGE_RETRY_AFTER_SECONDS = 5.0
RETRY_AFTER_SECONDS_MIN = 1.0
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")
"""A ``Retry-After``; OpenRouter and others write fractions."""

_OPERATOR_CODES = re.compile(
    r"AccountOverdue|OperationDenied|AccessDenied|AuthenticationError|InvalidAccountStatus|ModelNotOpen|InvalidEndpointOrModel"
    r"|UnsupportedModel|InvalidEndpoint\.|InvalidSubscription|SetLimitExceeded"
    # of other servers: OpenAI, Moonshot, DashScope, Zhipu (1113: in arrears), Groq
    r"|insufficient_(?:quota|balance|credit|funds)|exceeded_current_quota|billing_|account_deactivated|Arrearage|1113$"
    r"|invalid_api_key|model_(?:not_found|not_supported|decommissioned)"
)
_OPERATOR_WORDS = re.compile(
    r"credit balance is too low"  # Anthropic, 400
    r"|api key (?:not valid|is invalid)|(?:incorrect|invalid) api key"  # Gemini, 400, and others
    r"|model not exist|insufficient balance"  # DeepSeek
    r"|账户已?欠费|余额不足",
    re.IGNORECASE,
)
"""What servers that give every fault the same code or type say of the operator's account."""
_OPERATOR_STATUSES = frozenset({401, 402, 403, 404, 405, 410})
"""Key, balance, access, and a route or model that is not there; so are redirects, which a wrong address earns."""
_KEY_CODES = re.compile(
    r"AccountOverdue|AuthenticationError|InvalidAccountStatus|InvalidSubscription|OperationDenied\.ServiceOverdue"
    r"|insufficient_(?:quota|balance|credit|funds)|exceeded_current_quota|billing_|account_deactivated|Arrearage|1113$|invalid_api_key"
)
_KEY_WORDS = re.compile(r"credit balance|api key|insufficient balance|欠费|余额不足", re.IGNORECASE)
_KEY_STATUSES = frozenset({401, 402})
"""What is about the whole account, whatever model is asked for."""
_ACCOUNT_LIMITS = re.compile(r"(?:API)?AccountR")
"""``AccountRateLimitExceeded``, ``APIAccountRpmRateLimitExceeded``: no other model of the account is let through either."""
_WRONG_ENDPOINT = re.compile(r"does not support (?:this api|content generation|image generation)", re.IGNORECASE)
_QUEUED = re.compile(r"queue", re.IGNORECASE)
_LIMIT_CODES = re.compile(r".*RateLimitExceeded|QuotaExceeded|ServerOverloaded|RequestBurstTooFast|InflightBatchsizeExceeded")
_INPUT_CODES = re.compile(
    r"(?:Missing|Invalid)Parameter|InvalidArgumentError|InvalidImageURL|OutofContextError|.*(?:Sensitive|RiskDetection)"
)
_FAULTS = frozenset({400, 409, 413, 422})
"""Statuses of faults in the request."""
_TOO_LARGE = 413
TIMEOUTS = frozenset({408, 504, 524})
"""Statuses that prove nothing, whatever their body says: a proxy on the way stopped waiting, and the call may run."""
_ARKS_CODE = re.compile(r"[A-Z][A-Za-z]+(?:\.[A-Za-z]+)*")
"""Other servers' codes say less: ``do_request_failed`` of a gateway may be an answer that it lost."""
_UNMADE = frozenset({500, 502, 503})
"""Statuses of an upstream that failed, and says so: another may be asked."""
_NOT_BEGUN = re.compile(r"unavailable|overloaded", re.IGNORECASE)
"""Types of other servers' errors that say that a call was not begun: llama.cpp's ``unavailable_error`` while it loads its model."""
_OVERLOADED = re.compile(r"overloaded", re.IGNORECASE)
"""The same in a message: OpenAI's and Moonshot's "The engine is currently overloaded"."""
_TIMED_OUT = re.compile(r"time[-_ ]?d?[-_ ]?out|deadline", re.IGNORECASE)
"""An error that is about waiting, with whatever code, says that the call had begun: DashScope's ``RequestTimeOut``, a 500."""
_FIGURE = r"-?[0-9]{1,8}(?![0-9])(?:\.[0-9]{1,4})?"
_BOUND = re.compile(
    r"(?:[<>]=|[≤≥<>]|\b(?:at (?:most|least)|(?:less|greater|more) than(?: or equal to)?|up to|between|in"
    r"|(?:maximum|minimum)(?: value)?(?: of| is)?))"
    rf" ?[\[(]?{_FIGURE}(?:(?: and |, ?){_FIGURE}[\])]?)?(?![\w.-]?[0-9])",
    re.IGNORECASE,
)
"""A bound in a message: "<= 32768", "at most 10", "in [0, 2]"."""
_MESSAGE_CODES = ("InvalidImageURL", "InvalidArgument")
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
    trouble: Trouble | None = None
    """What is the matter with the upstream, its key or its model; None: nothing, the request itself was refused."""


def read_refusal(
    status: int,
    body: bytes | dict[str, Any],
    upstream_model: str,
    *,
    messages: bool = True,
    context_tokens: int = 0,
    names: Collection[str] = (),
    dialect: Dialect = "ark",
) -> Refusal:
    """Return the refusal for an answer that is an error.

    Args:
        status: the upstream's status; 200 for an error inside a stream.
        upstream_model: the model's id upstream, which is cut from messages.
        messages: faults in the input are `INVALID_MESSAGES` (chat), else `INVALID_PARAMETER` (images, videos).
        context_tokens: the model's context, told if it is full; 0: not known.
        names: names of functions and calls that the customer sent: the message may repeat them.
        dialect: what the upstream speaks: by it an error is known as its own.
    """
    answer = _parsed(body) if isinstance(body, bytes) else body
    coded = read_error(status, answer)
    found = read_chat_error(status, answer) if messages else coded
    if found is None and status == 200:
        return _senseless("upstream 200 without an answer")
    said = found or ArkError(status, "", "")
    code = said.code if _SAFE_CODE.fullmatch(said.code) else ""
    note = f"upstream {status} {code}".rstrip()
    if status == 200:
        status = _status_of(code) if said.status == 200 else said.status
    is_told = found is not None or body == b""
    if status in _OPERATOR_STATUSES or 300 <= status < 400 or _is_operators(said.code, said.message):
        is_key = status in _KEY_STATUSES or bool(_KEY_CODES.match(said.code) or _KEY_WORDS.search(said.message))
        return operators_fault(note, Trouble.KEY_REFUSED if is_key else Trouble.MODEL_REFUSED, is_told=is_told)
    if status == 429:
        error: GatewayError = ModelUnavailableError("The model is at its limit just now", retry_after_seconds=RETRY_AFTER_SECONDS)
        trouble = Trouble.KEY_LIMITED if _ACCOUNT_LIMITS.match(code) else Trouble.LIMITED
        return Refusal(error, Outcome.UPSTREAM_ERROR, note, trouble=trouble if is_told else Trouble.UNKNOWN)
    if messages and (status in _FAULTS or status >= 500) and (overflow := read_overflow(said)) is not None:
        return Refusal(overflow_error(overflow, context_tokens), Outcome.REFUSED, note)
    if code == "ContentSecurityDetectionError" or status >= 500 or status in TIMEOUTS or code == "InternalServiceError":
        is_own = found is not None if dialect == "openai" else bool(coded and _ARKS_CODE.fullmatch(coded.code))
        is_proven = status not in TIMEOUTS and _is_proof(code, said.message, is_own=is_own)
        return outage(note, may_have_run=not is_proven, trouble=Trouble.FAILED if is_proven and status in _UNMADE else Trouble.UNKNOWN)
    shown = public_message(_without_model(said.message, upstream_model), own_names(names, upstream_model))
    if is_moderation(code):
        rejected = ContentRejectedError(shown or "The content was rejected by moderation", should_retry=False)
        return Refusal(rejected, Outcome.REFUSED, note)
    if status in _FAULTS:
        return Refusal(_customers_fault(code, said, shown, messages=messages), Outcome.REFUSED, note)
    return _senseless(note)


def _is_operators(code: str, message: str) -> bool:
    if code == "QuotaExceeded":
        return not _QUEUED.search(message)
    return bool(_OPERATOR_CODES.match(code) or _OPERATOR_WORDS.search(message))


def _is_proof(code: str, message: str, *, is_own: bool) -> bool:
    """Return whether an error proves that nothing was made.

    One that is the upstream's own does: at Ark one with a code of Ark's (ark-api.md §7.6), elsewhere any in OpenAI's shape. So does one
    that says that the server is too busy to begin. A proxy's page does not, nor does an error that is about waiting.
    """
    if _TIMED_OUT.search(code) or _TIMED_OUT.search(message):
        return False
    return is_own or bool(_NOT_BEGUN.search(code) or _OVERLOADED.search(message))


def outage(note: str, *, may_have_run: bool = False, trouble: Trouble = Trouble.UNKNOWN) -> Refusal:
    """Return the refusal for a failure that is nobody's fault: an unavailable model.

    Args: may_have_run: the upstream may have got the call, and may run and charge it: a retry could pay twice. Else the customer is
        asked to try again in a while.
    """
    if may_have_run:
        error = ModelUnavailableError("The model gave no proper answer; it is not known whether the call ran", should_retry=False)
    else:
        error = ModelUnavailableError("The model is unavailable just now", retry_after_seconds=OUTAGE_RETRY_AFTER_SECONDS)
    return Refusal(error, Outcome.UPSTREAM_ERROR, note, trouble=trouble)


def with_delay(refusal: Refusal, told: str | None) -> Refusal:
    """Return the refusal with the upstream's own ``Retry-After`` in seconds, where waiting helps; a date is not read."""
    if told is not None and refusal.error.retry_after_seconds is not None and _SECONDS.fullmatch(told := told.strip()):
        refusal.error.retry_after_seconds = max(float(told), RETRY_AFTER_SECONDS_MIN)
    return refusal


def unanswered(failure: str, *, may_have_run: bool) -> Refusal:
    """Return the refusal for a call that the upstream gave no answer to."""
    return outage(failure, may_have_run=may_have_run, trouble=Trouble.UNKNOWN if may_have_run else Trouble.UNREACHABLE)


def operators_fault(note: str, trouble: Trouble = Trouble.UNKNOWN, *, is_told: bool = True) -> Refusal:
    """Return the refusal for what the operator has to mend: no retry does.

    Args: is_told: whether the upstream itself says so, and no proxy on the way.
    """
    error = ModelUnavailableError("The model is unavailable at present", should_retry=False)
    return Refusal(error, Outcome.UPSTREAM_ERROR, note, operator=True, trouble=trouble if is_told else Trouble.UNKNOWN)


def _senseless(note: str) -> Refusal:
    """Return the refusal for a meaningless answer: the upstream may have worked, and a retry might charge the operator twice."""
    error = InternalError("The model gave an unexpected answer", should_retry=False)
    return Refusal(error, Outcome.UPSTREAM_ERROR, note, trouble=Trouble.UNKNOWN)


def _status_of(code: str) -> int:
    """Return the status that belongs to a code found inside a 200."""
    if _LIMIT_CODES.match(code):
        return 429
    return 400 if _INPUT_CODES.match(code) else 500


def _without_model(message: str, upstream_model: str) -> str:
    """Return a message that calls the model "the model", wherever its id upstream stands as a word."""
    told = re.compile(
        rf"(?P<kind>\bmodel\s+)?[\"'`]?(?<![A-Za-z0-9_.-]){re.escape(upstream_model)}(?![A-Za-z0-9_-])[\"'`]?", re.IGNORECASE
    )
    return told.sub(lambda found: "model" if found["kind"] else "the model", message)


def _customers_fault(code: str, said: ArkError, shown: str, *, messages: bool) -> GatewayError:
    if said.status == _TOO_LARGE:
        why = "The request is larger than the model's server takes: send fewer or smaller messages and pictures"
        return RequestTooLargeError(why, should_retry=False)
    param = refused_chat_field(said) if messages else public_param(said.param)
    if _WRONG_ENDPOINT.search(said.message):
        return WrongEndpointError("The model does not support this endpoint", param="model")
    if code.startswith("MissingParameter") and (param in ("prompt", "text") or "prompt" in said.message):
        return MissingPromptError(shown or "The prompt is missing", param="prompt")
    if messages and (not param or param.startswith("messages") or code.startswith(_MESSAGE_CODES)):
        return InvalidMessagesError(shown or _sentence(code, param, said, "The messages were refused"), param=param or "messages")
    return InvalidParameterError(shown or _sentence(code, param, said, "The request was refused"), param=param)


def _sentence(code: str, param: str | None, said: ArkError, otherwise: str) -> str:
    """Return a sentence of the gateway's for a refusal whose message may not be shown, with the bound that it names."""
    if param is not None:
        bound = _BOUND.search(said.message)
        told = f" (expected: {bound[0]})" if bound and is_plain_text(bound[0]) else ""
        return f"The parameter {param} {'is missing' if code.startswith('MissingParameter') else f'was refused{told}'}"
    return next((sentence for start, sentence in _SENTENCES if code.startswith(start)), otherwise)


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None  # gateways in front of Ark answer in HTML or plain text
