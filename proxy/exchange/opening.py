"""How a paid call begins, in any `ApiProtocol`: its model, its checks, the target that is asked first, and the row of its hold.

Nothing is taken here but a turn of the routes, and perhaps the try of one that has rested: rates, slots and money are taken by
`Exchange.run`, which gives all of them back.
"""

from typing import Any

from proxy.core.catalog import ChatPrice, find_model
from proxy.core.money import DISCOUNT_WHOLE, discounted
from proxy.core.pricing import with_discount
from proxy.core.protocol import C
from proxy.edge.context import Context
from proxy.exchange.attempts import Way
from proxy.exchange.call import Exchange
from proxy.exchange.parts import Parts
from proxy.store.values import IdempotencyClaim, NewRequest


def opened(parts: Parts[C], context: Context, body: Any, now_ms: int, claim: IdempotencyClaim | None = None) -> Exchange[C]:
    """Find the model, check the call, and return its exchange, which has to be run. Raises: GatewayError."""
    protocol, settings = parts.protocol, parts.live.now
    assert context.grant is not None
    if parts.relay.abandonment.levels:
        parts.relay.abandonment.refuse(context.grant.account_id)
    model = find_model(settings.catalog, protocol.requested_model(body), protocol.kind, context.bounds)
    context.model = model.id
    call = protocol.parse_call(body, model)
    routes = settings.routes[model.id]
    target = routes.only
    if target is None:
        conversation = protocol.conversation(call, context.grant.account_id, model.id)
        way = Way.chosen(parts.routing, routes, conversation, context.received_at)
        target = way.target
    else:
        way = Way.rested(parts.routing, routes) if routes.unrest.count else Way(parts.routing, routes, target)
    model = target.model
    assert isinstance(model.price, ChatPrice)
    hold_nanos, price, discount = call.hold_nanos(model.price), settings.frozen[model.id], context.grant.discount
    if discount != DISCOUNT_WHOLE:
        hold_nanos, price = discounted(hold_nanos, discount), with_discount(price, discount)
    request = NewRequest(
        id=context.id,
        kind=protocol.kind,
        account_id=context.grant.account_id,
        key_id=context.grant.key_id,
        model=model.id,
        upstream=model.upstream,
        upstream_model=model.upstream_model,
        stream=call.stream,
        hold_nanos=hold_nanos,
        price=price,
        created_at_ms=now_ms,
        claim=claim,
        key_name=target.key_name,
    )
    return Exchange(parts, settings, context, way, call, request)
