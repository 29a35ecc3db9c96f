"""The credential of a request: one key, in any of three headers. Where no key is required: the web pages that may call."""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from multidict import CIMultiDictProxy

from proxy.core.bounds import REVOKED
from proxy.core.errors import InvalidApiKeyError, InvalidParameterError, MissingApiKeyError

KEY_HEADERS = ("x-api-key", "api-key")
SECRET_LENGTH_MAX = 256


def secret_of(headers: "CIMultiDictProxy[str]") -> str:
    """Return the API key that a request carries, unchecked. A header without a value carries none.

    Raises:
        MissingApiKeyError: none of ``Authorization: Bearer``, ``x-api-key`` and ``api-key`` holds one.
        InvalidApiKeyError: the Authorization header has another scheme, or the key cannot be one.
        InvalidParameterError: two different credentials in one request; the gateway does not choose whose money it is.
    """
    authorizations = headers.getall("Authorization", ())
    if len(authorizations) == 1 and authorizations[0].startswith("Bearer sk_") and not any(map(headers.__contains__, KEY_HEADERS)):
        return _bounded(authorizations[0][7:].strip())
    bearers = [value for value in authorizations if value.strip().lower() not in ("", "bearer")]
    keys = [value.strip() for name in KEY_HEADERS for value in headers.getall(name, ()) if value.strip()]
    if not bearers and not keys:
        raise MissingApiKeyError("No API key: send 'Authorization: Bearer sk_…'")
    # Clients that do not know which header a gateway reads send the same key in two; that is one key.
    if len({*map(_key_or_whole, bearers), *keys}) > 1:
        raise InvalidParameterError(
            "More than one credential in one request, and they differ", param="Authorization" if bearers else KEY_HEADERS[0]
        )
    return _bounded(keys[0] if keys else _bearer(bearers[0]))


def refuse_foreign_page(origin: str | None, host: str | None = None) -> None:
    """Refuse a call that a foreign web page makes from its visitor's browser to a gateway without keys.

    Such a gateway listens on loopback, which every page open on the machine can reach. The browser sends the page's origin. A page
    whose own name resolves to this machine (DNS rebinding) counts as same-origin; only the ``Host`` header gives it away.

    Args:
        origin: the ``Origin`` header; browsers omit it from a GET to the page's own origin.
        host: the ``Host`` header; None where it need not name this machine: over a unix socket, or from another machine.

    Raises:
        InvalidParameterError: the origin or the host does not name this machine.
    """
    if origin is not None and not _is_local(origin):
        raise InvalidParameterError("A gateway without keys answers no web pages of other machines", param="Origin")
    if host is not None and not _is_local(f"//{host}"):
        raise InvalidParameterError("Without a key, only localhost or a loopback address may be asked for here", param="Host")


@lru_cache(maxsize=64)
def _is_local(url: str) -> bool:
    """Return whether a URL names this machine, independent of DNS."""
    try:
        name = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _bounded(secret: str) -> str:
    if len(secret) > SECRET_LENGTH_MAX:
        raise InvalidApiKeyError(REVOKED)
    return secret


def _key_or_whole(authorization: str) -> str:
    """Return the key of a Bearer header, which may equal another header's; of another scheme the whole value."""
    scheme, _, secret = authorization.strip().partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else authorization.strip()


def _bearer(value: str) -> str:
    scheme, _, secret = value.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidApiKeyError("The Authorization header must be 'Bearer sk_…'")
    return secret.strip()
