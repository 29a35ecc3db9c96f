"""When something rests: by failures in a row, by a share of them, by the upstream's own word; and when it is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.health import KEY_REST_SECONDS, HealthPolicy, Rest, Trouble, note_trouble, retry_after_seconds

POLICY = HealthPolicy(failures=3, rest_seconds=(5, 20))


def fail(rest: Rest, *times: float) -> list[bool]:
    return [rest.failed(at) for at in times]


def test_so_many_failures_in_a_row_let_it_rest() -> None:
    rest = Rest(POLICY)

    assert fail(rest, 1, 2, 3) == [False, False, True]
    assert (rest.until, rest.retry_at) == (8, 0)


def test_failures_that_are_far_apart_or_with_an_answer_between_them_are_no_outage() -> None:
    apart, between = Rest(POLICY), Rest(POLICY)

    assert fail(apart, 1, 2, 31.5) == [False, False, False]
    fail(between, 1, 2)
    between.succeeded(3, 2)
    assert fail(between, 4, 5) == [False, False]
    assert fail(between, 6) == [True]


def test_a_share_of_the_last_twenty_calls_lets_it_rest_whatever_their_order() -> None:
    rest = Rest(HealthPolicy(failures=0.5, rest_seconds=(5, 20)))

    told = [rest.failed(at) if at % 2 else rest.succeeded(at, at) for at in range(20)]

    assert told == [False] * 19 + [True]
    assert rest.until == 24


def test_calls_of_more_than_half_a_minute_ago_count_for_no_share() -> None:
    rest = Rest(HealthPolicy(failures=0.1, rest_seconds=(5, 20)))

    assert fail(rest, 0, 31) == [False, False]
    assert fail(rest, 32) == [True]


def test_one_call_tries_again_after_a_rest_and_each_failed_try_doubles_it_up_to_the_longest() -> None:
    rest = Rest(POLICY)
    fail(rest, 0, 0, 0)

    lengths = []
    for _ in range(4):
        now = rest.until
        rest.try_now(now)
        assert rest.until == now + 5, "all others go on passing it by"
        assert rest.failed(now + 1) is False
        lengths.append(rest.until - now - 1)

    assert lengths == [10, 20, 20, 20]


def test_a_failure_of_a_call_that_was_sent_although_it_rests_changes_nothing() -> None:
    rest = Rest(POLICY)
    fail(rest, 0, 0, 0, 1, 2)

    assert rest.until == 5


def test_a_try_that_showed_nothing_is_given_back_by_the_call_that_took_it_alone() -> None:
    rest = Rest(POLICY)
    fail(rest, 0, 0, 0)
    rest.untried(0)
    assert rest.until == 5
    rest.try_now(6)
    rest.untried(5.5)
    assert rest.until == 11

    rest.untried(6)

    assert rest.until == 6, "the next call may try"
    rest.try_now(7)
    assert rest.succeeded(8, 7) is True
    rest.untried(7)
    assert rest.until == 0


def test_a_try_that_is_never_heard_of_again_keeps_it_resting_for_no_longer_than_a_first_rest() -> None:
    rest = Rest(POLICY)
    fail(rest, 0, 0, 0)
    rest.try_now(5)

    assert rest.until == 10
    rest.try_now(9)
    assert rest.until == 10
    rest.try_now(10)
    assert rest.until == 15


def test_an_answer_ends_a_rest_unless_it_was_asked_for_before_the_rest_began() -> None:
    rest = Rest(POLICY)
    fail(rest, 10, 10, 10)

    told = [(rest.succeeded(12, 9), rest.rests), (rest.succeeded(13, 11), rest.rests)]

    assert told == [(False, True), (True, False)]
    assert fail(rest, 14, 14) == [False, False], "it begins well"


@pytest.mark.parametrize(
    ("trouble", "retry_after", "own", "key", "retry_at"),
    [
        (Trouble.LIMITED, None, 5, 0, 0),
        (Trouble.LIMITED, 7.5, 7.5, 0, 7.5),
        (Trouble.LIMITED, 0.0, 0, 0, 0),
        (Trouble.LIMITED, 3600.0, 20, 0, 20),
        (Trouble.KEY_LIMITED, None, 0, 5, 0),
        (Trouble.KEY_LIMITED, 9.0, 0, 9, 9),
        (Trouble.KEY_REFUSED, None, 0, KEY_REST_SECONDS, 0),
        (Trouble.MODEL_REFUSED, None, 5, 0, 0),
        (Trouble.UNREACHABLE, None, 0, 0, 0),
        (Trouble.FAILED, 30.0, 0, 0, 0),
        (Trouble.UNKNOWN, None, 0, 0, 0),
    ],
)
def test_each_trouble_rests_what_it_is_about(
    trouble: Trouble, retry_after: float | None, own: float, key: float, retry_at: float
) -> None:
    mine, whole = Rest(POLICY), Rest(POLICY)

    note_trouble(trouble, mine, whole, 0.0, retry_after)

    assert (mine.until, whole.until) == (own, key)
    assert max(mine.retry_at, whole.retry_at) == retry_at


@pytest.mark.parametrize("trouble", [Trouble.UNREACHABLE, Trouble.FAILED, Trouble.UNKNOWN])
def test_failures_of_every_kind_are_counted(trouble: Trouble) -> None:
    mine, whole = Rest(POLICY), Rest(POLICY)

    begun = [note_trouble(trouble, mine, whole, at) for at in (0.0, 1.0, 2.0)]

    assert begun == [None, None, mine]


def test_a_key_that_is_refused_is_tried_again_each_ten_minutes() -> None:
    mine, key = Rest(POLICY), Rest(POLICY)
    note_trouble(Trouble.KEY_REFUSED, mine, key, 0.0)
    key.try_now(600)

    assert note_trouble(Trouble.KEY_REFUSED, mine, key, 601.0) is None
    assert key.until == 1201
    key.wake()
    assert not key.rests


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"3", 3.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("999999999", 86_400.0),
        (None, None),
        ("", None),
        ("-1", None),
        ("1e3", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("1.x", None),
        ("٣", None),
        (b"\xff", None),
    ],
)
def test_a_retry_after_is_read_in_seconds(text: str | bytes | None, seconds: float | None) -> None:
    assert retry_after_seconds(text) == seconds


STEPS = st.lists(
    st.tuples(st.sampled_from(["wait", "fail", "answer", "limit", "refuse", "try"]), st.floats(0, 40, allow_nan=False)), max_size=60
)
POLICIES = st.builds(
    HealthPolicy,
    st.one_of(st.integers(1, 6), st.sampled_from([0.05, 0.5, 0.95])),
    st.sampled_from([(5.0, 60.0), (1.0, 1.0), (0.5, 3.0)]),
)


@given(POLICIES, STEPS)
def test_whatever_happens_a_rest_is_bounded_and_an_answer_ends_it(policy: HealthPolicy, steps: list[tuple[str, float]]) -> None:
    rest, now, longest = Rest(policy), 100.0, policy.rest_seconds[1]
    for step, seconds in steps:
        before = rest.rests
        began = False
        if step == "wait":
            now += seconds
        elif step == "fail":
            began = rest.failed(now)
        elif step == "answer":
            assert rest.succeeded(now, now) == before
        elif step == "limit":
            began = rest.refused(now, retry_after=seconds)
        elif step == "refuse":
            began = rest.refused(now)
        else:
            rest.try_now(now)
        assert rest.until <= now + longest + 1e-9
        assert rest.retry_at <= max(rest.until, now)
        assert not began or (rest.rests and not before)
        if step == "answer":
            assert (rest.until, rest.retry_at) == (0.0, 0.0)
    assert rest.is_quiet <= (not rest.rests)
