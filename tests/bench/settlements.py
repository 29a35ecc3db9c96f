"""CPU of holds and settlements through the store alone. ``python -m tests.bench.settlements FILE COUNT IN_FLIGHT`` prints JSON."""

import asyncio
import sys
import time
from pathlib import Path

import orjson
import uvloop

from proxy import ids
from proxy.core.catalog import Kind
from proxy.core.money import NANOS_PER_YUAN, Nanos
from proxy.core.settlement import Outcome, Settlement, TokenUsage, UsageSource
from proxy.store.sqlite import open_store
from proxy.store.sqlite.store import SqliteStore
from proxy.store.values import CommitStats, NewRequest

HOLD, CHARGE = Nanos(8_500_000), Nanos(40_000)
PRICE = '{"input":800,"output":2000,"cached_input":160}'
NOW_MS = 1_795_400_000_000
_END = Settlement(
    Outcome.COMPLETE, UsageSource.REPORTED, CHARGE, TokenUsage(20, 12), http_status=200, upstream_id="0217", first_byte_ms=1, total_ms=2
)


async def measure(path: Path, count: int, in_flight: int) -> dict[str, float]:
    """Settle ``count`` requests, and return CPU and time (both in µs) and commits, each per request."""
    commits: list[CommitStats] = []
    store = await open_store(path, on_commit=commits.append)
    account = await store.create_account("bench", Nanos(1_000_000 * NANOS_PER_YUAN), NOW_MS)
    await _settle_all(store, account.id, in_flight, in_flight)
    commits.clear()
    cpu, began = time.process_time(), time.monotonic()
    await _settle_all(store, account.id, count, in_flight)
    cpu, seconds = time.process_time() - cpu, time.monotonic() - began
    await store.close()
    return {"cpu_us": cpu * 1e6 / count, "commits": len(commits) / count, "us": seconds * 1e6 / count}


async def _settle_all(store: SqliteStore, account_id: int, count: int, in_flight: int) -> None:
    turns = iter(range(count))

    async def work() -> None:
        for turn in turns:
            await _settle_one(store, account_id, NOW_MS + turn)

    await asyncio.gather(*(work() for _ in range(in_flight)))


async def _settle_one(store: SqliteStore, account_id: int, now_ms: int) -> None:
    request = NewRequest(
        id=ids.request_id(now_ms),
        kind=Kind.CHAT,
        account_id=account_id,
        key_id="",
        model="doubao-pro-32k",
        upstream="ark",
        upstream_model="doubao-seed-2-0-lite-260428",
        stream=False,
        hold_nanos=HOLD,
        price=PRICE,
        created_at_ms=now_ms,
    )
    await store.place_hold(request)
    await store.settle(request.id, _END, now_ms + 2)


if __name__ == "__main__":
    file, count, in_flight = sys.argv[1:]
    print(orjson.dumps(uvloop.run(measure(Path(file), int(count), int(in_flight)))).decode())
