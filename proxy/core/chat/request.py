"""A chat request: its checks, the bounds of its price, and the body to send upstream.

Only fields that the price or the protocol depends on are checked here; all others pass unchanged. The body sent is always our own
serialisation of what was parsed, so that no upstream can read a duplicate or differently written key in another way than we did.
"""

from typing import Any

from msgspec import Struct

from proxy.core.catalog import ChatPrice, Model
from proxy.core.chat.bounds import OUTPUT_TOKENS_MAX, OutputBound, PromptBound, advice, prompt_bound, refuse_longer, thinking_tokens_max
from proxy.core.chat.measure import FIELDS_MAX, MESSAGES_MAX, Measure, measured, utf8_bytes
from proxy.core.errors import InvalidJsonError, InvalidMessagesError, InvalidParameterError, MissingModelError
from proxy.core.fields import encode, refuse_other_case
from proxy.core.money import Nanos
from proxy.core.pricing import PROMPT_BYTES_PER_TOKEN_MAX, hold_for_chat

CHOICES_MAX = 128

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

NO_TEXT_KEYS = KNOWN_KEYS - {"tools", "tool_choice", "functions", "response_format", "stop"}
"""Fields that put no text of their own into the prompt, or are measured elsewhere."""

INSTRUCTED_KEYS = frozenset({"tools", "functions", "response_format"})
TOKENS_OF_INSTRUCTIONS = 1_024
"""Upper bound of what an upstream writes into the prompt to explain tools or a format: Anthropic's is the longest published, 530."""
TOOL_KEYS = frozenset({"tools", "functions"})
TOKENS_PER_TOOL = 64
"""Around one tool, beside its own JSON: ``{"name":"f"}`` alone may be written with all that is missing."""
CLIENT_TOOLS = frozenset({"function", "custom"})
FETCHING_KEYS = frozenset(
    # Ark's context and OpenAI's and Ark's stored responses; searches of OpenAI, xAI, DashScope, Hunyuan, Qianfan, OpenRouter and Azure
    {"context_id", "previous_response_id", "conversation", "web_search", "web_search_options", "search_parameters", "enable_search"}
    | {"enable_enhancement", "plugins", "data_sources", "mcp_servers", "chat_template"}
)
"""Fields by which an upstream puts text into the prompt that we do not see. Ark ignores most of them just now."""

THINKING_KEYS = frozenset({"type"})
THOUGHT_KEYS = frozenset({"reasoning_effort", "reasoning", "enable_thinking", "thinking_budget", "chat_template_kwargs"})
"""Fields that ask for thinking, of Ark and others, whatever `thinking` says: which of the two counts is the upstream's to say."""

SERVICE_TIERS = (None, "auto", "default")

WHOLE_MAX = 2.0**63
"""Integers beyond 64 bits are read as floats, and would be sent as another number than the client wrote."""

Body = dict[str, Any]
_STRUCTURED = (dict, list)


class ChatCall(Struct):
    """A checked request, with the figures that bound its price. Only `fields` changes: they are let go once they are written."""

    fields: Body
    """The client's fields, and those that the model's `request_defaults` add."""
    stream: bool
    include_usage: bool
    """True if the client itself asked for the usage event of a stream."""
    text_bytes: int
    """UTF-8 bytes of all text sent upstream: messages, tools and formats."""
    prompt: PromptBound
    output: OutputBound

    def tokens_counted(self) -> int:
        """Return the lower bound of the prompt and, where the client limits the answer, that limit; not what is thought besides."""
        output = self.output
        return self.text_bytes // PROMPT_BYTES_PER_TOKEN_MAX + (output.answer_tokens * output.choices if output.limit else 0)

    def hold_nanos(self, price: ChatPrice) -> Nanos:
        """Return the worst case of what this call may cost."""
        return hold_for_chat(price, self.prompt.tokens, self.output.tokens)

    def hold_advice(self, price: ChatPrice, available_nanos: int) -> str:
        """Return what makes the hold as large as it is, and how to lower it; for a customer who cannot pay it."""
        return advice(self.prompt, self.output, price, available_nanos)


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
        ContextLengthError: the text is surely longer than the model's context.
        InvalidParameterError: a field that the price depends on has a wrong type or range.
    """
    body = {**model.first_fields, **body}
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidMessagesError("'messages' must be a non-empty array", param="messages")
    if len(messages) > MESSAGES_MAX:
        raise InvalidMessagesError(f"'messages' has more than {MESSAGES_MAX} entries", param="messages")
    if body.get("service_tier") not in SERVICE_TIERS:
        raise InvalidParameterError("'service_tier' must be 'auto' or 'default' for this model", param="service_tier")
    stream = _flag(body, "stream", "stream")
    include_usage = "stream_options" in body and _include_usage(body) and stream
    measure = measured(messages, model)
    if 0 < model.context_tokens * PROMPT_BYTES_PER_TOKEN_MAX < measure.content_bytes:
        refuse_longer(measure.content_bytes, model)
    if not NO_TEXT_KEYS.issuperset(body):
        _add_fields(measure, body)
    text_bytes = measure.content_bytes + measure.other_bytes
    return ChatCall(
        fields=body,
        stream=stream,
        include_usage=include_usage,
        text_bytes=text_bytes,
        prompt=prompt_bound(measure, text_bytes, len(messages), model),
        output=_output_bound(body, model, measure.content_bytes),
    )


def upstream_body(call: ChatCall, model: Model) -> bytes:
    """Return the body to send upstream: `model` renamed, ``developer`` as ``system``, usage asked for wherever it can be.

    `readdressed` relies on the order: the question for the usage stands last, and `model` first where there are several routes.

    Raises:
        InvalidJsonError: nested too deeply to be serialised.
    """
    fields: Body = {**call.fields, "model": model.upstream_model}
    for message in fields["messages"]:
        if message["role"] == "developer":
            fields["messages"] = [{**each, "role": "system"} if each["role"] == "developer" else each for each in fields["messages"]]
            break
    if call.stream and model.asks_usage:
        fields["stream_options"] = {**(fields.pop("stream_options", None) or {}), "include_usage": True}
    elif "stream_options" in fields:
        del fields["stream_options"]  # refused beside a call that does not stream, and by upstreams that do not know them
    return encode(fields)


def asking(call: ChatCall) -> bytes:
    """Return how a body ends that asks for its usage; empty if it never does, since the call does not stream.

    Raises:
        InvalidJsonError: nested too deeply to be serialised.
    """
    if not call.stream:
        return b""
    return b',"stream_options":%b}' % encode({**(call.fields.get("stream_options") or {}), "include_usage": True})


def readdressed(body: bytes, before: Model, after: Model, asked: bytes) -> bytes:
    """Return a body of `upstream_body` as another route of the model gets it: under its own name, and asked for the usage if it can be.

    By the bytes, in one copy: a body may be long, and what it was written from has been let go.

    Args: asked: the call's `asking`.
    """
    if asked and before.asks_usage is not after.asks_usage:
        cut, ending = (len(asked), b"}") if before.asks_usage else (1, asked)
    elif before.upstream_model == after.upstream_model:
        return body
    else:
        cut, ending = 0, b""
    return b"".join((_begun(after), memoryview(body)[len(_begun(before)) : len(body) - cut], ending))


def _begun(model: Model) -> bytes:
    return b'{"model":' + encode(model.upstream_model)


def _include_usage(body: Body) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise InvalidParameterError("'stream_options' must be an object", param="stream_options")
    _refuse_other_case_within(options, "stream_options", PRICED_KEYS)
    _flag(options, "chunk_include_usage", "stream_options.chunk_include_usage")
    return _flag(options, "include_usage", "stream_options.include_usage")


def _refuse_other_case_within(value: Body, name: str, keys: frozenset[str]) -> None:
    if len(value) > FIELDS_MAX:
        raise InvalidParameterError(f"'{name}' has more than {FIELDS_MAX} fields", param=name)
    refuse_other_case(value, keys)


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


def _output_bound(body: Body, model: Model, content_bytes: int) -> OutputBound:
    """Bound the output. ``max_tokens`` limits the answer alone, ``max_completion_tokens`` the chain of thought too (Ark, chat page)."""
    choices = (_whole(body, "n", CHOICES_MAX) or 1) if "n" in body else 1
    answer = _whole(body, "max_tokens", OUTPUT_TOKENS_MAX)
    everything = _whole(body, "max_completion_tokens", OUTPUT_TOKENS_MAX) if "max_completion_tokens" in body else None
    if everything is not None:
        both = max(everything, answer or 0)
        limit = "max_completion_tokens" if answer is None else "max_tokens' and 'max_completion_tokens"
        return OutputBound(both * choices, both, 0, choices, limit)
    limit = "" if answer is None else "max_tokens"
    answer = answer or model.output_tokens_max
    thinking = thinking_tokens_max(model, content_bytes) if _may_think(body) else 0
    asked_by = ""
    if thinking and not THOUGHT_KEYS.isdisjoint(body):
        asked_by = "' and no '".join(sorted(key for key in THOUGHT_KEYS if body.get(key) is not None))
    return OutputBound((answer + thinking) * choices, answer, thinking, choices, limit, asked_by)


def _may_think(body: Body) -> bool:
    """Return whether a model that can think may do so: not if `thinking` is disabled and nothing else asks for it."""
    thinking = body.get("thinking")
    if not isinstance(thinking, dict):
        return True
    if not THINKING_KEYS.issuperset(thinking):
        _refuse_other_case_within(thinking, "thinking", THINKING_KEYS)
    if thinking.get("type") != "disabled":
        return True
    return not THOUGHT_KEYS.isdisjoint(body) and any(body.get(key) is not None for key in THOUGHT_KEYS)


def _add_fields(measure: Measure, body: Body) -> None:
    """Count what else may end up in the prompt: tools, functions, formats, any field that we do not know, and what they lead to."""
    instructed = False
    for key, value in body.items():
        if key in NO_TEXT_KEYS:
            continue
        if type(value) in _STRUCTURED:
            measure.add_other(value)
            instructed = instructed or key in INSTRUCTED_KEYS
            if key in TOOL_KEYS and isinstance(value, list):
                measure.added_tokens += len(value) * TOKENS_PER_TOOL
                measure.uncounted += sum(_runs_upstream(tool) for tool in value)
        elif type(value) is str:
            measure.added_tokens += utf8_bytes(value)
        if key in FETCHING_KEYS and value is not None and value is not False and value != []:
            measure.uncounted += 1
    if instructed:
        measure.added_tokens += TOKENS_OF_INSTRUCTIONS


def _runs_upstream(tool: object) -> bool:
    """Return whether a tool is none of the client's: what the upstream finds with it becomes part of the prompt."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    return kind is not None and (not isinstance(kind, str) or kind not in CLIENT_TOOLS)
