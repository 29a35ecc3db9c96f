"""What all calls of one API protocol share: built once, and passed to each of them."""

from dataclasses import dataclass
from typing import Generic

from proxy.billing.holds import Billing
from proxy.clock import Clock
from proxy.core.protocol import ApiProtocol, C
from proxy.exchange.flight import Relay
from proxy.live.settings import Live
from proxy.telemetry.metrics import Metrics
from proxy.upstream.routing import Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts(Generic[C]):
    """The protocol, and the owners of all that outlives a call."""

    protocol: ApiProtocol[C]
    live: Live
    billing: Billing
    relay: Relay
    clock: Clock
    metrics: Metrics
    routing: Routing
