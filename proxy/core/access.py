"""Which credential a request carries: one of three headers, never two."""

from multidict import CIMultiDictProxy

from proxy.core.errors import InvalidApiKeyError, InvalidParameterError, MissingApiKeyError

KEY_HEADERS = ("x-api-key", "api-key")
SECRET_LENGTH_MAX = 256


def secret_of(headers: "CIMultiDictProxy[str]") -> str:
    """Return the API key that a request shows, unchecked.

    Raises:
        MissingApiKeyError: none of ``Authorization: Bearer``, ``x-api-key`` and ``api-key`` is there.
        InvalidApiKeyError: the Authorization header has another scheme, or the key cannot be one.
        InvalidParameterError: two credentials in one request; it is not for us to choose whose money it is.
    """
    shown = headers.getall("Authorization", [])
    secrets = [_bearer(value) for value in shown]
    for name in KEY_HEADERS:
        if name in headers:
            secrets += headers.getall(name)
    if not secrets:
        raise MissingApiKeyError("No API key: send 'Authorization: Bearer sk_…'")
    if len(secrets) > 1:
        raise InvalidParameterError("More than one credential in one request", param="Authorization")
    secret = secrets[0].strip()
    if not secret:
        raise MissingApiKeyError("No API key: send 'Authorization: Bearer sk_…'")
    if len(secret) > SECRET_LENGTH_MAX:
        raise InvalidApiKeyError("Invalid or revoked API key")
    return secret


def _bearer(value: str) -> str:
    scheme, _, secret = value.partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidApiKeyError("The Authorization header must be 'Bearer sk_…'")
    return secret
