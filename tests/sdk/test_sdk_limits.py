"""Limits of a key as the ``openai`` package meets them: which class it raises, with which code, and when it asks again by itself."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from proxy.clock import SystemClock
from proxy.core.limits import SpendLimits
from proxy.core.money import Nanos
from tests.sdk.conftest import NewClient
from tests.support.gateway import MODEL, Bench
from tests.support.limits import limit_account, limit_key

HELLO: Any = [{"role": "user", "content": "Hello"}]
CHARGE = 40_000
"""20 prompt tokens at ¥0.8 a million, and 12 of the answer at ¥2.0."""
FORBIDDEN, AUTH = "permission_error", "authentication_error"


def chat(client: AsyncOpenAI) -> Awaitable[object]:
    return client.chat.completions.create(model=MODEL, messages=HELLO)


def stream(client: AsyncOpenAI) -> Awaitable[object]:
    return client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)


def models(client: AsyncOpenAI) -> Awaitable[object]:
    return client.models.retrieve(MODEL)


Limit = Callable[..., Awaitable[None]]
LIMITS: list[tuple[Limit, dict[str, Any], type[openai.APIStatusError], str, str, str | None]] = [
    (limit_key, {"expires_at_ms": 1_700_000_000_000}, openai.AuthenticationError, "INVALID_API_KEY", AUTH, None),
    (limit_key, {"paused_at_ms": 1_700_000_000_000}, openai.AuthenticationError, "INVALID_API_KEY", AUTH, None),
    (limit_account, {"paused_at_ms": 1_700_000_000_000}, openai.PermissionDeniedError, "ACCOUNT_SUSPENDED", FORBIDDEN, None),
    (limit_key, {"networks": ("192.0.2.0/24",)}, openai.PermissionDeniedError, "NETWORK_NOT_ALLOWED", FORBIDDEN, None),
    (limit_key, {"models": ("doubao-seed-*",)}, openai.PermissionDeniedError, "MODEL_NOT_ALLOWED", FORBIDDEN, "model"),
]


@pytest.mark.parametrize("call", [chat, stream, models])
@pytest.mark.parametrize(("limit", "limits", "raises", "code", "kind", "param"), LIMITS, ids=[str(limit[1]) for limit in LIMITS])
async def test_what_a_key_may_not_do_is_raised_as_its_class_with_its_code(
    gateway: Bench,
    new_client: NewClient,
    call: Callable[[AsyncOpenAI], Awaitable[object]],
    limit: Limit,
    limits: dict[str, Any],
    raises: type[openai.APIStatusError],
    code: str,
    kind: str,
    param: str | None,
) -> None:
    await limit(gateway, **limits)

    with pytest.raises(raises) as raised:
        await call(new_client(max_retries=5))

    assert (raised.value.code, raised.value.type, raised.value.param) == (code, kind, param)
    assert len(gateway.log.written) == 1  # and it is not asked again
    await gateway.assert_charged(0)


async def test_a_money_limit_is_an_error_of_status_402(gateway: Bench, new_client: NewClient) -> None:
    await limit_key(gateway, spend=SpendLimits(day=Nanos(1)))

    with pytest.raises(openai.APIStatusError) as raised:
        await chat(new_client(max_retries=5))

    assert (raised.value.status_code, raised.value.code) == (402, "KEY_LIMIT_REACHED")
    assert len(gateway.log.written) == 1
    await gateway.assert_charged(0)


async def test_a_client_without_retries_is_told_of_a_rate(gateway: Bench, client: AsyncOpenAI) -> None:
    await limit_key(gateway, requests_per_minute=1)
    raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)

    with pytest.raises(openai.RateLimitError) as raised:
        await chat(client)

    assert raw.headers["x-ratelimit-limit-requests"] == "1"
    assert raw.headers["x-ratelimit-remaining-requests"] == "0"
    assert (raised.value.status_code, raised.value.code, raised.value.type) == (429, "RATE_LIMITED", "rate_limit_error")
    assert 50_000 < int(raised.value.response.headers["retry-after-ms"]) <= 60_000
    await gateway.assert_charged(CHARGE)


async def test_a_client_that_retries_waits_as_long_as_it_was_told_and_passes_at_once(gateway: Bench, new_client: NewClient) -> None:
    """One retry each is enough, since the wait is neither too short nor the SDK's own back-off."""
    await limit_key(gateway, requests_per_minute=60)
    client = new_client(max_retries=1)
    while (await gateway.chat()).status == 200:  # until the bucket is empty
        pass
    passed = len([line for line in gateway.log.chats if line["status"] == 200])
    clock = SystemClock()

    began = time.monotonic()
    for _ in range(3):
        await chat(client)
    took = clock.monotonic() - began

    statuses = [line["status"] for line in gateway.log.chats]
    assert 2 < took < 10  # one a second
    assert statuses.count(200) == passed + 3
    assert statuses[-1] == 200
    await gateway.assert_charged((passed + 3) * CHARGE)


async def test_a_client_that_retries_gets_a_slot_once_it_is_free(gateway: Bench, new_client: NewClient) -> None:
    await limit_key(gateway, concurrent=1)
    client = new_client(max_retries=2)
    async with await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as first:
        async for _ in first:
            pass

    answer = await client.chat.completions.create(model=MODEL, messages=HELLO)

    assert answer.choices
    await gateway.assert_charged(2 * CHARGE)
