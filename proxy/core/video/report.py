"""What can be seen or heard of a video task: frozen values that `video_task.advance` takes."""

from dataclasses import dataclass
from enum import StrEnum

from proxy.core.ark.text import ArkError


@dataclass(frozen=True, slots=True)
class Submitted:
    """Ark has the task. Also what a look-up that found it comes to."""

    upstream_id: str


@dataclass(frozen=True, slots=True)
class SubmitRefused:
    """It is proven that Ark has no such task: a refusal, or no connection."""

    error: ArkError | None
    why: str = ""
    http_status: int = 0
    """What the customer was answered with."""


@dataclass(frozen=True, slots=True)
class SubmitUnknown:
    """The submit may have arrived: no answer, one that says nothing, or a process that ended between. It is never sent again."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A lost submit stands in Ark's list."""

    upstream_id: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """Ark's list does not have it (or not beyond doubt)."""


@dataclass(frozen=True, slots=True)
class LookupFailed:
    """Ark's list could not be had."""


@dataclass(frozen=True, slots=True)
class Polled:
    """Ark's answer about the task."""

    status: str
    video_url: str = ""
    last_frame_url: str = ""
    completion_tokens: int | None = None
    error: ArkError | None = None
    updated_at_ms: int | None = None


class PollFailure(StrEnum):
    TRANSIENT = "transient"
    """401, 403, 429, 5xx, a timeout, nonsense: about us or Ark, never about the task."""
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True)
class PollFailed:
    kind: PollFailure
    retry_after_ms: int = 0
    """As Ark asked, 0: it did not."""


@dataclass(frozen=True, slots=True)
class CancelConfirmed:
    """Ark has cancelled the task for the customer."""


@dataclass(frozen=True, slots=True)
class RecordDeleted:
    """A DELETE that should have cancelled the task met its end: Ark has no record of it any more, and so no video."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """A sweep thinks that the task is overdue; it is asked here whether it is."""


Report = (
    Submitted
    | SubmitRefused
    | SubmitUnknown
    | Found
    | NotFound
    | LookupFailed
    | Polled
    | PollFailed
    | CancelConfirmed
    | RecordDeleted
    | DeadlinePassed
)
