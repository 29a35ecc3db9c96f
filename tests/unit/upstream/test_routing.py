"""What a reload does with what rests: only what is still chosen counts, since anything that does makes every choice look at each."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest

from proxy.clock import SystemClock
from proxy.config import Secret, UpstreamConfig
from proxy.core.catalog import ChatPrice, ChatTier, Kind, Model, Route
from proxy.core.health import HealthPolicy, Trouble
from proxy.core.money import Nanos
from proxy.upstream.routing import AccessRoutes, Routing, let_go, routes_of
from proxy.upstream.upstreams import Upstreams

BASE_URL = "http://127.0.0.1:1/api/v3"
FRAIL = HealthPolicy(failures=1, rest_seconds=(60, 60))
KEYS = {"one": Secret("1"), "two": Secret("2")}
CONFIG = UpstreamConfig("a", BASE_URL, KEYS, 2.0, 5.0, 5.0, requests_per_second=20, list_requests_per_second=1, health=FRAIL)
MODEL = Model(
    id="chat",
    kind=Kind.CHAT,
    upstream="a",
    upstream_model="m",
    price=ChatPrice((ChatTier(None, Nanos(1), Nanos(1), Nanos(1)),)),
    routes=(Route("a", "m"), Route("a", "n")),
)


class House:
    """Upstreams and the routes of one model, as a reload puts them in force."""

    def __init__(self) -> None:
        self.upstreams = Upstreams(SystemClock())
        self.routing = Routing(SystemClock())

    def put_in_force(self, config: UpstreamConfig = CONFIG, *routes: Route) -> AccessRoutes:
        upstreams = self.upstreams.take({config.name: config})
        found = routes_of(replace(MODEL, routes=routes or MODEL.routes), upstreams)
        let_go(upstreams, [found])
        self.routing.wake_keys(upstreams)
        return found

    def fail(self, routes: AccessRoutes, trouble: Trouble, key: str = "one", model: str = "m") -> None:
        self.routing.failed(routes.by_name["a", key, model], trouble, self.routing.now())


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    yield made
    await made.upstreams.close()


CHANGES: Mapping[str, tuple[UpstreamConfig, tuple[Route, ...]]] = {
    "the route is gone": (CONFIG, (Route("a", "n"),)),
    "the key is gone": (replace(CONFIG, api_keys={"two": Secret("2")}), ()),
    "the secret is another": (replace(CONFIG, api_keys={"one": Secret("3"), "two": Secret("2")}), ()),
    "the server is another": (replace(CONFIG, base_url="http://127.0.0.1:2/api/v3"), ()),
    "the upstream is gone": (replace(CONFIG, name="b"), (Route("b", "m"),)),
}


@pytest.mark.parametrize("trouble", [Trouble.FAILED, Trouble.KEY_REFUSED])
@pytest.mark.parametrize("change", CHANGES)
async def test_what_is_chosen_no_more_counts_no_more(house: House, change: str, trouble: Trouble) -> None:
    before = house.put_in_force()
    house.fail(before, trouble)
    assert before.unrest.count == 1
    config, routes = CHANGES[change]

    after = house.put_in_force(config, *routes)

    assert after.unrest.count == 0
    house.fail(before, trouble)  # of a call that was under way
    is_chosen = change == "the route is gone" and trouble is Trouble.KEY_REFUSED  # by its other route
    assert after.unrest.count == is_chosen
    back = house.put_in_force()
    assert back.unrest.count == 0
    house.fail(back, trouble)
    assert back.unrest.count == 1, "what is chosen again counts again"


async def test_a_reload_that_changes_nothing_of_it_lets_it_rest_on(house: House) -> None:
    before = house.put_in_force()
    house.fail(before, Trouble.FAILED)

    after = house.put_in_force(replace(CONFIG, connect_seconds=3.0))

    assert after.unrest.count == 1
    (resting,) = [target for target in after.targets if target.rests(SystemClock().monotonic())]
    assert resting.name == ("a", "one", "m")
    house.routing.answered(resting, SystemClock().monotonic())
    assert after.unrest.count == 0
