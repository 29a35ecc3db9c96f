"""A batch of holds and settlements as the arrays that the function ``book`` takes, and its answers as results and refusals.

Rule: what is refused here never reaches the server. A value that its types do not take would fail the whole batch.
"""

import base64
from collections.abc import Sequence
from typing import Any, cast

import orjson
from msgspec.structs import asdict

from proxy.core.catalog import Kind
from proxy.core.days import Zone
from proxy.core.limits import Period
from proxy.core.money import NANOS_MAX
from proxy.core.settlement import Settlement
from proxy.core.timestamps import iso
from proxy.store import refusals
from proxy.store.contract import CLAIM_LIFE_MS
from proxy.store.errors import AccountClosedError, AccountNotFoundError, KeyClaimedError, KeyRefusal, KeyRefusedError
from proxy.store.values import ClaimedKey, IdempotencyClaim, NewRequest, Settled, StoredAnswer

COUNT_MAX = 2**48
"""A count beyond it is stored as this: an upstream's nonsense must neither stop a settlement nor overflow the sums of `usage`."""
HOLD_TYPES = (
    *("text", "text", "bigint", "text", "text", "text", "text", "boolean", "bigint", "text", "bigint", "text", "text", "bytea"),
)
SETTLEMENT_TYPES = (
    *("text", "bigint", "text", "text", "bigint", "bigint", "bigint", "bigint", "bigint", "bigint", "bigint", "integer", "text"),
    *("bigint", "bigint", "text", "text", "text", "text", "text", "integer", "bytea"),
)
_NO_HOLDS: tuple[tuple[object, ...], ...] = ((),) * len(HOLD_TYPES)
_NO_SETTLEMENTS: tuple[tuple[object, ...], ...] = ((),) * len(SETTLEMENT_TYPES)
_FIRST = 6
_PARAMETERS = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate((*HOLD_TYPES, *SETTLEMENT_TYPES), start=_FIRST))
BOOK = f"SELECT h_told, h_why, s_told FROM book($1, $2, $3, $4, $5, {_PARAMETERS})"  # noqa: S608

Row = tuple[object, ...]
_SETTLED = {1: Settled.NOW, 2: Settled.BEFORE, 3: Settled.OTHERWISE}
_KEY_REFUSALS: dict[str, str] = {
    "revoked": "key {key} was revoked on {at}",
    "rolled": "key {key} was rolled, and ended on {at}",
    "expired": "key {key} expired on {at}",
    "paused": "key {key} is paused since {at}",
    "suspended": "account {account} is suspended since {at}",
    "account_expired": "account {account} expired on {at}",
}


def arguments(holds: Sequence[Row], settlements: Sequence[Row]) -> tuple[object, ...]:
    """Return the arguments of ``book`` from the claims' life on: an array for each column."""
    of_holds = map(_column, zip(*holds, strict=True)) if holds else _NO_HOLDS
    of_settlements = map(_column, zip(*settlements, strict=True)) if settlements else _NO_SETTLEMENTS
    return (CLAIM_LIFE_MS, *of_holds, *of_settlements)


def _column(values: tuple[object, ...]) -> tuple[object, ...]:
    """Return a column as it is sent: empty where it holds nothing at all, as columns of rare things do. The server reads null there.

    Each value that is sent costs, null too: a quarter of the columns are empty in most batches.
    """
    return () if values[0] is None and values.count(None) == len(values) else values


def hold_row(request: NewRequest) -> Row:
    """Return a hold's columns. Raises: ValueError: a negative hold, or text that no column takes."""
    if request.hold_nanos < 0:
        raise ValueError(f"a hold cannot be negative: {request.hold_nanos}")
    claim = request.claim
    row = (
        request.id,
        request.kind._value_,
        request.account_id,
        request.key_id or None,
        request.model,
        request.upstream,
        request.upstream_model,
        request.stream,
        request.hold_nanos,
        request.price,
        request.created_at_ms,
        request.key_name or None,
        None if claim is None else claim.key,
        None if claim is None else claim.body_sha256,
    )
    if claim is not None and "\0" in claim.key:
        raise ValueError("an idempotency key cannot hold a zero character")
    return row


def settlement_row(request_id: str, settlement: Settlement, now_ms: int, answer: StoredAnswer | None) -> Row:
    """Return a settlement's columns. Raises: ValueError: a figure below nothing, or a charge above any hold."""
    usage = settlement.usage
    counts: tuple[int, ...] = (
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        usage.reasoning_tokens,
        settlement.units,
        settlement.shortfall_nanos,
    )
    charge = settlement.charge_nanos
    if charge < 0 or charge > NANOS_MAX or min(counts) < 0:
        raise ValueError(f"the settlement of {request_id} contradicts itself or its hold: {settlement}")
    if max(counts) > COUNT_MAX:
        counts = tuple(min(count, COUNT_MAX) for count in counts)
    return (
        request_id,
        now_ms,
        settlement.outcome._value_,
        settlement.usage_source._value_,
        charge,
        *counts,
        settlement.http_status,
        shown(settlement.upstream_id),
        settlement.first_byte_ms,
        settlement.total_ms,
        shown(settlement.note),
        *_attempts(settlement),
        None if answer is None else answer.status,
        None if answer is None else answer.body,
    )


def shown(text: str) -> str:
    """Return text as a column takes it: PostgreSQL has no zero character."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


def _attempts(settlement: Settlement) -> tuple[str | None, str | None, str | None, str | None]:
    """Return who answered in the end, where several were asked, and all of them as JSON."""
    if len(settlement.attempts) < 2:
        return None, None, None, None
    last = settlement.attempts[-1]
    told = orjson.dumps([asdict(attempt) for attempt in settlement.attempts]).decode()
    return last.upstream, last.model, last.key or None, shown(told)


def hold_refusal(request: NewRequest, told: int, why: str | None, zone: Zone) -> Exception:
    """Return the exception that a hold was refused with. Args: told, why: as ``book`` answers."""
    said: Any = {} if why is None else orjson.loads(why)
    match told:
        case 2:
            return refusals.insufficient(said["account"], said["available"], request.hold_nanos)
        case 3:
            reason, at_ms = cast("KeyRefusal", said["reason"]), said["at"]
            text = _KEY_REFUSALS[reason].format(key=request.key_id, account=request.account_id, at=iso(at_ms))
            return KeyRefusedError(text, reason=reason, at_ms=at_ms)
        case 4:
            return KeyClaimedError(_claimed(request, said))
        case 5:
            return refusals.beyond_limits(
                [(one["whose"], Period(one["period"]), one["most"], one["remaining"]) for one in said], request, zone
            )
        case 6:
            return AccountNotFoundError(f"there is no account with the id {request.account_id}")
        case 7:
            return AccountClosedError(refusals.closed(said["account"], said["at"]))
        case _:
            return ValueError(f"request {request.id} cannot be recorded: {_UNRECORDED[said['reason']].format(request)}")


_UNRECORDED = {"taken": "another request has its id", "unknown": "there is no key {0.key_id} of its account"}


def _claimed(request: NewRequest, said: dict[str, Any]) -> ClaimedKey:
    assert request.claim is not None
    answer = None if said["status"] is None else StoredAnswer(said["status"], base64.b64decode(said["answer"]))
    return ClaimedKey(IdempotencyClaim(request.claim.key, bytes.fromhex(said["body"])), said["request"], answer)


def settlement_result(request_id: str, charge_nanos: object, told: int) -> Settled | Exception:
    """Return what a settlement came to, or the exception that refused it."""
    if told in _SETTLED:
        return _SETTLED[told]
    if told == 0:
        return KeyError(request_id)
    if told == 4:
        return ValueError(f"the settlement of {request_id} contradicts its hold: a charge of {charge_nanos} is above it")
    return ValueError(f"the settlement of {request_id} is its task's, which goes on")


def is_beyond_all_holds(request: NewRequest) -> bool:
    """Return whether a hold is more than any balance can cover, and more than a column takes."""
    return request.hold_nanos > NANOS_MAX


def require_no_video(request: NewRequest) -> None:
    """Raises: ValueError for a video, which nothing would end without its task."""
    if request.kind is Kind.VIDEO:
        raise ValueError(f"request {request.id} is a video: it is placed with its task")
