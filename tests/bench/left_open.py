"""A node that dies in the midst of its work: ``python -m tests.bench.left_open URL COUNT`` places so many holds, says so, and waits."""

import asyncio
import sys

import uvloop

from proxy.store import open_store
from tests.bench import settlements


async def main(url: str, count: int) -> None:
    """Place the holds of one account, and wait to be killed."""
    store = await open_store(url)
    account = await store.create_account("bench", settlements.CREDIT, settlements.NOW_MS)
    await asyncio.gather(*(store.place_hold(settlements.new_request(account.id, settlements.NOW_MS + turn)) for turn in range(count)))
    print(count, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
