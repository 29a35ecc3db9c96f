"""Paces the folding of old requests: slice after slice, with pauses that are longer than the work.

`jobs.fold_requests` and the operator's ``retention`` command decide what is old; the store folds a slice in one transaction.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from math import inf

from proxy.store.contract import FOLD_REQUESTS_MAX, Books

REST = 3.0
"""Pause after a slice, in multiples of the time that the slice took: the writer is free for other work meanwhile."""


async def slices(books: Books, before_ms: int, *, rest: float = REST) -> AsyncGenerator[int, None]:
    """Fold older requests, and yield the number in each slice. A caller may stop after any slice and leave the rest for later.

    Raises: StoreError.
    """
    for account_id in await books.accounts_to_fold(before_ms):
        folded = FOLD_REQUESTS_MAX
        while folded == FOLD_REQUESTS_MAX:
            started = time.perf_counter()
            folded = await books.fold_requests(account_id, before_ms)
            yield folded
            await asyncio.sleep(rest * (time.perf_counter() - started))


async def fold(books: Books, before_ms: int, seconds_max: float = inf, *, rest: float = REST) -> tuple[int, bool]:
    """Fold older requests for at most ``seconds_max``; return how many were folded, and True if that was all of them."""
    started, folded = time.perf_counter(), 0
    async with aclosing(slices(books, before_ms, rest=rest)) as some:
        async for count in some:
            folded += count
            if time.perf_counter() - started >= seconds_max:
                return folded, False
    return folded, True
