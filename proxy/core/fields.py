"""Typed readers for the fields of an image or a video request: the value, its default, or an error that names the field.

A field that is absent or null takes its default, as the SDKs send null for "not set". Nothing is converted: ``"5"``, ``5.0`` and
``true`` are not integers.
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
"""Ark's limit of 30 MiB an image, as base64, plus the header of the data URL."""

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f\\]")
"""`urlsplit` drops tabs and newlines silently, and URL parsers disagree about backslashes."""
_SHOWN_MAX = 64
_FOLDED_MAX = 64
"""Folding never shortens, and no key of ours is longer: one of millions of characters need not be folded."""


def checked_body(body: object, published: frozenset[str]) -> dict[str, object]:
    """Return the body itself, if it is an object without published keys in another case (``N``, ``Duration``).

    Raises:
        InvalidJsonError: not an object, or nested too deeply for `encode`.
        InvalidParameterError: a key in another case; the message names it.
    """
    if not isinstance(body, dict):
        raise InvalidJsonError("The request body must be a JSON object")
    encode([value for value in body.values() if isinstance(value, dict | list)])  # an idempotency key needs all of it encoded
    refuse_other_case(body, published)
    return body


def optional_text(body: Body, name: str, characters_max: int) -> str | None:
    """Return a string without surrounding white space; None if it is absent or blank.

    Raises:
        InvalidParameterError: not a string, or too long.
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
        InvalidParameterError: absent, blank, not a string, or too long.
    """
    value = optional_text(body, name, characters_max)
    if value is None:
        raise InvalidParameterError(f"'{name}' is required{f' {why}' if why else ''}", param=name)
    return value


def required_prompt(body: Body) -> str:
    """Return the prompt as it was sent, white space included.

    Raises:
        MissingPromptError: absent or blank.
        InvalidParameterError: not a string, or too long.
    """
    if optional_text(body, "prompt", PROMPT_CHARACTERS_MAX) is None:
        raise MissingPromptError("The request body has no 'prompt'", param="prompt")
    return str(body["prompt"])


def optional_integer(body: Body, name: str, low: int, high: int) -> int | None:
    """Return an integer from ``low`` to ``high``; None if it is absent.

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
    """Return true or false; None if it is absent.

    Raises:
        InvalidParameterError: of another type (0, "true").
    """
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidParameterError(f"'{name}' must be true or false", param=name)
    return value


def one_of(body: Body, name: str, choices: Collection[str], default: str) -> str:
    """Return one of ``choices``; ``default`` if it is absent.

    Raises:
        InvalidParameterError: anything else; the message lists the choices.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or value not in choices:
        raise InvalidParameterError(f"'{name}' must be one of {', '.join(choices)}", param=name)
    return value


def model_id(body: Body, default: str) -> str:
    """Return the requested model id; ``default`` if there is none, as published for images and videos.

    Raises:
        InvalidParameterError: not a string, or too long.
    """
    return optional_text(body, "model", MODEL_CHARACTERS_MAX) or default


def required_image_url(body: Body, name: str, why: str) -> str:
    """Return an http(s) URL, or a ``data:image/…;base64,`` URL with its header in lower case, as Ark wants it.

    The gateway neither fetches nor decodes it: Ark checks the content.

    Raises:
        InvalidParameterError: absent, or not one of the two.
    """
    url = required_text(body, name, DATA_URL_CHARACTERS_MAX, why)
    if (header := _DATA_URL.match(url)) and len(url) > header.end() and url.isascii():
        lowered = header[0].lower()
        return url if header[0] == lowered else lowered + url[header.end() :]  # tens of megabytes are copied only if needed
    if len(url) > URL_CHARACTERS_MAX or not _is_http(url):
        raise InvalidParameterError(f"'{name}' must be an http(s) URL or a data:image/…;base64 URL", param=name)
    return url


def shown(text: str) -> str:
    """Return a customer's own value for a message, quoted and shortened."""
    return repr(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…")


def _is_http(url: str) -> bool:
    if _NOT_IN_URLS.search(url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an IPv6 address without its bracket, or an invalid port
        return False


def encode(value: object, *, sort_keys: bool = False) -> bytes:
    """Return a value as JSON.

    Raises:
        InvalidJsonError: nested deeper than 254 levels, which orjson reads but does not write.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except orjson.JSONEncodeError:
        raise InvalidJsonError("The request body is nested too deeply") from None


def refuse_other_case(body: Mapping[str, object], keys: frozenset[str]) -> None:
    """Refuse a key that differs from one of ``keys`` in case only. Case is folded as in Unicode, as Go's decoder reads keys.

    Raises:
        InvalidParameterError: there is such a key; the message names it.
    """
    for key in body:
        if key not in keys and len(key) <= _FOLDED_MAX and (folded := key.casefold()) in keys:
            raise InvalidParameterError(f"Unknown field {key[:64]!r}: did you mean {folded!r}?", param=key[:64])
