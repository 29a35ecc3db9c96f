"""Usage objects: which are charged, and which are not trusted."""

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.chat.events import parsed
from proxy.core.chat.usage import parse_usage, plain_usage, read_plain_answer
from proxy.core.settlement import TokenUsage


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


def _answer(usage: str, choices: str = "[{}]", rest: str = "") -> bytes:
    return f'{{"choices":{choices},"usage":{usage}{rest}}}'.encode("utf-8", "surrogateescape")


def _read_plainly(raw: bytes) -> TokenUsage | None:
    answer = read_plain_answer(raw)
    return None if answer is None else plain_usage(answer)


_COUNTS = st.sampled_from(["0", "5", "9", "-0"]) | st.sampled_from(
    [str(10**12), str(10**12 + 1), "-1", "1.0", "1e2", "9" * 400, '"7"', "true", "null", "[]", "{}"]
)
_DETAIL_KEYS = st.sampled_from(["cached_tokens", "reasoning_tokens", r"cached\u005ftokens", "x"])
_DETAILS = _COUNTS | st.lists(st.tuples(_DETAIL_KEYS, _COUNTS), max_size=3).map(
    lambda members: "{" + ",".join(f'"{key}":{count}' for key, count in members) + "}"
)


@given(
    st.tuples(_COUNTS, _COUNTS),
    st.lists(
        st.tuples(st.sampled_from(["prompt_tokens_details", "completion_tokens_details"]), _DETAILS)
        | st.tuples(st.sampled_from(["prompt_tokens", r"prompt\u005ftokens", "completion_tokens", "total_tokens"]), _COUNTS),
        max_size=4,
    ),
)
@example(("0", "0"), [("prompt_tokens_details", '{"reasoning_tokens":' + "9" * 400 + "}")])
def test_what_is_read_plainly_is_what_is_read_otherwise(totals: tuple[str, str], members: list[tuple[str, str]]) -> None:
    told = [("prompt_tokens", totals[0]), ("completion_tokens", totals[1]), *members]
    raw = _answer("{" + ",".join(f'"{key}":{count}' for key, count in told) + "}")

    usage = _read_plainly(raw)

    whole = parsed(raw)  # it reads numbers beyond a double, too, which the plain decoder skips where they do not count
    assert isinstance(whole, dict)
    assert usage is None or usage == parse_usage(whole["usage"])


@pytest.mark.parametrize(
    ("details", "cached", "reasoning"),
    [
        ("", 0, 0),
        (',"prompt_tokens_details":null,"completion_tokens_details":null', 0, 0),
        (',"prompt_tokens_details":{},"completion_tokens_details":{}', 0, 0),
        (',"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":2}', 3, 2),
        (',"prompt_tokens_details":{"cached_tokens":10},"completion_tokens_details":{"reasoning_tokens":5}', 9, 4),
    ],
)
def test_what_arks_answers_say_is_read_plainly(details: str, cached: int, reasoning: int) -> None:
    raw = _answer(f'{{"prompt_tokens":9,"completion_tokens":4{details}}}', rest=',"id":"0217"')

    answer = read_plain_answer(raw)

    assert answer is not None
    assert (answer.id, plain_usage(answer)) == ("0217", TokenUsage(9, 4, cached, reasoning))


@pytest.mark.parametrize(
    "raw",
    [
        _answer('{"prompt_tokens":9}'),
        _answer("null"),
        _answer('{"prompt_tokens":9,"completion_tokens":4}', choices="null"),
        _answer('{"prompt_tokens":9,"completion_tokens":4}', choices='{"0":1}'),
        _answer('{"prompt_tokens":9,"completion_tokens":4}', choices='["\udcff"]'),
        *(
            _answer('{"prompt_tokens":9,"completion_tokens":4}', rest=f',"{key}":{{"Error":1}}')
            for key in ("error", "code", "ResponseMetadata")
        ),
        _answer('{"prompt_tokens":9,"completion_tokens":4}') + b"}",
        b"\xef\xbb\xbf" + _answer('{"prompt_tokens":9,"completion_tokens":4}'),
    ],
)
def test_an_answer_with_anything_odd_is_not_read_plainly(raw: bytes) -> None:
    assert read_plain_answer(raw) is None


@pytest.mark.parametrize(
    ("told", "cached"),
    [
        ({"prompt_cache_hit_tokens": 6, "prompt_cache_miss_tokens": 3}, 6),  # DeepSeek
        ({"cached_tokens": 6}, 6),  # Moonshot
        ({"prompt_tokens_details": {"cached_tokens": 6}, "cached_tokens": 7}, 6),
        ({"prompt_tokens_details": {"cached_tokens": 0}, "prompt_cache_hit_tokens": 5}, 5),
        ({"prompt_tokens_details": None, "prompt_cache_hit_tokens": 10}, 9),
        ({"prompt_cache_hit_tokens": None, "cached_tokens": "6"}, 0),
        ({"prompt_cache_hit_tokens": -1}, 0),
    ],
)
def test_a_cache_hit_is_read_wherever_a_service_tells_it(told: dict[str, object], cached: int) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4} | told
    plain = read_plain_answer(orjson.dumps({"choices": [{}], "usage": usage}))

    assert parse_usage(usage) == TokenUsage(9, 4, cached)
    assert plain is None or plain_usage(plain) == TokenUsage(9, 4, cached)
