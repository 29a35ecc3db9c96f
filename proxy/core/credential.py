"""Which credential a request carries: one of three headers, never two. And where none is asked for: which pages may call."""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from multidict import CIMultiDictProxy

from proxy.core.errors import InvalidApiKeyError, InvalidParameterError, MissingApiKeyError

KEY_HEADERS = ("x-api-key", "api-key")
SECRET_LENGTH_MAX = 256


def secret_of(headers: "CIMultiDictProxy[str]") -> str:
    """Return the API key that a request shows, unchecked. A header without a value shows none.

    Raises:
        MissingApiKeyError: none of ``Authorization: Bearer``, ``x-api-key`` and ``api-key`` holds one.
        InvalidApiKeyError: the Authorization header has another scheme, or the key cannot be one.
        InvalidParameterError: two credentials in one request; it is not for us to choose whose money it is.
    """
    authorizations = headers.getall("Authorization", ())
    if len(authorizations) == 1 and authorizations[0].startswith("Bearer sk_") and not any(map(headers.__contains__, KEY_HEADERS)):
        return _bounded(authorizations[0][7:].strip())
    bearers = [value for value in authorizations if value.strip().lower() not in ("", "bearer")]
    keys = [value.strip() for name in KEY_HEADERS for value in headers.getall(name, ()) if value.strip()]
    if not bearers and not keys:
        raise MissingApiKeyError("No API key: send 'Authorization: Bearer sk_…'")
    if len(bearers) + len(keys) > 1:
        raise InvalidParameterError("More than one credential in one request", param="Authorization" if bearers else KEY_HEADERS[0])
    return _bounded(keys[0] if keys else _bearer(bearers[0]))


def refuse_foreign_page(origin: str | None, host: str | None = None) -> None:
    """Refuse a call that a web page of somebody else's makes from its visitor's machine to a gateway that asks for no key.

    Such a gateway listens on loopback, and every page that is open on the machine can reach that; a browser says whose page it is. A
    page whose own name was made to lead here (DNS rebinding) counts as one of this origin, and says so only by the host that it asks.

    Args:
        origin: what ``Origin`` says; browsers leave it out of a GET to a page's own origin.
        host: what ``Host`` says; None where it need not be this machine's name: over a unix socket, or from another machine.

    Raises:
        InvalidParameterError: the page, or the name that it asks for, is not of this machine.
    """
    if origin is not None and not _is_local(origin):
        raise InvalidParameterError("A gateway without keys answers no web pages of other machines", param="Origin")
    if host is not None and not _is_local(f"//{host}"):
        raise InvalidParameterError("Without a key, only localhost or a loopback address may be asked for here", param="Host")


@lru_cache(maxsize=64)
def _is_local(url: str) -> bool:
    """Return whether a URL leads to this machine whatever a name server says."""
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
        raise InvalidApiKeyError("Invalid or revoked API key")
    return secret


def _bearer(value: str) -> str:
    scheme, _, secret = value.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidApiKeyError("The Authorization header must be 'Bearer sk_…'")
    return secret.strip()
