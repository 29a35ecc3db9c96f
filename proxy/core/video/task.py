"""States of a video task: submitting → pending → processing → succeeded | failed, decided here and nowhere else.

`advance` takes a task, one report and the time. It returns the task as it is now, when to look again, and, once in a task's life, the
settlement of its hold. A report without a row in the table for the task's state comes too late: it changes nothing. So polls may
overlap, reports may repeat, and a task that ended stays as it ended.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from proxy.core.ark.text import CODE_CHARACTERS_MAX, ArkError
from proxy.core.money import Nanos, discounted
from proxy.core.settlement import Outcome, Settlement, TokenUsage, UsageSource, capped
from proxy.core.video import failure
from proxy.core.video.price import VideoBilling, charge_by_usage
from proxy.core.video.record import TRANSITIONS, Next, TaskError, TaskState, VideoTask
from proxy.core.video.report import (
    CancelConfirmed,
    DeadlinePassed,
    Found,
    LookupFailed,
    NotFound,
    Polled,
    PollFailed,
    PollFailure,
    RecordDeleted,
    Report,
    SubmitRefused,
    Submitted,
    SubmitUnknown,
)
from proxy.core.video.upstream import DEFAULT_EXPIRY_SECONDS, FLEX_EXPIRY_SECONDS

MISSING_POLLS_MAX = 3
"""Number of 404s in a row that prove a task gone. Any other answer, and a poll that fails in another way, begins a new row."""
MISSING_AGE_MS = 120_000
"""Younger tasks cannot be gone: the server that answers may not know them yet."""
URLLESS_POLLS_MAX = 5
"""Number of polls that find a task succeeded but without a video, until it fails."""
EXPIRY_GRACE_MS = 3_600_000
"""Time after Ark's own expiry, for Ark to report it itself."""
RECORD_LIFE_MS = 7 * 86_400_000
"""Age at which Ark forgets a task. Before, neither a failing poll nor a deadline of ours proves anything: our clock may be wrong."""
LOOKUP_MS = 600_000
"""Time for which a lost submit is looked for in Ark's list."""
LOOKUP_UNANSWERED_MS = 6 * 3_600_000
"""The same, while the list itself cannot be fetched."""
RETRY_AFTER_MS_MAX = 300_000

_GROWTH = 1.25
_JITTER = 0.2
_POLLS_COUNTED_MAX = 64
_FLEX_FACTOR = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """First and longest spacing of polls in milliseconds; flex tasks are polled four times as slowly."""

    first_ms: int = 3_000
    longest_ms: int = 15_000

    def delay_ms(self, polls: int, jitter: float) -> int:
        """Return a spacing that grows by a quarter with each poll, minus up to a fifth, by ``jitter`` in [0, 1)."""
        grown = min(float(self.longest_ms), self.first_ms * _GROWTH ** min(polls, _POLLS_COUNTED_MAX))
        return max(1, round(grown * (1 - _JITTER * jitter)))

    def slower(self, factor: int) -> "Pace":
        return Pace(self.first_ms * factor, self.longest_ms * factor)


LOOKUP_PACE = Pace(first_ms=5_000, longest_ms=60_000)
"""Ark answers one list request a second, for the whole account."""


@dataclass(frozen=True, slots=True)
class Step:
    """Result of one report: store all of it in one transaction, or none."""

    task: VideoTask
    due_at_ms: int | None
    """Time to do `task.next`; None: never again."""
    settlement: Settlement | None = None
    """Settlement of the hold; set in the one step that ends the task."""
    ignored: bool = False
    """The report came too late, or made no sense in this state."""
    news: str = ""
    """Text for the log, once: an unknown status word, or a video that the operator may have to pay for."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """Time, pace and jitter by which a report is judged."""

    now_ms: int
    pace: Pace
    jitter: float


def longest_delay_ms(pace: Pace) -> int:
    """Return the longest delay of any task: one that is due later was scheduled by a clock that has been set back since."""
    return max(pace.slower(_FLEX_FACTOR).longest_ms, LOOKUP_PACE.longest_ms, RETRY_AFTER_MS_MAX)


def advance(task: VideoTask, report: Report, now_ms: int, *, pace: Pace, jitter: float) -> Step:
    """Return the step that follows from a report. Pure; the same report twice settles once.

    Args:
        task: as it is stored now.
        report: what was seen.
        now_ms: unix milliseconds.
        pace: the configured spacing of polls.
        jitter: a random number in [0, 1).
    """
    moment = _Moment(now_ms, pace, jitter)
    move = _TABLE.get((task.state, type(report)))
    if move is None:
        return Step(task, None if task.ended else _due(task, moment), ignored=True)
    return move(task, report, moment)


# Moves: one for each row of the table.


def _accepted(task: VideoTask, report: Submitted | Found, moment: _Moment) -> Step:
    accepted = replace(
        task,
        state=TaskState.PENDING,
        upstream_id=report.upstream_id,
        expires_at_ms=moment.now_ms + _expiry_ms(task),
        polls=0,
    )
    return Step(accepted, _due(accepted, moment))


def _refused(task: VideoTask, report: SubmitRefused, moment: _Moment) -> Step:
    judged = report.error is not None and report.error.status in (400, 413, 422)
    step = _fail(
        task,
        failure.public_error(report.error) if report.error else failure.UNAVAILABLE,
        moment,
        outcome=Outcome.REFUSED if judged else Outcome.UPSTREAM_ERROR,
        note=f"submit refused: {_named(report.error) or report.why}",
    )
    settlement = step.settlement
    return replace(step, settlement=settlement and structs.replace(settlement, http_status=report.http_status))


def _lose(task: VideoTask, _report: SubmitUnknown | DeadlinePassed, moment: _Moment) -> Step:
    lost = task if task.lost_at_ms is not None else replace(task, lost_at_ms=moment.now_ms, polls=0)
    return Step(lost, _due(lost, moment))


def _look_on(task: VideoTask, report: NotFound | LookupFailed | DeadlinePassed, moment: _Moment) -> Step:
    if task.lost_at_ms is None:
        return _lose(task, DeadlinePassed(), moment)
    patience_ms = LOOKUP_MS if isinstance(report, NotFound) else LOOKUP_UNANSWERED_MS
    if moment.now_ms >= task.lost_at_ms + patience_ms:
        return _fail(task, failure.LOST, moment, note="submit unanswered, and not found in the upstream's list")
    return _wait(task, moment)


def _polled(task: VideoTask, report: Polled, moment: _Moment) -> Step:
    seen = replace(task, missing=0)
    match report.status:
        case "succeeded" if report.video_url:
            return _succeed(seen, report, moment)
        case "succeeded":
            return _await_url(seen, moment)
        case "failed":
            return _fail(
                seen, failure.public_error(report.error), moment, note=f"failed upstream: {_named(report.error)}", polled=report
            )
        case "cancelled" | "canceled":
            return _fail(seen, failure.CANCELLED, moment, note="cancelled upstream", polled=report)
        case "expired":
            return _fail(seen, failure.EXPIRED, moment, note="expired upstream", polled=report)
        case "queued":
            return _progress(seen, TaskState.PENDING, "", moment)
        case "running":
            return _progress(seen, TaskState.PROCESSING, "", moment)
        case odd:
            return _progress(seen, TaskState.PROCESSING, odd[:CODE_CHARACTERS_MAX] or "(none)", moment)


def _progress(task: VideoTask, state: TaskState, odd: str, moment: _Moment) -> Step:
    """Keep polling, and move to ``state`` unless that is a step back: Ark may queue a task again."""
    if _is_forgotten(task, moment):
        return _fail(task, failure.EXPIRED, moment, note="not ended for as long as the upstream remembers a task")
    reached = state if state in TRANSITIONS[task.state] else task.state
    step = _wait(replace(task, state=reached, odd_status=odd or task.odd_status), moment)
    return replace(step, news=f"unknown task status {odd!r}") if odd and odd != task.odd_status else step


def _await_url(task: VideoTask, moment: _Moment) -> Step:
    waiting = replace(task, state=TaskState.PROCESSING, urlless=task.urlless + 1)
    if waiting.urlless >= URLLESS_POLLS_MAX:
        return _fail(waiting, failure.NO_VIDEO, moment, note="succeeded upstream, but without a video")
    return _wait(waiting, moment)


def _poll_failed(task: VideoTask, report: PollFailed, moment: _Moment) -> Step:
    if report.kind is PollFailure.NOT_FOUND:
        missed = replace(task, missing=task.missing + 1) if _is_old_enough_to_be_gone(task, moment) else task
        if missed.missing >= MISSING_POLLS_MAX:
            return _fail(missed, failure.GONE, moment, note=f"unknown upstream, {missed.missing} times in a row")
        return _wait(missed, moment)
    if _is_forgotten(task, moment):
        return _fail(task, failure.GONE, moment, note="not to be polled for as long as the upstream remembers a task")
    step = _wait(replace(task, missing=0), moment)
    asked_ms = moment.now_ms + min(report.retry_after_ms, RETRY_AFTER_MS_MAX)
    return replace(step, due_at_ms=max(step.due_at_ms or 0, asked_ms))


def _cancel(task: VideoTask, _report: CancelConfirmed, moment: _Moment) -> Step:
    return _fail(task, failure.CANCELLED, moment, outcome=Outcome.CLIENT_GONE, note="cancelled by the customer")


def _deleted(task: VideoTask, _report: RecordDeleted, moment: _Moment) -> Step:
    note = "ended while it was being cancelled: the cancel deleted its record, and the upstream may have billed it"
    return replace(_fail(task, failure.DELETED, moment, note=note), news=note)


def _deadline(task: VideoTask, _report: DeadlinePassed, moment: _Moment) -> Step:
    if _is_forgotten(task, moment):
        return _fail(task, failure.EXPIRED, moment, note="overdue")
    return Step(task, _due(task, moment))


_Move = Callable[[VideoTask, Any, _Moment], Step]
_TABLE: Mapping[tuple[TaskState, type[Report]], _Move] = {
    (TaskState.SUBMITTING, Submitted): _accepted,
    (TaskState.SUBMITTING, Found): _accepted,
    (TaskState.SUBMITTING, SubmitRefused): _refused,
    (TaskState.SUBMITTING, SubmitUnknown): _lose,
    (TaskState.SUBMITTING, NotFound): _look_on,
    (TaskState.SUBMITTING, LookupFailed): _look_on,
    (TaskState.SUBMITTING, DeadlinePassed): _look_on,
    (TaskState.PENDING, Polled): _polled,
    (TaskState.PENDING, PollFailed): _poll_failed,
    (TaskState.PENDING, CancelConfirmed): _cancel,
    (TaskState.PENDING, RecordDeleted): _deleted,
    (TaskState.PENDING, DeadlinePassed): _deadline,
    (TaskState.PROCESSING, Polled): _polled,
    (TaskState.PROCESSING, PollFailed): _poll_failed,
    (TaskState.PROCESSING, CancelConfirmed): _cancel,
    (TaskState.PROCESSING, RecordDeleted): _deleted,
    (TaskState.PROCESSING, DeadlinePassed): _deadline,
}
"""Move for each state and type of report. Succeeded and failed have no rows."""


# Ends.


def _succeed(task: VideoTask, report: Polled, moment: _Moment) -> Step:
    charge, shortfall, units, source = _bill(task, report)
    ended = replace(
        task,
        state=TaskState.SUCCEEDED,
        video_url=report.video_url,
        thumbnail_url=report.last_frame_url,
        charge_nanos=charge,
        ended_at_ms=_ended_at(task, report, moment),
    )
    settlement = Settlement(
        Outcome.COMPLETE,
        source,
        charge,
        usage=TokenUsage(0, report.completion_tokens or 0),
        units=units,
        shortfall_nanos=shortfall,
        http_status=200,
        upstream_id=task.upstream_id,
        total_ms=_age_ms(task, moment),
        note="submit unanswered, found in the upstream's list" if task.lost_at_ms is not None else "",
    )
    return Step(ended, None, settlement)


def _bill(task: VideoTask, report: Polled) -> tuple[Nanos, Nanos, int, UsageSource]:
    """Return charge, shortfall, tokens charged and their source. Without reported usage the quote is charged, marked as estimated."""
    if task.billing is VideoBilling.FORMULA:
        source = UsageSource.NONE if report.completion_tokens is None else UsageSource.REPORTED
        return (*capped(task.quote_nanos, task.hold_nanos), task.quote_tokens, source)
    if report.completion_tokens is None:
        return (*capped(task.quote_nanos, task.hold_nanos), task.quote_tokens, UsageSource.ESTIMATED)
    cost = discounted(charge_by_usage(report.completion_tokens, task.rate_nanos_per_kilotoken), task.discount)
    return (*capped(cost, task.hold_nanos), report.completion_tokens, UsageSource.REPORTED)


def _fail(
    task: VideoTask,
    error: TaskError,
    moment: _Moment,
    *,
    note: str,
    outcome: Outcome = Outcome.UPSTREAM_ERROR,
    polled: Polled | None = None,
) -> Step:
    """End the task without a video and without a charge."""
    ended = replace(task, state=TaskState.FAILED, error=error, ended_at_ms=_ended_at(task, polled, moment))
    settlement = Settlement(
        outcome,
        UsageSource.NONE,
        Nanos(0),
        http_status=200,
        upstream_id=task.upstream_id,
        total_ms=_age_ms(task, moment),
        note=note[:CODE_CHARACTERS_MAX],
    )
    return Step(ended, None, settlement)


# Times.


def _wait(task: VideoTask, moment: _Moment) -> Step:
    waiting = replace(task, polls=min(task.polls + 1, _POLLS_COUNTED_MAX))
    return Step(waiting, _due(waiting, moment))


def _due(task: VideoTask, moment: _Moment) -> int:
    pace = moment.pace.slower(_FLEX_FACTOR) if task.service_tier == "flex" else moment.pace
    if task.next is Next.LOOK_UP:
        pace = LOOKUP_PACE
    return moment.now_ms + pace.delay_ms(task.polls, moment.jitter)


def _expiry_ms(task: VideoTask) -> int:
    return (FLEX_EXPIRY_SECONDS if task.service_tier == "flex" else DEFAULT_EXPIRY_SECONDS) * 1000 + EXPIRY_GRACE_MS


def _is_forgotten(task: VideoTask, moment: _Moment) -> bool:
    overdue = task.expires_at_ms is not None and moment.now_ms >= task.expires_at_ms
    return overdue and moment.now_ms >= task.created_at_ms + RECORD_LIFE_MS


def _is_old_enough_to_be_gone(task: VideoTask, moment: _Moment) -> bool:
    return task.expires_at_ms is not None and moment.now_ms >= task.expires_at_ms - _expiry_ms(task) + MISSING_AGE_MS


def _ended_at(task: VideoTask, polled: Polled | None, moment: _Moment) -> int:
    """Return when the task ended by Ark's clock, kept between the submit and now."""
    told = polled.updated_at_ms if polled and polled.updated_at_ms is not None else moment.now_ms
    return max(task.created_at_ms, min(told, moment.now_ms))


def _age_ms(task: VideoTask, moment: _Moment) -> int:
    return max(0, moment.now_ms - task.created_at_ms)


def _named(error: ArkError | None) -> str:
    return f"{error.status} {error.code}" if error else ""
