"""What the edge relies on inside aiohttp: still there, still meant, and named in one module only."""

import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from aiohttp import base_protocol
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

ROOT = Path(__file__).parents[3]
EDGE = ROOT / "proxy/edge"
SOURCE = (EDGE / "aiohttp_private.py").read_text(encoding="utf-8")
ALIASES = dict(re.findall(r"^    (\w+): .+ = _Aiohttp\.(\w+)$", SOURCE, re.MULTILINE))
"""Our name to aiohttp's. Read from the text: the module itself cannot be imported once a name is gone."""


def inside_of_aiohttp() -> set[str]:
    """Return the private names of aiohttp's protocol."""
    kinds = [kind for kind in RequestHandler.__mro__ if kind.__module__.startswith("aiohttp.")]
    return {name for kind in kinds for name in vars(kind) if re.match(r"_[a-z]", name)}


@pytest.mark.parametrize("private", ALIASES.values())
def test_aiohttp_still_has_each_name(private: str) -> None:
    assert hasattr(RequestHandler, private), (
        f"aiohttp {version('aiohttp')} has no RequestHandler.{private} any more: read its web_protocol.py and base_protocol.py, mend "
        "proxy/edge/aiohttp_private.py and what uses that name in proxy/edge/, and then move the pin in pyproject.toml"
    )


def test_aiohttp_still_asks_the_request_and_answers_by_its_parser_as_we_rely_on() -> None:
    lost = inspect.getsource(RequestHandler.connection_lost)

    assert "self._current_request._cancel(" in lost, "aiohttp tells the request in progress of a lost connection in another way"
    assert hasattr(BaseRequest, "_cancel"), "aiohttp's own request has no _cancel any more"
    for name in ("message_consumed", "set_upgraded"):
        assert hasattr(HttpRequestParser, name), f"aiohttp's parser has no {name} any more"


def test_aiohttp_still_sets_nodelay_by_the_function_that_is_replaced() -> None:
    made = inspect.getsource(BaseProtocol.connection_made)

    assert "tcp_nodelay(tr, True)" in made, "aiohttp sets TCP_NODELAY in another way: without uvloop's copy of the descriptor?"
    assert base_protocol.tcp_nodelay.__module__ == "proxy.edge.aiohttp_private"  # type: ignore[attr-defined]


def test_the_installed_aiohttp_is_the_pinned_patch() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (pin,) = [line for line in wanted if re.match(r"aiohttp\W", line)]

    assert pin == f"aiohttp=={version('aiohttp')}", "the edge was read against the pinned patch of aiohttp, another one is installed"


def test_each_private_name_stands_once_and_our_name_for_it_is_new() -> None:
    assert len(set(ALIASES.values())) == len(ALIASES) == SOURCE.count("= _Aiohttp.")
    assert len(ALIASES) > 20

    taken = {name for name in ALIASES if hasattr(RequestHandler, name)}

    assert taken == {"writing_paused"}  # a property that returns the slot


@pytest.mark.parametrize("path", sorted(EDGE.glob("*.py")), ids=lambda path: path.name)
def test_no_other_module_of_the_edge_uses_aiohttps_names(path: Path) -> None:
    if path.name == "aiohttp_private.py":
        return

    used = set(re.findall(r"(?:\.|def )(_[a-z]\w*)", path.read_text(encoding="utf-8"))) & inside_of_aiohttp()

    assert not used, f"{path.name}: use the names of aiohttp_private.py for {used}"


def test_a_connection_has_no_dict() -> None:
    """An alias is a slot only as long as every class above it has slots; a dict costs 100 bytes a connection."""
    from proxy.edge.connection import Connection  # noqa: PLC0415  once a name is gone, the tests above say which

    assert "__dict__" not in dir(Connection)
    for ours, private in ALIASES.items():
        assert getattr(Connection, ours) is getattr(RequestHandler, private)
