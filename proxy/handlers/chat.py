"""``POST /chat/completions``: parse, find the model, hold, ask, relay, settle."""

from collections.abc import Coroutine
from functools import partial
from typing import Any

from proxy.billing.holds import Billing
from proxy.billing.idempotency import HEADER as KEY_HEADER
from proxy.billing.idempotency import Idempotency
from proxy.clock import Clock
from proxy.core.catalog import ChatPrice, find_model
from proxy.core.chat.request import parse_chat_call, requested_model
from proxy.edge.body import BodyReader, parsed
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.exchange.chat import _CHAT, _Exchange, _Parts
from proxy.exchange.flight import Relay
from proxy.live.settings import Live
from proxy.store.values import IdempotencyClaim, NewRequest
from proxy.telemetry.metrics import Metrics


class ChatHandlers:
    """The endpoint that the program exists for."""

    def __init__(
        self,
        *,
        live: Live,
        billing: Billing,
        idempotency: Idempotency,
        relay: Relay,
        bodies: BodyReader,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._live = live
        self._idempotency = idempotency
        self._bodies = bodies
        self._clock = clock
        self._parts = _Parts(billing, relay, clock, metrics)

    def create(self, context: Context) -> Coroutine[Any, Any, Response]:
        """Return what answers one chat call, and settles it however it ends. Raises: GatewayError: it cannot even begin."""
        here = self._bodies.arrived(context.request)
        if not here or KEY_HEADER in context.request.headers:
            return self._create(context, here)
        return self._exchange(context, parsed(here), context.received_at_ms).run()  # nearly always, and without a coroutine around it

    async def _create(self, context: Context, here: bytes) -> Response:
        """Answer a call whose body is still to come, or that has a key of its own."""
        bodies, request = self._bodies, context.request
        body = parsed(here) if here else await bodies.json(request)
        if KEY_HEADER in request.headers and not _asks_for_stream(body):
            return await self._idempotency.once(context, body, partial(self._keyed, context, body))
        exchange = self._exchange(context, body, self._clock.now_ms())
        del body
        if not here:
            await bodies.breathe(request)
        return await exchange.run()

    async def _keyed(self, context: Context, body: Any, claim: IdempotencyClaim | None) -> Response:
        """Answer a call for the first time under its key: one that was answered needs no model that is still for sale."""
        exchange = self._exchange(context, body, self._clock.now_ms(), claim)
        await self._bodies.breathe(context.request)
        return await exchange.run()

    def _exchange(self, context: Context, body: Any, now_ms: int, claim: IdempotencyClaim | None = None) -> "_Exchange":
        """Find the model, check the call, and draw up what is asked and held. Raises: GatewayError."""
        settings = self._live.now
        model = find_model(settings.catalog, requested_model(body), _CHAT)
        context.model = model.id
        call = parse_chat_call(body, model)
        assert context.grant is not None
        assert isinstance(model.price, ChatPrice)
        request = NewRequest(
            id=context.id,
            kind=_CHAT,
            account_id=context.grant.account_id,
            key_id=context.grant.key_id,
            model=model.id,
            upstream=model.upstream,
            upstream_model=model.upstream_model,
            stream=call.stream,
            hold_nanos=call.hold_nanos(model.price),
            price=settings.frozen[model.id],
            created_at_ms=now_ms,
            claim=claim,
        )
        return _Exchange(self._parts, settings, context, model, call, request)


def _asks_for_stream(body: Any) -> bool:
    """Tell before the body is checked: of another `stream` than true or false the check says more."""
    return isinstance(body, dict) and body.get("stream") is True
