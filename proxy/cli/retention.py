"""`llm-proxy retention`: fold old requests now, second by second, so that progress shows and it can be stopped at any time."""

import asyncio
from typing import Any

from proxy.cli.client import perform
from proxy.clock import Clock
from proxy.config import Config
from proxy.operations.operation import Answer
from proxy.store.progress import Progress, Report

NOTHING_SET = "retention.request_days is 0, so requests are kept for ever: set it, or name a number of days with --days"


def fold(config: Config, clock: Clock, days: int, report: Report | None, *, is_rehearsal: bool) -> Answer:
    """Fold requests older than `days` days, through the gateway if one runs; return how many there were and how many were folded.

    Raises: ParameterError, StoreError.
    """
    return asyncio.run(_fold(config, clock, {"days": days}, report, is_rehearsal=is_rehearsal))


async def _fold(config: Config, clock: Clock, days: dict[str, Any], report: Report | None, *, is_rehearsal: bool) -> Answer:
    answer = await perform(config, clock, "retention.look", days)
    if is_rehearsal:
        return answer
    folded, is_done = 0, answer["requests"] == 0
    while not is_done:
        _tell(report, folded, answer["requests"])
        some = await perform(config, clock, "retention.fold", days)
        folded, is_done = folded + some["folded"], some["done"]
    _tell(report, folded, answer["requests"])
    return answer | {"folded": folded}


def _tell(report: Report | None, folded: int, total: int) -> None:
    if report is not None:
        report(Progress("requests folded", folded, max(folded, total)))
