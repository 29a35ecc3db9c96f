"""What every engine says when it refuses: the same words, whichever database keeps the books."""

from collections.abc import Sequence
from typing import Literal

from proxy.core.days import Zone
from proxy.core.limits import Period
from proxy.core.money import Nanos, format_yuan
from proxy.core.timestamps import iso
from proxy.store.errors import InsufficientFundsError, ReferenceTakenError, SpendLimitError, StoreRefusedError
from proxy.store.values import NewRequest, Reference

Left = tuple[Literal["key", "account"], Period, int, int]
"""Whose money limit, of which period, how much it is, and what is left of it, in nano-yuan; that may be negative."""


def insufficient(account: str, available_nanos: int, needed_nanos: int) -> InsufficientFundsError:
    """Return the refusal of a hold that an account's available balance does not cover."""
    return InsufficientFundsError(
        f"account {account} has ¥{format_yuan(available_nanos)} available, the request needs ¥{format_yuan(needed_nanos)}",
        available_nanos=Nanos(available_nanos),
        needed_nanos=Nanos(needed_nanos),
    )


def not_to_be_taken_back(account: str, available_nanos: int, amount_nanos: int) -> InsufficientFundsError:
    """Return the refusal to pay more out of an account than it has available."""
    return InsufficientFundsError(
        f"account {account} has ¥{format_yuan(available_nanos)} available, ¥{format_yuan(amount_nanos)} cannot be taken back",
        available_nanos=Nanos(available_nanos),
        needed_nanos=Nanos(amount_nanos),
    )


def closed(account: str, at_ms: int) -> str:
    """Return the text of an `AccountClosedError`."""
    return f"account {account} was closed on {iso(at_ms)}: nothing is booked to it any more"


def taken(reference: Reference, amount_nanos: int, name: str, booked_at_ms: int) -> ReferenceTakenError:
    """Return the refusal of a payment whose reference is another's."""
    return ReferenceTakenError(
        f"reference {reference.text} stands for another payment already, ¥{format_yuan(amount_nanos)} for account {name} "
        f"on {iso(booked_at_ms)}: nothing was booked"
    )


def folded_in_another_zone(before: Zone, zone: Zone) -> StoreRefusedError:
    """Return the refusal to count days in another time zone than that of days which nothing can cut again."""
    return StoreRefusedError(
        f'old requests are folded into days of the time zone "{before}", which cannot become days of "{zone}": '
        f'set billing.time_zone = "{before}"'
    )


def beyond_limits(limits: Sequence[Left], request: NewRequest, zone: Zone) -> SpendLimitError:
    """Return the refusal of a hold beyond some money limits: for the one of them that begins anew the latest."""
    refused = [_beyond(*left, request, zone) for left in limits]
    return max(refused, key=lambda refusal: (refusal.resets_at_ms is None, refusal.resets_at_ms or 0))


def _beyond(
    whose: Literal["key", "account"], period: Period, limit: int, left: int, request: NewRequest, zone: Zone
) -> SpendLimitError:
    resets_at_ms = zone.ends_ms(period, request.created_at_ms)
    left = max(0, left)
    anew = "" if resets_at_ms is None else f", until {iso(resets_at_ms)}"
    span = "in all" if period is Period.TOTAL else f"a {period}"
    return SpendLimitError(
        f"the {whose} may spend ¥{format_yuan(limit)} {span}: ¥{format_yuan(left)} of it is left{anew}, "
        f"the request needs ¥{format_yuan(request.hold_nanos)}",
        whose=whose,
        period=period,
        limit_nanos=Nanos(limit),
        left_nanos=Nanos(left),
        needed_nanos=request.hold_nanos,
        resets_at_ms=resets_at_ms,
    )
