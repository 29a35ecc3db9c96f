"""The address that a client knows the gateway by: for what is shown to that client, and for nothing that decides anything."""

import re

from proxy.edge.request import Request

UNKNOWN_ORIGIN = "http://localhost"
"""Where a request names no host that could be one."""
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def origin_of(request: Request, public_url: str = "") -> str:
    """Return ``https://HOST``, without a slash at its end.

    Without `public_url` it is the host of the request. A proxy in front that ends TLS says so in ``X-Forwarded-Proto``. Anybody may
    send that header, and is then himself shown the other scheme, so no list of proxies is asked.

    Args: public_url: the address that the operator has configured; it stands over what the request says.
    """
    if public_url:
        return public_url.rstrip("/")
    host = request.headers.get("Host", "")
    if not _HOST.fullmatch(host):
        return UNKNOWN_ORIGIN
    forwarded = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
    return f"{'https' if forwarded == 'https' else 'http'}://{host.lower()}"
