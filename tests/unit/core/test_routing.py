"""The choice among routes and keys: by tier, rest, conversation and weight; checked against the rules written out plainly."""

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.affinity import IDLE_SECONDS, Affinity
from proxy.core.catalog import ChatPrice, ChatTier, Kind, Model, Route
from proxy.core.chat.conversation import conversation_of
from proxy.core.health import HealthPolicy, Rest, Trouble, Unrest
from proxy.core.money import Nanos
from proxy.core.routing import Lane, Routes, Target, order_of

PRICE = ChatPrice((ChatTier(None, Nanos(1), Nanos(1), Nanos(1)),))
POLICY = HealthPolicy(rest_seconds=(5, 60))
NOW = 1000.0


def routes_of(routes: Sequence[Route], keys: int | Sequence[int] = 1) -> Routes[None]:
    """Return routes with so many keys each. Keys of one upstream are the same, whichever route they are asked by."""
    model = Model("m", Kind.CHAT, routes[0].upstream, routes[0].model, PRICE, routes=tuple(routes))
    of_keys: dict[tuple[str, str], Rest] = {}
    unrest = Unrest()
    lanes = []
    for at, route in enumerate(routes):
        many = keys if isinstance(keys, int) else keys[at]
        named = [f"k{number}" for number in range(many)]
        rests = [of_keys.setdefault((route.upstream, name), Rest(POLICY, unrest)) for name in named]
        pairs = zip(named, rests, strict=True)
        lanes.append(Lane(route, [Target(model, route, name, None, rest=Rest(POLICY, unrest), key_rest=rest) for name, rest in pairs]))
    return Routes(lanes)


def chosen(routes: Routes[None], count: int, now: float = NOW) -> Counter[str]:
    found = [routes.choose(now) for _ in range(count)]
    assert None not in found
    return Counter(f"{target.route.upstream}/{target.key_name}" for target in found if target is not None)


def test_weights_take_turns_spread_out() -> None:
    assert order_of([3, 1]) == (0, 0, 1, 0)
    assert order_of([1]) == (0,)
    assert order_of([10, 10, 20]) == (2, 0, 1, 2)
    assert Counter(order_of([5, 3, 2])) == {0: 5, 1: 3, 2: 2}


def test_routes_get_their_share_of_the_calls_and_keys_take_turns() -> None:
    routes = routes_of([Route("a", "m", weight=3), Route("b", "m", weight=1)], keys=[2, 1])

    assert chosen(routes, 400) == {"a/k0": 150, "a/k1": 150, "b/k0": 100}


def test_what_rests_is_passed_by_and_the_others_keep_their_shares() -> None:
    routes = routes_of([Route("a", "m", weight=3), Route("b", "m"), Route("c", "m", weight=2)])
    routes.targets[0].rest.rest(NOW, 60)

    assert chosen(routes, 300) == {"b/k0": 100, "c/k0": 200}


def test_a_higher_tier_is_asked_only_when_all_of_the_lower_rests() -> None:
    routes = routes_of([Route("far", "m", tier=2), Route("a", "m"), Route("b", "m")])
    far, a, b = (next(target for target in routes.targets if target.route.upstream == name) for name in ("far", "a", "b"))

    assert "far/k0" not in chosen(routes, 10)
    a.rest.rest(NOW, 60)
    assert set(chosen(routes, 10)) == {"b/k0"}
    b.key_rest.rest(NOW, 60)
    assert set(chosen(routes, 10)) == {"far/k0"}
    far.rest.rest(NOW, 90)
    assert set(chosen(routes, 10)) == {"a/k0"}, "all rest: the lowest tier is asked all the same, what wakes first"


def test_while_a_retry_after_runs_it_is_not_asked_even_if_nothing_else_is_left() -> None:
    routes = routes_of([Route("a", "m"), Route("b", "m")])
    for target, seconds in zip(routes.targets, (30, 20), strict=True):
        target.rest.refused(NOW, retry_after=seconds)

    assert routes.choose(NOW + 5) is None
    assert routes.wait_seconds(NOW + 5) == 15
    found = routes.choose(NOW + 20)
    assert found is not None
    assert found.route.upstream == "b"


def test_one_call_alone_tries_what_has_rested() -> None:
    routes = routes_of([Route("a", "m"), Route("b", "m", weight=9)])
    a = routes.targets[0]
    a.rest.rest(NOW, 5)

    assert chosen(routes, 20, NOW + 5)["a/k0"] == 1


def test_a_conversation_keeps_its_target_while_it_is_awake_and_of_the_lowest_tier() -> None:
    routes = routes_of([Route("a", "m", weight=9), Route("b", "m"), Route("c", "m", tier=2)])
    a, b, c = routes.targets

    assert {routes.choose(NOW, preferred=b) for _ in range(10)} == {b}
    assert routes.choose(NOW, preferred=c) in (a, b)
    b.rest.rest(NOW, 60)
    assert routes.choose(NOW, preferred=b) is a
    assert routes.choose(NOW, preferred=b, tried={a}) is c


def test_routes_without_weight_get_nothing_and_one_target_needs_no_choice() -> None:
    routes = routes_of([Route("a", "m", weight=0), Route("b", "m")])

    assert routes.only is not None
    assert routes.only.route.upstream == "b"
    assert routes_of([Route("a", "m")], keys=2).only is None


@pytest.mark.parametrize(
    ("trouble", "left"),
    [
        (Trouble.LIMITED, {"a/x/k1", "a/y/k0", "a/y/k1", "b/x/k0", "b/x/k1"}),
        (Trouble.KEY_LIMITED, {"a/x/k1", "a/y/k0", "a/y/k1", "b/x/k0", "b/x/k1"}),
        (Trouble.KEY_REFUSED, {"a/x/k1", "a/y/k0", "a/y/k1", "b/x/k0", "b/x/k1"}),
        (Trouble.MODEL_REFUSED, {"a/x/k1", "a/y/k0", "a/y/k1", "b/x/k0", "b/x/k1"}),
        (Trouble.FAILED, {"a/y/k0", "a/y/k1", "b/x/k0", "b/x/k1"}),
        (Trouble.UNREACHABLE, {"b/x/k0", "b/x/k1"}),
    ],
)
def test_a_trouble_spends_what_would_have_it_too(trouble: Trouble, left: set[str]) -> None:
    routes = routes_of([Route("a", "x"), Route("a", "y"), Route("b", "x")], keys=2)
    first = routes.targets[0]

    spent = routes.spent(first, trouble)

    assert first in spent
    assert {f"{one.route.upstream}/{one.route.model}/{one.key_name}" for one in routes.targets if one not in spent} == left


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Routes[None], float, set[Target[None]], Target[None] | None]:
    many = draw(st.integers(1, 5))
    routes = [
        Route(draw(st.sampled_from("abc")), f"m{at}", weight=draw(st.integers(0, 4)), tier=draw(st.integers(1, 3)))
        for at in range(many)
    ]
    made = routes_of(routes, keys=[draw(st.integers(1, 3)) for _ in range(many)])
    now = draw(st.sampled_from([NOW, NOW + 4, NOW + 30, NOW + 100]))
    for target in made.targets:
        for rest in (target.rest, target.key_rest):
            state = draw(st.sampled_from(["well", "well", "rests", "limited"]))
            if state == "rests":
                rest.rest(NOW, draw(st.sampled_from([5, 50])))
            elif state == "limited":
                rest.refused(NOW, retry_after=draw(st.sampled_from([3, 40])))
    tried = {target for target in made.targets if draw(st.integers(0, 3)) == 0}
    preferred = draw(st.one_of(st.none(), st.sampled_from(made.targets))) if made.targets else None
    return made, now, tried, preferred


@settings(max_examples=500)
@given(worlds())
def test_every_choice_is_one_that_the_rules_allow(world: tuple[Routes[None], float, set[Target[None]], Target[None] | None]) -> None:
    routes, now, tried, preferred = world
    left = [target for target in routes.targets if target not in tried]
    awake = [target for target in left if target.rest.until <= now and target.key_rest.until <= now]
    lowest = [target for target in awake if target.route.tier == min(one.route.tier for one in awake)]
    allowed = [target for target in left if target.rest.retry_at <= now and target.key_rest.retry_at <= now]

    found = routes.choose(now, tried=tried, preferred=preferred)

    if preferred in lowest:
        assert found is preferred
    elif lowest:
        assert found in lowest
    elif allowed:
        assert found in [target for target in allowed if target.route.tier == min(one.route.tier for one in allowed)]
    else:
        assert found is None


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_an_order_holds_every_place_as_often_as_its_weight_and_never_lags_behind_by_a_turn(weights: list[int]) -> None:
    order = order_of(weights)
    total = len(order)

    counts = Counter(order)
    assert all(counts[at] * sum(weights) == weight * total for at, weight in enumerate(weights))
    seen: Counter[int] = Counter()
    for turn, place in enumerate(order, 1):
        seen[place] += 1
        assert all(abs(seen[at] - turn * counts[at] / total) < len(weights) for at in counts)


# conversations


def test_a_conversation_is_forgotten_after_ten_idle_minutes_and_when_the_table_is_full() -> None:
    table: Affinity[str] = Affinity(most=2)
    table.note(1, "a", 0)
    table.note(2, "b", 0)
    table.note(1, "c", 1)

    assert (table.find(1, IDLE_SECONDS + 1), table.find(1, IDLE_SECONDS + 12)) == ("c", None)
    table.note(1, "c", 700)
    table.note(3, "d", 700)
    assert (table.find(1, 700), table.find(2, 700), table.find(3, 700), len(table)) == ("c", None, "d", 2)


def asked(*messages: tuple[str, object], **fields: object) -> Any:
    """Return a call, as far as its conversation needs it."""
    return SimpleNamespace(fields={"messages": [{"role": role, "content": content} for role, content in messages], **fields})


def test_a_conversation_is_told_by_its_beginning() -> None:
    first = asked(("system", "be kind"), ("user", "hello"))
    later = asked(("system", "be kind"), ("user", "hello"), ("assistant", "hi"), ("user", "more"))
    other = asked(("system", "be kind"), ("user", "goodbye"))

    assert conversation_of(first, 1, "m") == conversation_of(later, 1, "m") != conversation_of(other, 1, "m")
    assert len({conversation_of(first, account, model) for account in (1, 2) for model in ("m", "n")}) == 4


def test_a_cache_key_names_a_conversation_whatever_it_says_within_one_account() -> None:
    one, other = asked(("user", "a"), prompt_cache_key="k"), asked(("user", "b"), prompt_cache_key="k")

    assert conversation_of(one, 1, "m") == conversation_of(other, 1, "m") != conversation_of(one, 2, "m")


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "a"}],
        [{"type": "image_url", "image_url": {"url": "data:" + "x" * 100_000}}],
        [{"type": "image_url", "image_url": "u"}, {"type": "odd"}, {"text": 7}, "odd", None],
        None,
        7,
        "x" * 100_000,
    ],
)
def test_every_content_has_a_number(content: object) -> None:
    assert conversation_of(asked(("user", content)), 1, "m") == conversation_of(asked(("user", content)), 1, "m")
