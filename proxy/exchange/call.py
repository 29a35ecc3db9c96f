"""One paid call in any `ApiProtocol`, from its hold to its settlement: hold, ask, relay, settle."""

from typing import Any, Generic

import orjson

from proxy.billing.idempotency import kept
from proxy.core.ark.refusal import Refusal, unanswered, with_delay
from proxy.core.catalog import ChatPrice
from proxy.core.chat.settling import Seen, conclude
from proxy.core.errors import GatewayError, InternalError
from proxy.core.health import Trouble, retry_after_seconds
from proxy.core.money import before_discount
from proxy.core.protocol import NOTHING_SEEN, C, SeenAnswer, StreamTap
from proxy.core.settlement import Outcome
from proxy.edge.context import Context
from proxy.edge.intake import Reservation
from proxy.edge.response import Response
from proxy.exchange.attempts import Way, at_hand
from proxy.exchange.ends import ANSWER_BYTES_MAX, ERROR_BYTES_MAX, EVENT_STREAM, broken_off, restarting
from proxy.exchange.parts import Parts
from proxy.exchange.streamed import Streamed
from proxy.live.settings import Settings
from proxy.store.values import NewRequest, StoredAnswer
from proxy.upstream.http1.pool import Answer, UnconfirmedError, Upload, UpstreamBrokenError, UpstreamFailure

_LET_GO: dict[str, Any] = {}
_COMPLETE, _CLIENT_GONE = Outcome.COMPLETE, Outcome.CLIENT_GONE


class Exchange(Generic[C]):
    """One call from its hold to its settlement."""

    __slots__ = (
        "_call",
        "_context",
        "_flight",
        "_hold",
        "_is_refused",
        "_model",
        "_names",
        "_parts",
        "_request",
        "_settings",
        "_streamed",
        "_upload",
        "_way",
    )

    def __init__(self, parts: Parts[C], settings: Settings, context: Context, way: Way, call: C, request: NewRequest) -> None:
        self._parts = parts
        self._settings = settings
        self._context = context
        self._way = way
        self._model = way.target.model
        """The model as it is asked now, by one of its routes."""
        self._call = call
        self._request = request
        self._is_refused = False
        """True once the upstream has told an error, by a status, whatever of its body came, or within a stream."""
        self._streamed: Streamed[C] | None = None
        """Of a call that asks for a stream, once it departs."""

    async def run(self) -> Response:
        """Hold, ask, relay, settle. Return the answer, or raise its error, once the settlement is durable.

        Raises:
            GatewayError: sent to the customer instead of an answer.
            ConnectionError: the client left before its answer began; the call is settled.
        """
        context, parts, way = self._context, self._parts, self._way
        intake = context.intake
        try:
            self._names = parts.protocol.chosen_names(self._call)
            upload = self._written(intake)
            rates = None if context.bounds is None else context.bounds.rates
            tokens = 0 if rates is None else rates.admit(self._call.tokens_counted(), parts.clock.monotonic())
            self._hold = await parts.billing.hold(self._request, self._advice, rates, tokens)
        except BaseException:
            way.untried()
            raise
        flight = self._flight = parts.relay.depart(context.request.connection, self._request.account_id)
        streamed = self._streamed = Streamed(parts, context, flight, way, self._call) if self._call.stream else None
        try:
            try:
                with flight:
                    if flight.is_over():
                        raise TimeoutError  # over before the upstream was asked
                    way.began_at = way.asked_at = parts.clock.monotonic()
                    if streamed is not None and self._settings.early_head_seconds:
                        flight.call_later(self._settings.early_head_seconds, streamed.begin_early)
                    try:
                        answer = await way.target.access.pool.ask(parts.protocol.path, upload)
                        if intake is not None:
                            intake.release()
                        context.first_byte_at = parts.clock.monotonic()
                        raw = at_hand(answer) if streamed is None else None
                        result = await self._take(answer) if raw is None else self._whole(raw)
                    except UpstreamFailure as failure:
                        result = self._failed(failure)
                    if result is None:
                        result = await self._ask_on()
            except TimeoutError:
                result = self._ended_here()
            if streamed is None or streamed.response is None:
                await self._hold.settled()
            else:
                await self._conclude(streamed)
        finally:
            self._close()
        if isinstance(result, GatewayError) or flight.has_client_left():
            return self._raised(result)
        return result

    async def _conclude(self, streamed: Streamed[C]) -> None:
        """End a stream that has been sent, once it is settled.

        In a file, it ends cleanly even if that takes longer. Where others may have settled it otherwise, it ends as cut then.
        """
        try:
            await self._hold.settled()
        except InternalError as error:
            if self._parts.billing.is_shared:
                streamed.forfeited(error)
        else:
            streamed.settled()

    def _raised(self, result: Response | GatewayError) -> Response:
        """Raise what the call came to, unless its answer has begun, which no client that leaves changes."""
        if (self._streamed is None or self._streamed.response is None) and self._flight.has_client_left():
            raise ConnectionResetError("the client left")
        if isinstance(result, GatewayError):
            raise result
        return result

    def _written(self, intake: Reservation | None) -> Upload:
        """Return the body for the first target, and let go of what it was written from."""
        upload = self._upload = Upload(self._parts.protocol.upstream_body(self._call, self._model))
        if not self._way.only:
            self._way.keep(upload.body, self._parts.protocol, self._call)
        self._call.fields = _LET_GO
        if intake is not None:
            intake.set(len(upload.body))
            upload.sent = intake.release
        return upload

    def _advice(self, available_nanos: int) -> str:
        """Return how to lower the hold, for a customer who has no more than this available."""
        assert isinstance(self._model.price, ChatPrice)
        return self._call.hold_advice(self._model.price, before_discount(available_nanos, self._context.discount))

    def _close(self) -> None:
        """Leave no hold behind, whatever ended the call."""
        self._context.body_bytes = self._flight.sent_bytes()
        if self._context.settlement is None:
            self._break_off(Outcome.INTERRUPTED, restarting(), "the handler was cancelled")

    async def _take(self, answer: Answer) -> Response | GatewayError | None:
        """Relay a stream, or wait for a whole body and read it; return None where the next target is to be asked."""
        if answer.status != 200:
            self._is_refused = True
            delay = (answer.header(b"retry-after") or b"").decode("latin-1")
            refusal = with_delay(self._read_refusal(answer.status, await answer.read(ERROR_BYTES_MAX)), delay)
            return self._refused(refusal, retry_after=retry_after_seconds(delay))
        if (answer.header(b"content-encoding") or b"identity").lower() != b"identity":
            answer.abort()
            raise UpstreamBrokenError("upstream: a compressed answer, though none was asked for")
        streamed = self._streamed
        if streamed is not None and (answer.header(b"content-type") or b"").lower().startswith(EVENT_STREAM.encode()):
            return await self._stream(answer, streamed)
        if streamed is not None:
            if streamed.response is not None:
                answer.abort()
                return self._refused(self._read_refusal(200, {}))  # a head went out early, and no stream came
            self._flight.call_off()  # what is no stream has a head of its own
        return self._whole(await answer.read(ANSWER_BYTES_MAX))

    def _read_refusal(self, status: int, body: bytes | dict[str, Any]) -> Refusal:
        return self._parts.protocol.read_refusal(status, body, self._model, self._names)

    # one JSON answer

    def _whole(self, raw: bytes) -> Response | GatewayError | None:
        seen = self._parts.protocol.read_answer(raw, self._model, self._names)
        if isinstance(seen, Refusal):
            return self._refused(seen)
        claim = self._request.claim
        self._way.answered()
        self._settle(self._outcome(_COMPLETE), seen, stored=None if claim is None else kept(claim, 200, raw))
        return self._context.answer(raw)

    # a stream

    async def _stream(self, answer: Answer, streamed: Streamed[C]) -> Response | GatewayError | None:
        stream, tap = streamed.open()
        with self._parts.metrics.open_streams.track_inprogress():
            failure = await self._flight.splice(answer, stream)
        if failure is not None and tap.error is None and not stream.begun:
            raise failure  # as if it had come before the head
        note = "the stream ended without saying how" if failure is None else str(failure)
        return self._end_stream(streamed, tap, Outcome.UPSTREAM_CUT, note)

    def _end_stream(self, streamed: Streamed[C], tap: StreamTap, cut: Outcome, note: str) -> Response | GatewayError | None:
        """Settle a stream that has ended. If it was not whole, ``cut`` and ``note`` say why."""
        if tap.error is not None:
            self._is_refused = True
            return self._refused(self._read_refusal(200, tap.error))
        if not tap.whole:
            error = restarting() if cut is Outcome.INTERRUPTED else broken_off()
            return self._break_off(cut, error, note)
        self._way.answered()
        self._settle(self._outcome(_COMPLETE), tap.seen())
        return streamed.response or restarting()  # no answer has begun: the client has left

    def _break_off(self, outcome: Outcome, error: GatewayError, note: str) -> Response | GatewayError:
        """End a call early. A stream that has begun gets an error event, and its body ends without a last event."""
        streamed = self._streamed
        seen = NOTHING_SEEN if streamed is None else streamed.seen()
        self._way.broke_off(outcome, note, is_asked=self._upload.is_asked)
        if streamed is None or streamed.response is None:
            # The customer got nothing, so whoever ended the call bears its cost: we, unless the client left.
            self._settle(self._outcome(outcome), seen, status=error.status, note=note)
            return error
        if outcome in (Outcome.UPSTREAM_CUT, Outcome.UPSTREAM_ERROR):
            self._parts.metrics.upstream_failed(self._model.upstream, outcome)
        streamed.tell(error)
        self._settle(self._outcome(outcome), seen, note=note)
        return streamed.response

    # other ends

    def _ended_here(self) -> Response | GatewayError:
        """End a call whose client left, or whose process is ending, before the upstream was done."""
        outcome, note = self._outcome(self._flight.cause or Outcome.INTERRUPTED), "the upstream was not done"
        streamed = self._streamed
        if streamed is not None and streamed.tap is not None:
            return self._end_stream(streamed, streamed.tap, outcome, note) or restarting()  # nothing more is asked: the flight is over
        return self._break_off(outcome, restarting(asked=self._upload.is_asked), note)

    def _failed(self, failure: UpstreamFailure) -> Response | GatewayError | None:
        if isinstance(failure, UnconfirmedError):
            return self._break_off(Outcome.INTERRUPTED, restarting(asked=False), str(failure))
        return self._refused(unanswered(str(failure), may_have_run=self._upload.is_asked), failure.cause)

    def _refused(self, refusal: Refusal, cause: str = "", *, retry_after: float | None = None) -> Response | GatewayError | None:
        """End the call by a refusal, or return None: the next target is to be asked."""
        if refusal.outcome is not Outcome.REFUSED:
            self._parts.metrics.upstream_failed(self._model.upstream, cause or ("operator" if refusal.operator else "error"))
        if refusal.trouble is None:
            self._way.refused()
        else:
            self._way.failed(refusal.trouble, retry_after, refusal.note)
            if self._moves(refusal.trouble):
                return None
        error, claim, streamed = refusal.error, self._request.claim, self._streamed
        seen = NOTHING_SEEN if streamed is None else streamed.seen()
        if streamed is not None and streamed.response is not None:
            streamed.tell(error)
            self._settle(self._outcome(refusal.outcome), seen, note=refusal.note)
            return streamed.response
        stored = None if claim is None else kept(claim, error.status, orjson.dumps(error.body()))
        self._settle(refusal.outcome, seen, status=error.status, note=refusal.note, stored=stored)
        return error

    def _moves(self, trouble: Trouble) -> bool:
        """Go on to the next target, if nothing was bought and nothing said yet; return whether there is one."""
        streamed = self._streamed
        if self._flight.is_over() or (streamed is not None and streamed.is_said()):
            return False
        upload = self._way.move(trouble, self._upload, self._parts.protocol)
        if upload is None:
            return False
        self._upload, self._model = upload, self._way.target.model
        self._is_refused = False
        if streamed is not None:
            streamed.begin_anew()
        return True

    async def _ask_on(self) -> Response | GatewayError:
        """Ask the target that `_moves` has found, and those after it, until one ends the call."""
        result: Response | GatewayError | None = None
        while result is None:
            try:
                answer = await self._way.ask(self._parts.protocol.path, self._upload)
                if self._context.intake is not None:
                    self._context.intake.release()
                self._context.first_byte_at = self._parts.clock.monotonic()
                raw = at_hand(answer) if self._streamed is None else None
                result = await self._take(answer) if raw is None else self._whole(raw)
            except UpstreamFailure as failure:
                result = self._failed(failure)
        return result

    def _outcome(self, outcome: Outcome) -> Outcome:
        return _CLIENT_GONE if self._flight.has_client_left() else outcome

    def _is_unheard(self, outcome: Outcome) -> bool:
        """Return whether the client left before anything was answered."""
        if outcome is _COMPLETE or (self._streamed is not None and self._streamed.response is not None):
            return False
        return outcome is _CLIENT_GONE or self._flight.has_client_left()

    def _is_abandoned(self, answer: SeenAnswer) -> bool:
        """Return whether a call whose client left may have been worked on, and neither a usage nor an error was told.

        Count those of which nothing was answered, and those that there was no room to drain: their pictures, for one, were free.
        """
        if answer.usage is not None or not self._upload.is_asked or self._is_refused:
            return False
        if not answer.began or self._flight.is_crowded_out:
            self._parts.relay.abandonment.count(self._request.account_id)
        return True

    def _settle(
        self, outcome: Outcome, answer: SeenAnswer, *, status: int = 200, note: str = "", stored: StoredAnswer | None = None
    ) -> None:
        """Conclude the call and begin to commit its settlement, once; ``stored`` is kept for the request's idempotency key."""
        context, price, now = self._context, self._model.price, self._parts.clock.monotonic()
        assert isinstance(price, ChatPrice)
        assert context.grant is not None
        if self._way.began_at is not None:
            context.upstream_seconds = now - self._way.began_at
        seen = Seen(
            outcome=outcome,
            answer=answer,
            abandoned=outcome is _CLIENT_GONE and self._is_abandoned(answer),
            http_status=0 if outcome is not _COMPLETE and self._is_unheard(outcome) else status,
            first_byte_ms=None if (at := context.first_byte_at) is None else round((at - context.received_at) * 1000),
            total_ms=round((now - context.received_at) * 1000),
            note=note,
            attempts=self._way.told,
        )
        hold_nanos, estimate, discount = self._request.hold_nanos, self._settings.estimate, context.grant.discount
        text_bytes, each = self._call.text_bytes, self._model.estimated_by
        context.settlement = conclude(text_bytes, price, hold_nanos, seen, estimate=estimate, bytes_per_token=each, discount=discount)
        self._hold.settle(context.settlement, stored)
