"""Limits shared out among gateways: the parts are the limit, whatever each gateway knows, and in no span of time do calls exceed it."""

from dataclasses import dataclass, field
from random import Random

import pytest

from proxy.core.errors import RateLimitedError
from proxy.core.rates import MINUTE_SECONDS, Meter, Rates
from proxy.core.shares import NONE, WHOLE, share_of

LEASE, BEAT, LATE = 20.0, 2.0, 4.0
"""Seconds; `LATE`: how late a beat may come at most, of a node that nothing is wrong with."""


def test_one_that_is_alone_has_all() -> None:
    assert WHOLE.of(100) == 100
    assert share_of(7, [7], 5) == WHOLE


def test_one_that_is_not_counted_yet_has_nothing() -> None:
    assert NONE.of(100) == 0


@pytest.mark.parametrize(("limit", "parts"), [(100, [33, 33, 34]), (3, [1, 1, 1]), (2, [0, 1, 1]), (1, [0, 0, 1])])
def test_the_parts_of_one_view_are_the_limit(limit: int, parts: list[int]) -> None:
    nodes = [4, 9, 11]

    assert sorted(share_of(node, nodes, 17).of(limit) for node in nodes) == parts


def test_the_remainders_of_many_limits_fall_to_all_nodes() -> None:
    nodes = [4, 9, 11]

    taken = [sum(share_of(node, nodes, salt).of(1) for salt in range(3000)) for node in nodes]

    assert sum(taken) == 3000
    assert min(taken) > 600


def test_parts_of_different_views_are_within_the_limit_as_long_as_each_has_all_active_nodes() -> None:
    random = Random(1)
    for _ in range(20_000):
        active = random.sample(range(1, 30), random.randrange(1, 6))
        views = [{*active, *random.sample(range(1, 30), random.randrange(4))} for _ in active]
        limit, salt = random.randrange(1, 40), random.randrange(2**32)

        parts = [share_of(node, view, salt).of(limit) for node, view in zip(active, views, strict=True)]

        assert sum(parts) <= limit


# a cluster in time


@dataclass
class Node:
    id: int
    came_at: float
    beats_at: float
    meter: Meter = field(default_factory=lambda: Meter("key"))
    confirmed_at: float = 0.0
    view: frozenset[int] = frozenset()
    told: int = 0
    """The newest node in its view when it beat last but one, as the others see it."""
    is_counted: bool = False
    is_stopped: bool = False


class Cluster:
    """Gateways that come, are stopped, and are set dead a lease later, and a customer who calls each as often as it lets him."""

    def __init__(self, seed: int, limit: int) -> None:
        self.random, self.limit, self.now = Random(seed), limit, 0.0
        self.nodes: dict[int, Node] = {}
        self.dead: list[Node] = []
        """Which do not know it yet."""
        self.number = 0
        self.calls: list[float] = []

    def run(self, seconds: float) -> None:
        while self.now < seconds:
            self.now += 0.25
            if self.random.random() < 0.02 and len(self.nodes) < 6:
                self.come()
            for node in list(self.nodes.values()):
                if self.random.random() < 0.001 and sum(not other.is_stopped for other in self.nodes.values()) > 1:
                    node.is_stopped = True  # never the last one: whoever then comes alone knows nothing of the minute before
                if not node.is_stopped and node.beats_at <= self.now:
                    self.beat(node)
            for node in (*self.nodes.values(), *self.dead):
                self.call(node)

    def come(self) -> None:
        self.number += 1
        self.nodes[self.number] = Node(self.number, self.now, self.now)

    def beat(self, node: Node) -> None:
        """Set dead who was silent for a lease, see who lives, and put the share in force."""
        for other in [other for other in self.nodes.values() if other.is_stopped and self.now - other.confirmed_at >= LEASE]:
            self.dead.append(self.nodes.pop(other.id))
        node.told = max(node.view, default=0)
        node.confirmed_at, node.view = self.now, frozenset(self.nodes)
        node.beats_at = self.now + BEAT + self.random.random() * LATE
        are_aware = all(other.told >= node.id for other in self.nodes.values() if other.id < node.id)
        node.is_counted = node.is_counted or are_aware or self.now - node.came_at >= LEASE
        node.meter.limit(self.limit, None, None, self.now, share_of(node.id, node.view, 3) if node.is_counted else NONE)

    def call(self, node: Node) -> None:
        """Call while the node lets one and may buy: one that does not beat goes on for half a lease."""
        rates = Rates((node.meter,))
        while node.view and self.now - node.confirmed_at < LEASE / 2:
            try:
                rates.end(rates.admit(0, self.now), 0, self.now)
            except RateLimitedError:
                return
            self.calls.append(self.now)

    def excess(self) -> float:
        """Return by how many calls any span of time had more than one bucket of the limit lets through."""
        least, worst = float("inf"), float("-inf")
        for number, at in enumerate(self.calls):
            least = min(least, number - at * self.limit / MINUTE_SECONDS)
            worst = max(worst, number + 1 - at * self.limit / MINUTE_SECONDS - least)
        return worst - self.limit


@pytest.mark.parametrize("seed", range(40))
def test_all_calls_in_any_span_of_time_are_within_the_limit_while_gateways_come_and_go(seed: int) -> None:
    cluster = Cluster(seed, limit=Random(seed).choice((1, 2, 7, 60, 100)))
    cluster.come()

    cluster.run(600)

    assert cluster.excess() < 1e-3
    assert len(cluster.calls) > cluster.limit * 10 * 0.3  # of 10 minutes: it lets calls through
    assert cluster.number > 5


def test_a_bucket_that_grows_by_a_share_holds_what_it_held() -> None:
    meter = Meter("key")
    half = share_of(1, [1, 2], 0)
    meter.limit(60, None, None, 0.0, half)
    for _ in range(20):
        Rates((meter,)).admit(0, 0.0)

    meter.limit(60, None, None, 0.0, WHOLE)
    for _ in range(10):
        Rates((meter,)).admit(0, 0.0)

    with pytest.raises(RateLimitedError, match="may make 60 requests a minute"):
        Rates((meter,)).admit(0, 0.0)


def test_a_gateway_without_a_part_says_so_and_asks_for_patience() -> None:
    meter = Meter("account")
    meter.limit(60, 10, 5, 0.0, NONE)

    with pytest.raises(RateLimitedError, match="This account has a limit that is shared out among gateways") as refused:
        Rates((meter,)).admit(0, 0.0)

    assert refused.value.retry_after_seconds == 1.0
    assert "x-ratelimit-limit-requests: 60\r\nx-ratelimit-remaining-requests: 0" in Rates((meter,)).fields(0.0)
