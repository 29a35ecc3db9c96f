"""CPU of holds and settlements through a store alone: ``python -m tests.bench.settlements URL COUNT IN_FLIGHT [--held]`` prints JSON.

With ``--held`` it says `READY` once it is warm and begins at the first line of its input, so that several of them begin together; after
its report it keeps the store open until its input ends, so that what the database's processes took can still be read.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from itertools import cycle

import orjson
import uvloop

from proxy import ids
from proxy.core.catalog import Kind
from proxy.core.money import NANOS_PER_YUAN, Nanos
from proxy.core.settlement import Outcome, Settlement, TokenUsage, UsageSource
from proxy.store import open_store
from proxy.store.contract import Store
from proxy.store.values import CommitStats, NewRequest
from tests.bench.jobs import Spread

READY = b"ready\n"
CREDIT = Nanos(1_000_000 * NANOS_PER_YUAN)
HOLD, CHARGE = Nanos(8_500_000), Nanos(40_000)
PRICE = '{"input":800,"output":2000,"cached_input":160}'
NOW_MS = 1_795_400_000_000
WARM_TURNS = 4
_END = Settlement(
    Outcome.COMPLETE, UsageSource.REPORTED, CHARGE, TokenUsage(20, 12), http_status=200, upstream_id="0217", first_byte_ms=1, total_ms=2
)


async def main(url: str, count: int, in_flight: int, *, is_held: bool) -> None:
    """Settle ``count`` requests, and print CPU and time (both in µs) and commits, each per request, and percentiles of a hold in ms."""
    commits: list[CommitStats] = []
    store = await open_store(url, on_commit=commits.append)
    accounts = [account.id for account in await store.accounts()] or [(await store.create_account("bench", CREDIT, NOW_MS)).id]
    await _settle_all(store, accounts, WARM_TURNS * in_flight, in_flight)
    loop = asyncio.get_running_loop()
    if is_held:
        _say(READY)
        await loop.run_in_executor(None, sys.stdin.readline)
    commits.clear()
    cpu, began = time.process_time(), time.monotonic()
    holds = await _settle_all(store, accounts, count, in_flight)
    cpu, seconds = time.process_time() - cpu, time.monotonic() - began
    spread = Spread.of(holds)
    told = {
        "cpu_us": cpu * 1e6 / count,
        "us": seconds * 1e6 / count,
        "commits": len(commits) / count,
        "p50": spread.p50,
        "p99": spread.p99,
    }
    _say(orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE))
    if is_held:
        await loop.run_in_executor(None, sys.stdin.read)
    await store.close()


async def _settle_all(store: Store, accounts: Sequence[int], count: int, in_flight: int) -> list[float]:
    """Return how long each hold took, in ms."""
    turns = iter(zip(range(count), cycle(accounts), strict=False))
    holds: list[float] = []

    async def work() -> None:
        for turn, account_id in turns:
            holds.append(await _settle_one(store, account_id, NOW_MS + turn))

    await asyncio.gather(*(work() for _ in range(in_flight)))
    return holds


async def _settle_one(store: Store, account_id: int, now_ms: int) -> float:
    request = new_request(account_id, now_ms)
    began = time.monotonic()
    await store.place_hold(request)
    held = (time.monotonic() - began) * 1000
    await store.settle(request.id, _END, now_ms + 2)
    return held


def new_request(account_id: int, now_ms: int) -> NewRequest:
    """Return a chat to be held, of no key: as in a sidecar."""
    return NewRequest(
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


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), is_held="--held" in sys.argv))
