"""Operations on the books: usage, receipts, verification, backup, retention."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from proxy.billing.folding import REST, fold
from proxy.billing.receipts import operator_receipt
from proxy.core.days import UTC
from proxy.core.retention import keep_from_ms
from proxy.core.timestamps import local_iso
from proxy.operations import views
from proxy.operations.operation import Answer, Operation, Operator
from proxy.operations.parameters import AccountName, ParameterError, PathText, RequestDays, check_path, moment
from proxy.store.errors import StoreRefusedError
from proxy.store.values import UsageQuery

FOLD_SECONDS = 1.0
"""Seconds that one ``retention.fold`` may take, so that a client sees progress and can stop."""


class Usage(Operation, frozen=True, kw_only=True):
    """Sum settled requests. `since` and `until` are moments (see `parse_moment`), the second exclusive."""

    name: ClassVar = "usage"
    by: Literal["model", "key", "day"] = "model"
    account: AccountName | None = None
    since: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        moment("since", self.since, 0, UTC)
        moment("until", self.until, 0, UTC)

    async def run(self, operator: Operator) -> Answer:
        now_ms, zone = operator.clock.now_ms(), operator.zone
        since_ms, until_ms = moment("since", self.since, now_ms, zone), moment("until", self.until, now_ms, zone)
        if since_ms is not None and until_ms is not None and since_ms > until_ms:  # an age and a date can be compared only now
            raise ParameterError("since: is after until")
        query = UsageQuery(self.by, self.account, since_ms, until_ms)
        within = [at_ms for at_ms in (since_ms, until_ms) if at_ms and at_ms != zone.begins_ms(zone.day(at_ms))]
        folded = [at_ms for at_ms in within if await operator.store.has_daily_sums(at_ms)]
        return views.usage(query, await operator.store.usage(query), zone, folded)


class ShowReceipt(Operation, frozen=True, kw_only=True):
    """Show all that is known of one request. A folded one is refused, with what is left of it."""

    name: ClassVar = "receipt"
    id: Annotated[str, Meta(min_length=1, max_length=200)]

    async def run(self, operator: Operator) -> Answer:
        found = await operator.store.receipt(self.id)
        if found is None:
            folded = await operator.store.folded(self.id)
            raise StoreRefusedError(f"there is no request {self.id}" if folded is None else views.folded(folded, operator.zone))
        return operator_receipt(found[0])


class LedgerVerify(Operation, frozen=True, kw_only=True):
    """Check every invariant of the books."""

    name: ClassVar = "ledger.verify"

    async def run(self, operator: Operator) -> Answer:
        return views.checks(await operator.store.verify(operator.report))


class Backup(Operation, frozen=True, kw_only=True):
    """Write a verified copy of the store to a new file."""

    name: ClassVar = "backup"
    destination: PathText

    def __post_init__(self) -> None:
        check_path("destination", self.destination)

    async def run(self, operator: Operator) -> Answer:
        checks = await operator.store.backup(Path(self.destination), operator.report)
        return {"destination": self.destination} | views.checks(checks)


class RetentionLook(Operation, frozen=True, kw_only=True):
    """Count the requests that are older than ``days``."""

    name: ClassVar = "retention.look"
    days: RequestDays

    async def run(self, operator: Operator) -> Answer:
        before_ms = keep_from_ms(operator.clock.now_ms(), self.days, operator.zone)
        counts = await operator.store.old_requests(before_ms)
        return {"kept_from_at": local_iso(before_ms, operator.zone), "accounts": len(counts), "requests": sum(counts.values())}


class RetentionFold(Operation, frozen=True, kw_only=True):
    """Fold such requests, for `FOLD_SECONDS` at most. Call again until ``done``."""

    name: ClassVar = "retention.fold"
    changes: ClassVar = True
    days: RequestDays

    async def run(self, operator: Operator) -> Answer:
        before_ms = keep_from_ms(operator.clock.now_ms(), self.days, operator.zone)
        folded, is_done = await fold(operator.store, before_ms, FOLD_SECONDS, rest=REST if operator.is_serving else 0.0)
        return {"kept_from_at": local_iso(before_ms, operator.zone), "folded": folded, "done": is_done}
