"""Which upstream is asked by which key, and what its answers mean for the next: keeps `core.routing` and `core.health` up to date.

One log line when something goes to rest and one when it wakes. Nothing is kept beyond the process.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from proxy.clock import Clock
from proxy.core.affinity import Affinity
from proxy.core.catalog import Model, Route
from proxy.core.errors import ModelUnavailableError
from proxy.core.health import OF_THE_KEY, Rest, Trouble, Unrest, note_trouble
from proxy.core.routing import Lane, Routes, Target
from proxy.upstream.upstreams import Access, Upstream

logger = logging.getLogger(__name__)

AccessTarget = Target[Access]
AccessRoutes = Routes[Access]


def routes_of(model: Model, upstreams: Mapping[str, Upstream]) -> AccessRoutes:
    """Return what may be asked for a model: each of its routes by each key of its upstream."""
    lanes = []
    for route in model.routes:
        upstream = upstreams.get(route.upstream)
        if upstream is not None:
            lanes.append(Lane(route, [_target(model, route, access) for access in upstream.accesses.values()]))
    return Routes(lanes)


def _target(model: Model, route: Route, access: Access) -> AccessTarget:
    rest = access.rests.setdefault(route.model, Rest(access.config.health, access.unrest))
    access.rest.count_in(access.unrest)
    answers = access.answers.setdefault((model.id, route.model), [0])
    return Target(model, route, access.name, access, rest=rest, key_rest=access.rest, answers=answers)


def let_go(upstreams: Mapping[str, Upstream], routes: Iterable[AccessRoutes]) -> None:
    """Forget what rests of that which no route leads to any more. Calls under way may still tell it how they ended."""
    used = {rest for each in routes for target in each.targets for rest in (target.rest, target.key_rest)}
    for upstream in upstreams.values():
        for access in upstream.every_access:
            for model, rest in list(access.rests.items()):
                if rest not in used:
                    rest.count_in(Unrest())
                    del access.rests[model]
            if access.rest not in used:
                access.rest.count_in(Unrest())


class Routing:
    """Chooses, and learns from what came of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.conversations: Affinity[AccessTarget] = Affinity()
        self._attempts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        """Number of attempts that were not answered, by model, upstream, key and result."""

    def now(self) -> float:
        return self._clock.monotonic()

    def first(self, routes: AccessRoutes, now: float, conversation: int | None = None) -> AccessTarget:
        """Return what a call asks first. One that is not asked after all is given back by `Target.untried`, with the same time.

        Raises: ModelUnavailableError: nothing may be asked before the upstream's own ``Retry-After`` is over.
        """
        preferred = None
        if conversation is not None and (before := self.conversations.find(conversation, now)) is not None:
            preferred = routes.by_name.get(before.name)  # as it is since the last reload
        found = routes.choose(now, (), preferred)
        if found is None:
            raise ModelUnavailableError("The model is at its limit just now", retry_after_seconds=max(1.0, routes.wait_seconds(now)))
        return found

    def answered(self, target: AccessTarget, asked_at: float, conversation: int | None = None) -> None:
        """Note an answer to what was asked at ``asked_at``, which has been counted already."""
        if conversation is not None:
            self.conversations.note(conversation, target, asked_at)
        if not (target.rest.is_quiet and target.key_rest.is_quiet):
            self._relieve(target, asked_at)

    def refused(self, target: AccessTarget, asked_at: float) -> None:
        """Note a refusal that was the request's own fault: its target works."""
        self.count(target, "refused")
        self._relieve(target, asked_at)

    def failed(
        self, target: AccessTarget, trouble: Trouble, asked_at: float, *, retry_after: float | None = None, why: str = ""
    ) -> None:
        """Note an attempt that was sent at ``asked_at`` and gave no answer.

        Args:
            retry_after: seconds that the upstream asked to be left alone for.
            why: for the log; status and code only.
        """
        self.count(target, trouble.value)
        if trouble in OF_THE_KEY and asked_at < target.key_rest.forgiven_at:
            return
        now = self._clock.monotonic()
        rest = note_trouble(trouble, target.rest, target.key_rest, now, retry_after)
        if rest is not None:
            what = _key_of(target) if rest is target.key_rest else _model_of(target)
            logger.warning("%s rests for %g s: %s", what, round(rest.until - now, 1), why or trouble.value)

    def renew(self, routes: Mapping[str, AccessRoutes]) -> None:
        """Let go of targets that a reload has replaced."""
        known = self.conversations.known
        for conversation, (target, at) in list(known.items()):
            now = routes[target.model.id].by_name.get(target.name) if target.model.id in routes else None
            if now is None:
                del known[conversation]
            else:
                known[conversation] = now, at

    def wake_keys(self, upstreams: Mapping[str, Upstream]) -> None:
        """Let all keys be asked again: the operator may have paid a bill, or had a key allowed."""
        now = self._clock.monotonic()
        for upstream in upstreams.values():
            for access in upstream.every_access:
                access.rest.forgiven_at = now
                if access.rest.rests:
                    access.rest.wake()
                    logger.info("upstream %s, key %s is asked again", access.config.name, access.name)

    def attempts(self, upstreams: Mapping[str, Upstream]) -> dict[tuple[str, ...], float]:
        """Return the number of attempts by model, upstream, key and result."""
        found: defaultdict[tuple[str, ...], float] = defaultdict(float, self._attempts)
        for name, upstream in upstreams.items():
            for access in upstream.every_access:
                for (model, _), (count,) in access.answers.items():
                    if count:
                        found[model, name, access.name, "answered"] += count
        return found

    def _relieve(self, target: AccessTarget, asked_at: float) -> None:
        now = self._clock.monotonic()
        for rest, what in ((target.rest, _model_of), (target.key_rest, _key_of)):
            if rest.succeeded(now, asked_at):
                logger.info("%s answers again", what(target))

    def count(self, target: AccessTarget, result: str) -> None:
        """Count an attempt that proves nothing about its target."""
        self._attempts[target.model.id, target.route.upstream, target.key_name, result] += 1


def resting(upstreams: Mapping[str, Upstream], now: float) -> Iterator[tuple[str, str, int]]:
    """Return for each key its upstream, its name, and how much of it rests: its models, or 1 at least where the whole key does."""
    for name, upstream in upstreams.items():
        for access in upstream.accesses.values():
            models = sum(rest.until > now for rest in access.rests.values())
            yield name, access.name, max(models, int(access.rest.until > now))


def _key_of(target: AccessTarget) -> str:
    return f"upstream {target.route.upstream}, key {target.key_name}"


def _model_of(target: AccessTarget) -> str:
    return f"{_key_of(target)}, model {target.model.id}"
