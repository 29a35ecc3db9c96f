"""``POST /images/generations``: parse, find the model, hold, ask for each image, settle by what came."""

from proxy import ids
from proxy.billing.holds import Billing
from proxy.billing.idempotency import Idempotency
from proxy.clock import Clock
from proxy.core import fields
from proxy.core.catalog import ImagePrice, Kind, Model, find_model
from proxy.core.images.request import DEFAULT_MODEL, PUBLISHED_KEYS, ImageCall, hold_for, parse_image_call
from proxy.core.images.upstream import upstream_bodies
from proxy.edge.body import BodyReader
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.exchange.flight import Relay
from proxy.exchange.images import _Generation
from proxy.live.settings import Live, Settings
from proxy.store.values import IdempotencyClaim, NewRequest
from proxy.telemetry.metrics import Metrics


class ImageHandlers:
    """The endpoint that makes pictures, while the client waits."""

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
        self._billing = billing
        self._idempotency = idempotency
        self._relay = relay
        self._bodies = bodies
        self._clock = clock
        self._metrics = metrics

    async def create(self, context: Context) -> Response:
        """Answer with the images that could be made, and settle the call however it ends."""
        context.identify(ids.image_request_id(self._clock.now_ms()))
        body = await self._bodies.json(context.request)
        return await self._idempotency.once(context, body, lambda claim: self._make(context, body, claim))

    async def _make(self, context: Context, body: object, claim: IdempotencyClaim | None) -> Response:
        checked = fields.checked_body(body, PUBLISHED_KEYS)
        settings = self._live.now
        model = find_model(settings.catalog, fields.model_id(checked, DEFAULT_MODEL), Kind.IMAGE)
        context.model = model.id
        call = parse_image_call(checked)
        hold = await self._billing.hold(self._request(context, call, model, settings, claim))
        generation = _Generation(context, model, call.n, hold, self._relay, self._clock, self._metrics)
        try:
            bodies = upstream_bodies(call, model.upstream_model)
            del call
            checked.clear()  # what called this has it too, and would keep tens of megabytes for as long as the images take
            return await generation.run(settings.upstreams[model.upstream].client, bodies)
        finally:
            generation.close()

    def _request(
        self, context: Context, call: ImageCall, model: Model, settings: Settings, claim: IdempotencyClaim | None
    ) -> NewRequest:
        assert context.grant is not None
        assert isinstance(model.price, ImagePrice)
        return NewRequest(
            id=context.id,
            kind=Kind.IMAGE,
            account_id=context.grant.account_id,
            key_id=context.grant.key_id,
            model=model.id,
            upstream=model.upstream,
            upstream_model=model.upstream_model,
            stream=False,
            hold_nanos=hold_for(call, model.price),
            price=settings.frozen[model.id],
            created_at_ms=self._clock.now_ms(),
            claim=claim,
        )
