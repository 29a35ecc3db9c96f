"""A video task as it is stored: the request, the hold and quote, and the progress. Only `task.advance` changes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from proxy.core.money import DISCOUNT_WHOLE, Nanos
from proxy.core.video.price import VideoBilling, video_tokens
from proxy.core.video.request import VideoCall

_NOTHING = Nanos(0)


class TaskState(StrEnum):
    SUBMITTING = "submitting"
    """Recorded and held. It is not known yet whether Ark has it."""
    PENDING = "pending"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


TRANSITIONS: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.SUBMITTING: frozenset({TaskState.SUBMITTING, TaskState.PENDING, TaskState.FAILED}),
    TaskState.PENDING: frozenset({TaskState.PENDING, TaskState.PROCESSING, TaskState.SUCCEEDED, TaskState.FAILED}),
    TaskState.PROCESSING: frozenset({TaskState.PROCESSING, TaskState.SUCCEEDED, TaskState.FAILED}),
    TaskState.SUCCEEDED: frozenset({TaskState.SUCCEEDED}),
    TaskState.FAILED: frozenset({TaskState.FAILED}),
}
"""States that each state may become. Never back, and none once ended."""
TERMINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED})


class Next(StrEnum):
    """Action for a task that is due."""

    LOOK_UP = "look_up"
    POLL = "poll"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class TaskError:
    """Reason for a task's failure, as the customer reads it."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class VideoTask:
    """One video, from the submit on; flat, as it is stored. Times are unix milliseconds."""

    id: str
    """``vreq_…``, also the id of the paid request."""
    account_id: int
    model: str
    """The public id."""
    upstream: str
    upstream_model: str
    prompt: str
    """As the customer wrote it."""
    task_type: str
    resolution: str
    duration_seconds: int
    generate_audio: bool
    service_tier: str
    seed: int | None
    safety_identifier: str
    billing: VideoBilling
    hold_nanos: Nanos
    quote_nanos: Nanos
    quote_tokens: int
    rate_nanos_per_kilotoken: int
    """Frozen at submit: a price changed later does not affect this task."""
    created_at_ms: int
    discount: int = DISCOUNT_WHOLE
    """Frozen likewise: hold and quote have it in them, what is charged by usage gets it. In ten-thousandths."""
    state: TaskState = TaskState.SUBMITTING
    upstream_id: str = ""
    lost_at_ms: int | None = None
    """Time when waiting for the submit's answer ended; kept for the receipt if the task was found after all."""
    expires_at_ms: int | None = None
    """Time when Ark itself expires the task, plus some grace; None before the submit is known to have succeeded."""
    polls: int = 0
    """Polls counted for their spacing, which grows with each."""
    missing: int = 0
    urlless: int = 0
    odd_status: str = ""
    """The last unknown status word of Ark's."""
    video_url: str = ""
    thumbnail_url: str = ""
    error: TaskError | None = None
    charge_nanos: Nanos = _NOTHING
    ended_at_ms: int | None = None
    key_name: str = ""
    """The upstream's key that it was submitted by, and is asked for by; empty: submitted before keys had names."""

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    @property
    def next(self) -> Next:
        if self.ended:
            return Next.NOTHING
        return Next.LOOK_UP if self.state is TaskState.SUBMITTING else Next.POLL

    @property
    def cancellable(self) -> bool:
        """Return whether Ark may be asked to cancel: it was queued when last seen. Deleting a finished task would delete its video."""
        return self.state is TaskState.PENDING


def new_task(
    *,
    request_id: str,
    account_id: int,
    model: str,
    upstream: str,
    upstream_model: str,
    call: VideoCall,
    safety_identifier: str,
    billing: VideoBilling,
    hold_nanos: Nanos,
    quote_nanos: Nanos,
    rate_nanos_per_kilotoken: int,
    now_ms: int,
    discount: int = DISCOUNT_WHOLE,
    key_name: str = "",
) -> VideoTask:
    """Return the task to be stored with its hold, before the submit is sent. The discount is in hold and quote, not in the rate."""
    return VideoTask(
        id=request_id,
        account_id=account_id,
        model=model,
        upstream=upstream,
        upstream_model=upstream_model,
        prompt=call.prompt,
        task_type=call.task_type,
        resolution=call.resolution,
        duration_seconds=call.duration_seconds,
        generate_audio=call.generate_audio,
        service_tier=call.service_tier,
        seed=call.seed,
        safety_identifier=safety_identifier,
        key_name=key_name,
        billing=billing,
        hold_nanos=hold_nanos,
        quote_nanos=quote_nanos,
        quote_tokens=video_tokens(call),
        rate_nanos_per_kilotoken=rate_nanos_per_kilotoken,
        created_at_ms=now_ms,
        discount=discount,
    )
