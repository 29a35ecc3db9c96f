"""The messages of a chat, checked and counted for the hold.

Counting runs on the event loop, before it is known that the customer can pay. So the number of messages, parts and fields has limits,
and whatever is looked at key by key is looked at once.
"""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from proxy.core.catalog import Model
from proxy.core.chat.pictures import picture_tokens_max
from proxy.core.errors import InvalidMessagesError, InvalidParameterError
from proxy.core.fields import URL_CHARACTERS_MAX, encode, refuse_other_case

ROLES = ("user", "assistant", "system", "tool", "developer", "function")
MAY_BE_EMPTY = frozenset({"assistant", "tool", "function"})
"""Roles whose content may be null, absent or an empty array, as an answer without text is, or a tool's without a result."""
MESSAGES_MAX = 10_000
PARTS_MAX = 10_000
"""In all messages together."""
FIELDS_MAX = 256
"""Of a body, a message, a part, and each object in it that is looked into."""
FIELDS_ALL_MAX = 50_000
"""Of all those together: each costs up to half a microsecond."""
_PART_AS_FIELDS = 8
"""A part that is more than plain text costs as much beside its own fields."""

MEDIA_KEYS = frozenset({"image_url", "video_url", "audio_url", "input_audio", "file"})
"""Keys of a part that hold media, not prompt text: they are bounded by a figure, not by the length of their base64."""
MESSAGE_KEYS = frozenset({"role", "content", "tool_calls"})
PART_KEYS = MEDIA_KEYS | {"type", "text"}
USUAL_MESSAGE_KEYS = MESSAGE_KEYS | {"name", "tool_call_id", "reasoning_content", "refusal", "function_call", "annotations", "audio"}

PLAIN_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})
NAMED_TEXT_TYPES = frozenset({"refusal", "thinking", "reasoning"})
"""Types of parts whose text stands under the type's own name."""
_MEDIA_WORDS = re.compile("image|video|audio|file|ur[li]|media|document|pdf|_data|source", re.IGNORECASE)
"""A part with one of these in its type or in a key is not taken for text."""
_WORD_CHARACTERS = 64
"""As much of a type or a key is looked at: one may have millions."""
_MESSAGE_MEDIA = frozenset({"audio", "image", "images", "video", "videos", "file", "files"})
_DATA_URL = re.compile(r"data:[a-z0-9.+-]{1,64}/[a-z0-9.+-]{1,64}[;,]", re.IGNORECASE)

_BLANK_BESIDE = b",:{}[]"
"""A blank, or a line break with its indentation, may stand beside each of these, and be a token of its own."""
_MARKS_OF_A_PICTURE = 4
"""Tokens around a picture: Qwen-VL's and GLM-V's templates put one before and one behind it."""

Body = dict[str, Any]


class Measure(Struct, gc=False):
    """What the messages come to."""

    content_bytes: int = 0
    """UTF-8 bytes of text that certainly is part of the prompt."""
    other_bytes: int = 0
    """UTF-8 bytes of what else may be: earlier reasoning, tool calls, names, fields that we do not know."""
    picture_tokens: int = 0
    """Upper bound of all pictures together."""
    uncounted: int = 0
    """Videos, audio, files, what the upstream fetches itself, and what is not known: only the context bounds their tokens."""
    added_tokens: int = 0
    """Upper bound of the tokens that come to what is written as the upstream writes it into its prompt: blanks, marks, instructions."""
    fields: int = 0

    def add_other(self, value: object) -> None:
        """Count a field that may be part of the prompt, where JSON may have blanks, or be indented, as ours does not."""
        if isinstance(value, str):
            self.other_bytes += utf8_bytes(value)
        elif isinstance(value, (dict, list)):
            written = encode(value)
            self.other_bytes += len(written)
            self.added_tokens += len(written) - len(written.translate(None, _BLANK_BESIDE))


def measured(messages: list[Any], model: Model) -> Measure:
    """Check all messages and return their sizes.

    Raises:
        InvalidMessagesError: malformed; `param` names the place.
    """
    content_bytes = parts = 0
    odd: list[int] = []
    for index, message in enumerate(messages):
        if (
            type(message) is dict
            and len(message) == 2
            and type(content := message.get("content")) is str
            and message.get("role") in ROLES
        ):
            content_bytes += len(content) if content.isascii() else len(content.encode())
        else:
            odd.append(index)
            parts += _parts_of(message)
    measure = Measure(content_bytes)
    if parts > PARTS_MAX:
        raise InvalidMessagesError(f"'messages' has more than {PARTS_MAX} parts", param="messages")
    for index in odd:
        _add_message(measure, messages[index], f"messages[{index}]", model)
    return measure


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _parts_of(message: object) -> int:
    content = message.get("content") if isinstance(message, dict) else None
    return len(content) if isinstance(content, list) else 0


def _add_message(measure: Measure, message: object, where: str, model: Model) -> None:
    if not isinstance(message, dict):
        raise InvalidMessagesError(f"'{where}' must be an object", param=where)
    _count_fields(measure, message, where)
    if message.get("role") not in ROLES:
        raise InvalidMessagesError(f"'{where}.role' must be one of {', '.join(ROLES)}", param=f"{where}.role")
    _add_content(measure, message, where, model)
    if not USUAL_MESSAGE_KEYS.issuperset(message):
        _refuse_other_case(message, MESSAGE_KEYS, where)
    for key, value in message.items():
        if key not in ("role", "content"):
            measure.add_other(value)
    if not _MESSAGE_MEDIA.isdisjoint(message):
        measure.uncounted += sum(
            bool(message[key]) for key in _MESSAGE_MEDIA & message.keys() if isinstance(message[key], (dict, list))
        )


def _add_content(measure: Measure, message: Body, where: str, model: Model) -> None:
    content = message.get("content")
    if isinstance(content, str):
        measure.content_bytes += utf8_bytes(content)
    elif isinstance(content, list) and content:
        for index, part in enumerate(content):
            _add_part(measure, part, f"{where}.content[{index}]", model)
    elif (content is None or content == []) and message["role"] in MAY_BE_EMPTY:
        _check_tool_calls(message, where)
    else:
        raise InvalidMessagesError(f"'{where}.content' must be a string or a non-empty array of parts", param=f"{where}.content")


def _check_tool_calls(message: Body, where: str) -> None:
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise InvalidMessagesError(f"'{where}.tool_calls' must be an array of objects", param=f"{where}.tool_calls")


def _add_part(measure: Measure, part: object, place: str, model: Model) -> None:
    if type(part) is dict and len(part) == 2 and part.get("type") == "text" and type(text := part.get("text")) is str:
        measure.content_bytes += utf8_bytes(text)
        return
    if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
        raise InvalidMessagesError(f"'{place}' must be an object with a 'type'", param=place)
    measure.fields += _PART_AS_FIELDS
    _count_fields(measure, part, place)
    is_text = _add_media(measure, part, kind, place, model)
    if not PART_KEYS.issuperset(part):
        _refuse_other_case(part, PART_KEYS, place)
    _check_media_are_ascii(measure, part, place, is_text=is_text)
    for key, value in part.items():
        if key == "text" and kind in PLAIN_TEXT_TYPES and isinstance(value, str):
            measure.content_bytes += utf8_bytes(value)
        elif key != "type" and key not in MEDIA_KEYS:
            measure.add_other(value)


def _add_media(measure: Measure, part: Body, kind: str, place: str, model: Model) -> bool:
    """Count what a part has that is no text; return whether it is text by its type."""
    if kind == "text" and not isinstance(part.get("text"), str):
        raise InvalidMessagesError(f"'{place}.text' must be a string", param=f"{place}.text")
    is_text = _is_text(part, kind)
    if kind == "image_url":
        measure.picture_tokens += picture_tokens_max(part, _checked_image(part, place), model)
        measure.added_tokens += _MARKS_OF_A_PICTURE
    elif not is_text:
        measure.uncounted += 1
    # What the type does not name counts too: an upstream might read it all the same.
    measure.uncounted += sum(part[key] is not None for key in MEDIA_KEYS & part.keys() if key != kind)
    return is_text


def _is_text(part: Body, kind: str) -> bool:
    """Return whether a part is text, whatever its type is called: it has a text, and nothing by which it could name media."""
    if kind == "text":
        return True
    if not isinstance(part.get("text"), str) and not (kind in NAMED_TEXT_TYPES and isinstance(part.get(kind), str)):
        return False
    names = [kind[:_WORD_CHARACTERS], *(key[:_WORD_CHARACTERS] for key in part if key not in MEDIA_KEYS)]
    return _MEDIA_WORDS.search(" ".join(names)) is None


def _checked_image(part: Body, place: str) -> Body:
    image = part.get("image_url")
    if isinstance(image, str):  # as LangChain's older pages and Mistral have it; OpenAI and Ark refuse it
        raise InvalidMessagesError(f'\'{place}.image_url\' must be an object, {{"url": "…"}}', param=f"{place}.image_url.url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(image, dict) or not isinstance(url, str) or not url:
        raise InvalidMessagesError(f"'{place}.image_url.url' must be a URL", param=f"{place}.image_url.url")
    return image


def _check_media_are_ascii(measure: Measure, part: Body, place: str, *, is_text: bool) -> None:
    """Refuse data that is not ASCII: with one other character in it, Python keeps each of its millions in four bytes.

    Base64 is ASCII. A short address or a file's name may have other characters.
    """
    for key, value in part.items():
        is_media = key in MEDIA_KEYS
        at = f"{place}.{key[:64]}"
        if isinstance(value, str):
            if is_media or not is_text:
                _check_ascii(value, at, is_media=is_media)
        elif is_media and isinstance(value, dict):
            _count_fields(measure, value, at)
            for name, text in value.items():
                if isinstance(text, str):
                    _check_ascii(text, f"{at}.{name[:64]}", is_media=True)


def _check_ascii(text: str, at: str, *, is_media: bool) -> None:
    if not text.isascii() and (_DATA_URL.match(text) or (is_media and len(text) > URL_CHARACTERS_MAX)):
        raise InvalidMessagesError(f"'{at}' must be ASCII, as base64 is", param=at)


def _count_fields(measure: Measure, value: Body, where: str) -> None:
    measure.fields += len(value)
    if len(value) > FIELDS_MAX:
        raise InvalidMessagesError(f"'{where}' has more than {FIELDS_MAX} fields", param=where)
    if measure.fields > FIELDS_ALL_MAX:
        raise InvalidMessagesError("'messages' has too many parts and fields in all", param="messages")


def _refuse_other_case(keys: Mapping[str, object], known: frozenset[str], where: str) -> None:
    try:
        refuse_other_case(keys, known)
    except InvalidParameterError as fault:
        raise InvalidMessagesError(fault.message, param=f"{where}.{fault.param}") from None
