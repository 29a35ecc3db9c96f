"""Which route and key of a model is asked. Pure: every time is passed in, in seconds of one monotonic clock.

Among the routes of the lowest tier of which something is awake: the one that a conversation had, else by weight; of its keys, each in
turn. Only where all that is left rests it is asked all the same, but for what its upstream itself said not to ask yet.
"""

from collections.abc import Collection, Iterable, Sequence
from math import gcd
from typing import Generic, TypeVar

from proxy.core.catalog import Model, Route
from proxy.core.health import Rest, Trouble, Unrest

A = TypeVar("A")

_WHEELS_MAX = 64
_OF_THE_TARGET = frozenset({Trouble.LIMITED, Trouble.KEY_LIMITED, Trouble.KEY_REFUSED, Trouble.MODEL_REFUSED})
"""Troubles that another key of the same upstream need not have."""


class Target(Generic[A]):
    """One thing that may be asked for a model: a route by one of its upstream's keys."""

    __slots__ = ("access", "answers", "home", "is_first", "key_name", "key_rest", "model", "name", "rest", "route")

    def __init__(
        self, model: Model, route: Route, key_name: str, access: A, *, rest: Rest, key_rest: Rest, answers: list[int] | None = None
    ) -> None:
        """Args: access: how it is reached, which is no matter here; answers: a list of one number, in which its answers are counted."""
        self.model = model.by(route)
        self.route = route
        self.key_name = key_name
        self.name = (route.upstream, key_name, route.model)
        self.access = access
        self.rest = rest
        self.key_rest = key_rest
        self.answers = [0] if answers is None else answers
        self.home: Routes[A] | None = None
        """What it is chosen among."""
        self.is_first = False
        """True if it is of the lowest tier."""

    def rests(self, now: float) -> bool:
        return self.rest.until > now or self.key_rest.until > now

    def untried(self, at: float) -> None:
        """Give back the try that the choice at this time took, where it took one, and its call has shown nothing."""
        self.rest.untried(at)
        self.key_rest.untried(at)

    @property
    def until(self) -> float:
        return max(self.rest.until, self.key_rest.until)

    @property
    def retry_at(self) -> float:
        """Return when its upstream may be asked again by the upstream's own word."""
        return max(self.rest.retry_at, self.key_rest.retry_at)


class Lane(Generic[A]):
    """A route, and its targets: one for each key."""

    __slots__ = ("route", "targets", "turn")

    def __init__(self, route: Route, targets: Sequence[Target[A]]) -> None:
        self.route = route
        self.targets = tuple(targets)
        self.turn = 0

    def next(self, now: float, tried: Collection[Target[A]]) -> Target[A] | None:
        """Return the next of its targets in turn that is awake and not tried yet."""
        targets = self.targets
        if len(targets) > 1:
            self.turn = turn = (self.turn + 1) % len(targets)
            targets = targets[turn:] + targets[:turn]
        for target in targets:
            if not target.rests(now) and target not in tried:
                return target
        return None


class _Wheel:
    """Routes in the order of their weights, taken one after the other."""

    __slots__ = ("_at", "_order")

    def __init__(self, weights: Sequence[int]) -> None:
        self._order = order_of(weights)
        self._at = -1

    def turn(self) -> int:
        at = self._at = (self._at + 1) % len(self._order)
        return self._order[at]


class Routes(Generic[A]):
    """All that may be asked for one model."""

    __slots__ = ("_calm", "_lanes", "_tier", "_wheels", "by_name", "is_mixed", "only", "targets", "unrest")

    def __init__(self, lanes: Iterable[Lane[A]]) -> None:
        """Routes of weight 0 are left out: they get no calls."""
        self._lanes = tuple(sorted((lane for lane in lanes if lane.route.weight and lane.targets), key=lambda lane: lane.route.tier))
        self.targets = tuple(target for lane in self._lanes for target in lane.targets)
        self.by_name = {target.name: target for target in self.targets}
        self.only = self.targets[0] if len(self.targets) == 1 else None
        """The one that there is, where there is one: it needs no choice."""
        self.is_mixed = len({target.route.asks_usage for target in self.targets}) > 1
        """True if their bodies differ in more than the model's name: some are asked for the usage of a stream, and some are not."""
        self._wheels: dict[tuple[int, ...], _Wheel] = {}
        unrests = {rest.unrest for target in self.targets for rest in (target.rest, target.key_rest)}
        self.unrest = unrests.pop() if len(unrests) == 1 else _restless()
        self._tier = self._lanes[0].route.tier if self._lanes else 0
        self._calm = tuple(lane for lane in self._lanes if lane.route.tier == self._tier)
        """The routes that are asked while nothing rests."""
        for target in self.targets:
            target.home, target.is_first = self, target.route.tier == self._tier

    def choose(self, now: float, tried: Collection[Target[A]] = (), preferred: Target[A] | None = None) -> Target[A] | None:
        """Return what is to be asked next; None: nothing is left that may be.

        Args:
            tried: what has been asked for this call, or need not be.
            preferred: what the conversation had.
        """
        if not self.unrest.count and not tried and self._lanes:  # as nearly always
            if preferred is not None and preferred.is_first:
                return preferred
            return self._calm[self._turned(tuple(range(len(self._calm))))].next(now, tried)
        lanes = self._awake(now, tried)
        if not lanes:
            left = [target for target in self.targets if target.retry_at <= now and target not in tried]
            return min(left, key=lambda target: (target.route.tier, target.until), default=None)
        if preferred is not None and preferred not in tried and not preferred.rests(now):
            for at in lanes:
                if preferred in self._lanes[at].targets:
                    return self._tried(preferred, now)
        chosen = self._lanes[lanes[0] if len(lanes) == 1 else self._turned(lanes)].next(now, tried)
        return None if chosen is None else self._tried(chosen, now)

    def wait_seconds(self, now: float) -> float:
        """Return how long the first of them still may not be asked, where none may be."""
        return max(0.0, min((target.retry_at for target in self.targets), default=0.0) - now)

    def spent(self, target: Target[A], trouble: Trouble) -> tuple[Target[A], ...]:
        """Return what need not be asked any more for a call that had this trouble with a target, the target among it."""
        if trouble in _OF_THE_TARGET:
            return (target,)
        if trouble is Trouble.UNREACHABLE:
            return tuple(other for other in self.targets if other.route.upstream == target.route.upstream)
        return tuple(other for other in self.targets if other.route is target.route)

    def _awake(self, now: float, tried: Collection[Target[A]]) -> tuple[int, ...]:
        """Return the places of the routes of the lowest tier that has any target awake and not tried."""
        found: list[int] = []
        tier = 0
        for at, lane in enumerate(self._lanes):
            if found and lane.route.tier != tier:
                break
            for target in lane.targets:
                if target.rest.until <= now and target.key_rest.until <= now and target not in tried:
                    found.append(at)
                    tier = lane.route.tier
                    break
        return tuple(found)

    def _turned(self, lanes: tuple[int, ...]) -> int:
        wheel = self._wheels.get(lanes)
        if wheel is None:
            if len(self._wheels) >= _WHEELS_MAX:
                self._wheels.clear()
            wheel = self._wheels[lanes] = _Wheel([self._lanes[at].route.weight for at in lanes])
        return lanes[wheel.turn()]

    def _tried(self, target: Target[A], now: float) -> Target[A]:
        if target.rest.until != 0.0:
            target.rest.try_now(now)
        if target.key_rest.until != 0.0:
            target.key_rest.try_now(now)
        return target


def _restless() -> Unrest:
    """Return what makes each choice look at each target: nobody counts how many of them rest."""
    unrest = Unrest()
    unrest.count = 1
    return unrest


def order_of(weights: Sequence[int]) -> tuple[int, ...]:
    """Return places in the order in which these weights take turns, spread out: 3 to 1 is ``(0, 0, 1, 0)``. None may be 0."""
    divisor = gcd(*weights)
    shares = [weight // divisor for weight in weights]
    credit, order = [0] * len(shares), []
    for _ in range(sum(shares)):
        credit = [have + share for have, share in zip(credit, shares, strict=True)]
        place = max(range(len(shares)), key=credit.__getitem__)
        credit[place] -= sum(shares)
        order.append(place)
    return tuple(order)
