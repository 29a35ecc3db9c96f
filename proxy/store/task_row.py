"""A video task as a row, in the same columns in every engine: a task to its values, and a row to its task."""

from collections.abc import Sequence
from typing import Any

from proxy.core.money import Nanos
from proxy.core.video.price import VideoBilling
from proxy.core.video.record import TaskError, TaskState, VideoTask

ASKED = (
    "id", "account_id", "model", "upstream", "upstream_model", "prompt", "task_type", "resolution", "duration_seconds",
    "generate_audio", "service_tier", "seed", "safety_identifier", "billing", "hold_nanos", "quote_nanos", "quote_tokens",
    "rate_nanos_per_kilotoken", "discount", "created_at_ms", "key_name",
)  # fmt: skip
"""Columns of what a video was asked as; none of them ever changes."""
REACHED = (
    "state", "upstream_id", "lost_at_ms", "expires_at_ms", "polls", "missing", "urlless", "odd_status", "video_url", "thumbnail_url",
    "error_code", "error_message", "charge_nanos", "ended_at_ms",
)  # fmt: skip
"""Columns of how far it has come."""
COLUMNS = ", ".join((*ASKED, *REACHED))
"""SQL of the columns that `task_of` reads."""


def asked(task: VideoTask) -> tuple[Any, ...]:
    """Return the values of `ASKED`."""
    who = (task.id, task.account_id, task.model, task.upstream, task.upstream_model)
    what = (task.prompt, task.task_type, task.resolution, task.duration_seconds, task.generate_audio, task.service_tier, task.seed)
    price = (task.billing.value, task.hold_nanos, task.quote_nanos, task.quote_tokens, task.rate_nanos_per_kilotoken, task.discount)
    return (*who, *what, task.safety_identifier, *price, task.created_at_ms, task.key_name or None)


def reached(task: VideoTask) -> tuple[Any, ...]:
    """Return the values of `REACHED`."""
    error = (None, None) if task.error is None else (task.error.code, task.error.message)
    counts = (task.polls, task.missing, task.urlless)
    made = (task.video_url, task.thumbnail_url, *error, task.charge_nanos, task.ended_at_ms)
    return (task.state.value, task.upstream_id, task.lost_at_ms, task.expires_at_ms, *counts, task.odd_status, *made)


def task_of(row: Sequence[Any]) -> VideoTask:
    """Return the task of a row of `COLUMNS`."""
    *known, billing, hold, quote, quote_tokens, rate, discount, created_at_ms, key_name = row[: len(ASKED)]
    identity, account_id, model, upstream, upstream_model, prompt, task_type, resolution, duration, audio, tier, seed, safety = known
    state, upstream_id, lost, expires, polls, missing, urlless, odd, video, thumbnail, code, message, charge, ended = row[len(ASKED) :]
    return VideoTask(
        id=identity,
        account_id=account_id,
        model=model,
        upstream=upstream,
        upstream_model=upstream_model,
        prompt=prompt,
        task_type=task_type,
        resolution=resolution,
        duration_seconds=duration,
        generate_audio=bool(audio),
        service_tier=tier,
        seed=seed,
        safety_identifier=safety,
        billing=VideoBilling(billing),
        hold_nanos=Nanos(hold),
        quote_nanos=Nanos(quote),
        quote_tokens=quote_tokens,
        rate_nanos_per_kilotoken=rate,
        discount=discount,
        created_at_ms=created_at_ms,
        state=TaskState(state),
        upstream_id=upstream_id,
        lost_at_ms=lost,
        expires_at_ms=expires,
        polls=polls,
        missing=missing,
        urlless=urlless,
        odd_status=odd,
        video_url=video,
        thumbnail_url=thumbnail,
        error=None if code is None else TaskError(code, message),
        charge_nanos=Nanos(charge),
        ended_at_ms=ended,
        key_name=key_name or "",
    )
