"""Refusals of chat calls: as `ark.refusal`, with the model's context, and the names that the customer chose.

`chosen_names` is to be called while the body is there: a refusal comes when it has been let go.
"""

from collections.abc import Collection, Iterator
from typing import Any

from proxy.core.ark.identifiers import NAME_CHARACTERS_MAX, NAMES_MAX
from proxy.core.ark.refusal import Refusal, read_refusal
from proxy.core.catalog import Model
from proxy.core.chat.request import ChatCall

MESSAGES_READ_MAX = 256
"""The last messages whose calls are looked at: a refusal is about the latest, and the look must not grow with the body."""
_NONE: tuple[str, ...] = ()
_SHORT_MAX = 2
"""So few messages hold no call with a question before it and a result behind it."""


def chat_refusal(status: int, body: bytes | dict[str, Any], model: Model, names: Collection[str] = ()) -> Refusal:
    """Return the refusal for an answer to a chat that is an error; 200 for an error inside a stream or an answer.

    Args: names: the call's `chosen_names`.
    """
    return read_refusal(status, body, model.upstream_model, context_tokens=model.context_tokens, names=names, dialect=model.dialect)


def chosen_names(call: ChatCall) -> tuple[str, ...]:
    """Return the names of functions and the ids of calls that the customer sent, `NAMES_MAX` at most.

    Functions come first, then the latest calls. A short call without tools pays for two look-ups.
    """
    fields = call.fields
    if len(fields["messages"]) <= _SHORT_MAX and "tools" not in fields and "functions" not in fields:
        return _NONE
    names: dict[str, None] = {}
    for name in _names(fields):
        if type(name) is str and 0 < len(name) <= NAME_CHARACTERS_MAX:
            names[name] = None
            if len(names) == NAMES_MAX:
                break
    return tuple(names)


def _names(fields: dict[str, Any]) -> Iterator[object]:
    for tool in _list(fields.get("tools"))[:NAMES_MAX]:
        yield _name_in(tool, "function")
    for function in _list(fields.get("functions"))[:NAMES_MAX]:
        yield _of(function, "name")
    for message in reversed(fields["messages"][-MESSAGES_READ_MAX:]):
        if len(message) > 2:  # more than a role and a text
            yield message.get("tool_call_id")
            for call in _list(message.get("tool_calls"))[:NAMES_MAX]:
                yield _of(call, "id")
                yield _name_in(call, "function")
            yield _name_in(message, "function_call")
            yield message.get("name")


def _name_in(value: object, key: str) -> object:
    return _of(_of(value, key), "name")


def _of(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
