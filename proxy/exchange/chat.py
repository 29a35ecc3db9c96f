"""One chat call from its hold to its settlement."""

from dataclasses import dataclass
from typing import Any

import orjson

from proxy.billing.holds import Billing, Hold
from proxy.billing.idempotency import kept
from proxy.clock import Clock
from proxy.core.ark.lenient_json import read_mended
from proxy.core.ark.refusal import Refusal, outage, read_refusal
from proxy.core.ark.text import read_error
from proxy.core.catalog import ChatPrice, Kind, Model
from proxy.core.chat.request import ChatCall, upstream_body, utf8_bytes
from proxy.core.chat.settling import Seen, conclude
from proxy.core.chat.tap import Tap
from proxy.core.chat.usage import parse_usage, plain_usage, read_plain_answer
from proxy.core.errors import GatewayError, InternalError, ModelUnavailableError
from proxy.core.pricing import PROMPT_BYTES_PER_TOKEN_MAX
from proxy.core.settlement import Outcome, TokenUsage
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.exchange.flight import Flight, Relay
from proxy.live.settings import Settings
from proxy.store.values import NewRequest, StoredAnswer
from proxy.telemetry.metrics import Metrics
from proxy.upstream.http1.pool import Answer, UpstreamBrokenError, UpstreamFailure

PATH = "/chat/completions"


ANSWER_BYTES_MAX = 64 * 1024 * 1024


ERROR_BYTES_MAX = 256 * 1024


EVENT_STREAM = "text/event-stream"


_CHAT, _COMPLETE, _CLIENT_GONE = Kind.CHAT, Outcome.COMPLETE, Outcome.CLIENT_GONE


@dataclass(frozen=True, slots=True)
class _Parts:
    """What every exchange works with."""

    billing: Billing
    relay: Relay
    clock: Clock
    metrics: Metrics


class _Exchange:
    """One call from its hold to its settlement."""

    __slots__ = (
        "_asked_at",
        "_began",
        "_call",
        "_context",
        "_flight",
        "_hold",
        "_model",
        "_parts",
        "_request",
        "_response",
        "_settings",
        "_tap",
    )

    _flight: Flight
    _hold: Hold

    def __init__(self, parts: _Parts, settings: Settings, context: Context, model: Model, call: ChatCall, request: NewRequest) -> None:
        self._parts = parts
        self._settings = settings
        self._context = context
        self._model = model
        self._call = call
        self._request = request
        self._asked_at: float | None = None
        self._began = False
        """The upstream's answer has begun, and is none of an error."""
        self._tap: Tap | None = None
        self._response: Response | None = None

    async def run(self) -> Response:
        """Hold, ask, relay, settle; the answer is complete, or its error raised, once the settlement is durable.

        Raises:
            GatewayError: what the customer is told instead of an answer.
            ConnectionError: the client left before its answer began; the call is settled.
        """
        context, parts = self._context, self._parts
        upward = upstream_body(self._call, self._model)
        self._hold = await parts.billing.hold(self._request)
        flight = self._flight = parts.relay.depart(context.request.connection, self._request.account_id)
        try:
            try:
                with flight.deadline:
                    if flight.is_over():
                        raise TimeoutError  # over before anything was asked
                    self._asked_at = parts.clock.monotonic()
                    answer = await self._settings.upstreams[self._model.upstream].pool.ask(PATH, upward)
                    del upward
                    context.first_byte_at = parts.clock.monotonic()
                    raw = self._at_hand(answer)
                    result = await self._take(answer) if raw is None else self._whole(raw)
            except TimeoutError:
                result = self._ended_here()
            except UpstreamFailure as failure:
                result = self._failed(failure)
            finally:
                parts.relay.land(flight)  # what happens to the client from here on changes nothing
            try:
                await self._hold.settled()
            except InternalError:
                if self._response is None:  # a stream has been sent by now, and ends as it should even if its settlement takes longer
                    raise
        finally:
            self._close()
        if self._response is None and flight.has_client_left():
            raise ConnectionResetError("the client left")
        if isinstance(result, GatewayError):
            raise result
        return result

    def _close(self) -> None:
        """Leave no hold behind, whatever ended the call."""
        self._context.body_bytes = self._flight.sent_bytes()
        if self._context.settlement is None:
            self._break_off(Outcome.INTERRUPTED, _restarting(), "the handler was cancelled")

    def _at_hand(self, answer: Answer) -> bytes | None:
        """Return a JSON answer that is here whole, as nearly all are when their head is; None: see what it is, and wait for it."""
        if self._call.stream or answer.status != 200 or answer.header(b"content-encoding") is not None:
            return None
        raw = answer.at_hand()
        self._began = raw is not None
        return raw

    async def _take(self, answer: Answer) -> Response | GatewayError:
        if answer.status != 200:
            return self._refused(
                read_refusal(answer.status, await answer.read(ERROR_BYTES_MAX), upstream_model=self._model.upstream_model)
            )
        if (answer.header(b"content-encoding") or b"identity").lower() != b"identity":
            answer.abort()
            raise UpstreamBrokenError("upstream: a compressed answer, though none was asked for")
        self._began = True
        if self._call.stream and (answer.header(b"content-type") or b"").lower().startswith(EVENT_STREAM.encode()):
            return await self._stream(answer)
        return self._whole(await answer.read(ANSWER_BYTES_MAX))

    # one JSON answer

    def _whole(self, raw: bytes) -> Response | GatewayError:
        answer = read_plain_answer(raw)
        if answer is None:
            return self._doubtful(raw)
        return self._answered(raw, answer.id, plain_usage(answer))

    def _doubtful(self, raw: bytes) -> Response | GatewayError:
        """Take what is an error, or an answer that lacks its usage, or JSON to some only."""
        try:
            parsed = orjson.loads(raw)
        except orjson.JSONDecodeError:
            parsed = read_mended(raw)
        is_answer = isinstance(parsed, dict) and isinstance(parsed.get("choices"), list) and not parsed.get("error")
        if not is_answer or read_error(200, parsed) is not None:
            return self._refused(read_refusal(200, parsed or {}, upstream_model=self._model.upstream_model))
        usage = parse_usage(parsed.get("usage"))
        tokens_min = _text_bytes(parsed) // PROMPT_BYTES_PER_TOKEN_MAX if usage is None else 0
        return self._answered(raw, parsed.get("id"), usage, tokens_min)

    def _answered(self, raw: bytes, upstream_id: object, usage: TokenUsage | None, completion_tokens_min: int = 0) -> Response:
        self._settle(
            self._outcome(_COMPLETE),
            usage=usage,
            began=True,
            completion_tokens_min=completion_tokens_min,
            upstream_id=upstream_id[:128] if isinstance(upstream_id, str) else "",
            answer=None if self._request.claim is None else kept(self._request.claim, 200, raw),
        )
        return self._context.answer(raw)

    # a stream

    async def _stream(self, answer: Answer) -> Response:
        tap = self._tap = Tap(withhold_usage=not self._call.include_usage)
        self._add_stream_headers()
        response = self._response = self._context.begin_stream()
        with self._parts.metrics.open_streams.track_inprogress():
            failure = await self._flight.splice(answer, tap, chunked=self._context.request.takes_chunks)
        self._end_stream(Outcome.UPSTREAM_CUT, "the stream ended without [DONE]" if failure is None else str(failure))
        return response

    def _add_stream_headers(self) -> None:
        headers = self._context.headers
        headers["Content-Type"] = EVENT_STREAM
        headers["Cache-Control"] = "no-cache"
        headers["X-Accel-Buffering"] = "no"  # an nginx in front would hold the stream back

    def _end_stream(self, cut: Outcome, note: str) -> None:
        """Settle a stream that has ended: ``cut`` and ``note`` tell by what, if it was not whole."""
        tap = self._tap
        assert tap is not None
        if tap.error is not None:
            refusal = read_refusal(200, tap.error, upstream_model=self._model.upstream_model)
            self._break_off(refusal.outcome, refusal.error, refusal.note)
        elif not tap.done:
            error = _restarting() if cut is Outcome.INTERRUPTED else ModelUnavailableError("The model's answer broke off")
            self._break_off(cut, error, note)
        else:
            self._settle_stream(Outcome.COMPLETE)

    def _break_off(self, outcome: Outcome, error: GatewayError, note: str) -> None:
        """End a call before its time; where a stream had begun, by an error event, and its body ends without ``[DONE]``."""
        if self._tap is None:
            # Of a JSON answer the customer has nothing: whoever ended it bears the cost, and that is us unless the client left.
            self._settle(outcome, began=self._began and outcome is Outcome.CLIENT_GONE, status=error.status, note=note)
            return
        self._context.code = error.code
        self._flight.write(b"data: " + orjson.dumps(error.body()) + b"\n\n")
        if outcome in (Outcome.UPSTREAM_CUT, Outcome.UPSTREAM_ERROR):
            self._parts.metrics.upstream_failed(self._model.upstream, outcome)
        self._settle_stream(outcome, note)

    def _settle_stream(self, outcome: Outcome, note: str = "") -> None:
        tap = self._tap
        assert tap is not None
        self._settle(
            self._outcome(outcome),
            usage=tap.usage,
            began=tap.error is None or tap.content_events > 0,
            completion_tokens_min=tap.content_events,
            upstream_id=tap.upstream_id,
            note=note,
        )

    def _outcome(self, outcome: Outcome) -> Outcome:
        return _CLIENT_GONE if self._flight.has_client_left() else outcome

    def _is_unheard(self, outcome: Outcome) -> bool:
        """Whether the client left before anything was answered."""
        if self._response is not None or outcome is _COMPLETE:
            return False
        return outcome is _CLIENT_GONE or self._flight.has_client_left()

    # other ends

    def _ended_here(self) -> Response | GatewayError:
        """End a call whose client left, or whose process is ending, before the upstream was done."""
        outcome = self._outcome(self._flight.cause or Outcome.INTERRUPTED)
        if self._response is not None:
            self._end_stream(outcome, "the upstream was not done")
            return self._response
        self._break_off(outcome, error := _restarting(), "the upstream was not done")
        return error

    def _failed(self, failure: UpstreamFailure) -> GatewayError:
        return self._refused(outage(str(failure)), failure.cause)

    def _refused(self, refusal: Refusal, cause: str = "") -> GatewayError:
        if refusal.outcome is not Outcome.REFUSED:
            self._parts.metrics.upstream_failed(self._model.upstream, cause or ("operator" if refusal.operator else "error"))
        error, claim = refusal.error, self._request.claim
        answer = None if claim is None else kept(claim, error.status, orjson.dumps(error.body()))
        self._settle(refusal.outcome, status=error.status, note=refusal.note, answer=answer)
        return error

    def _settle(
        self,
        outcome: Outcome,
        *,
        usage: TokenUsage | None = None,
        began: bool = False,
        completion_tokens_min: int = 0,
        status: int = 200,
        upstream_id: str = "",
        note: str = "",
        answer: StoredAnswer | None = None,
    ) -> None:
        context, price, now = self._context, self._model.price, self._parts.clock.monotonic()
        assert isinstance(price, ChatPrice)
        if self._asked_at is not None:
            context.upstream_seconds = now - self._asked_at
        seen = Seen(
            outcome=outcome,
            usage=usage,
            began=began,
            completion_tokens_min=completion_tokens_min,
            http_status=0 if self._is_unheard(outcome) else status,
            upstream_id=upstream_id,
            first_byte_ms=_ms(context.first_byte_at, context.received_at),
            total_ms=_ms(now, context.received_at),
            note=note,
        )
        context.settlement = conclude(self._call, price, self._request.hold_nanos, seen, estimate=self._settings.estimate)
        self._hold.settle(context.settlement, answer)


def _restarting() -> GatewayError:
    return ModelUnavailableError("The gateway is restarting", retry_after_seconds=1)


def _ms(at: float | None, since: float) -> int | None:
    return None if at is None else round((at - since) * 1000)


def _text_bytes(answer: dict[str, Any]) -> int:
    """Return the UTF-8 bytes of all that the choices say."""
    choices = answer.get("choices")
    messages = [choice.get("message") for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    texts = [message.get(key) for message in messages if isinstance(message, dict) for key in ("content", "reasoning_content")]
    return sum(utf8_bytes(text) for text in texts if isinstance(text, str))
