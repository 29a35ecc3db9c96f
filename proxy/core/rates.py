"""Requests and tokens a minute, and requests at a time: what is counted, and whether one more call is admitted.

A rate is a bucket that holds N, is full at first and fills by N/60 a second. Of a bucket one number is kept: when it will be full
again, if nothing more is taken. So it holds N × (1 - (full_at - now) / 60), a call that takes c moves that moment by 60 × c / N, and
nothing has to be done while nobody calls ("virtual scheduling", ITU-T I.371). Times are seconds of a monotonic clock, passed in.

Of what has no limit one more costs 0 seconds, so its bucket is always full: the sums need no branches, which would cost more than they.

Where several gateways count, each has a part of every limit (`shares`): buckets and slots are of it, and what is told is the limit.
"""

import math
from collections.abc import Callable

from msgspec import Struct

from proxy.core.errors import RateLimitedError
from proxy.core.shares import WHOLE, Share

MINUTE_SECONDS = 60.0
SLOT_RETRY_SECONDS = 1.0
"""Nobody knows when a call ends, nor when a gateway gets a part of a limit."""
_ROUNDING_SECONDS = 1e-6
"""Waits up to this are rounding errors of sums of floats: a call that waited as long as it was told passes."""
_EMPTY_SECONDS = MINUTE_SECONDS + _ROUNDING_SECONDS
_NO_LIMIT = 2**62
_SHORT = tuple(f"{number}ms" for number in range(1, 1000))
_SHORT_SECONDS = 0.999
_WHOLE = (*(f"{number}s" for number in range(1, 60)), "1m0s")
"""Durations that are looked up: to write one takes three times as long. From a second on a bucket's reset is told in whole ones."""


class Meter:
    """One key with all of its secrets, or one account: its limits as they are now, and what it has taken. None: no limit."""

    __slots__ = (
        "concurrent",
        "open",
        "open_max",
        "request_room",
        "request_seconds",
        "requests",
        "requests_full_at",
        "requests_here",
        "requests_told",
        "share",
        "token_seconds",
        "tokens",
        "tokens_full_at",
        "tokens_here",
        "tokens_told",
        "whose",
    )

    def __init__(self, whose: str) -> None:
        """Args: whose: ``key`` or ``account``."""
        self.whose = whose
        self.open = 0
        """Calls that are admitted and not settled."""
        self.requests_full_at = -math.inf
        self.tokens_full_at = -math.inf
        self.requests: int | None = None
        """A minute."""
        self.tokens: int | None = None
        """A minute."""
        self.concurrent: int | None = None
        self.share = WHOLE
        """This gateway's part of the limits. All but these four is of the part."""
        self._put_in_force()

    @property
    def is_limited(self) -> bool:
        return not (self.requests is None and self.tokens is None and self.concurrent is None)

    def limit(self, requests: int | None, tokens: int | None, concurrent: int | None, now: float, share: Share = WHOLE) -> None:
        """Change the limits. Of a larger bucket as much is taken as before, of a smaller one the same share; a new one is full.

        A bucket that grows because this gateway's share of the limit does holds what it held: what other gateways took is taken.
        """
        self.requests_full_at = _changed(self.requests_full_at, self.requests, requests, self.share, share, now)
        self.tokens_full_at = _changed(self.tokens_full_at, self.tokens, tokens, self.share, share, now)
        self.requests, self.tokens, self.concurrent, self.share = requests, tokens, concurrent, share
        self._put_in_force()

    def _put_in_force(self) -> None:
        of = self.share.of
        here = [None if limit is None else of(limit) for limit in (self.requests, self.tokens, self.concurrent)]
        self.requests_here, self.tokens_here, open_max = here
        # A bucket without room has no rate: what closes it is that there is no slot.
        self.open_max = 0 if 0 in here else _NO_LIMIT if open_max is None else open_max
        self.request_seconds = MINUTE_SECONDS / self.requests_here if self.requests_here else 0.0
        self.token_seconds = MINUTE_SECONDS / self.tokens_here if self.tokens_here else 0.0
        self.request_room = _EMPTY_SECONDS - self.request_seconds
        self.requests_told = f"\r\nx-ratelimit-limit-requests: {self.requests}\r\nx-ratelimit-remaining-requests: "
        self.tokens_told = f"\r\nx-ratelimit-limit-tokens: {self.tokens}\r\nx-ratelimit-remaining-tokens: "


def _changed(full_at: float, before: int | None, after: int | None, share: Share, share_after: Share, now: float) -> float:
    """Return when a bucket is full after a change of its limit, and then of this gateway's share of it."""
    if before is None or after is None:
        return -math.inf
    was, becomes, has = share.of(before), share.of(after), share_after.of(after)
    if becomes > was:
        full_at = now + (full_at - now) * was / becomes if was else -math.inf
    if not has:
        return -math.inf  # it is closed; whatever it held is gone
    if has == becomes or (has < becomes and full_at - now <= MINUTE_SECONDS):
        return full_at
    held = becomes * (1 - max(0.0, full_at - now) / MINUTE_SECONDS)
    return now + MINUTE_SECONDS * (1 - held / has)


class Rates:
    """The meters that count one key's calls, with their limits as they were put in force."""

    __slots__ = ("_is_alone", "_requests", "_tokens", "meters", "pairs")

    def __init__(self, meters: tuple[Meter, ...]) -> None:
        self.meters = meters
        self.pairs = tuple((meter, meter.token_seconds) for meter in meters)
        requests = [meter for meter in meters if meter.requests is not None]
        tokens = [meter for meter in meters if meter.tokens is not None]
        self._is_alone = len(requests) <= 1 and len(tokens) <= 1
        self._requests = requests[0] if requests else None
        self._tokens = tokens[0] if tokens else None

    def __bool__(self) -> bool:
        return bool(self.meters)

    def admit(self, tokens: int, now: float) -> int:
        """Take one request, its tokens and a slot of every meter, or nothing of any; return the tokens. `end` or `withdraw` ends it.

        A call that counts more tokens than a bucket holds is admitted when the bucket is full, and leaves a debt: it must be able to
        pass some day, and what it really uses may be far less.

        Raises: RateLimitedError: over one of the limits; with the time until the call passes all that are rates.
        """
        for meter in self.meters:
            requests_at, tokens_at, taken = meter.requests_full_at, meter.tokens_full_at, tokens * meter.token_seconds
            if (
                meter.open >= meter.open_max
                or requests_at - now > meter.request_room
                or (tokens_at - now > _ROUNDING_SECONDS and tokens_at - now + taken > _EMPTY_SECONDS)
            ):
                raise self._refused(meter, tokens, now)
            meter.open += 1
            # `max` takes five times as long
            meter.requests_full_at = (requests_at if requests_at > now else now) + meter.request_seconds  # noqa: FURB136
            meter.tokens_full_at = (tokens_at if tokens_at > now else now) + taken  # noqa: FURB136
        return tokens

    def _refused(self, at: Meter, tokens: int, now: float) -> RateLimitedError:
        """Return the refusal, after what meters before this one have been taken of is given back."""
        before = self.meters[: self.meters.index(at)]
        if before:
            Rates(before).withdraw(tokens)
        return _refusal(self.meters, tokens, now)

    def occupy(self) -> None:
        """Take a slot of every meter, whatever its limit: for a call that was admitted by a process before."""
        for meter in self.meters:
            meter.open += 1

    def fields(self, now: float) -> str:
        """Return OpenAI's ``x-ratelimit-*`` fields, of the key or the account, whichever has less left; each begins with a line break.

        In one piece, and of one meter where there is one: six fields in a dict of headers cost twice as much as these strings.
        """
        told = ""
        meter = self._requests if self._is_alone else _least(self.meters, requests_level, now)
        if meter is not None:
            seconds = meter.requests_full_at - now
            left, reset = meter.requests_here, "0s"
            if seconds > _ROUNDING_SECONDS:
                left = int(left - seconds / meter.request_seconds + _ROUNDING_SECONDS)  # type: ignore[operator]  # it has this limit
                reset = _SHORT[int(seconds * 1000)] if seconds < _SHORT_SECONDS else _whole(seconds)
            told = f"{meter.requests_told}{left}\r\nx-ratelimit-reset-requests: {reset}"
        meter = self._tokens if self._is_alone else _least(self.meters, tokens_level, now)
        if meter is not None:
            seconds = meter.tokens_full_at - now
            left, reset = meter.tokens_here, "0s"
            if seconds > _ROUNDING_SECONDS:
                left = int(left - seconds / meter.token_seconds + _ROUNDING_SECONDS)  # type: ignore[operator]
                reset = _SHORT[int(seconds * 1000)] if seconds < _SHORT_SECONDS else _whole(seconds)
                if left < 0:  # a debt
                    left = 0
            told = f"{told}{meter.tokens_told}{left}\r\nx-ratelimit-reset-tokens: {reset}"
        return told

    def end(self, taken: int, used: int, now: float) -> None:
        """Give the slots of one call back, and count the tokens that it used instead of those that it had taken."""
        more = used - taken
        for meter, before in self.pairs:
            meter.open -= 1
            if before:
                full_at, seconds = meter.tokens_full_at, meter.token_seconds
                if more > 0 and full_at < now:
                    full_at = now
                # By the larger limit, as `Meter.limit` keeps what was taken: a small one that is new is no debt of hours.
                meter.tokens_full_at = full_at + more * (seconds if seconds < before else before)  # noqa: FURB136

    def withdraw(self, taken: int) -> None:
        """Give all back that one call has taken, as if it had not been made."""
        for meter in self.meters:
            meter.requests_full_at -= meter.request_seconds
        self.end(taken, 0, -math.inf)


NO_RATES = Rates(())


def _requests_wait(meter: Meter, now: float) -> float:
    """Return the seconds until one more request is in the bucket; negative where there are more."""
    return meter.requests_full_at - now - MINUTE_SECONDS + meter.request_seconds


def _tokens_wait(meter: Meter, tokens: int, now: float) -> float:
    """Return the seconds until so many tokens are in the bucket, or until it is full."""
    return meter.tokens_full_at - now - max(0.0, MINUTE_SECONDS - tokens * meter.token_seconds)


def _refusal(meters: tuple[Meter, ...], tokens: int, now: float) -> RateLimitedError:
    """Return the refusal, which names the limit that takes the longest."""
    told: list[tuple[float, str]] = []
    for meter in meters:
        if not meter.open_max:
            told.append((SLOT_RETRY_SECONDS, "has a limit that is shared out among gateways, and this one has no part of it just now"))
        elif meter.open >= meter.open_max:
            told.append((SLOT_RETRY_SECONDS, f"may have {meter.concurrent} requests under way at a time, and has {meter.open}"))
        told.append((_requests_wait(meter, now), f"may make {meter.requests} requests a minute; this one passes in {{}}"))
        counted = f"and this request counts {tokens} until it is settled; this one passes in {{}}"
        told.append((_tokens_wait(meter, tokens, now), f"may use {meter.tokens} tokens a minute, {counted}"))
        told[:] = [(wait, what if what.startswith("This") else f"This {meter.whose} {what}") for wait, what in told]
    wait, message = max(told)
    seconds = math.ceil(wait * 1000) / 1000  # rounded up: who asks again then, passes
    return RateLimitedError(message.format(duration(seconds)), retry_after_seconds=seconds)


# what is told of it


class Level(Struct, frozen=True):
    """State of one bucket."""

    limit: int
    used: int
    """More than the limit: a debt."""
    reset_seconds: float
    """Until it is full."""


def requests_level(meter: Meter, now: float) -> Level | None:
    return None if meter.requests is None else _level(meter.requests, meter.requests_full_at, now)


def tokens_level(meter: Meter, now: float) -> Level | None:
    return None if meter.tokens is None else _level(meter.tokens, meter.tokens_full_at, now)


def _least(meters: tuple[Meter, ...], level_of: Callable[[Meter, float], Level | None], now: float) -> Meter | None:
    """Return the meter whose bucket has the least left, of those that have one."""
    levels = [(level.limit - level.used, number) for number, meter in enumerate(meters) if (level := level_of(meter, now)) is not None]
    return meters[min(levels)[1]] if levels else None


def _level(limit: int, full_at: float, now: float) -> Level:
    reset = max(0.0, full_at - now)
    return Level(limit, math.ceil(limit * reset / MINUTE_SECONDS - _ROUNDING_SECONDS), reset)


def _whole(seconds: float) -> str:
    """Return a duration in whole seconds, rounded up."""
    return _WHOLE[int(seconds)] if seconds < MINUTE_SECONDS else duration(math.ceil(seconds))


def duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: ``12ms``, ``1.5s``, ``6m0s``. Rounded up to a millisecond."""
    if seconds <= _ROUNDING_SECONDS:
        return "0s"
    milliseconds = int((seconds - _ROUNDING_SECONDS) * 1000) + 1
    if milliseconds < 1000:
        return _SHORT[milliseconds - 1]
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest / 1000:g}s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
    return text
