"""``POST /images/generations``: parse, find the model, and hand over to the exchange."""

from functools import partial

from proxy import ids
from proxy.billing.holds import Billing
from proxy.billing.idempotency import Idempotency
from proxy.billing.retries import Retries
from proxy.clock import Clock
from proxy.core import fields
from proxy.core.catalog import Kind, find_model
from proxy.core.images.request import DEFAULT_MODEL, PUBLISHED_KEYS, parse_image_call
from proxy.edge.body import Posted
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.exchange.admission import Admission
from proxy.exchange.flight import Relay
from proxy.exchange.images import Generations
from proxy.live.settings import Live
from proxy.store.values import IdempotencyClaim
from proxy.telemetry.metrics import Metrics
from proxy.upstream.routing import Routing


class ImageHandlers:
    """Handles image calls, while the client waits for the images."""

    def __init__(
        self,
        *,
        live: Live,
        billing: Billing,
        idempotency: Idempotency,
        relay: Relay,
        admission: Admission,
        clock: Clock,
        metrics: Metrics,
        routing: Routing,
    ) -> None:
        self._live = live
        self._generations = Generations(billing, relay, clock, metrics, routing)
        self._idempotency = idempotency
        self._admission = admission
        self._clock = clock
        self._retries = Retries(clock)

    async def create(self, context: Context) -> Response:
        """Answer with the images that could be made, and settle the call however it ends."""
        context.identify(ids.image_request_id(self._clock.now_ms()))
        body = Posted(await self._admission.body(context))
        return await self._idempotency.once(context, body, partial(self._once, context, body))

    async def _once(self, context: Context, body: Posted, claim: IdempotencyClaim | None) -> Response:
        """Make the images, unless an SDK's retry finds those that it did not get."""
        make = partial(self._make, context, body, claim)
        return await (make() if claim is not None else self._retries.once(context, body, make))

    async def _make(self, context: Context, body: Posted, claim: IdempotencyClaim | None) -> Response:
        checked = fields.checked_body(body.take(), PUBLISHED_KEYS)
        settings = self._live.now
        model = find_model(settings.catalog, fields.model_id(checked, DEFAULT_MODEL), Kind.IMAGE, context.bounds)
        context.model = model.id
        making = self._generations.make(context, settings, model, parse_image_call(checked), claim)
        del checked  # tens of megabytes, for as long as the images take
        return await making
