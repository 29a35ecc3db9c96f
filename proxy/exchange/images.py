"""One image call from its hold to its settlement."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import orjson

from proxy.billing.holds import Billing, Hold
from proxy.billing.idempotency import kept
from proxy.billing.retries import UndeliveredError
from proxy.clock import Clock
from proxy.core.ark.creation import creation_refusal
from proxy.core.ark.refusal import TIMEOUTS, Refusal, outage, with_delay
from proxy.core.ark.text import ArkError
from proxy.core.catalog import ImagePrice, Kind, Model
from proxy.core.errors import GatewayError, ModelUnavailableError
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
from proxy.core.settlement import Outcome, Settlement, UsageSource
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.exchange.flight import Relay
from proxy.live.settings import Settings
from proxy.store.values import IdempotencyClaim, NewRequest, StoredAnswer
from proxy.telemetry.metrics import Metrics
from proxy.upstream.ark_client import ArkClient, Reply
from proxy.upstream.failures import UpstreamFailure
from proxy.upstream.http1.upload import REPEATABLE_BYTES_MAX

_OURS = frozenset({Outcome.COMPLETE, Outcome.INTERRUPTED})
"""Outcomes that are no failure of the upstream. If the client has left, CLIENT_GONE replaces them."""


class Generations:
    """Carries out image calls."""

    def __init__(self, billing: Billing, relay: Relay, clock: Clock, metrics: Metrics) -> None:
        self._billing = billing
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
        advise = partial(hold_advice, call.n, model.price, context.grant.discount)
        request = self._request(context, settings, model, call, claim)
        admission = None if context.bounds is None else context.bounds.rates.admit(0, self.clock.monotonic())
        hold = await self._billing.hold(request, advise, admission)
        generation = Generation(self, context, model, call.n, hold)
        try:
            bodies = dict(enumerate(upstream_bodies(call, model.upstream_model)))
            del call  # its input pictures can be tens of megabytes, and images take long
            return await generation.run(settings.upstreams[model.upstream].client, bodies)
        finally:
            generation.close()

    def _request(
        self, context: Context, settings: Settings, model: Model, call: ImageCall, claim: IdempotencyClaim | None
    ) -> NewRequest:
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
    )

    def __init__(self, generations: Generations, context: Context, model: Model, n: int, hold: Hold) -> None:
        assert isinstance(model.price, ImagePrice)
        assert context.grant is not None
        self._discount = context.grant.discount
        self._context = context
        self._model = model
        self._price = model.price
        self._n = self._unsent = n
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

    async def run(self, client: ArkClient, bodies: dict[int, UpstreamBody]) -> Response:
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
                await self._ask_for_all(client, bodies)
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

    async def _ask_for_all(self, client: ArkClient, bodies: dict[int, UpstreamBody]) -> None:
        """Fill in `_ends`, until all are there or the flight's deadline expires."""
        asked_at = self._clock.monotonic()
        try:
            calls = [self._ask(client, index, bodies) for index in range(self._n)]
            bugs = [fault for fault in await asyncio.gather(*calls, return_exceptions=True) if fault is not None]
        finally:
            self._context.upstream_seconds = self._clock.monotonic() - asked_at
        if bugs:
            raise bugs[0]

    async def _ask(self, client: ArkClient, index: int, bodies: dict[int, UpstreamBody]) -> None:
        try:
            self._ends[index] = await self._end_of(client, bodies.pop(index))
        except UpstreamFailure as failure:
            self._ends[index] = self._failed(failure)

    async def _end_of(self, client: ArkClient, body: UpstreamBody) -> ImageResult | Refusal:
        """Ask for one image; ask again without each optional field that the model refuses."""
        while True:
            own, kept = body.own, body if self._may_be_repeated(body) else None
            pieces = body.pieces()
            del body
            reply = await client.create_image(pieces, None if kept else self._let_go)
            self._context.first_byte_at = self._context.first_byte_at or self._clock.monotonic()
            end = parse_image_answer(reply.status, reply.answer)
            if isinstance(end, ImageResult):
                self._accepted.update(self._optional(own))
                return end
            fewer = None if end is None else without_refused(kept or UpstreamBody(own, b""), end)
            if fewer is None:
                return self._counted(with_delay(_refusal(reply, end, self._model.upstream_model), reply.retry_after))
            if kept is None:
                self._accepted.difference_update(self._optional(own))
                return self._counted(outage("the model refuses a field that it took before"), "error")
            body = fewer
            del kept, fewer

    def _may_be_repeated(self, body: UpstreamBody) -> bool:
        """Return whether a body is kept until it is answered: a short one, or one with a field that the model may refuse."""
        return len(body.shared) <= REPEATABLE_BYTES_MAX or not self._accepted.issuperset(self._optional(body.own))

    def _optional(self, own: Mapping[str, object]) -> set[tuple[str, str, str]]:
        return {(self._model.upstream, self._model.upstream_model, name) for name in OPTIONAL & own.keys()}

    def _let_go(self) -> None:
        """Count a body as sent, and nothing any more once all are: they share their pictures."""
        self._unsent -= 1
        if not self._unsent and self._context.intake is not None:
            self._context.intake.release()

    def _failed(self, failure: UpstreamFailure) -> Refusal:
        self._unknown += not failure.is_unasked
        return self._counted(outage(str(failure), may_have_run=not failure.is_unasked), failure.cause)

    def _counted(self, refusal: Refusal, cause: str = "") -> Refusal:
        if refusal.outcome is not Outcome.REFUSED:
            self._metrics.upstream_failed(self._model.upstream, cause or ("operator" if refusal.operator else "error"))
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
            first_byte_ms=_ms(context.first_byte_at, context.received_at),
            total_ms=_ms(self._clock.monotonic(), context.received_at),
            note=note,
        )
        self._hold.settle(context.settlement, answer)


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


def _ms(at: float | None, since: float) -> int | None:
    return None if at is None else round((at - since) * 1000)
