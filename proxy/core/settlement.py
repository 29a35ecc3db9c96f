"""The end of a request and its cost. Pure: facts in, one `Settlement` out, which the store commits once.

Each request has exactly one outcome: ``complete`` · ``client_gone`` (the client left; the upstream may have finished) ·
``upstream_cut`` (the upstream broke off after its answer had begun) · ``upstream_error`` (it failed or could not be reached) ·
``refused`` (it was asked, and refused the request itself) · ``interrupted`` (this process ended or was ended first).
"""

from enum import StrEnum

from msgspec import Struct

from proxy.core.money import Nanos


class Outcome(StrEnum):
    COMPLETE = "complete"
    CLIENT_GONE = "client_gone"
    UPSTREAM_CUT = "upstream_cut"
    UPSTREAM_ERROR = "upstream_error"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"


class UsageSource(StrEnum):
    """Source of the quantities of a charge."""

    REPORTED = "reported"
    ESTIMATED = "estimated"
    NONE = "none"


class TokenUsage(Struct, frozen=True):
    """Token counts of one chat call; ``cached_tokens`` are part of the prompt, ``reasoning_tokens`` of the completion."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Attempt(Struct, frozen=True):
    """One asking of an upstream for a request."""

    upstream: str
    key: str
    """The key's name."""
    model: str
    """As the upstream calls it."""
    result: str
    """``answered``, ``refused`` (the request itself), ``left`` (the client), or a `core.health.Trouble`."""
    ms: int


NO_USAGE = TokenUsage(0, 0)
_NOTHING = Nanos(0)


class Settlement(Struct, frozen=True):
    """The one end of a hold: the charge (at most the hold; the rest is released) and the facts for the receipt."""

    outcome: Outcome
    usage_source: UsageSource
    charge_nanos: Nanos
    usage: TokenUsage = NO_USAGE
    units: int = 0
    """Images made, or video tokens charged; 0 for chat."""
    shortfall_nanos: Nanos = _NOTHING
    """Cost of the usage above the hold: never charged, but counted."""
    http_status: int = 0
    """Status sent to the customer; 0: none."""
    upstream_id: str = ""
    first_byte_ms: int | None = None
    total_ms: int | None = None
    note: str = ""
    """The reason in a few words, for the operator; never a prompt or a secret."""
    attempts: tuple[Attempt, ...] = ()
    """All that were asked, in order; the last one ended the request. Kept, and told of, only where there was more than one."""


def capped(charge_nanos: int, hold_nanos: int) -> tuple[Nanos, Nanos]:
    """Return the charge, never more than the hold, and the shortfall."""
    if charge_nanos <= hold_nanos:
        return Nanos(charge_nanos), _NOTHING
    return Nanos(hold_nanos), Nanos(charge_nanos - hold_nanos)
