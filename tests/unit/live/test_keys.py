"""Random keys, accounts, limits, clocks and calls, against a plain model of the rules: what is admitted, and how the rest is refused.

The model counts in fractions what is taken of each bucket, asks `ipaddress` and `fnmatch` afresh for each call, and knows nothing of
how the gateway keeps it.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from random import Random
from typing import Any, cast

from proxy.core.catalog import Kind, Model, find_model
from proxy.core.errors import GatewayError, RateLimitedError
from proxy.core.limits import Limits
from proxy.core.networks import UNIX, TrustedProxies, canonical
from proxy.core.rates import Rates
from proxy.live.keys import LiveKeys
from proxy.store.contract import Accounts
from proxy.store.values import Grant
from tests.support.store import NOW_MS

WORLDS = 2_500
STEPS = 40
PEERS = ("10.0.0.1", "::ffff:10.0.0.1", "192.0.2.7", "2001:db8::5", "::1", "unix", "")
NETWORKS = ("10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32", "10.0.0.1/32", "::1/128", "::ffff:10.0.0.0/104")
PATTERNS = ("chat-*", "*", "chat-1", "image-?", "CHAT-1", "[ci]*")
PRICE: Any = None
CATALOG = {
    name: Model(name, kind, "ark", name, PRICE, enabled=enabled)
    for name, kind, enabled in [("chat-1", Kind.CHAT, True), ("chat-off", Kind.CHAT, False), ("image-1", Kind.IMAGE, True)]
}
MODELS = (*CATALOG, "nothing")
TRUSTED = TrustedProxies(())


@dataclass
class Time:
    """A clock that a test turns."""

    seconds: float = 1_000.0

    def now_ms(self) -> int:
        return NOW_MS + round(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Store:
    """What `LiveKeys` asks of a store."""

    stored: list[Grant]

    async def grants(self) -> list[Grant]:
        return list(self.stored)


# the model


@dataclass
class Bucket:
    """What is taken of a minute's N, by the rules' own words: a bucket holds N, is full at first and fills by N/60 a second."""

    limit: int | None = None
    taken: Fraction = Fraction(0)
    at: Fraction = Fraction(0)

    def refill(self, now: Fraction) -> None:
        if self.limit is not None:
            self.taken = max(Fraction(0), self.taken - (now - self.at) * self.limit / 60)
        self.at = now

    def change(self, limit: int | None, now: Fraction) -> None:
        self.refill(now)
        if self.limit is None or limit is None:
            self.taken = Fraction(0)
        elif limit < self.limit:
            self.taken = self.taken * limit / self.limit
        self.limit = limit

    def wait(self, count: int) -> Fraction:
        if self.limit is None:
            return Fraction(0)
        return max(Fraction(0), (self.taken + min(count, self.limit) - self.limit) * 60 / self.limit)


@dataclass(eq=False)
class Party:
    """A key or an account."""

    limits: Limits | None = None
    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    open: int = 0

    def change(self, limits: Limits | None, now: Fraction) -> None:
        self.limits = limits
        self.requests.change(limits.requests_per_minute if limits else None, now)
        self.tokens.change(limits.tokens_per_minute if limits else None, now)

    def refill(self, now: Fraction) -> None:
        self.requests.refill(now)
        self.tokens.refill(now)


@dataclass(eq=False)
class Call:
    parties: list[tuple[Party, int | None]]
    """With each one's tokens a minute when it began; those that no limit counted are left out."""
    tokens: int
    rates: Rates | None


def expected(grant: Grant, key: Party, account: Party, ask: tuple[str, str, int], now: Fraction, now_ms: int) -> tuple[str, Fraction]:
    """Return the code of what the rules say of a call, empty where it is admitted, and the seconds until it passes the rates."""
    model_id, peer, tokens = ask
    own, whole = key.limits or Limits(), account.limits or Limits()
    ends = [at_ms for at_ms in (own.expires_at_ms, whole.expires_at_ms, grant.ends_at_ms) if at_ms is not None]
    if any(now_ms >= at_ms for at_ms in ends) or own.paused_at_ms is not None:
        return "INVALID_API_KEY", now
    if whole.paused_at_ms is not None:
        return "ACCOUNT_SUSPENDED", now
    if not all(not limits.networks or within(peer, limits.networks) for limits in (own, whole)):
        return "NETWORK_NOT_ALLOWED", now
    if model_id not in CATALOG:
        return "MODEL_NOT_FOUND", now
    if not all(not limits.models or any(fnmatchcase(model_id, one) for one in limits.models) for limits in (own, whole)):
        return "MODEL_NOT_ALLOWED", now
    if CATALOG[model_id].kind is not Kind.CHAT:
        return "WRONG_ENDPOINT", now
    if not CATALOG[model_id].enabled:
        return "MODEL_UNAVAILABLE", now
    waits = [bucket.wait(count) for party in (key, account) for bucket, count in ((party.requests, 1), (party.tokens, tokens))]
    waits += [
        Fraction(1)
        for party in (key, account)
        if party.limits and party.limits.concurrent is not None and party.open >= party.limits.concurrent
    ]
    return ("RATE_LIMITED", max(waits)) if max(waits) > 0 else ("", Fraction(0))


def within(peer: str, networks: tuple[str, ...]) -> bool:
    try:
        address: Any = ipaddress.ip_address(peer)
    except ValueError:
        return False
    forms = {address, getattr(address, "ipv4_mapped", None) or address}
    if isinstance(address, ipaddress.IPv4Address):
        forms.add(ipaddress.IPv6Address(f"::ffff:{address}"))
    return any(form in ipaddress.ip_network(network) for form in forms for network in networks)


# the gateway's own way


def outcome(keys: LiveKeys, grant: Grant, ask: tuple[str, str, int], clock: Time) -> Rates | GatewayError | None:
    """Ask as the dispatcher, a handler and the exchange do."""
    model_id, peer, tokens = ask
    found = keys.authenticate(grant.sha256)
    assert found is not None
    bounds = keys.bounds.get(found.sha256)
    try:
        if bounds is not None:
            if clock.now_ms() >= bounds.idle_from_ms:
                bounds.refuse_idle(clock.now_ms())
            if bounds.has_networks:
                bounds.refuse_address(TRUSTED.client(peer if peer == UNIX else canonical(peer), ()))
        find_model(CATALOG, model_id, Kind.CHAT, bounds)
        if bounds is None or not bounds.rates:
            return None
        bounds.rates.admit(tokens, clock.monotonic())
    except GatewayError as error:
        return error
    return bounds.rates


# worlds


def drawn_limits(random: Random, now_ms: int, *, strict: bool) -> Limits | None:
    def some(value: Callable[[], Any], share: float) -> Any:
        return value() if random.random() < share else None

    if random.random() < 0.2:
        return None
    rare = 0.3 if strict else 0.05
    return Limits(
        expires_at_ms=some(lambda: now_ms + random.randrange(1, 400_000), rare),
        paused_at_ms=some(lambda: now_ms, rare / 2),
        models=tuple(random.sample(PATTERNS, random.randrange(1, 3))) if random.random() < rare else (),
        networks=tuple(random.sample(NETWORKS, random.randrange(1, 3))) if random.random() < rare else (),
        requests_per_minute=some(lambda: random.choice((1, 2, 5, 7, 60)), 0.5),
        tokens_per_minute=some(lambda: random.choice((1, 30, 100, 700, 6_000)), 0.5),
        concurrent=some(lambda: random.choice((1, 2, 3)), 0.5),
    )


class World:
    """One account with up to three keys, of which one was rolled, and their calls."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.clock = Time()
        self.strict = random.random() < 0.3
        identities = [f"key_{number}" for number in range(random.randrange(1, 4))]
        secrets = [*identities, f"{identities[0]}_rolled"]
        self.grants = [
            Grant(secret.encode(), secret, 3, "acme", secret.removesuffix("_rolled")) for secret in secrets[: random.randrange(1, 5)]
        ]
        self.parties = {identity: Party() for identity in ["", *identities]}
        self.store = Store([])
        self.keys = LiveKeys(cast("Accounts", self.store), cast("Any", self.clock))
        self.calls: list[Call] = []
        self.refused: set[str] = set()
        self.admitted = 0

    @property
    def now(self) -> Fraction:
        return Fraction(self.clock.seconds)

    async def change(self) -> None:
        """Set the limits of one party, or roll a secret."""
        whose = self.random.choice(list(self.parties))
        self.parties[whose].change(drawn_limits(self.random, self.clock.now_ms(), strict=self.strict), self.now)
        if self.strict and self.random.random() < 0.2:
            grant = self.random.randrange(len(self.grants))
            ends = self.random.choice((None, self.clock.now_ms() + self.random.randrange(100_000)))
            self.grants[grant] = replace(self.grants[grant], ends_at_ms=ends)
        account = self.parties[""].limits
        self.store.stored = [replace(one, limits=self.parties[one.identity].limits, account_limits=account) for one in self.grants]
        await self.keys.refresh()

    def ask(self) -> None:
        """Make one call, and compare what became of it with the rules."""
        random = self.random
        grant = random.choice(self.grants)
        key, account = self.parties[grant.identity], self.parties[""]
        model = random.choice(MODELS) if random.random() < 0.1 else "chat-1"
        ask = model, random.choice(PEERS), random.choice((0, 1, 20, 100, 5_000))
        for party in (key, account):
            party.refill(self.now)

        seen = outcome(self.keys, grant, ask, self.clock)

        code, wait = expected(grant, key, account, ask, self.now, self.clock.now_ms())
        assert (seen.code if isinstance(seen, GatewayError) else "") == code, (seen, ask, key, account)
        if isinstance(seen, RateLimitedError):
            assert seen.retry_after_seconds is not None
            assert 0 <= seen.retry_after_seconds - wait < Fraction(1, 999)
        if isinstance(seen, GatewayError):
            self.refused.add(seen.code)
            return
        self.admitted += 1
        self.take(key, account, ask[2], seen)
        if random.random() < 0.1:  # no money: as if it had not been made
            self.end(self.calls.pop(), None)

    def take(self, key: Party, account: Party, tokens: int, rates: Rates | None) -> None:
        counted = [party for party in (key, account) if any_rate(party.limits)]
        assert (rates is None) == (not counted)
        for party in counted:
            party.open += 1
            party.requests.taken += 1
            party.tokens.taken += tokens
        self.calls.append(Call([(party, party.tokens.limit) for party in counted], tokens, rates))

    def end(self, call: Call, used: int | None) -> None:
        """Settle a call, or (None) take it back."""
        for party, before in call.parties:
            party.refill(self.now)
            party.open -= 1
            if used is None:
                party.requests.taken -= 1
            limit = party.tokens.limit
            if limit is not None and before is not None:
                more = Fraction((used or 0) - call.tokens)
                party.tokens.taken = max(Fraction(0), party.tokens.taken + more * limit / max(limit, before))
        if call.rates is not None and used is None:
            call.rates.withdraw(call.tokens)
        elif call.rates is not None:
            call.rates.end(call.tokens, used or 0, self.clock.monotonic())

    def compare(self) -> None:
        """Compare what each key is told of its rates."""
        for grant in self.grants:
            bounds = self.keys.bounds.get(grant.sha256)
            told = {} if bounds is None else told_by(bounds.rates.fields(self.clock.monotonic()))
            for name in ("requests", "tokens"):
                left = []
                for party in (self.parties[grant.identity], self.parties[""]):
                    party.refill(self.now)
                    bucket: Bucket = getattr(party, name)
                    if bucket.limit is not None:
                        left.append(bucket.limit - bucket.taken)
                remaining = told.get(f"x-ratelimit-remaining-{name}")
                assert remaining == (str(max(0, int(min(left) + Fraction(1, 10**6)))) if left else None)

    async def step(self) -> None:
        self.clock.seconds += self.random.choice((0, 0, 0, 0.25, 1, 3, 12, 70))
        what = self.random.random()
        if what < 0.08:
            await self.change()
        elif what < 0.3 and self.calls:
            self.end(self.calls.pop(self.random.randrange(len(self.calls))), self.random.choice((0, 1, 50, 100, 9_000)))
        else:
            self.ask()
        self.compare()


def told_by(fields: str) -> dict[str, str]:
    return dict(line.split(": ") for line in fields.split("\r\n")[1:])


def any_rate(limits: Limits | None) -> bool:
    return limits is not None and (limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent) != (None, None, None)


async def test_no_call_is_admitted_that_the_rules_refuse_and_none_refused_that_they_admit() -> None:
    refused: set[str] = set()
    admitted = 0
    for seed in range(WORLDS):
        world = World(seed)
        await world.change()
        for _ in range(STEPS):
            await world.step()
        refused |= world.refused
        admitted += world.admitted
        for call in world.calls:
            world.end(call, 0)
        assert [party.open for party in world.parties.values()] == [0] * len(world.parties)
        assert all(meter.open == 0 for grant in world.grants for meter in world.keys.rates(grant).meters)

    assert admitted > WORLDS * STEPS / 5
    assert refused == {
        "INVALID_API_KEY", "ACCOUNT_SUSPENDED", "NETWORK_NOT_ALLOWED", "MODEL_NOT_FOUND", "MODEL_NOT_ALLOWED", "WRONG_ENDPOINT",
        "MODEL_UNAVAILABLE", "RATE_LIMITED",
    }  # fmt: skip
