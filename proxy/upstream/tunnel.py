"""The way to an upstream through an HTTP proxy: CONNECT (RFC 9110 §9.3.6), then the proxy carries bytes.

Both clients go this way, for http upstreams too: one way to test, and a proxy that neither reads nor changes requests. TLS is the
upstream's own, inside the tunnel. Whatever fails here fails before a request was sent.
"""

import asyncio
import base64
import re
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohappyeyeballs
import aiohttp
from aiohttp.client_proto import ResponseHandler

from proxy.config import UpstreamConfig
from proxy.upstream.failures import UpstreamUnreachableError

_HEAD_BYTES_MAX = 16_384
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r|$)")
_ADDRESS_AFTER_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, and who we are to it."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    """Value of ``Proxy-Authorization``; empty: none is sent."""

    def __str__(self) -> str:
        return f"the proxy {_authority(self.host, self.port)}"

    def connect_head(self, host: str, port: int) -> bytes:
        """Return the request for a tunnel to an upstream, whose name the proxy resolves."""
        authority = _authority(host, port)
        credential = f"Proxy-Authorization: {self.authorization}\r\n" if self.authorization else ""
        return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{credential}\r\n".encode("ascii")


def proxy_of(config: UpstreamConfig) -> Proxy | None:
    """Return the proxy that an upstream is reached through; None: it is dialled directly."""
    if config.proxy is None:
        return None
    parts = urlsplit(config.proxy)
    user = config.proxy_auth.reveal()
    authorization = "Basic " + base64.b64encode(user.encode()).decode() if user else ""
    return Proxy(parts.hostname or "", parts.port or 80, authorization)


def unreached_through(proxy: Proxy, seconds: float) -> UpstreamUnreachableError:
    """Return the failure of a connection that took too long, be it the proxy or what is behind it that is silent."""
    return UpstreamUnreachableError(f"upstream: no connection through {proxy} within {seconds:g} s")


async def open_tunnel(proxy: Proxy, made: socket.socket, host: str, port: int) -> None:
    """Have the proxy join this connection, which leads to it, to the upstream. Whatever fails or is cancelled closes the connection.

    Raises: UpstreamUnreachableError: the proxy refuses, closes, or says what is no answer to CONNECT.
    """
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(made, proxy.connect_head(host, port))
        head = b""
        while b"\r\n\r\n" not in head:
            piece = await loop.sock_recv(made, _HEAD_BYTES_MAX)
            if not piece:
                raise UpstreamUnreachableError(f"upstream: {proxy} closed the connection that was to lead to the upstream")
            head += piece
            if len(head) > _HEAD_BYTES_MAX:
                raise UpstreamUnreachableError(f"upstream: {proxy} does not come to an end of its answer to CONNECT")
        _require_joined(proxy, head)
    except OSError as fault:
        made.close()
        raise UpstreamUnreachableError(f"upstream: {proxy} cut the connection that was to lead to the upstream: {fault}") from fault
    except BaseException:
        made.close()
        raise


def _require_joined(proxy: Proxy, head: bytes) -> None:
    """Raises: UpstreamUnreachableError: the status is none of success, or bytes follow that no upstream can have sent yet."""
    found = _STATUS.match(head)
    if found is None:
        raise UpstreamUnreachableError(f"upstream: {proxy} answers CONNECT with nothing that is HTTP")
    status = int(found[1])
    if status == 407:
        says = "does not take the credential" if proxy.authorization else "wants a credential, and there is no proxy_auth"
        raise UpstreamUnreachableError(f"upstream: {proxy} {says} (407)")
    if not 200 <= status < 300:
        raise UpstreamUnreachableError(f"upstream: {proxy} refuses to reach the upstream, or cannot ({status})")
    if not head.endswith(b"\r\n\r\n") or head.count(b"\r\n\r\n") > 1:
        raise UpstreamUnreachableError(f"upstream: {proxy} sends more than its answer to CONNECT")


class TunnelConnector(aiohttp.TCPConnector):
    """aiohttp's connections, each through the proxy. aiohttp's own way reports some failures as if the upstream had been asked."""

    def __init__(self, proxy: Proxy, **options: Any) -> None:
        super().__init__(**options)
        self._through = proxy

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],  # noqa: ARG002 - aiohttp's signature
        timeout: aiohttp.ClientTimeout,
    ) -> ResponseHandler:
        """Return a new connection to the request's host. Raises: UpstreamUnreachableError; TLS: as aiohttp."""
        host, port = req.url.raw_host or "", req.url.port or 80
        tls = self._get_ssl_context(req)
        async with asyncio.timeout(timeout.sock_connect):
            made = await _dialled(self._through)
            await open_tunnel(self._through, made, host, port)
            try:
                _, protocol = await self._loop.create_connection(
                    self._factory, sock=made, ssl=tls, server_hostname=host if tls is not None else None
                )
            except ssl.CertificateError as fault:
                made.close()
                raise aiohttp.ClientConnectorCertificateError(req.connection_key, fault) from fault
            except ssl.SSLError as fault:
                made.close()
                raise aiohttp.ClientConnectorSSLError(req.connection_key, fault) from fault
            except OSError as fault:
                made.close()
                raise aiohttp.ClientConnectorError(req.connection_key, fault) from fault
            except BaseException:
                made.close()
                raise
        return protocol


async def _dialled(proxy: Proxy) -> socket.socket:
    """Return a connection to the proxy. Raises: UpstreamUnreachableError."""
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
        made = await aiohappyeyeballs.start_connection(list(addresses), happy_eyeballs_delay=_ADDRESS_AFTER_SECONDS, interleave=1)
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as fault:
        raise UpstreamUnreachableError(f"upstream: {proxy} cannot be reached: {fault}") from fault
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
