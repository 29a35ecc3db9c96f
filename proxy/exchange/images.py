"""One image call from its hold to its settlement."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

import orjson

from proxy.billing.holds import Billing, Hold
from proxy.billing.idempotency import kept
from proxy.billing.retries import UndeliveredError
from proxy.clock import Clock
from proxy.core.ark.creation import creation_refusal
from proxy.core.ark.refusal import TIMEOUTS, Refusal, outage, unanswered, with_delay
from proxy.core.ark.text import ArkError
from proxy.core.catalog import ImagePrice, Kind, Model
from proxy.core.errors import GatewayError, ModelUnavailableError
from proxy.core.health import retry_after_seconds
from proxy.core.images.request import ImageCall, charge_for, hold_advice, hold_for, total_cost
from proxy.core.images.upstream import (
    FIELD_NAMES,
    OPTIONAL,
    ImageResult,
    UpstreamBody,
    parse_image_answer,
    upstream_bodies,
    without_refused,
)
from proxy.core.money import DISCOUNT_WHOLE
from proxy.core.pricing import with_discount
from proxy.core.settlement import Attempt, Outcome, Settlement, UsageSource
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.exchange.attempts import ATTEMPTS_TOLD_MAX, Way
from proxy.exchange.ends import milliseconds
from proxy.exchange.flight import Relay
from proxy.live.settings import Settings
from proxy.store.values import IdempotencyClaim, NewRequest, StoredAnswer
from proxy.telemetry.metrics import Metrics
from proxy.upstream.ark_client import Piece, Reply
from proxy.upstream.failures import UnconfirmedError, UpstreamFailure
from proxy.upstream.http1.upload import REPEATABLE_BYTES_MAX
from proxy.upstream.routing import AccessTarget, Routing

_OURS = frozenset({Outcome.COMPLETE, Outcome.INTERRUPTED})
"""Outcomes that are no failure of the upstream. If the client has left, CLIENT_GONE replaces them."""


class Generations:
    """Carries out image calls."""

    def __init__(self, billing: Billing, relay: Relay, clock: Clock, metrics: Metrics, routing: Routing) -> None:
        self._billing = billing
        self._routing = routing
        self.relay = relay
        self.clock = clock
        self.metrics = metrics
        self.accepted: set[tuple[str, str, str]] = set()
        """Upstreams, models and optional fields that they were seen to take. A large body whose fields are all among them is not kept
        for another try. Of any other that try comes at once, after a refusal, and not after an image."""

    async def make(
        self, context: Context, settings: Settings, model: Model, call: ImageCall, claim: IdempotencyClaim | None
    ) -> Response:
        """Hold, ask for each image, settle for those that came; return them once the settlement is durable.

        Raises:
            GatewayError: the account gives up too many calls, no hold could be placed, or no image came.
            ConnectionError: the client left; the call is settled.
        """
        self.relay.abandonment.refuse(context.account_id)
        assert isinstance(model.price, ImagePrice)
        assert context.grant is not None
        routes = settings.routes[model.id]
        now = self.clock.monotonic()
        target = self._routing.first(routes, now)
        advise = partial(hold_advice, call.n, model.price, context.grant.discount)
        request = self._request(context, settings, target, call, claim)
        rates = None if context.bounds is None else context.bounds.rates
        try:
            if rates is not None:
                rates.admit(0, now)
            hold = await self._billing.hold(request, advise, rates)
        except BaseException:
            target.untried(now)
            raise
        ways = [Way(self._routing, routes, target, only=routes.only is not None, chosen_at=now) for _ in range(call.n)]
        generation = Generation(self, context, target.model, ways, hold)
        try:
            bodies = dict(enumerate(upstream_bodies(call, target.model.upstream_model)))
            del call  # its input pictures can be tens of megabytes, and images take long
            return await generation.run(bodies)
        finally:
            generation.close()

    def _request(
        self, context: Context, settings: Settings, target: AccessTarget, call: ImageCall, claim: IdempotencyClaim | None
    ) -> NewRequest:
        model = target.model
        assert context.grant is not None
        assert isinstance(model.price, ImagePrice)
        discount, price = context.grant.discount, settings.frozen[model.id]
        return NewRequest(
            id=context.id,
            kind=Kind.IMAGE,
            account_id=context.grant.account_id,
            key_id=context.grant.key_id,
            model=model.id,
            upstream=model.upstream,
            upstream_model=model.upstream_model,
            stream=False,
            hold_nanos=hold_for(call, model.price, discount),
            price=price if discount == DISCOUNT_WHOLE else with_discount(price, discount),
            created_at_ms=self.clock.now_ms(),
            claim=claim,
            key_name=target.key_name,
        )


class Generation:
    """One request from its hold to its settlement: one upstream call for each image, each with its own end."""

    __slots__ = (
        "_accepted",
        "_clock",
        "_context",
        "_discount",
        "_ends",
        "_flight",
        "_hold",
        "_metrics",
        "_model",
        "_n",
        "_price",
        "_relay",
        "_unknown",
        "_unsent",
        "_ways",
    )

    def __init__(self, generations: Generations, context: Context, model: Model, ways: Sequence[Way], hold: Hold) -> None:
        """Args: ways: one for each image."""
        assert isinstance(model.price, ImagePrice)
        assert context.grant is not None
        self._discount = context.grant.discount
        self._context = context
        self._model = model
        self._price = model.price
        self._n = self._unsent = n = len(ways)
        self._ways = ways
        self._hold = hold
        self._accepted = generations.accepted
        self._relay = generations.relay
        self._clock = generations.clock
        self._metrics = generations.metrics
        self._flight = generations.relay.depart(context.connection, context.account_id, stoppable=False)
        self._ends: list[ImageResult | Refusal | None] = [None] * n
        """The end of each image's call, in order; None: cut before its end."""
        self._unknown = 0
        """Calls that failed, and may have made an image."""

    def close(self) -> None:
        """Leave no hold and no watcher behind, whatever ended the call."""
        self._relay.land(self._flight)
        if self._context.settlement is None:
            # The customer got none of the images that may have been made: whoever ended the call bears its cost.
            self._settle(Outcome.INTERRUPTED, status=0, note="the handler was cancelled")

    async def run(self, bodies: dict[int, UpstreamBody]) -> Response:
        """Ask for all images at once, settle for those that came, and return them once the settlement is durable.

        Args: bodies: by the image's index. They are taken out, so that no caller keeps them alive.

        Raises:
            GatewayError: no image came; it is the first one's error.
            UndeliveredError: the client left; the call is settled, and its images are there.
            ConnectionError: the client left; the call is settled.
        """
        is_asked = not self._flight.is_over()
        with suppress(TimeoutError), self._flight:
            if is_asked:
                await self._ask_for_all(bodies)
        result = self._concluded(is_asked=is_asked)
        await self._hold.settled()
        if self._flight.has_client_left():
            if is_asked:
                self._relay.abandonment.count(self._context.account_id, self._unknown + self._ends.count(None))
            if isinstance(result, Response) and result.body is not None:
                raise UndeliveredError(self._context.id, StoredAnswer(result.status, result.body))
            raise ConnectionResetError("the client left")
        if isinstance(result, GatewayError):
            raise result
        return result

    # upstream

    async def _ask_for_all(self, bodies: dict[int, UpstreamBody]) -> None:
        """Fill in `_ends`, until all are there or the flight's deadline expires."""
        asked_at = self._clock.monotonic()
        try:
            calls = [self._ask(index, bodies, asked_at) for index in range(self._n)]
            bugs = [fault for fault in await asyncio.gather(*calls, return_exceptions=True) if fault is not None]
        finally:
            self._context.upstream_seconds = self._clock.monotonic() - asked_at
        if bugs:
            raise bugs[0]

    async def _ask(self, index: int, bodies: dict[int, UpstreamBody], now: float) -> None:
        """Ask for one image, one target after the other while nothing was bought."""
        way = self._ways[index]
        way.begin(now)
        end = await self._end_of(way, index, bodies)
        while isinstance(end, Refusal) and index in bodies and self._moves(way, end):
            bodies[index] = bodies[index].renamed(way.target.route.model)
            way.ask_again()
            end = await self._end_of(way, index, bodies)
        bodies.pop(index, None)
        self._ends[index] = end

    def _moves(self, way: Way, refusal: Refusal) -> bool:
        """Go on to the next target, if there is one; return whether there is."""
        return refusal.trouble is not None and not self._flight.is_over() and way.turn(refusal.trouble)

    async def _end_of(self, way: Way, index: int, bodies: dict[int, UpstreamBody]) -> ImageResult | Refusal:
        """Ask a target for one image; ask again without each optional field that the model refuses.

        The body is taken out, and put back where it may be sent elsewhere: a short one, or one of which nothing was sent.
        """
        body = bodies.pop(index)
        while True:
            own, kept = body.own, body if self._may_be_repeated(way, body) else None
            pieces = body.pieces()
            del body
            try:
                async with asyncio.timeout(way.seconds_left):
                    reply = await way.target.access.client.create_image(pieces, None if kept else self._let_go)
            except UnconfirmedError as fault:
                way.is_open = False
                return Refusal(_restarting(asked=False), Outcome.INTERRUPTED, str(fault))
            except UpstreamFailure as failure:
                if failure.is_unasked:
                    bodies[index] = kept or UpstreamBody(own, _whole(pieces[1]))
                return self._failed(way, str(failure), failure.cause, is_unasked=failure.is_unasked)
            except TimeoutError:
                return self._failed(way, f"upstream: no answer within {way.seconds:g} s", "first_byte_timeout", is_unasked=False)
            self._context.first_byte_at = self._context.first_byte_at or self._clock.monotonic()
            end = parse_image_answer(reply.status, reply.answer)
            if isinstance(end, ImageResult):
                self._accepted.update(self._optional(way, own))
                way.made()
                return end
            fewer = None if end is None else without_refused(kept or UpstreamBody(own, b""), end)
            if fewer is None:
                refusal = with_delay(_refusal(reply, end, way.target.model.upstream_model), reply.retry_after)
                if kept is not None and len(kept.shared) <= REPEATABLE_BYTES_MAX:
                    bodies[index] = kept
                return self._counted(way, refusal, retry_after=retry_after_seconds(reply.retry_after))
            if kept is None:
                self._accepted.difference_update(self._optional(way, own))
                return self._counted(way, outage("the model refuses a field that it took before"), "error")
            body = fewer
            del kept, fewer

    def _may_be_repeated(self, way: Way, body: UpstreamBody) -> bool:
        """Return whether a body is kept until it is answered: a short one, or one with a field that the model may refuse."""
        return len(body.shared) <= REPEATABLE_BYTES_MAX or not self._accepted.issuperset(self._optional(way, body.own))

    def _optional(self, way: Way, own: Mapping[str, object]) -> set[tuple[str, str, str]]:
        return {(way.target.route.upstream, way.target.route.model, name) for name in OPTIONAL & own.keys()}

    def _let_go(self) -> None:
        """Count a body as sent, and nothing any more once all are: they share their pictures."""
        self._unsent -= 1
        if not self._unsent and self._context.intake is not None:
            self._context.intake.release()

    def _failed(self, way: Way, why: str, cause: str, *, is_unasked: bool) -> Refusal:
        self._unknown += not is_unasked
        return self._counted(way, unanswered(why, may_have_run=not is_unasked), cause)

    def _counted(self, way: Way, refusal: Refusal, cause: str = "", *, retry_after: float | None = None) -> Refusal:
        if refusal.outcome is not Outcome.REFUSED:
            self._metrics.upstream_failed(way.target.route.upstream, cause or ("operator" if refusal.operator else "error"))
        if refusal.trouble is None:
            way.refused()
        else:
            way.failed(refusal.trouble, retry_after, refusal.note)
        return refusal

    # the end

    def _concluded(self, *, is_asked: bool) -> Response | GatewayError:
        """Settle according to `_ends`, and return the answer or its error."""
        made = [end for end in self._ends if isinstance(end, ImageResult)]
        refusals = [end for end in self._ends if isinstance(end, Refusal)]
        is_cut = None in self._ends
        if made:
            outcome = Outcome.INTERRUPTED if is_cut else Outcome.COMPLETE
            body = self._body(made)
            self._settle(outcome, made=len(made), status=200, note=self._note(len(made), refusals), answer=self._kept(200, body))
            return self._context.answer(body)
        if refusals:
            error, outcome, note = refusals[0].error, refusals[0].outcome, refusals[0].note
            if is_cut or any(refusal.error.should_retry is False for refusal in refusals):
                error.should_retry, error.retry_after_seconds = False, None
        else:
            error = _restarting(asked=is_asked)
            outcome, note = self._flight.cause or Outcome.INTERRUPTED, "the upstream was not done"
        self._settle(outcome, status=error.status, note=note, answer=self._kept(error.status, orjson.dumps(error.body())))
        return error

    def _body(self, made: list[ImageResult]) -> bytes:
        """Return the published answer; ``created`` and ``data`` are OpenAI's, so that its SDKs read it too."""
        return orjson.dumps(
            {
                "request_id": self._context.id,
                "model": self._model.id,
                "image_urls": [image.url for image in made],
                "total_cost": total_cost(charge_for(len(made), self._price, self._discount)),
                "created": self._clock.now_ms() // 1000,
                "data": [{"url": image.url} for image in made],
            }
        )

    def _note(self, made: int, refusals: list[Refusal]) -> str:
        if made == self._n:
            return ""
        why = refusals[0].note if refusals else "the upstream was not done"
        return f"{made} of {self._n} images: {why}"

    def _kept(self, status: int, body: bytes) -> StoredAnswer | None:
        return kept(self._hold.request.claim, status, body)

    def _settle(self, outcome: Outcome, *, made: int = 0, status: int, note: str, answer: StoredAnswer | None = None) -> None:
        context, client_left = self._context, self._flight.has_client_left()
        context.settlement = Settlement(
            outcome=Outcome.CLIENT_GONE if client_left and outcome in _OURS else outcome,
            usage_source=UsageSource.REPORTED if made else UsageSource.NONE,
            charge_nanos=charge_for(made, self._price, self._discount),
            units=made,
            http_status=0 if client_left else status,
            first_byte_ms=milliseconds(context.first_byte_at, context.received_at),
            total_ms=milliseconds(self._clock.monotonic(), context.received_at),
            note=note,
            attempts=self._attempts(),
        )
        self._hold.settle(context.settlement, answer)

    def _attempts(self) -> tuple[Attempt, ...]:
        """End those that are under way; return all where any image was asked for more than once, one that made an image last."""
        for way in self._ways:
            way.broke_off(Outcome.INTERRUPTED, "", is_asked=way.is_open)
        if all(len(way.told) <= 1 for way in self._ways):
            return ()
        told = sorted((attempt for way in self._ways for attempt in way.told), key=lambda attempt: attempt.result == "answered")
        return tuple(told[-ATTEMPTS_TOLD_MAX:])


def _whole(piece: Piece) -> bytes:
    """Return what a piece is a view of, without a copy."""
    return piece if isinstance(piece, bytes) else bytes(piece.obj)


def _refusal(reply: Reply, end: ArkError | None, upstream_model: str) -> Refusal:
    """Return the refusal for an answer without an image."""
    if reply.status in TIMEOUTS or (end is None and (reply.status < 300 or reply.status >= 500)):
        # An image may have been made: a proxy on the way gave up waiting, or a 200 holds neither image nor error.
        return outage(f"upstream {reply.status} without an answer of Ark's", may_have_run=True)
    said = None if end is None else {"error": {"code": end.code, "message": end.message, "param": end.param}}
    return creation_refusal(reply.status, said, FIELD_NAMES, upstream_model=upstream_model)


def _restarting(*, asked: bool) -> GatewayError:
    """Return the error of a call that the process's end cut. Once the upstream was asked it may make the images, and charge them."""
    if asked:
        return ModelUnavailableError("The gateway is restarting; it is not known whether images were made", should_retry=False)
    return ModelUnavailableError("The gateway is restarting", retry_after_seconds=1)
