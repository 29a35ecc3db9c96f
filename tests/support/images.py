"""Image calls of tests: a client that waits, one that leaves, and their receipts."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson

from tests.support.gateway import Bench, Reply

ROUTE = "/images/generations"
PROMPT = "一个穿着汉服的少女站在樱花树下"
PRICE = 180_000_000
"""¥0.18 an image, in nano-yuan."""


async def paint(gateway: Bench, *, key: str = "", idempotency_key: str | None = None, **wanted: Any) -> Reply:
    """Ask for images; ``wanted`` is added to the body."""
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    return await gateway.ask(ROUTE, {"prompt": PROMPT, **wanted}, key=key, headers=headers)


async def receipt_of(gateway: Bench, answer: Reply | Mapping[str, Any]) -> dict[str, Any]:
    """Return the settled receipt of an answer or of a log line."""
    request_id = answer.headers["x-request-id"] if isinstance(answer, Reply) else answer["request_id"]
    found = await gateway.ask(f"/usage/{request_id}")
    assert (found.status, found.json["status"]) == (200, "settled")
    receipt: dict[str, Any] = found.json
    return receipt


@asynccontextmanager
async def left_behind(gateway: Bench, *, calls: int = 1, idempotency_key: str | None = None, **wanted: Any) -> AsyncIterator[None]:
    """Ask for images, wait until `calls` calls are upstream, and close the connection."""
    url = urlsplit(gateway.origin)
    body = orjson.dumps({"prompt": PROMPT, **wanted})
    named = "" if idempotency_key is None else f"Idempotency-Key: {idempotency_key}\r\n"
    head = (
        f"POST /v1{ROUTE} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {gateway.key}\r\n{named}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(head.encode() + body)
    await writer.drain()
    await gateway.ark.wait_for_calls(calls, ROUTE)
    writer.close()
    await writer.wait_closed()
    yield
