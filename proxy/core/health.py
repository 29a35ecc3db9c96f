"""When an upstream's key or model rests, and when it is tried again. Pure: every time is passed in, in seconds of one monotonic clock.

What rests is never refused for that: it only stands behind others (`core/routing.py`). Only while an upstream's own ``Retry-After``
runs it is not asked at all.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

WINDOW_SECONDS = 30.0
"""Failures further apart are no outage."""
WINDOW_CALLS = 20
"""Calls that a share of failures is of."""
KEY_REST_SECONDS = 600.0
"""A key that its upstream refuses is tried again so often: what ails it is mended by people."""


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """The table ``[upstreams.NAME.health]``."""

    failures: int | float = 5
    """So many in a row, or, under 1, this share of the last `WINDOW_CALLS` calls, within `WINDOW_SECONDS`, let it rest."""
    rest_seconds: tuple[float, float] = (5.0, 60.0)
    """The first rest, and the longest: each that follows a failed try is twice as long."""


_RETRY_AFTER_SECONDS_MAX = 86_400.0


DEFAULT_HEALTH = HealthPolicy()


class Trouble(StrEnum):
    """Why an attempt gave no answer; also what metrics and receipts call it."""

    UNREACHABLE = "unreachable"
    """No connection: nothing was sent."""
    LIMITED = "limited"
    """429 about the model."""
    KEY_LIMITED = "key_limited"
    """429 about the whole account."""
    KEY_REFUSED = "key_refused"
    """The key does not count, or its account owes money."""
    MODEL_REFUSED = "model_refused"
    """The upstream does not have the model, or not for this key."""
    FAILED = "failed"
    """An error of the upstream's own, in the words of its dialect: nothing was made."""
    UNKNOWN = "unknown"
    """A failure that leaves open whether the call ran: a time-out, a page of some proxy's, a cut."""


OF_THE_KEY = frozenset({Trouble.KEY_LIMITED, Trouble.KEY_REFUSED})
_LIMITS = frozenset({Trouble.LIMITED, Trouble.KEY_LIMITED})
_COUNTED = frozenset({Trouble.UNREACHABLE, Trouble.FAILED, Trouble.UNKNOWN})


class Unrest:
    """How much rests in all: while it is nothing, a choice needs no look at each."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Rest:
    """The state of what may rest: a key, or one model under a key."""

    __slots__ = (
        "_failed_at",
        "_level",
        "_outcomes",
        "_policy",
        "_tried_at",
        "_tries",
        "forgiven_at",
        "is_quiet",
        "retry_at",
        "since",
        "unrest",
        "until",
    )

    def __init__(self, policy: HealthPolicy, unrest: Unrest | None = None) -> None:
        """Args: unrest: of all that is chosen among."""
        self._policy = policy
        self.unrest = unrest or Unrest()
        self.is_quiet = type(policy.failures) is not float
        """True if an answer would change nothing here, as nearly always."""
        self._level = 0
        """Number of rests that one another followed."""
        self._tries = False
        """True while the one call is out that is to show whether the rest is over."""
        self._tried_at = 0.0
        """When that call took its try."""
        self._failed_at: deque[float] = deque()
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=WINDOW_CALLS)
        """Time of each of the last calls, and whether it failed; only where a share of them counts."""
        self.forgiven_at = 0.0
        """A refusal of a call that was sent before then does not count: who can mend what it is about has had the chance."""
        self.since = 0.0
        self.until = 0.0
        """It rests until then; 0: it does not rest, and no try is due."""
        self.retry_at = 0.0
        """The upstream itself said not to ask before; 0: it did not."""

    def count_in(self, unrest: Unrest) -> None:
        """Count in another whole from now on: one that is no longer chosen must not make every choice look at each."""
        if self.unrest is not unrest:
            self.unrest.count -= self.rests
            unrest.count += self.rests
            self.unrest = unrest

    def renew(self, policy: HealthPolicy) -> None:
        """Go by another policy from now on."""
        self._policy = policy
        self.is_quiet = False

    @property
    def rests(self) -> bool:
        """Return whether it rests, or is still to be tried after its rest."""
        return self.until != 0.0

    def try_now(self, now: float) -> None:
        """Take the one try after a rest. It goes on resting for all others until the try has ended, or is overdue."""
        if self.until != 0.0 and self.until <= now:
            self._tries = True
            self._tried_at = now
            self.until = now + self._policy.rest_seconds[0]

    def untried(self, at: float) -> None:
        """Give back the try that was taken at this time, if it is still out: its call showed nothing, so the next may try at once."""
        if self._tries and self._tried_at == at:
            self._tries = False
            self.until = at

    def succeeded(self, now: float, asked_at: float) -> bool:
        """Note an answer to a call that was sent at ``asked_at``; return whether it ends a rest. An older call proves nothing."""
        if type(self._policy.failures) is float:
            self._outcomes.append((now, False))
        else:
            self._failed_at.clear()
            self.is_quiet = self.until == 0.0
        if self.until == 0.0 or asked_at < self.since:
            return False
        self.wake()
        return True

    def wake(self) -> None:
        """Forget all that spoke against it."""
        self._failed_at.clear()
        self._outcomes.clear()
        self.unrest.count -= self.until != 0.0
        self._level, self._tries = 0, False
        self.until = self.retry_at = 0.0
        self.is_quiet = type(self._policy.failures) is not float

    def failed(self, now: float) -> bool:
        """Note a failure; return whether a rest begins that was not under way."""
        self.is_quiet = False
        if self.until != 0.0:
            return self._rest_on(now)
        if not self._are_too_many(now):
            return False
        return self.rest(now, self._policy.rest_seconds[0])

    def refused(self, now: float, seconds: float | None = None, *, retry_after: float | None = None) -> bool:
        """Note a refusal that calls for a rest at once; return whether one begins that was not under way.

        Args:
            seconds: how long, each time; None: as after failures, twice as long each time.
            retry_after: what the upstream asked for, which stands above ``seconds``, up to the longest rest.
        """
        if retry_after is not None:
            seconds = min(retry_after, self._policy.rest_seconds[1])
            self.retry_at = max(self.retry_at, now + seconds)
        elif self.until != 0.0 and seconds is None:
            return self._rest_on(now)
        return self.rest(now, self._policy.rest_seconds[0] if seconds is None else seconds)

    def rest(self, now: float, seconds: float) -> bool:
        """Rest for so long at least; return whether it did not rest before."""
        is_new = self.until == 0.0
        self.is_quiet = False
        if is_new:
            self.since = now
            self.unrest.count += 1
        self._tries = False
        self.until = max(self.until, now + seconds)
        self._failed_at.clear()
        self._outcomes.clear()
        return is_new

    def _rest_on(self, now: float) -> bool:
        """Rest anew after the failure of the one try. Calls that were sent although it rests change nothing."""
        if self._tries or self.until <= now:
            first, longest = self._policy.rest_seconds
            self._level = min(self._level + 1, 32)
            self._tries = False
            self.until = now + min(first * 2**self._level, longest)
        return False

    def _are_too_many(self, now: float) -> bool:
        failures = self._policy.failures
        if type(failures) is float:
            self._outcomes.append((now, True))
            recent = sum(failed for at, failed in self._outcomes if now - at <= WINDOW_SECONDS)
            return recent >= failures * WINDOW_CALLS
        self._failed_at.append(now)
        while len(self._failed_at) > failures:
            self._failed_at.popleft()
        return len(self._failed_at) >= failures and now - self._failed_at[0] <= WINDOW_SECONDS


def note_trouble(trouble: Trouble, own: Rest, key: Rest, now: float, retry_after: float | None = None) -> Rest | None:
    """Let rest what an attempt's trouble calls for; return what began to rest by it, if anything did.

    Args:
        own: of the upstream's model under the key.
        key: of the whole key.
        retry_after: seconds that the upstream's ``Retry-After`` named.
    """
    rest = key if trouble in OF_THE_KEY else own
    if trouble in _COUNTED:
        begins = rest.failed(now)
    elif trouble in _LIMITS:
        begins = rest.refused(now, retry_after=retry_after)
    else:
        begins = rest.refused(now, KEY_REST_SECONDS if trouble is Trouble.KEY_REFUSED else None)
    return rest if begins else None


def retry_after_seconds(text: str | bytes | None) -> float | None:
    """Return a ``Retry-After`` in seconds; None for none, for a date, and for nonsense."""
    told = text.decode("latin-1") if isinstance(text, bytes) else text or ""
    whole, _, part = told.strip().partition(".")
    if not (whole.isascii() and whole.isdecimal() and len(whole) < 10 and (not part or (part.isascii() and part.isdecimal()))):
        return None
    return min(float(told), _RETRY_AFTER_SECONDS_MAX)
