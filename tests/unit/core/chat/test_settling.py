"""The settlement of a chat call, computed from what was seen of it."""

from typing import Any

import pytest

from proxy.core.catalog import ChatPrice, ChatTier
from proxy.core.chat.settling import Seen, conclude
from proxy.core.money import Nanos
from proxy.core.protocol import SeenAnswer
from proxy.core.settlement import Outcome, Settlement, TokenUsage, UsageSource

PRICE = ChatPrice((ChatTier(None, Nanos(800), Nanos(2000), Nanos(160)),))
TEXT_BYTES = 800
"""At least 100 tokens of prompt."""


def concluded(outcome: Outcome, *, hold: int = 10**9, estimate: bool = True, **seen: Any) -> Settlement:
    return conclude(TEXT_BYTES, PRICE, Nanos(hold), Seen(outcome, SeenAnswer(**{"began": False} | seen)), estimate=estimate)


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("began", [False, True])
@pytest.mark.parametrize("estimate", [False, True])
def test_reported_usage_is_charged_however_the_call_ended(outcome: Outcome, began: bool, estimate: bool) -> None:
    settled = concluded(outcome, usage=TokenUsage(20, 12), began=began, completion_tokens_min=7, estimate=estimate)

    assert (settled.outcome, settled.usage_source, settled.charge_nanos) == (outcome, UsageSource.REPORTED, 40_000)


@pytest.mark.parametrize("outcome", Outcome)
def test_what_began_and_told_no_usage_is_estimated_by_its_lower_bounds(outcome: Outcome) -> None:
    settled = concluded(outcome, began=True, completion_tokens_min=7)

    assert settled.usage == TokenUsage(100, 7)
    assert (settled.usage_source, settled.charge_nanos) == (UsageSource.ESTIMATED, 94_000)  # 100 × 800 + 7 × 2,000


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize(("began", "estimate"), [(False, True), (True, False), (False, False)])
def test_what_never_began_or_is_not_to_be_estimated_is_free(outcome: Outcome, began: bool, estimate: bool) -> None:
    settled = concluded(outcome, began=began, estimate=estimate, completion_tokens_min=7)

    assert (settled.usage_source, settled.charge_nanos, settled.usage) == (UsageSource.NONE, 0, TokenUsage(0, 0))


def test_usage_reported_as_zero_is_zero_and_not_estimated() -> None:
    settled = concluded(Outcome.COMPLETE, usage=TokenUsage(0, 0), began=True, completion_tokens_min=7)

    assert (settled.usage_source, settled.charge_nanos) == (UsageSource.REPORTED, 0)


@pytest.mark.parametrize("seen", [{"usage": TokenUsage(20, 12)}, {"began": True, "completion_tokens_min": 10**9}])
def test_nothing_costs_more_than_its_hold_and_the_rest_is_marked(seen: dict[str, Any]) -> None:
    settled = concluded(Outcome.COMPLETE, hold=30_000, **seen)

    assert settled.charge_nanos == 30_000
    assert settled.shortfall_nanos == (10_000 if "usage" in seen else 80_000 + 2_000 * 10**9 - 30_000)


def test_what_nobody_saw_is_nothing() -> None:
    """The defaults describe a call that failed before anything happened: free and unanswered."""
    settled = conclude(TEXT_BYTES, PRICE, Nanos(10**9), Seen(Outcome.UPSTREAM_ERROR), estimate=True)
    began = conclude(TEXT_BYTES, PRICE, Nanos(10**9), Seen(Outcome.UPSTREAM_CUT, SeenAnswer(began=True)), estimate=True)

    assert (settled.usage_source, settled.charge_nanos, settled.http_status) == (UsageSource.NONE, 0, 0)
    assert began.usage == TokenUsage(100, 0)


def test_a_settlement_says_nothing_that_it_was_not_told() -> None:
    bare = Settlement(Outcome.REFUSED, UsageSource.NONE, Nanos(0))

    assert (bare.units, bare.shortfall_nanos, bare.http_status, bare.upstream_id, bare.note) == (0, 0, 0, "", "")
    assert (bare.usage, bare.first_byte_ms, bare.total_ms) == (TokenUsage(0, 0, 0, 0), None, None)


def test_outcomes_are_written_as_the_store_and_receipts_have_them() -> None:
    assert set(Outcome) == {"complete", "client_gone", "upstream_cut", "upstream_error", "refused", "interrupted"}
    assert set(UsageSource) == {"reported", "estimated", "none"}


@pytest.mark.parametrize(("text_bytes", "each", "tokens"), [(0, (4, 4), (200, 0)), (33, (4, 4), (200, 9)), (33, (2.5, 1.5), (320, 22))])
def test_where_bytes_stand_for_tokens_both_are_estimated_by_them(
    text_bytes: int, each: tuple[float, float], tokens: tuple[int, int]
) -> None:
    seen = Seen(Outcome.COMPLETE, SeenAnswer(completion_tokens_min=7, text_bytes=text_bytes))
    settled = conclude(TEXT_BYTES, PRICE, Nanos(10**9), seen, estimate=True, bytes_per_token=each)

    assert settled.usage == TokenUsage(*tokens)
    assert settled.usage_source is UsageSource.ESTIMATED


def test_bytes_stand_for_nothing_where_a_usage_came_or_no_estimate_is_wanted_or_the_answer_never_began() -> None:
    def settled(answer: SeenAnswer, *, estimate: bool = True, abandoned: bool = False) -> Settlement:
        seen = Seen(Outcome.COMPLETE, answer, abandoned=abandoned)
        return conclude(TEXT_BYTES, PRICE, Nanos(10**9), seen, estimate=estimate, bytes_per_token=(4, 4))

    assert settled(SeenAnswer(TokenUsage(20, 12), text_bytes=99)).usage == TokenUsage(20, 12)
    assert settled(SeenAnswer(text_bytes=99), estimate=False).usage_source is UsageSource.NONE
    assert settled(SeenAnswer(began=False)).usage_source is UsageSource.NONE
    assert settled(SeenAnswer(began=False), abandoned=True).usage == TokenUsage(100, 0)  # the prompt's lower bound, as everywhere
