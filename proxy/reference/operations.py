"""What each route takes, answers and refuses: one row a route. A route without a row, or a row without a route, fails a test."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.core import errors
from proxy.core.schema import Schema
from proxy.core.video.request import LIMIT_DEFAULT, LIMIT_MAX, OFFSET_MAX
from proxy.core.waiting import WAIT_SECONDS_MAX

Refusal = type[errors.GatewayError]

EVERYWHERE: tuple[Refusal, ...] = (errors.BadRequestError, errors.HeadersTooLargeError, errors.InternalError)
WITH_A_KEY: tuple[Refusal, ...] = (
    errors.InvalidParameterError,
    errors.MissingApiKeyError,
    errors.InvalidApiKeyError,
    errors.AccountSuspendedError,
    errors.NetworkNotAllowedError,
    errors.ModelUnavailableError,
)
WITH_A_BODY: tuple[Refusal, ...] = (
    errors.InvalidJsonError,
    errors.RequestTimeoutError,
    errors.RequestTooLargeError,
    errors.UnsupportedMediaTypeError,
)
PAID: tuple[Refusal, ...] = (
    *WITH_A_BODY,
    errors.WrongEndpointError,
    errors.ContentRejectedError,
    errors.InsufficientBalanceError,
    errors.KeyLimitReachedError,
    errors.ModelNotAllowedError,
    errors.ModelNotFoundError,
    errors.IdempotencyConflictError,
    errors.RateLimitedError,
)
BEFORE_A_ROUTE: tuple[Refusal, ...] = (errors.NotFoundError, errors.MethodNotAllowedError)
"""What is told where no route was found, so that they are part of no operation: of its own, each operation names `NotFoundError`."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the query or in the path."""

    name: str
    schema: Mapping[str, Any]
    where: str = "query"


@dataclass(frozen=True, slots=True)
class Operation:
    """One route, as the document tells of it."""

    id: str
    """Also the name of its words, samples and example, and its anchor on the page."""
    tag: str
    answer: str
    """Component of the answer 200; empty: it is told in `media`."""
    refusals: tuple[Refusal, ...] = ()
    request: str = ""
    """Component of the body; empty: it has none."""
    parameters: tuple[Parameter, ...] = ()
    streams: str = ""
    """Component of the events of a streamed answer."""
    is_paid: bool = False
    """True: an `Idempotency-Key` counts."""
    media: str = "application/json"
    unready: str = ""
    """Component of an answer 503 that is no error."""
    validated: bool = False
    """True: it has an ETag, and answers 304."""


_ID = Parameter("id", {"type": "string", "minLength": 1}, "path")
_SECONDS: Schema = {"type": "number", "minimum": 0}
_LANGUAGE = Parameter("lang", {"type": "string", "enum": ["zh", "en"]})
_ASKED = (errors.InvalidParameterError,)

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/chat/completions"): Operation(
        "createChatCompletion",
        "chat",
        "ChatCompletion",
        (*WITH_A_KEY, *PAID, errors.MissingModelError, errors.InvalidMessagesError, errors.ContextLengthError),
        request="ChatRequest",
        streams="ChatChunk",
        is_paid=True,
    ),
    ("POST", "/images/generations"): Operation(
        "createImage",
        "images",
        "ImageAnswer",
        (*WITH_A_KEY, *PAID, errors.MissingPromptError),
        request="ImageRequest",
        is_paid=True,
    ),
    ("POST", "/videos/generations"): Operation(
        "createVideo",
        "videos",
        "VideoTaskCreated",
        (*WITH_A_KEY, *PAID, errors.MissingPromptError),
        request="VideoRequest",
        is_paid=True,
    ),
    ("GET", "/videos/tasks/{id}"): Operation(
        "getVideoTask",
        "videos",
        "VideoTask",
        (*WITH_A_KEY, errors.TaskNotFoundError),
        parameters=(_ID, Parameter("wait", _SECONDS | {"default": 0, "examples": [30, WAIT_SECONDS_MAX]})),
    ),
    ("GET", "/videos/tasks"): Operation(
        "listVideoTasks",
        "videos",
        "VideoTaskList",
        WITH_A_KEY,
        parameters=(
            Parameter("limit", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT}),
            Parameter("offset", {"type": "integer", "minimum": 0, "maximum": OFFSET_MAX, "default": 0}),
        ),
    ),
    ("DELETE", "/videos/tasks/{id}"): Operation(
        "cancelVideoTask",
        "videos",
        "VideoTask",
        (*WITH_A_KEY, errors.TaskNotFoundError, errors.TaskRunningError, errors.RateLimitedError),
        parameters=(_ID,),
    ),
    ("GET", "/models"): Operation("listModels", "models", "ModelList", WITH_A_KEY),
    ("GET", "/models/public"): Operation("listPublicModels", "models", "ModelList"),
    ("GET", "/models/{id}"): Operation(
        "getModel", "models", "Model", (*WITH_A_KEY, errors.ModelNotAllowedError, errors.ModelNotFoundError), parameters=(_ID,)
    ),
    ("GET", "/account"): Operation("getAccount", "account", "Account", WITH_A_KEY),
    ("GET", "/usage/{id}"): Operation("getReceipt", "account", "Receipt", (*WITH_A_KEY, errors.NotFoundError), parameters=(_ID,)),
    ("GET", "/healthz"): Operation(
        "isAlive",
        "service",
        "Alive",
        _ASKED,
        parameters=(Parameter("wait", _SECONDS | {"default": 0}), Parameter("stream", {"type": "string", "enum": ["true"]})),
    ),
    ("GET", "/readyz"): Operation("isReady", "service", "Ready", unready="Ready"),
    ("GET", "/openapi.json"): Operation("getOpenApi", "service", "", parameters=(_LANGUAGE,), validated=True),
    ("GET", "/docs"): Operation("getDocs", "service", "", parameters=(_LANGUAGE,), media="text/html", validated=True),
    ("GET", "/docs/{id}"): Operation(
        "getDocsFile", "service", "", (errors.NotFoundError,), parameters=(_ID,), media="text/css", validated=True
    ),
}
TAGS = ("chat", "images", "videos", "models", "account", "service")
"""In the order of the page."""


def refusals_of(operation: Operation) -> list[Refusal]:
    """Return all errors of an operation, by status and code."""
    return sorted({*EVERYWHERE, *operation.refusals}, key=lambda kind: (kind.status, kind.code))


def every_refusal() -> list[Refusal]:
    """Return all errors that there are, by status and code: the classes of `core.errors` that are a row of the public table."""

    def below(kind: Refusal) -> list[Refusal]:
        return [kind, *(other for child in kind.__subclasses__() for other in below(child))]

    rows = {(kind.status, kind.code): kind for kind in below(errors.GatewayError) if not kind.__name__.startswith("_")}
    return [rows[at] for at in sorted(rows)]
