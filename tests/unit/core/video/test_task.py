"""The states of a video task: each report in each state, and results that no order of reports may cause."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.ark.text import ArkError
from proxy.core.money import Nanos
from proxy.core.settlement import Outcome, UsageSource
from proxy.core.video.price import VideoBilling
from proxy.core.video.record import TRANSITIONS, Next, TaskError, TaskState, VideoTask, new_task
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
from proxy.core.video.request import VideoCall
from proxy.core.video.task import Pace, Step, advance

NOW = 1_800_000_000_000
HOUR = 3_600_000
PACE = Pace(first_ms=3_000, longest_ms=15_000)
QUOTE = Nanos(864_000_000)  # 720p, 5 s, silent, ¥8 per million: ¥0.864
HOLD_BY_USAGE = Nanos(900_000_000)
URL = "https://tos/v.mp4"
LAST_FRAME = "https://tos/f.png"
MODERATED = ArkError(200, "OutputVideoSensitiveContentDetected", "It may be sensitive. Request id: 0217842797860001")


def a_task(service_tier: str = "default", billing: VideoBilling = VideoBilling.FORMULA, hold: Nanos = QUOTE) -> VideoTask:
    return new_task(
        request_id="vreq_AbCdEfGhIjKlMnOpQrSt",
        account_id=1,
        model="v",
        upstream="ark",
        upstream_model="up",
        call=VideoCall("一只猫", service_tier=service_tier),
        safety_identifier="c0ffee",
        billing=billing,
        hold_nanos=hold,
        quote_nanos=QUOTE,
        rate_nanos_per_kilotoken=8_000_000,
        now_ms=NOW,
    )


def after(task: VideoTask, *reports: Report, now_ms: int = NOW, jitter: float = 0.0) -> Step:
    """Apply the reports in order and return the step of the last one."""
    for report in reports:
        step = advance(task, report, now_ms, pace=PACE, jitter=jitter)
        task = step.task
    return step


def pending(**kinds: str) -> VideoTask:
    return after(a_task(**kinds), Submitted("cgt-1")).task  # type: ignore[arg-type]


def processing() -> VideoTask:
    return after(pending(), Polled("running")).task


def succeeded(tokens: int | None = 108_900, updated_at_ms: int | None = NOW + 60_000) -> Polled:
    return Polled("succeeded", URL, LAST_FRAME, completion_tokens=tokens, updated_at_ms=updated_at_ms)


def is_released(step: Step, outcome: Outcome = Outcome.UPSTREAM_ERROR) -> bool:
    ended = step.settlement
    return step.task.state is TaskState.FAILED and ended is not None and (ended.charge_nanos, ended.outcome) == (0, outcome)


def test_a_new_task_is_looked_up_not_submitted_when_it_is_due() -> None:
    task = a_task()

    assert (task.state, task.next, task.cancellable, task.quote_tokens) == (TaskState.SUBMITTING, Next.LOOK_UP, False, 108_000)


def test_a_task_goes_from_submit_to_video_and_is_charged_its_quote_once() -> None:
    step = after(a_task(), Submitted("cgt-1"), Polled("queued"), Polled("running"), succeeded(), now_ms=NOW + 90_000)

    assert step.task.state is TaskState.SUCCEEDED
    assert (step.task.video_url, step.task.thumbnail_url, step.task.ended_at_ms) == (URL, LAST_FRAME, NOW + 60_000)
    assert (step.due_at_ms, step.task.next) == (None, Next.NOTHING)
    ended = step.settlement
    assert ended is not None
    assert (ended.outcome, ended.charge_nanos, ended.units, ended.shortfall_nanos) == (Outcome.COMPLETE, QUOTE, 108_000, 0)
    assert (ended.usage_source, ended.usage.completion_tokens) == (UsageSource.REPORTED, 108_900)
    assert (ended.upstream_id, ended.total_ms, ended.http_status) == ("cgt-1", 90_000, 200)


def test_each_state_follows_the_one_before() -> None:
    assert pending().state is TaskState.PENDING
    assert after(pending(), Polled("queued")).task.state is TaskState.PENDING
    assert processing().state is TaskState.PROCESSING
    assert after(processing(), Polled("queued")).task.state is TaskState.PROCESSING  # never back


@pytest.mark.parametrize(
    ("tokens", "hold", "charge", "shortfall", "units", "source"),
    [
        (108_900, HOLD_BY_USAGE, 871_200_000, 0, 108_900, UsageSource.REPORTED),  # x 8 / 1,000,000
        (108_900, QUOTE, 864_000_000, 7_200_000, 108_900, UsageSource.REPORTED),  # never above the hold
        (0, HOLD_BY_USAGE, 0, 0, 0, UsageSource.REPORTED),
        (None, HOLD_BY_USAGE, 864_000_000, 0, 108_000, UsageSource.ESTIMATED),
    ],
)
def test_by_usage_the_reported_tokens_are_charged_up_to_the_hold(
    tokens: int | None, hold: Nanos, charge: int, shortfall: int, units: int, source: UsageSource
) -> None:
    task = a_task(billing=VideoBilling.USAGE, hold=hold)

    ended = after(task, Submitted("cgt-1"), succeeded(tokens)).settlement

    assert ended is not None
    assert (ended.charge_nanos, ended.shortfall_nanos, ended.units, ended.usage_source) == (charge, shortfall, units, source)


@pytest.mark.parametrize("told", [None, 0, NOW + HOUR])
def test_a_task_never_ends_before_it_began_nor_in_the_future(told: int | None) -> None:
    step = after(pending(), succeeded(updated_at_ms=told), now_ms=NOW + 5_000)

    assert step.task.ended_at_ms == (NOW if told == 0 else NOW + 5_000)


def test_a_failed_task_costs_nothing_and_says_why_without_ids() -> None:
    step = after(processing(), Polled("failed", error=MODERATED))

    assert is_released(step)
    assert step.task.error == TaskError("CONTENT_REJECTED", "It may be sensitive.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, "GENERATION_FAILED"),
        (ArkError(200, "InternalServiceError", "oops"), "GENERATION_FAILED"),
        (ArkError(200, "", ""), "GENERATION_FAILED"),
        (ArkError(200, "InvalidParameter.X", "ratio"), "INVALID_PARAMETER"),
        (ArkError(200, "AccountOverdueError", "account 2100123456 owes"), "MODEL_UNAVAILABLE"),
        (ArkError(200, "ModelAccountRpmRateLimitExceeded", "limit of 2100123456"), "MODEL_UNAVAILABLE"),
    ],
)
def test_a_failure_has_one_of_our_codes_and_nothing_of_the_operators(error: ArkError | None, code: str) -> None:
    failed = after(processing(), Polled("failed", error=error)).task.error

    assert failed is not None
    assert failed.code == code
    assert failed.message
    assert "2100123456" not in failed.message


@pytest.mark.parametrize(
    ("status", "code"), [("cancelled", "TASK_CANCELLED"), ("canceled", "TASK_CANCELLED"), ("expired", "TASK_EXPIRED")]
)
def test_cancelled_and_expired_are_failed_and_free(status: str, code: str) -> None:
    step = after(pending(), Polled(status))

    assert is_released(step)
    assert step.task.error is not None
    assert step.task.error.code == code


def test_an_unknown_word_is_progress_and_news_once() -> None:
    first = after(pending(), Polled("upscaling"))
    again = after(first.task, Polled("upscaling"))
    other = after(again.task, Polled("blending"))

    assert first.task.state is TaskState.PROCESSING
    assert "upscaling" in first.news
    assert again.news == ""
    assert "blending" in other.news
    assert after(other.task, succeeded()).task.state is TaskState.SUCCEEDED


def test_success_without_a_video_waits_for_four_polls_and_fails_at_the_fifth() -> None:
    empty = Polled("succeeded")

    waiting = after(pending(), empty, empty, empty, empty)
    over = after(waiting.task, empty)

    assert (waiting.task.state, waiting.settlement) == (TaskState.PROCESSING, None)
    assert is_released(over)
    assert after(waiting.task, succeeded()).task.state is TaskState.SUCCEEDED


def test_not_found_counts_only_three_times_in_a_row() -> None:
    missing, later = PollFailed(PollFailure.NOT_FOUND), NOW + 120_000

    twice = after(pending(), missing, missing, now_ms=later)
    seen_between = after(twice.task, Polled("running"), missing, missing, now_ms=later)
    failed_between = after(twice.task, PollFailed(PollFailure.TRANSIENT), missing, missing, now_ms=later)

    assert (twice.task.state, twice.settlement) == (TaskState.PENDING, None)
    assert seen_between.task.state is TaskState.PROCESSING
    assert failed_between.task.state is TaskState.PENDING
    assert is_released(after(twice.task, missing, now_ms=later))
    assert is_released(after(failed_between.task, missing, now_ms=later))


def test_a_task_of_less_than_two_minutes_cannot_be_gone() -> None:
    missing = PollFailed(PollFailure.NOT_FOUND)

    young = after(pending(), *[missing] * 50, now_ms=NOW + 119_999)
    old = after(young.task, missing, missing, now_ms=NOW + 120_000)

    assert (young.task.state, young.task.missing) == (TaskState.PENDING, 0)
    assert old.task.state is TaskState.PENDING
    assert is_released(after(old.task, missing, now_ms=NOW + 120_000))


def test_the_age_that_counts_is_that_since_ark_had_the_task() -> None:
    missing = PollFailed(PollFailure.NOT_FOUND)
    found = after(after(a_task(), SubmitUnknown()).task, Found("cgt-9"), now_ms=NOW + 500_000).task

    assert after(found, missing, missing, missing, now_ms=NOW + 619_999).settlement is None
    assert is_released(after(found, missing, missing, missing, now_ms=NOW + 620_000))


def test_a_poll_that_fails_changes_nothing_but_the_next_time() -> None:
    task = processing()

    step = after(task, *[PollFailed(PollFailure.TRANSIENT)] * 1_000, now_ms=NOW + 6 * 24 * HOUR)

    assert replace(step.task, polls=task.polls) == task
    assert step.settlement is None


def test_a_task_that_cannot_be_polled_for_seven_days_is_given_up() -> None:
    assert is_released(after(processing(), PollFailed(PollFailure.TRANSIENT), now_ms=NOW + 7 * 24 * HOUR))


@pytest.mark.parametrize(("asked_ms", "waited_ms"), [(0, 3_750), (2_000, 3_750), (60_000, 60_000), (10**9, 300_000)])
def test_a_poll_waits_as_long_as_ark_asks_within_reason(asked_ms: int, waited_ms: int) -> None:
    step = after(pending(), PollFailed(PollFailure.TRANSIENT, retry_after_ms=asked_ms))

    assert step.due_at_ms == NOW + waited_ms  # 3 s x 1.25


def test_polls_space_out_from_the_first_to_the_longest() -> None:
    step = after(a_task(), Submitted("cgt-1"))
    delays = [step.due_at_ms]
    for _ in range(9):
        step = after(step.task, Polled("running"))
        delays.append(step.due_at_ms)

    # 3 s, each a quarter more than the last, at most 15 s
    assert [(delay or 0) - NOW for delay in delays] == [3_000, 3_750, 4_688, 5_859, 7_324, 9_155, 11_444, 14_305, 15_000, 15_000]


def test_jitter_takes_off_up_to_a_fifth_and_flex_is_four_times_as_slow() -> None:
    assert after(pending(), Polled("queued"), jitter=0.5).due_at_ms == NOW + 3_375  # 3,750 x 0.9
    assert after(pending(service_tier="flex"), Polled("queued")).due_at_ms == NOW + 15_000  # 12 s x 1.25
    slow = after(pending(service_tier="flex"), *[Polled("queued")] * 20)
    assert slow.due_at_ms == NOW + 60_000


@pytest.mark.parametrize("tier", ["default", "flex"])
@pytest.mark.parametrize("report", [Polled("queued"), Polled("running"), DeadlinePassed()], ids=str)
def test_a_task_is_given_up_once_ark_has_forgotten_it_and_not_by_our_clock_before(tier: str, report: Report) -> None:
    """A clock set forward by days does not end a task that Ark still reports."""
    task, deadline = pending(service_tier=tier), NOW + 7 * 24 * HOUR

    assert after(task, report, now_ms=deadline - 1).settlement is None
    assert is_released(after(task, report, now_ms=deadline))


def test_a_video_that_comes_after_the_deadline_still_counts() -> None:
    assert after(processing(), succeeded(), now_ms=NOW + 72 * HOUR).task.state is TaskState.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (ArkError(400, "InputTextSensitiveContentDetected", "no"), Outcome.REFUSED, "CONTENT_REJECTED"),
        (ArkError(401, "AuthenticationError", "the key"), Outcome.UPSTREAM_ERROR, "MODEL_UNAVAILABLE"),
        (None, Outcome.UPSTREAM_ERROR, "MODEL_UNAVAILABLE"),
    ],
)
def test_a_refused_submit_releases_at_once(error: ArkError | None, outcome: Outcome, code: str) -> None:
    step = after(a_task(), SubmitRefused(error, why="connection refused", http_status=503))

    assert is_released(step, outcome)
    assert step.settlement is not None
    assert step.settlement.http_status == 503
    assert step.task.error is not None
    assert step.task.error.code == code


def test_a_submit_without_an_answer_is_looked_up_and_goes_on_when_found() -> None:
    lost = after(a_task(), SubmitUnknown("timeout"))
    found = after(lost.task, NotFound(), LookupFailed(), Found("cgt-9"))
    done = after(found.task, succeeded())

    assert (lost.task.state, lost.task.next, lost.settlement) == (TaskState.SUBMITTING, Next.LOOK_UP, None)
    assert lost.due_at_ms == NOW + 5_000
    assert (found.task.state, found.task.upstream_id, found.task.next) == (TaskState.PENDING, "cgt-9", Next.POLL)
    assert done.settlement is not None
    assert done.settlement.charge_nanos == QUOTE
    assert "unanswered" in done.settlement.note


def test_a_lost_submit_that_is_not_found_is_failed_and_released_after_ten_minutes() -> None:
    lost = after(a_task(), SubmitUnknown("reset")).task

    assert after(lost, NotFound(), now_ms=NOW + 599_999).settlement is None
    step = after(lost, NotFound(), now_ms=NOW + 600_000)

    assert is_released(step)
    assert step.task.error is not None
    assert step.task.error.code == "SUBMIT_LOST"
    assert step.settlement is not None
    assert "unanswered" in step.settlement.note


def test_a_list_that_cannot_be_had_is_waited_for_six_hours() -> None:
    lost = after(a_task(), SubmitUnknown()).task

    assert after(lost, LookupFailed(), now_ms=NOW + 6 * HOUR - 1).settlement is None
    assert is_released(after(lost, LookupFailed(), now_ms=NOW + 6 * HOUR))


@pytest.mark.parametrize("report", [SubmitUnknown("the process ended"), DeadlinePassed(), NotFound(), LookupFailed()])
def test_a_task_left_behind_by_a_dead_process_is_looked_up_from_now_on(report: Report) -> None:
    step = after(a_task(), report, now_ms=NOW + 24 * HOUR)

    assert (step.task.lost_at_ms, step.task.next, step.settlement) == (NOW + 24 * HOUR, Next.LOOK_UP, None)


def test_a_late_answer_to_a_lost_submit_is_as_good_as_a_look_up() -> None:
    lost = after(a_task(), SubmitUnknown("timeout")).task

    assert after(lost, Submitted("cgt-1")).task.state is TaskState.PENDING
    assert is_released(after(lost, SubmitRefused(None, why="late")))


def test_a_task_that_has_an_upstream_id_keeps_it() -> None:
    step = after(pending(), Found("cgt-other"))

    assert (step.task.upstream_id, step.ignored) == ("cgt-1", True)


def test_a_cancelled_task_is_released() -> None:
    assert pending().cancellable
    assert not processing().cancellable

    step = after(pending(), CancelConfirmed())

    assert is_released(step, Outcome.CLIENT_GONE)
    assert step.task.error is not None
    assert step.task.error.code == "TASK_CANCELLED"


@pytest.mark.parametrize("task", [pending(), processing()])
def test_a_task_whose_record_its_cancel_deleted_is_free_failed_and_told_to_the_operator(task: VideoTask) -> None:
    step = after(task, RecordDeleted())

    assert is_released(step)
    assert step.task.error is not None
    assert step.task.error.code == "GENERATION_FAILED"
    assert step.settlement is not None
    assert step.news == step.settlement.note
    assert "may have billed" in step.news


ERRORS = st.none() | st.builds(ArkError, st.sampled_from([200, 400, 429, 500]), st.text(max_size=10), st.text(max_size=30))
REPORTS: st.SearchStrategy[Report] = st.one_of(
    st.builds(Submitted, st.sampled_from(["cgt-1", "cgt-2"])),
    st.builds(Found, st.sampled_from(["cgt-1", "cgt-2"])),
    st.builds(SubmitRefused, ERRORS),
    st.builds(SubmitUnknown, st.just("timeout")),
    st.just(NotFound()),
    st.just(LookupFailed()),
    st.builds(
        Polled,
        status=st.sampled_from(["queued", "running", "succeeded", "failed", "cancelled", "canceled", "expired", "odd", ""]),
        video_url=st.sampled_from(["", URL]),
        completion_tokens=st.none() | st.integers(0, 10**9),
        error=ERRORS,
        updated_at_ms=st.none() | st.integers(0, 2 * NOW),
    ),
    st.builds(PollFailed, st.sampled_from(PollFailure), st.integers(0, 10**9)),
    st.just(CancelConfirmed()),
    st.just(RecordDeleted()),
    st.just(DeadlinePassed()),
)
# Mostly reports that keep a task alive, so that long sequences are common enough.
LIVES = st.lists(
    st.tuples(
        st.one_of(REPORTS, st.sampled_from([SubmitUnknown(), NotFound(), Submitted("cgt-1"), Polled("queued"), Polled("running")])),
        st.integers(0, 12 * HOUR),
        st.floats(0, 1, exclude_max=True),
    ),
    max_size=30,
)
TASKS = st.builds(
    a_task,
    st.sampled_from(["default", "flex"]),
    st.sampled_from(VideoBilling),
    st.sampled_from([QUOTE, HOLD_BY_USAGE]),
)


@settings(max_examples=400)
@given(TASKS, LIVES)
def test_no_order_of_reports_settles_twice_or_moves_what_has_ended(task: VideoTask, life: list[tuple[Report, int, float]]) -> None:
    now_ms, settled = NOW, []
    for report, later_ms, jitter in life:
        now_ms += later_ms
        step = advance(task, report, now_ms, pace=PACE, jitter=jitter)
        settled += [step.settlement] if step.settlement else []

        assert step == advance(task, report, now_ms, pace=PACE, jitter=jitter)  # nothing is kept between calls
        assert step.task.state in TRANSITIONS[task.state]
        assert step.task.ended == (len(settled) == 1)
        if task.ended:
            assert (step.task, step.settlement, step.due_at_ms, step.ignored) == (task, None, None, True)
        elif step.task.ended:
            assert step.due_at_ms is None
        else:
            assert step.due_at_ms is not None
            assert 2_400 <= step.due_at_ms - now_ms <= 300_000  # 3 s less a fifth; the longest Retry-After
        assert task.upstream_id in ("", step.task.upstream_id)
        task = step.task

    assert len(settled) <= 1
    if settled:
        assert 0 <= settled[0].charge_nanos == task.charge_nanos <= task.hold_nanos
        assert (settled[0].charge_nanos == 0) or task.state is TaskState.SUCCEEDED
        assert (task.error is None) == (task.state is TaskState.SUCCEEDED)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_every_lookup_ends_and_no_task_is_ever_to_be_submitted_again(answers: list[int]) -> None:
    task, now_ms = after(a_task(), SubmitUnknown()).task, NOW
    kinds: list[Report] = [NotFound(), LookupFailed(), DeadlinePassed()]

    for turn in range(2_000):
        step = advance(task, kinds[answers[turn % len(answers)]], now_ms, pace=PACE, jitter=0)
        task = step.task
        if step.due_at_ms is None:
            break
        assert task.next is Next.LOOK_UP
        now_ms = step.due_at_ms

    assert task.state is TaskState.FAILED
    assert now_ms <= NOW + 6 * HOUR + 60_000
