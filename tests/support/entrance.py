"""An entrance that passes every request to one handler, without routes and keys."""

from collections.abc import Awaitable, Mapping
from types import MappingProxyType

from proxy.clock import Clock
from proxy.core.bounds import Bounds
from proxy.edge.context import Context
from proxy.edge.entrance import Dispatcher, Entrance, Observer
from proxy.edge.response import Response
from proxy.edge.router import Handler, Router
from proxy.store.values import Grant
from proxy.telemetry.metrics import Metrics
from tests.support.gateway import Lines
from tests.support.settings import live


class Nobody:
    """Authentication for tests in which no key is ever checked."""

    anonymous: Grant | None = None
    bounds: Mapping[bytes, Bounds] = MappingProxyType({})

    def authenticate(self, credential: bytes) -> Grant | None:
        raise AssertionError(f"nobody asks for a key: {credential!r}")


class _Straight(Dispatcher):
    def __init__(self, handler: Handler) -> None:
        super().__init__(Router([]), Nobody(), live(), draining=lambda: False, refusing=lambda: False)
        self._handler = handler

    def dispatch(self, context: Context) -> Awaitable[Response]:
        return self._handler(context)


def straight_to(handler: Handler, clock: Clock) -> Entrance:
    """Return an entrance that passes every request to this handler."""
    return Entrance(_Straight(handler), Observer(clock, Lines(), Metrics()), clock)
