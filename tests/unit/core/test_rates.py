"""Durations as OpenAI writes them, and refusals that say which limit it was."""

from typing import Any

import pytest

from proxy.core.errors import RateLimitedError
from proxy.core.rates import Meter, Rates, duration


def meter(whose: str = "key", **limits: int) -> Meter:
    made = Meter(whose)
    wanted: dict[str, Any] = {"requests": None, "tokens": None, "concurrent": None, **limits}
    made.limit(**wanted, now=0.0)
    return made


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0, "0s"),
        (1e-9, "0s"),
        (0.0001, "1ms"),
        (0.012, "12ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.999, "59.999s"),
        (60, "1m0s"),
        (90.25, "1m30.25s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (90061, "25h1m1s"),
    ],
)
def test_a_duration_is_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def refusal(*meters: Meter, tokens: int = 0) -> tuple[str, float | None]:
    with pytest.raises(RateLimitedError) as refused:
        Rates(meters).admit(tokens, 0.0)
    return refused.value.message, refused.value.retry_after_seconds


def test_a_refusal_names_the_limit_that_takes_the_longest() -> None:
    key, account = meter(requests=60, tokens=600, concurrent=1), meter("account", requests=30)
    Rates((key, account)).admit(0, 0.0)
    slot = refusal(key, account)
    account.requests_full_at = 61.5  # of 60 s - 2 s for one more request
    requests = refusal(key, account)
    key.tokens_full_at = 20.0

    assert slot == ("This key may have 1 requests under way at a time, and has 1", 1.0)
    assert requests == ("This account may make 30 requests a minute; this one passes in 3.5s", 3.5)
    assert refusal(key, account, tokens=600) == (
        "This key may use 600 tokens a minute, and this request counts 600 until it is settled; this one passes in 20s",
        20.0,
    )


def test_a_wait_is_rounded_up_so_that_who_obeys_it_passes() -> None:
    one = meter(requests=7)
    for _ in range(7):
        Rates((one,)).admit(0, 1000.0001)

    with pytest.raises(RateLimitedError) as refused:
        Rates((one,)).admit(0, 1000.0001)

    seconds = refused.value.retry_after_seconds
    assert seconds == 8.572  # 60 / 7 = 8.5714…
    Rates((one,)).admit(0, 1000.0001 + seconds)


def test_the_headers_are_those_of_whoever_has_less_left() -> None:
    key, account = meter(requests=100, tokens=50), meter("account", requests=60)
    rates = Rates((key, account))
    rates.admit(20, 0.0)

    assert rates.fields(0.5004).split("\r\n") == [
        "",
        "x-ratelimit-limit-requests: 60",
        "x-ratelimit-remaining-requests: 59",
        "x-ratelimit-reset-requests: 500ms",
        "x-ratelimit-limit-tokens: 50",
        "x-ratelimit-remaining-tokens: 30",
        "x-ratelimit-reset-tokens: 24s",
    ]
