"""The OpenAI SDK as customers use it: only its base URL and key are those of a running gateway."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.support.gateway import Bench

NewClient = Callable[..., AsyncOpenAI]


@pytest.fixture
async def new_client(gateway: Bench) -> AsyncIterator[NewClient]:
    """Yield a factory of clients that do not retry, so that a test sees each answer."""
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> AsyncOpenAI:
            client = AsyncOpenAI(**{"api_key": gateway.key, "base_url": gateway.base_url, "max_retries": 0, **options})
            stack.push_async_callback(client.close)
            return client

        yield make


@pytest.fixture
def client(new_client: NewClient) -> AsyncOpenAI:
    return new_client()
