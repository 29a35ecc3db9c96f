"""Failures of video tasks, as the customer reads them: the gateway's own codes, and never operator data."""

from proxy.core.ark.text import ArkError, is_moderation, public_message
from proxy.core.video.record import TaskError

LOST = TaskError("SUBMIT_LOST", "The task could not be handed over; nothing was charged, please submit it again")
EXPIRED = TaskError("TASK_EXPIRED", "The task expired before it was done; nothing was charged")
CANCELLED = TaskError("TASK_CANCELLED", "The task was cancelled; nothing was charged")
NO_VIDEO = TaskError("GENERATION_FAILED", "The generation ended without a video; nothing was charged")
GONE = TaskError("GENERATION_FAILED", "The task was lost while it was generated; nothing was charged")
DELETED = TaskError("GENERATION_FAILED", "The task ended while it was being cancelled, and its video is gone; nothing was charged")
FAILED = TaskError("GENERATION_FAILED", "The generation failed; nothing was charged")
UNAVAILABLE = TaskError("MODEL_UNAVAILABLE", "The model was not available; nothing was charged")
FAILURE_CODES = (
    "CONTENT_REJECTED",
    "INVALID_PARAMETER",
    "MODEL_UNAVAILABLE",
    "GENERATION_FAILED",
    "TASK_EXPIRED",
    "TASK_CANCELLED",
    "SUBMIT_LOST",
)
"""All codes of a failed task."""

_OPERATORS = ("Account", "Authentication", "AccessDenied", "OperationDenied", "ModelNotOpen", "InvalidEndpoint", "InvalidSubscription")
_LIMITS = ("QuotaExceeded", "SetLimitExceeded", "RateLimit", "ServerOverloaded", "RequestBurst", "InflightBatchsize")


def public_error(error: ArkError | None) -> TaskError:
    """Return the customer's view of Ark's error: the gateway's code, and Ark's message if every word of it may be shown.

    Errors that concern the operator (key, balance, access, limits) are shown as an outage, without Ark's words.
    """
    if error is None:
        return FAILED
    if error.code.startswith(_OPERATORS) or any(limit in error.code for limit in _LIMITS) or error.status in (401, 403, 429):
        return UNAVAILABLE
    message = public_message(error.message)
    if is_moderation(error.code):
        return TaskError("CONTENT_REJECTED", message or "The content was rejected")
    if error.code.startswith(("InvalidParameter", "MissingParameter", "InvalidImage")):
        return TaskError("INVALID_PARAMETER", message or "A parameter was refused")
    return TaskError("GENERATION_FAILED", message or FAILED.message)
