"""A chat request: its checks, its measures for the hold, and the body to send upstream.

Only fields that the price or the protocol depends on are checked here; all others pass unchanged. The body sent is always our own
serialisation of what was parsed, so that no upstream can read a duplicate or differently written key in another way than we did.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from proxy.core.catalog import ChatPrice, Model
from proxy.core.errors import InvalidJsonError, InvalidMessagesError, InvalidParameterError, MissingModelError
from proxy.core.fields import encode, refuse_other_case
from proxy.core.money import Nanos
from proxy.core.pricing import hold_for_chat, prompt_tokens_max

ROLES = ("user", "assistant", "system", "tool", "developer")
OUTPUT_TOKENS_MAX = 10_000_000
CHOICES_MAX = 128
MESSAGES_MAX = 10_000
PARTS_MAX = 10_000
"""In all messages together."""
FIELDS_MAX = 256
"""Of a body, and of a message: measuring runs on the event loop, before it is known that the customer can pay."""

PRICED_KEYS = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "stream",
        "stream_options",
        "service_tier",
        "tools",
        "tool_choice",
    }
    | {"functions", "response_format", "thinking", "reasoning_effort", "include_usage", "chunk_include_usage"}
)
"""Keys that a price depends on. An upstream that reads keys without regard to case would take ``Max_Tokens`` for one of them."""

KNOWN_KEYS = PRICED_KEYS | {
    "temperature",
    "top_p",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "parallel_tool_calls",
    "user",
}
"""With the other most common keys: a body without any others needs no look at each key."""

MEDIA_KEYS = frozenset({"image_url", "video_url", "input_audio", "file"})
"""Keys of a part that hold media, not prompt text: they are bounded by a figure, not by the length of their base64."""

NO_TEXT_KEYS = frozenset({"messages", "thinking", "stream_options"})
"""Structured fields that put no text of their own into the prompt, or are measured elsewhere."""

THINKING_KEYS = frozenset({"type"})
MESSAGE_KEYS = frozenset({"role", "content", "tool_calls"})
PART_KEYS = MEDIA_KEYS | {"type", "text"}

SERVICE_TIERS = (None, "auto", "default")

WHOLE_MAX = 2.0**63
"""Integers beyond 64 bits are read as floats, and would be sent as another number than the client wrote."""

Body = dict[str, Any]
_STRUCTURED = (dict, list)


class ChatCall(Struct):
    """A checked request, with the figures that bound its price. Only `forget_body` changes it."""

    fields: Body
    """The client's fields, and those that the model's `request_defaults` add."""
    stream: bool
    include_usage: bool
    """True if the client itself asked for the usage event of a stream."""
    choices: int
    """Answers asked for: `n`."""
    text_bytes: int
    """UTF-8 bytes of all text sent upstream: messages, tools and formats."""
    messages: int
    media_tokens: int
    """Upper bound for pictures and other media in the prompt."""
    output_tokens_max: int
    """Upper bound of completion tokens, all choices together."""

    def hold_nanos(self, price: ChatPrice) -> Nanos:
        """Return the worst case of what this call may cost."""
        return hold_for_chat(price, prompt_tokens_max(self.text_bytes, self.messages, self.media_tokens), self.output_tokens_max)

    def forget_body(self) -> None:
        self.fields = {}


def requested_model(body: object) -> str:
    """Return the model id that a request body names.

    Raises:
        InvalidJsonError: the body is no JSON object.
        MissingModelError: no model is named.
        InvalidParameterError: `model` is no string, or a priced key is written in another case.
    """
    if not isinstance(body, dict):
        raise InvalidJsonError("The request body must be a JSON object")
    if len(body) > FIELDS_MAX:
        raise InvalidParameterError(f"The request body has more than {FIELDS_MAX} fields")
    if not KNOWN_KEYS.issuperset(body):
        refuse_other_case(body, PRICED_KEYS)
    for value in body.values():
        if type(value) is float and not -WHOLE_MAX < value < WHOLE_MAX:
            key = next(key for key in body if body[key] is value)[:64]
            raise InvalidParameterError(f"The number of {key!r} is too large", param=key)
    model = body.get("model")
    if type(model) is str and model:
        return model
    if model is None or model == "":
        raise MissingModelError("The request body has no 'model'", param="model")
    raise InvalidParameterError("'model' must be a string", param="model")


def parse_chat_call(body: Body, model: Model) -> ChatCall:
    """Return the checked call. Fields that the model's defaults add are measured like the client's.

    Raises:
        InvalidMessagesError: `messages` is malformed; `param` names the place.
        InvalidParameterError: a field that the price depends on has a wrong type or range.
    """
    body = {**model.request_defaults, **body}
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidMessagesError("'messages' must be a non-empty array", param="messages")
    if len(messages) > MESSAGES_MAX:
        raise InvalidMessagesError(f"'messages' has more than {MESSAGES_MAX} entries", param="messages")
    if body.get("service_tier") not in SERVICE_TIERS:
        raise InvalidParameterError("'service_tier' must be 'auto' or 'default' for this model", param="service_tier")
    stream = _flag(body, "stream", "stream")
    include_usage = stream and _include_usage(body)
    text_bytes, media_tokens = _measure_messages(messages, model)
    choices = (_whole(body, "n", CHOICES_MAX) or 1) if "n" in body else 1
    return ChatCall(
        fields=body,
        stream=stream,
        include_usage=include_usage,
        choices=choices,
        text_bytes=text_bytes + _other_text_bytes(body),
        messages=len(messages),
        media_tokens=media_tokens,
        output_tokens_max=_output_tokens_max(body, model) * choices,
    )


def upstream_body(call: ChatCall, model: Model) -> bytes:
    """Return the body to send upstream: `model` renamed, ``developer`` as ``system``, usage always asked for.

    Raises:
        InvalidJsonError: nested too deeply to be serialised.
    """
    fields = {**call.fields, "model": model.upstream_model}
    for message in fields["messages"]:
        if message["role"] == "developer":
            fields["messages"] = [{**each, "role": "system"} if each["role"] == "developer" else each for each in fields["messages"]]
            break
    if call.stream:
        fields["stream_options"] = {**(call.fields.get("stream_options") or {}), "include_usage": True}
    return encode(fields)


def _refuse_messages_in_other_case(keys: Mapping[str, object], known: frozenset[str], where: str) -> None:
    try:
        refuse_other_case(keys, known)
    except InvalidParameterError as fault:
        raise InvalidMessagesError(fault.message, param=f"{where}.{fault.param}") from None


def _include_usage(body: Body) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise InvalidParameterError("'stream_options' must be an object", param="stream_options")
    refuse_other_case(options, PRICED_KEYS)
    _flag(options, "chunk_include_usage", "stream_options.chunk_include_usage")
    return _flag(options, "include_usage", "stream_options.include_usage")


def _flag(body: Body, key: str, param: str) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidParameterError(f"'{param}' must be a boolean", param=param)
    return bool(value)


def _whole(body: Body, key: str, most: int) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidParameterError(f"'{key}' must be an integer from 1 to {most}", param=key)
    return value


def _output_tokens_max(body: Body, model: Model) -> int:
    """Bound one choice. ``max_tokens`` limits the answer alone, ``max_completion_tokens`` the chain of thought too (Ark, chat page)."""
    answer = _whole(body, "max_tokens", OUTPUT_TOKENS_MAX)
    everything = _whole(body, "max_completion_tokens", OUTPUT_TOKENS_MAX) if "max_completion_tokens" in body else None
    if everything is not None:
        return max(everything, answer or 0)
    return (answer or model.output_tokens_max) + (model.reasoning_tokens_max if _may_think(body) else 0)


def _may_think(body: Body) -> bool:
    """Return whether a model that can think may do so: not if `thinking` is disabled and no effort is asked for."""
    thinking = body.get("thinking")
    if not isinstance(thinking, dict):
        return True
    refuse_other_case(thinking, THINKING_KEYS)
    return thinking.get("type") != "disabled" or body.get("reasoning_effort") is not None


def _measure_messages(messages: list[Any], model: Model) -> tuple[int, int]:
    """Check all messages and return their text in bytes and their media in tokens."""
    text_bytes = media_tokens = 0
    odd: list[int] = []
    parts = 0
    for index, message in enumerate(messages):
        if (
            type(message) is dict
            and len(message) == 2
            and type(content := message.get("content")) is str
            and message.get("role") in ROLES
        ):
            text_bytes += len(content) if content.isascii() else len(content.encode())
        else:
            odd.append(index)
            parts += _parts_of(message)
    if not odd:
        return text_bytes, 0
    if parts > PARTS_MAX:
        raise InvalidMessagesError(f"'messages' has more than {PARTS_MAX} parts", param="messages")
    for index in odd:
        text, media = _measure_message(messages[index], f"messages[{index}]", model)
        text_bytes += text
        media_tokens += media
    return text_bytes, media_tokens


def _parts_of(message: object) -> int:
    content = message.get("content") if isinstance(message, dict) else None
    return len(content) if isinstance(content, list) else 0


def _measure_message(message: object, where: str, model: Model) -> tuple[int, int]:
    """Check one message and return its text in bytes and its media in tokens."""
    if not isinstance(message, dict):
        raise InvalidMessagesError(f"'{where}' must be an object", param=where)
    if message.get("role") not in ROLES:
        raise InvalidMessagesError(f"'{where}.role' must be one of system, developer, user, assistant, tool", param=f"{where}.role")
    content = message.get("content")
    text = media = 0
    if isinstance(content, str):
        text = utf8_bytes(content)
    elif isinstance(content, list):
        text, media = _measure_parts(content, f"{where}.content", model)
    elif content is not None or not _has_tool_calls(message, where):
        raise InvalidMessagesError(f"'{where}.content' must be a string or a non-empty array of parts", param=f"{where}.content")
    if len(message) > FIELDS_MAX:
        raise InvalidMessagesError(f"'{where}' has more than {FIELDS_MAX} fields", param=where)
    _refuse_messages_in_other_case(message, MESSAGE_KEYS, where)
    text += sum(_text_of(value) for key, value in message.items() if key not in ("role", "content"))
    return text, media


def _has_tool_calls(message: Body, where: str) -> bool:
    calls = message.get("tool_calls")
    if calls is None:
        return False
    if message["role"] != "assistant" or not isinstance(calls, list) or not calls or not all(isinstance(call, dict) for call in calls):
        raise InvalidMessagesError(
            f"'{where}.tool_calls' must be a non-empty array of objects, in a message of the assistant", param=f"{where}.tool_calls"
        )
    return True


def _measure_parts(parts: list[Any], where: str, model: Model) -> tuple[int, int]:
    if not parts:
        raise InvalidMessagesError(f"'{where}' must be a string or a non-empty array of parts", param=where)
    text = media = 0
    for index, part in enumerate(parts):
        place = f"{where}[{index}]"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise InvalidMessagesError(f"'{place}' must be an object with a 'type'", param=place)
        match part["type"]:
            case "text":
                if not isinstance(part.get("text"), str):
                    raise InvalidMessagesError(f"'{place}.text' must be a string", param=f"{place}.text")
                media += _stray_media_tokens(part, model)
            case "image_url":
                _check_image(part, place)
                media += model.image_tokens
                media += _stray_media_tokens(part, model)
            case _:
                # Video, audio, files: nothing published bounds them but the context itself.
                media += max(model.context_tokens, model.image_tokens)
        if len(part) > 2:
            _refuse_messages_in_other_case(part, PART_KEYS, place)
        text += sum(_text_of(value) for key, value in part.items() if key != "type" and key not in MEDIA_KEYS)
    return text, media


def _stray_media_tokens(part: Body, model: Model) -> int:
    """Bound media that a part has beside what its type names: an upstream might read them all the same."""
    if len(part) <= 2:
        return 0
    stray = MEDIA_KEYS & part.keys() - {part["type"]}
    return len(stray) * max(model.context_tokens, model.image_tokens)


def _check_image(part: Body, place: str) -> None:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str) or not url:
        raise InvalidMessagesError(f"'{place}.image_url.url' must be a URL", param=f"{place}.image_url.url")


def _other_text_bytes(body: Body) -> int:
    """Count what else may end up in the prompt: tools, functions, formats, and any structured field that we do not know."""
    size = 0
    for key, value in body.items():
        if type(value) in _STRUCTURED and key not in NO_TEXT_KEYS:
            size += len(encode(value))
    return size


def _text_of(value: object) -> int:
    if isinstance(value, str):
        return utf8_bytes(value)
    return len(encode(value)) if isinstance(value, (dict, list)) else 0


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
