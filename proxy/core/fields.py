"""Typed readers for the fields of an image or a video request: the value, its default, or an error that names the field.

A field that is absent or null takes its default, as the SDKs send null for "not set". Nothing is converted: ``"5"``, ``5.0`` and
``true`` are no integers.
"""

import re
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

import orjson

from proxy.core.errors import InvalidJsonError, InvalidParameterError, MissingPromptError

Body = Mapping[str, object]

MODEL_CHARACTERS_MAX = 256
PROMPT_CHARACTERS_MAX = 10_000
URL_CHARACTERS_MAX = 8_192
DATA_URL_CHARACTERS_MAX = 41_943_104
"""30 MiB of picture, Ark's limit, as base64, and the header of the data URL."""

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f\\]")
"""`urlsplit` drops tabs and newlines without a word, and readers of URLs disagree about backslashes."""
_SHOWN_MAX = 64


def checked_body(body: object, published: frozenset[str]) -> dict[str, object]:
    """Return the body itself, an object none of whose keys is a published one in other letters (``N``, ``Duration``).

    Raises:
        InvalidJsonError: no object, or nested too deeply, as `chat.encode` has it.
        InvalidParameterError: naming such a key.
    """
    if not isinstance(body, dict):
        raise InvalidJsonError("The request body must be a JSON object")
    encode([value for value in body.values() if isinstance(value, dict | list)])  # an idempotency key would have it written whole
    refuse_other_case(body, published)
    return body


def optional_text(body: Body, name: str, characters_max: int) -> str | None:
    """Return a string without the white space around it; None where it is absent or blank.

    Raises:
        InvalidParameterError: no string, or too long.
    """
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidParameterError(f"'{name}' must be a string", param=name)
    if len(value) > characters_max:
        raise InvalidParameterError(f"'{name}' must have at most {characters_max} characters", param=name)
    return value.strip() or None


def required_text(body: Body, name: str, characters_max: int, why: str = "") -> str:
    """Return a string that is not blank. ``why`` ends the message: ``'image_url' is required when …``.

    Raises:
        InvalidParameterError: absent, blank, no string, or too long.
    """
    value = optional_text(body, name, characters_max)
    if value is None:
        raise InvalidParameterError(f"'{name}' is required{f' {why}' if why else ''}", param=name)
    return value


def required_prompt(body: Body) -> str:
    """Return the prompt as it was sent, white space and all.

    Raises:
        MissingPromptError: absent or blank.
        InvalidParameterError: no string, or too long.
    """
    if optional_text(body, "prompt", PROMPT_CHARACTERS_MAX) is None:
        raise MissingPromptError("The request body has no 'prompt'", param="prompt")
    return str(body["prompt"])


def optional_integer(body: Body, name: str, low: int, high: int) -> int | None:
    """Return an integer from ``low`` to ``high``; None where it is absent.

    Raises:
        InvalidParameterError: of another type (a boolean, a float, a string), or out of range.
    """
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise InvalidParameterError(f"'{name}' must be an integer from {low} to {high}", param=name)
    return value


def optional_boolean(body: Body, name: str) -> bool | None:
    """Return true or false; None where it is absent.

    Raises:
        InvalidParameterError: of another type (0, "true").
    """
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidParameterError(f"'{name}' must be true or false", param=name)
    return value


def one_of(body: Body, name: str, choices: Collection[str], default: str) -> str:
    """Return one of ``choices``, ``default`` where it is absent.

    Raises:
        InvalidParameterError: anything else, with the choices in the message.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or value not in choices:
        raise InvalidParameterError(f"'{name}' must be one of {', '.join(choices)}", param=name)
    return value


def model_id(body: Body, default: str) -> str:
    """Return the model id that is asked for; ``default`` where there is none, as published for images and videos.

    Raises:
        InvalidParameterError: no string, or too long.
    """
    return optional_text(body, "model", MODEL_CHARACTERS_MAX) or default


def required_image_url(body: Body, name: str, why: str) -> str:
    """Return an http(s) URL, or a ``data:image/…;base64,`` URL with its header in lower case, as Ark wants it.

    The gateway never fetches it, and does not decode it: Ark judges what it holds.

    Raises:
        InvalidParameterError: absent, or neither of the two.
    """
    url = required_text(body, name, DATA_URL_CHARACTERS_MAX, why)
    if (header := _DATA_URL.match(url)) and len(url) > header.end() and url.isascii():
        lowered = header[0].lower()
        return url if header[0] == lowered else lowered + url[header.end() :]  # of tens of megabytes no copy is made in vain
    if len(url) > URL_CHARACTERS_MAX or not _is_http(url):
        raise InvalidParameterError(f"'{name}' must be an http(s) URL or a data:image/…;base64 URL", param=name)
    return url


def shown(text: str) -> str:
    """Return a customer's own value for a message, quoted and cut."""
    return repr(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…")


def _is_http(url: str) -> bool:
    if _NOT_IN_URLS.search(url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an IPv6 address without its bracket, a port that is none
        return False


def encode(value: object, *, sort_keys: bool = False) -> bytes:
    """Return JSON.

    Raises:
        InvalidJsonError: nested deeper than 254 levels, which orjson reads but does not write.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except orjson.JSONEncodeError:
        raise InvalidJsonError("The request body is nested too deeply") from None


def refuse_other_case(body: Mapping[str, object], keys: frozenset[str]) -> None:
    """Refuse a key that differs from one of ``keys`` in case only; folded as Unicode does, as Go's decoder reads keys.

    Raises:
        InvalidParameterError: naming the key.
    """
    for key in body:
        if key not in keys and (folded := key.casefold()) in keys:
            raise InvalidParameterError(f"Unknown field {key[:64]!r}: did you mean {folded!r}?", param=key[:64])
