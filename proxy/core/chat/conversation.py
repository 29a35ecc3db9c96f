"""Which conversation a call belongs to: a number that its next call has too."""

from typing import Any

from proxy.core.chat.request import ChatCall

_TEXT_CHARACTERS_MAX = 1024
"""So much of a part is looked at: pictures are not read for this."""
_PARTS_MAX = 16


def conversation_of(call: ChatCall, account_id: int, model_id: str) -> int:
    """Return the number of a checked call's conversation, of this process only.

    It is of ``prompt_cache_key``, where the client sends one, else of the messages up to the first of the user's: they begin each call
    of a conversation.
    """
    fields = call.fields
    messages = fields["messages"]
    first = messages[0]
    try:  # the usual beginnings, for less
        if "prompt_cache_key" in fields:
            return _looked_at(fields, account_id, model_id)
        if first["role"] == "user":
            return hash((account_id, model_id, first["content"]))
        second = messages[1]
        if second["role"] == "user":
            return hash((account_id, model_id, first["content"], second["content"]))
    except (TypeError, KeyError, IndexError):  # a list of parts, no content, or nothing of the user's
        pass
    return _looked_at(fields, account_id, model_id)


def _looked_at(fields: dict[str, Any], account_id: int, model_id: str) -> int:
    named = fields.get("prompt_cache_key")
    if isinstance(named, str) and named:
        return hash((account_id, model_id, None, named))
    told: list[object] = [account_id, model_id]
    for message in fields["messages"]:
        told.append(_content(message.get("content")))
        if message["role"] == "user":
            break
    return hash(tuple(told))


def _content(content: object) -> object:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    return tuple(_part(part) for part in content[:_PARTS_MAX])


def _part(part: Any) -> object:
    if not isinstance(part, dict):
        return None
    for name in ("text", "image_url", "input_audio", "video_url"):
        value = part.get(name)
        if isinstance(value, dict):
            value = value.get("url")
        if isinstance(value, str):
            return len(value), value[:_TEXT_CHARACTERS_MAX]
    return None
