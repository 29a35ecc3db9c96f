"""Identifiers and secrets. Request ids sort by time, so that the store's index grows only at its end."""

import hashlib
import random
import secrets
from dataclasses import dataclass

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

KEY_PREFIX = "sk_"


def request_id(now_ms: int) -> str:
    """Return ``req_`` and 28 hexadecimal digits: 48 bits of time in milliseconds, 64 random bits.

    An id must be unique, not secret, since only its owner is shown its receipt. The system's randomness would cost a system call a
    request, and each system call hands the interpreter's lock to the store's thread (41 µs seen under load).
    """
    return "req_" + (now_ms << 64 | random.getrandbits(64)).to_bytes(14, "big").hex()  # takes half the time of formatting


def image_request_id(now_ms: int) -> str:
    """Return ``img-<unix ms>-<6 letters or digits>``, as published."""
    return f"img-{now_ms}-{_letters(6)}"


def video_request_id() -> str:
    """Return ``vreq_`` and 20 letters or digits, as published."""
    return f"vreq_{_letters(20)}"


def owner_id() -> str:
    """Return ``own_`` and 12 letters or digits: whoever places holds, from one opening of the store until it is closed or dies."""
    return f"own_{_letters(12)}"


def move_id() -> str:
    """Return ``mov_`` and 12 letters or digits: a move of the ledger, as both its sides have recorded it."""
    return f"mov_{_letters(12)}"


def key_id() -> str:
    return f"key_{_letters(12)}"


def payment_reference(now_ms: int) -> str:
    """Return ``cli-`` and a ULID (26 digits of Crockford's base 32: 48 bits of time, 80 random bits) for a payment without a name."""
    number = now_ms << 80 | secrets.randbits(80)
    return "cli-" + "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


@dataclass(frozen=True, slots=True)
class Secret:
    """A new API key. `text` is shown once and stored nowhere."""

    text: str
    prefix: str
    sha256: bytes


def new_secret() -> Secret:
    """Return ``sk_`` and 43 url-safe characters: 256 random bits."""
    return secret_from(KEY_PREFIX + secrets.token_urlsafe(32))


def secret_from(text: str) -> Secret:
    """Return a secret that was drawn elsewhere, with what is stored of it."""
    return Secret(text, prefix=text[:10], sha256=digest(text))


def digest(secret: str) -> bytes:
    """Return the SHA-256 that stands for a key in the store and in `LiveKeys`. 256 random bits need no salt and no stretching."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _letters(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))
