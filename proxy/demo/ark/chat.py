"""`POST /chat/completions`: Ark's validations, and a reply as JSON or as the events of a stream, key by key in Ark's order."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.clock import Clock
from proxy.demo.ark.call import Call
from proxy.demo.ark.chat_reply import ChatReply, Said, say
from proxy.demo.ark.dialect import Account, ArkError, head, invalid, missing
from proxy.demo.ark.reply import ark_headers, asked, reply
from proxy.demo.ark.script import LAST_CHUNK, Pause, Send, Step, Stream, chunk

_ROLES = ("system", "assistant", "user", "tool", "function")
_REPLY_THINKING = ChatReply(reasoning="The user says hello; a greeting is due.", completion_tokens=21, reasoning_tokens=9)


@dataclass(frozen=True, slots=True)
class _Heading:
    """The bytes before and after `choices`, which are the same in every event of one stream and are rendered once."""

    tail: bytes
    tail_of_usage: bytes

    @classmethod
    def of(cls, call: Call, created: int, model: str) -> "_Heading":
        named = orjson.dumps({"created": created, "id": call.request_id, "model": model})[1:-1]
        return cls(
            tail=b"," + named + b',"service_tier":"default","object":"chat.completion.chunk","usage":',
            tail_of_usage=b'data: {"choices":[],' + named + b',"object":"chat.completion.chunk","usage":',
        )


class Chat:
    """The default behaviour of chat.

    Attributes:
        reply: used when neither `enqueue` nor `replies` has a reply for the call.
        replies: replies by requested model.
        first_byte_seconds: delay before the head of any answer.
        event_seconds: delay between two events of a stream.
        compresses: gzip JSON answers for a client that accepts gzip, as Ark was seen to do.
    """

    def __init__(self, account: Account, clock: Clock) -> None:
        self.reply = ChatReply()
        self.replies: dict[str, ChatReply] = {}
        self.first_byte_seconds = 0.0
        self.event_seconds = 0.0
        self.compresses = True
        self._account = account
        self._clock = clock
        self._next: deque[ChatReply] = deque()

    def enqueue(self, *replies: ChatReply) -> None:
        """Use these replies for the next valid calls, one each."""
        self._next.extend(replies)

    def answer(self, call: Call) -> Sequence[Step]:
        """Return the script of a chat answer. Raises: ArkError: 400 or 404, as Ark validates."""
        wanted = asked(call)
        model = self._account.model(wanted.get("model"), "chat")
        _validate(wanted)
        said = say(self._choose(wanted, model), wanted)
        created = self._clock.now_ms() // 1000
        pause: list[Step] = [Pause(self.first_byte_seconds)] if self.first_byte_seconds else []
        if not wanted.get("stream"):
            return [*pause, *reply(call, _completion(call, said, created, model), may_gzip=self.compresses)]
        headers = [*ark_headers(call, "text/event-stream"), ("transfer-encoding", "chunked")]
        pieces = _events(said, _Heading.of(call, created, model), wanted.get("stream_options") or {})
        return [*pause, Send(head(200, headers)), Stream(_chunked(pieces), self.event_seconds)]

    def _choose(self, wanted: dict[str, Any], model: str) -> ChatReply:
        if self._next:
            return self._next.popleft()
        if (reply_of_model := self.replies.get(wanted["model"])) is not None:
            return reply_of_model
        thinks = "doubao-seed-" in model and (wanted.get("thinking") or {}).get("type") != "disabled"
        return _REPLY_THINKING if thinks and self.reply == ChatReply() else self.reply


def _completion(call: Call, said: Said, created: int, model: str) -> dict[str, Any]:
    choices = [
        {"finish_reason": said.finish_reason, "index": index, "logprobs": None, "message": said.message()}
        for index in range(said.choices)
    ]
    return {
        "choices": choices,
        "created": created,
        "id": call.request_id,
        "model": model,
        "service_tier": "default",
        "object": "chat.completion",
        "usage": said.usage(),
    }


def _events(said: Said, heading: _Heading, options: dict[str, Any]) -> Iterator[bytes]:
    """Yield the events one by one, so that thousands of open streams do not keep unsent bytes in memory."""
    cumulative = bool(options.get("chunk_include_usage"))
    usage = b"null"
    for index in range(said.choices):
        ending = b',"index":%d}]' % index
        for done, delta in enumerate(said.deltas(), start=1):
            if cumulative:
                usage = orjson.dumps(said.usage_after(index, done))
            yield b'data: {"choices":[{"delta":%b%b%b%b}\n\n' % (delta, ending, heading.tail, usage)
        if cumulative:
            usage = orjson.dumps(said.usage_after(index, None))
        reason = b',"finish_reason":%b' % orjson.dumps(said.finish_reason)
        last = b'{"content":"","role":"assistant"}'
        yield b'data: {"choices":[{"delta":%b%b%b%b%b}\n\n' % (last, reason, ending, heading.tail, usage)
    if options.get("include_usage"):
        yield heading.tail_of_usage + orjson.dumps(said.usage()) + b"}\n\n"
    yield b"data: [DONE]\n\n"


def _chunked(events: Iterator[bytes]) -> Iterator[bytes]:
    """Yield one chunk per event. The empty last chunk is sent together with the last event, as proxies do."""
    held = next(events)
    for event in events:
        yield chunk(held)
        held = event
    yield chunk(held) + LAST_CHUNK


def _validate(wanted: dict[str, Any]) -> None:
    messages = wanted.get("messages")
    if not messages:
        raise missing("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise invalid("messages", "it has to be an array of objects")
    for message in messages:
        _validate_role(message.get("role"))
    if wanted.get("max_tokens") is not None and wanted.get("max_completion_tokens") is not None:
        raise invalid("max_tokens", "max_tokens and max_completion_tokens cannot be set at the same time")
    for name in ("max_tokens", "max_completion_tokens", "n"):
        _validate_count(name, wanted.get(name))
    _validate_range("temperature", wanted.get("temperature"), 2)
    _validate_range("top_p", wanted.get("top_p"), 1)


def _validate_role(role: object) -> None:
    if role not in _ROLES:
        supported = ", ".join(f"`{name}`" for name in _ROLES)
        message = (
            "The parameter `messages.role` specified in the request are not valid: "
            f"invalid value: `{role}`, supported values are: {supported}."
        )
        raise ArkError(400, "InvalidParameter", message, "messages.role")


def _validate_count(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise invalid(name, f"expected a positive integer, but got `{value}` instead")


def _validate_range(name: str, value: object, top: float) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= top:
        raise invalid(name, f"expected a value between 0 and {top}, but got `{value}` instead")
