"""Errors of a call, as the customer sees them: one class a row of the public error table.

An error carries only what may be shown. Details from the upstream or the system go to the log, never in here.
"""

from typing import ClassVar

RETRY_AFTER_OBEYED_SECONDS = 60.0
"""SDKs obey ``Retry-After`` only up to a minute (openai-python: ``0 < retry_after <= 60``), else they use their own back-off, of a
second: a longer one is for people, and SDKs are told not to retry."""
RETRY_AFTER_SECONDS_MAX = 86_400.0


class GatewayError(Exception):
    """A refusal or failure with its documented status, type and code; `param` names the place in the request."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_seconds: float | None = None,
        should_retry: bool | None = None,
        allow: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        self.should_retry = should_retry
        """False where a retry could pay twice; None leaves it to the client."""
        self.allow = allow
        """Methods of the `Allow` header of a 405."""

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return the documented JSON shape: ``{"error": {"type", "code", "message", "param"}}``."""
        return {"error": {"type": self.type, "code": self.code, "message": self.message, "param": self.param}}


class InternalError(GatewayError):
    """A bug or a broken disk; the cause is logged, and not shown."""


class _UnauthorizedError(GatewayError):
    status = 401
    type = "authentication_error"


class MissingApiKeyError(_UnauthorizedError):
    code = "MISSING_API_KEY"


class InvalidApiKeyError(_UnauthorizedError):
    code = "INVALID_API_KEY"


class InsufficientBalanceError(GatewayError):
    """The account cannot cover the worst case of this call."""

    status = 402
    type = "insufficient_balance_error"
    code = "INSUFFICIENT_BALANCE"


class KeyLimitReachedError(InsufficientBalanceError):
    """A money limit of the key, or of its account, cannot cover the worst case of this call."""

    code = "KEY_LIMIT_REACHED"


class _ForbiddenError(GatewayError):
    """The key is good, and something that it may not do."""

    status = 403
    type = "permission_error"


class AccountSuspendedError(_ForbiddenError):
    code = "ACCOUNT_SUSPENDED"


class NetworkNotAllowedError(_ForbiddenError):
    code = "NETWORK_NOT_ALLOWED"


class ModelNotAllowedError(_ForbiddenError):
    code = "MODEL_NOT_ALLOWED"


class BadRequestError(GatewayError):
    """The request line or a header is not HTTP that this server accepts."""

    status = 400
    type = "invalid_request_error"
    code = "MALFORMED_REQUEST"


class InvalidJsonError(BadRequestError):
    code = "INVALID_JSON"


class InvalidParameterError(BadRequestError):
    code = "INVALID_PARAMETER"


class MissingModelError(BadRequestError):
    code = "MISSING_MODEL"


class InvalidMessagesError(BadRequestError):
    code = "INVALID_MESSAGES"


class ContextLengthError(BadRequestError):
    """The prompt, or the prompt and the answer asked for, do not fit into the model's context."""

    type = "context_length_exceeded"
    code = "CONTEXT_LENGTH_EXCEEDED"


class MissingPromptError(BadRequestError):
    code = "MISSING_PROMPT"


class WrongEndpointError(BadRequestError):
    code = "WRONG_ENDPOINT"


class ContentRejectedError(BadRequestError):
    """The upstream's moderation refused the input or the output."""

    code = "CONTENT_REJECTED"


class NotFoundError(BadRequestError):
    status = 404
    code = "NOT_FOUND"


class ModelNotFoundError(NotFoundError):
    code = "MODEL_NOT_FOUND"


class TaskNotFoundError(NotFoundError):
    code = "TASK_NOT_FOUND"


class MethodNotAllowedError(BadRequestError):
    status = 405
    code = "METHOD_NOT_ALLOWED"


class RequestTimeoutError(BadRequestError):
    """The body did not arrive in time."""

    status = 408
    code = "REQUEST_TIMEOUT"


class _ConflictError(BadRequestError):
    status = 409


class TaskRunningError(_ConflictError):
    code = "TASK_RUNNING"


class IdempotencyConflictError(_ConflictError):
    code = "IDEMPOTENCY_CONFLICT"


class RequestTooLargeError(BadRequestError):
    status = 413
    code = "REQUEST_TOO_LARGE"


class UnsupportedMediaTypeError(BadRequestError):
    status = 415
    code = "UNSUPPORTED_MEDIA_TYPE"


class HeadersTooLargeError(BadRequestError):
    status = 431
    code = "HEADERS_TOO_LARGE"


class RateLimitedError(GatewayError):
    status = 429
    type = "rate_limit_error"
    code = "RATE_LIMITED"


class ModelUnavailableError(GatewayError):
    """The model is unavailable for now: an outage, a limit, or a problem on the operator's side (key, quota, access)."""

    status = 503
    type = "service_unavailable_error"
    code = "MODEL_UNAVAILABLE"
