"""Identifiers and secrets. Request ids sort by time, so that the store's index grows at one end."""

import hashlib
import secrets
from dataclasses import dataclass

_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

KEY_PREFIX = "sk_"


def request_id(now_ms: int) -> str:
    """Return ``req_`` and 26 characters of Crockford's base 32: 48 bits of time, 82 of chance (as a ULID has them)."""
    value = now_ms << 82 | secrets.randbits(82)
    return "req_" + "".join([_BASE32[value >> shift & 31] for shift in range(125, -1, -5)])


def image_request_id(now_ms: int) -> str:
    """Return ``img-<unix ms>-<6 letters or digits>``, as published."""
    return f"img-{now_ms}-{_letters(6)}"


def video_request_id() -> str:
    """Return ``vreq_`` and 20 letters or digits, as published."""
    return f"vreq_{_letters(20)}"


def key_id() -> str:
    return f"key_{_letters(12)}"


@dataclass(frozen=True, slots=True)
class Secret:
    """A new API key. `text` is shown once and kept nowhere."""

    text: str
    prefix: str
    sha256: bytes


def new_secret() -> Secret:
    """Return ``sk_`` and 43 url-safe characters: 256 bits."""
    text = KEY_PREFIX + secrets.token_urlsafe(32)
    return Secret(text, prefix=text[:10], sha256=digest(text))


def digest(secret: str) -> bytes:
    """Return the SHA-256 that stands for a key in the store and in the snapshot. 256 random bits need no salt and no stretching."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _letters(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))
