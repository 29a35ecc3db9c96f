"""A gateway whose models have routes: to several stand-ins for Ark, each an upstream of its own."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from proxy.billing.receipts import operator_receipt
from proxy.demo.ark import Settings, StandIn, Timeline
from proxy.demo.ark.call import Call
from tests.support.gateway import Bench, bench

ROUTED = "routed"
"""The public chat model with all routes; `PICTURES` and `CLIPS` likewise."""
PICTURES, CLIPS = "routed-pictures", "routed-clips"
CHAT_MODELS = (
    "doubao-seed-2-0-lite-260428",
    "doubao-seed-2-0-pro-260215",
    "doubao-seed-2-0-mini-260215",
    "doubao-seed-2-1-turbo-260628",
)
"""What the chat model is called by each upstream."""
_MODELS = {
    PICTURES: ("image", "doubao-seedream-5-0-260128", '{ image = "0.18" }'),
    CLIPS: ("video", "doubao-seedance-1-5-pro-251215", '{ silent = "8", audio = "16" }'),
}


@dataclass
class Routed:
    """A gateway in front of several upstreams: ``u0``, ``u1`` …"""

    gateway: Bench
    arks: Sequence[StandIn]

    def calls(self, path: str = "/chat/completions") -> list[int]:
        """Return how many calls each upstream got."""
        return [sum(call.path.endswith(path) for call in ark.calls) for ark in self.arks]

    async def receipt(self, request_id: str) -> dict[str, Any]:
        found = await self.gateway.store.receipt(request_id)
        assert found is not None
        return operator_receipt(found[0])

    async def results(self, request_id: str) -> list[tuple[str, str]]:
        """Return upstream and result of each attempt on a request's receipt."""
        return [(attempt["upstream"], attempt["result"]) for attempt in (await self.receipt(request_id))["attempts"]]


def route(at: int, options: str = "", model: str = "") -> str:
    return f'{{ upstream = "u{at}", model = "{model or CHAT_MODELS[at]}"{options} }}'


@asynccontextmanager
async def routed(
    directory: Path,
    many: int = 3,
    *,
    options: Sequence[str] = (),
    keys: Sequence[str] = ("default",),
    upstream: str = "",
    each: Sequence[str] = (),
    model: str = "",
    addresses: Sequence[str] = (),
    first_byte_seconds: float = 5,
    idle_seconds: float = 5,
    **more: Any,
) -> AsyncIterator[Routed]:
    """Start it.

    Args:
        options: of each route, such as ``", tier = 2"``; without them each is of a tier of its own, so that they are asked in order.
        keys: names of the keys of each upstream.
        upstream: further lines of every upstream's table; each: of one after the other.
        model: further lines of the chat model's table.
        addresses: base URLs of further upstreams, which nobody counts.
    """
    write_keys(directory, many + len(addresses), keys)
    async with AsyncExitStack() as stack:
        arks = [await stack.enter_async_context(StandIn(Settings(timeline=Timeline(0.5, 0.5)), calls_max=100_000)) for _ in range(many)]
        bases = [*(ark.base_url for ark in arks), *addresses]
        upstream = f"idle_seconds = {idle_seconds}\nfirst_byte_seconds = {first_byte_seconds}\n{upstream}"
        lines = [upstream + own for own, _ in zip_longest(each, bases, fillvalue="")]
        is_arks = not any("openai" in table for table in lines)
        tables = "".join(_table(at, base, keys, lines[at]) for at, base in enumerate(bases))
        count = many + len(addresses)
        told = options or [f", tier = {at + 1}" for at in range(count)]
        chat = ", ".join(route(at, told[at]) for at in range(count))
        models = f'[[models]]\nid = "{ROUTED}"\nkind = "chat"\nreasoning_tokens_max = 0\nroutes = [{chat}]\n'
        models += model
        if is_arks:  # a field of Ark's
            models += 'request_defaults = { thinking = { type = "disabled" } }\n'
        models += 'price = { input = "0.8", output = "2.0", cached_input = "0.16" }\n'
        for name, (kind, made_by, price) in _MODELS.items() if is_arks else ():
            ways = ", ".join(route(at, told[at], made_by) for at in range(count))
            models += f'[[models]]\nid = "{name}"\nkind = "{kind}"\nprice = {price}\nroutes = [{ways}]\n'
        gateway = await stack.enter_async_context(bench(directory, ark=arks[0], models=models + tables, **more))
        yield Routed(gateway, arks)


def _table(at: int, base_url: str, keys: Sequence[str], more: str) -> str:
    named = ", ".join(f'{name} = "file:{name}-{at}.key"' for name in keys)
    return f'[upstreams.u{at}]\nbase_url = "{base_url}"\napi_keys = {{ {named} }}\nconnect_seconds = 2\n{more}\n'


def write_keys(directory: Path, many: int, keys: Sequence[str]) -> None:
    """Write the keys of upstreams: of ``u1`` the key ``main`` is ``main-1``."""
    for at in range(many):
        for name in keys:
            (directory / f"{name}-{at}.key").write_text(f"{name}-{at}")


def keys_of(calls: Sequence[Call]) -> Counter[str]:
    """Return how many calls came by each key."""
    return Counter(call.headers["authorization"].removeprefix("Bearer ") for call in calls)
