"""Which credential a request carries: one of three headers, never two. And where none is asked for: which pages may call."""

from urllib.parse import urlsplit

from multidict import CIMultiDictProxy

from proxy.core.errors import InvalidApiKeyError, InvalidParameterError, MissingApiKeyError

KEY_HEADERS = ("x-api-key", "api-key")
SECRET_LENGTH_MAX = 256
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


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


def refuse_foreign_page(origin: str | None) -> None:
    """Refuse a call that a web page of somebody else's makes from its visitor's machine to a gateway that asks for no key.

    Such a gateway listens on loopback, and every page that is open on the machine can reach that; a browser says whose page it is.

    Raises:
        InvalidParameterError: the page is not of this machine.
    """
    if origin is None:
        return
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        host = ""
    if host not in LOCAL_HOSTS and not host.endswith(".localhost"):
        raise InvalidParameterError("A gateway without keys answers no web pages of other machines", param="Origin")


def _bounded(secret: str) -> str:
    if len(secret) > SECRET_LENGTH_MAX:
        raise InvalidApiKeyError("Invalid or revoked API key")
    return secret


def _bearer(value: str) -> str:
    scheme, _, secret = value.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidApiKeyError("The Authorization header must be 'Bearer sk_…'")
    return secret.strip()
