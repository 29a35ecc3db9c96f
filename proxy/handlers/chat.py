"""``POST /chat/completions``: read the body and hand it to an exchange."""

from collections.abc import Coroutine
from functools import partial
from typing import Any

from proxy.billing.holds import Billing
from proxy.billing.idempotency import HEADER as KEY_HEADER
from proxy.billing.idempotency import Idempotency
from proxy.clock import Clock
from proxy.core.chat.protocol import CHAT
from proxy.edge.body import BodyReader, Posted, parsed
from proxy.edge.context import Context
from proxy.edge.intake import LARGE_BYTES
from proxy.edge.response import Response
from proxy.exchange.admission import Admission
from proxy.exchange.flight import Relay
from proxy.exchange.opening import opened
from proxy.exchange.parts import Parts
from proxy.live.settings import Live
from proxy.store.values import IdempotencyClaim
from proxy.telemetry.metrics import Metrics
from proxy.upstream.routing import Routing

PATH = CHAT.path


class ChatHandlers:
    """Handles chat calls, the program's main purpose."""

    def __init__(
        self,
        *,
        live: Live,
        billing: Billing,
        idempotency: Idempotency,
        relay: Relay,
        bodies: BodyReader,
        admission: Admission,
        clock: Clock,
        metrics: Metrics,
        routing: Routing,
    ) -> None:
        self._parts = Parts(protocol=CHAT, live=live, billing=billing, relay=relay, clock=clock, metrics=metrics, routing=routing)
        self._idempotency = idempotency
        self._bodies = bodies
        self._admission = admission
        self._clock = clock

    def create(self, context: Context) -> Coroutine[Any, Any, Response]:
        """Return the coroutine that answers one chat call, and settles it however it ends. Raises: GatewayError: it cannot begin."""
        here = self._bodies.arrived(context.request)
        if not here or len(here) > LARGE_BYTES or KEY_HEADER in context.request.headers:
            return self._create(context, here)
        # The usual case, without another coroutine around it.
        return opened(self._parts, context, parsed(here), context.received_at_ms).run()

    async def _create(self, context: Context, here: bytes | bytearray) -> Response:
        """Answer a call whose body is large or still to come, or that has an idempotency key."""
        body = Posted(await self._admission.body(context, here))
        del here
        if KEY_HEADER in context.request.headers and not _asks_for_stream(body.value):
            return await self._idempotency.once(context, body, partial(self._keyed, context, body))
        return await self._keyed(context, body, None)

    async def _keyed(self, context: Context, body: Posted, claim: IdempotencyClaim | None) -> Response:
        """Answer the first call under a key. A repeated answer needs no model that is still for sale."""
        exchange = opened(self._parts, context, body.take(), self._clock.now_ms(), claim)
        await self._bodies.breathe(context)
        return await exchange.run()


def _asks_for_stream(body: Any) -> bool:
    """Return whether the unchecked body has a true `stream`. The check later refuses one that is no boolean."""
    return isinstance(body, dict) and body.get("stream") is True
