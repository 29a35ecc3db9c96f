"""Reports about a video task: frozen values that `task.advance` takes."""

from dataclasses import dataclass
from enum import StrEnum

from proxy.core.ark.text import ArkError


@dataclass(frozen=True, slots=True)
class Submitted:
    """Ark has the task. `Found` comes to the same."""

    upstream_id: str


@dataclass(frozen=True, slots=True)
class SubmitRefused:
    """Ark has no such task, which is proven: a refusal, or no connection."""

    error: ArkError | None
    why: str = ""
    http_status: int = 0
    """Status sent to the customer."""


@dataclass(frozen=True, slots=True)
class SubmitUnknown:
    """The submit may have arrived: no answer, one that proves nothing, or a process that ended in between. It is never sent again."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A lost submit was found in Ark's list."""

    upstream_id: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """Ark's list does not have it (or not with certainty)."""


@dataclass(frozen=True, slots=True)
class LookupFailed:
    """Ark's list could not be fetched."""


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
    """401, 403, 429, 5xx, a timeout, nonsense: it concerns the gateway or Ark, never the task."""
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True)
class PollFailed:
    kind: PollFailure
    retry_after_ms: int = 0
    """Delay that Ark asked for; 0: none."""


@dataclass(frozen=True, slots=True)
class CancelConfirmed:
    """Ark has cancelled the task for the customer."""


@dataclass(frozen=True, slots=True)
class RecordDeleted:
    """A DELETE meant to cancel the task came after its end: Ark has no record of it any more, and so no video."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """A sweep considers the task overdue; `advance` checks whether it is."""


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
