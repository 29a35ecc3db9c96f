"""The router: which listeners forgive a slip, and what an id keeps of its slashes."""

import pytest

from proxy.core.errors import NotFoundError
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.edge.router import Route, Router
from proxy.edge.slips import NOTHING, Slips


async def handler(_: Context) -> Response:
    raise AssertionError("nobody asks")


ROUTES = [Route("GET", "/things", handler), Route("GET", "/things/{id}", handler), Route("POST", "/operations/{id}", handler)]


@pytest.mark.parametrize("path", ["//things", "/v1/things", "/things/", "//operations/verify", "/thing", "/"])
def test_an_operators_listener_forgives_no_slip_and_gives_no_hint(path: str) -> None:
    with pytest.raises(NotFoundError) as refused:
        Router(ROUTES).match("GET", path)

    assert str(refused.value) == NOTHING


def test_an_id_keeps_its_slashes_but_one_at_its_end() -> None:
    router = Router(ROUTES, ("/v1",), elsewhere={})

    tails = [router.match("GET", f"/v1/things/{tail}").tail for tail in ("a/b", "a//b", "/a", "a/", "a%2F", "/")]

    assert tails == ["a/b", "a//b", "/a", "a", "a/", "/"]
    assert Router(ROUTES).match("GET", "/things/a/").tail == "a/"


@pytest.mark.parametrize(
    "path", ["/" * 5_000, "/v1" * 300, "/a" * 500, "/" + "thing" * 200, "/things%2f", "/things/..", "/th\u00efngs", ""]
)
def test_a_path_that_is_too_long_or_too_odd_to_be_a_slip_is_simply_unknown(path: str) -> None:
    slips = Slips([("GET", "/things")], ("/v1",), {"/other": "there is none"})

    message = slips.not_found(path, "GET")

    assert message.startswith(NOTHING)
    assert "things" not in message or path.strip("/v1") == ""
