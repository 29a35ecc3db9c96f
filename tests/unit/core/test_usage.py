"""Which usage objects become money, and which are not trusted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.settlement import TokenUsage
from proxy.core.usage import parse_usage


def test_arks_usage_is_read_with_its_details() -> None:
    value = {
        "completion_tokens": 124,
        "prompt_tokens": 90,
        "total_tokens": 214,
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 106},
    }

    usage = parse_usage(value)

    assert usage == TokenUsage(prompt_tokens=90, completion_tokens=124, cached_tokens=64, reasoning_tokens=106)


def test_zero_is_zero_and_no_absence() -> None:
    assert parse_usage({"prompt_tokens": 0, "completion_tokens": 0}) == TokenUsage(0, 0, 0, 0)


@pytest.mark.parametrize("count", [None, -1, 1.0, "7", True, False, [], {}, 10**12 + 1])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_a_total_that_is_no_count_makes_the_whole_usage_unusable(name: str, count: object) -> None:
    assert parse_usage({"prompt_tokens": 1, "completion_tokens": 1, name: count}) is None


@pytest.mark.parametrize("value", [None, [], "usage", 3, {}, {"prompt_tokens": 3}, {"completion_tokens": 3}, {"total_tokens": 3}])
def test_what_is_no_usage_is_none(value: object) -> None:
    assert parse_usage(value) is None


def test_the_largest_count_is_still_taken() -> None:
    assert parse_usage({"prompt_tokens": 10**12, "completion_tokens": 5}) == TokenUsage(10**12, 5)


@pytest.mark.parametrize("details", [None, [], "x", {}, {"cached_tokens": None}, {"cached_tokens": -3}, {"cached_tokens": True}])
def test_an_unusable_detail_counts_as_none_cached(details: object) -> None:
    value = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": details}

    assert parse_usage(value) == TokenUsage(9, 4, 0, 0)


def test_details_above_their_totals_are_cut_to_them() -> None:
    value = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }

    assert parse_usage(value) == TokenUsage(9, 4, 9, 4)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
_KEYS = st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"])


@given(st.dictionaries(_KEYS, _JSON) | _JSON)
def test_no_shape_breaks_it_and_parts_never_exceed_their_whole(value: object) -> None:
    usage = parse_usage(value)

    assert usage is None or 0 <= usage.cached_tokens <= usage.prompt_tokens <= 10**12
    assert usage is None or 0 <= usage.reasoning_tokens <= usage.completion_tokens <= 10**12
