"""Upstreams through an HTTP proxy, by both clients: the tunnel, TLS inside it, and proxies that fail before the upstream is asked."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.config import Secret, UpstreamConfig
from proxy.upstream.ark_client import ArkClient
from proxy.upstream.failures import UpstreamBrokenError, UpstreamUnreachableError
from proxy.upstream.http1.pool import Limits, Pool, Upload
from proxy.upstream.tunnel import proxy_of
from tests.support.connect_proxy import Behaviour, connect_proxy, saying, silent
from tests.support.origin import Origin, answering, serve
from tests.support.tls import make_certificate

pytestmark = pytest.mark.both_loops

USER = "operator:pass:word"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n" + b'{"data":[1]}'
Ask = Callable[[], Awaitable[object]]
Client = Callable[..., Any]


def config(base_url: str, proxy: str, *, user: str = "", seconds: float = 20.0) -> UpstreamConfig:
    return UpstreamConfig("ark", base_url, {"default": Secret("k")}, seconds, seconds, seconds, 20.0, 1.0, proxy, Secret(user))


@asynccontextmanager
async def by_pool(upstream: UpstreamConfig, tls: ssl.SSLContext | None = None) -> AsyncIterator[Ask]:
    """The client of chat."""
    limits = Limits(connect_seconds=upstream.connect_seconds, first_byte_seconds=20, idle_seconds=20)
    pool = Pool(upstream.base_url, headers={"Authorization": "Bearer k"}, limits=limits, ssl_context=tls, proxy=proxy_of(upstream))

    async def ask() -> bytes:
        return await (await pool.ask("/x", Upload(b"{}"))).read(1_000)

    try:
        yield ask
    finally:
        await pool.close()
        assert pool.open_connections == 0


@asynccontextmanager
async def by_ark_client(upstream: UpstreamConfig, tls: ssl.SSLContext | None = None) -> AsyncIterator[Ask]:
    """The client of pictures and videos."""
    async with ArkClient(upstream, ssl_context=tls) as client:

        async def ask() -> object:
            return (await client.create_task({"model": "m"})).answer

        yield ask


clients = pytest.mark.parametrize("client", [by_pool, by_ark_client])


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def origin(certificate: Path) -> AsyncIterator[Origin]:
    """An upstream with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    async with serve(answering(ANSWER), tls=context) as running:
        yield running


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate / "cert.pem"))


@clients
@pytest.mark.parametrize("user", ["", USER])
async def test_an_upstream_with_tls_is_asked_through_the_tunnel(client: Client, origin: Origin, certificate: Path, user: str) -> None:
    async with (
        connect_proxy() as proxy,
        client(config(f"https://localhost:{origin.port}/api/v3", proxy.url, user=user), trusting(certificate)) as ask,
    ):
        assert await ask() in (ANSWER[-12:], {"data": [1]})

    credential = f"Proxy-Authorization: Basic {base64.b64encode(USER.encode()).decode()}\r\n" if user else ""
    expected = f"CONNECT localhost:{origin.port} HTTP/1.1\r\nHost: localhost:{origin.port}\r\n{credential}\r\n"
    assert proxy.heads == [expected.encode()]


@clients
async def test_an_upstream_without_tls_is_asked_through_a_tunnel_too(client: Client) -> None:
    async with (
        serve(answering(ANSWER)) as origin,
        connect_proxy() as proxy,
        client(config(origin.base_url, proxy.url)) as ask,
    ):
        assert await ask() in (ANSWER[-12:], {"data": [1]})

    assert proxy.heads == [f"CONNECT 127.0.0.1:{origin.port} HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n\r\n".encode()]


async def test_a_tunnel_is_kept_for_the_next_chat(origin: Origin, certificate: Path) -> None:
    async with (
        connect_proxy() as proxy,
        by_pool(config(f"https://localhost:{origin.port}", proxy.url), trusting(certificate)) as ask,
    ):
        await ask()
        await ask()

        assert (len(proxy.heads), len(origin.peers)) == (1, 1)


FAULTS: dict[str, tuple[Behaviour, str]] = {
    "407": (saying(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"), "(407)"),
    "403": (saying(b"HTTP/1.1 403 Forbidden\r\n\r\nno"), "refuses to reach the upstream, or cannot (403)"),
    "502": (saying(b"HTTP/1.0 502 Bad Gateway\r\n", b"\r\n"), "refuses to reach the upstream, or cannot (502)"),
    "closes": (saying(), "closed the connection that was to lead to the upstream"),
    "closes in mid-head": (saying(b"HTTP/1.1 200 Conn"), "closed the connection that was to lead to the upstream"),
    "no HTTP": (saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "answers CONNECT with nothing that is HTTP"),
    "an endless head": (saying(b"HTTP/1.1 200 OK\r\n", b"X-Filler: y\r\n" * 20_000), "does not come to an end of its answer"),
    "speaks for the upstream": (saying(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), "sends more than its answer to CONNECT"),
    "is silent": (silent, "no connection through the proxy 127.0.0.1:"),
}


@clients
@pytest.mark.parametrize(("behaviour", "says"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_proxy_that_fails_is_told_as_such_and_nothing_was_sent(
    client: Client, origin: Origin, certificate: Path, behaviour: Behaviour, says: str
) -> None:
    seconds = 0.3 if behaviour is silent else 20.0
    async with (
        connect_proxy(behaviour) as proxy,
        client(config(f"https://localhost:{origin.port}", proxy.url, user=USER, seconds=seconds), trusting(certificate)) as ask,
    ):
        with pytest.raises(UpstreamUnreachableError) as failed:
            await ask()

    assert says in str(failed.value)
    assert f"the proxy 127.0.0.1:{proxy.port}" in str(failed.value)
    assert "pass:word" not in repr(failed.value)
    assert origin.peers == []


@clients
@pytest.mark.parametrize(
    ("user", "says"), [("", "wants a credential, and there is no proxy_auth"), (USER, "does not take the credential")]
)
async def test_what_a_407_means_depends_on_whether_a_credential_was_sent(client: Client, user: str, says: str) -> None:
    async with (
        connect_proxy(FAULTS["407"][0]) as proxy,
        client(config("http://ark.invalid", proxy.url, user=user)) as ask,
    ):
        with pytest.raises(UpstreamUnreachableError, match=says):
            await ask()


@clients
async def test_a_proxy_that_is_not_there_is_told(client: Client) -> None:
    async with connect_proxy() as proxy:
        pass

    async with client(config("http://ark.invalid", proxy.url)) as ask:
        with pytest.raises(UpstreamUnreachableError, match=f"the proxy 127.0.0.1:{proxy.port}"):
            await ask()


@clients
async def test_an_upstream_that_is_not_trusted_is_unreachable_through_a_tunnel_too(client: Client, origin: Origin) -> None:
    async with (
        connect_proxy() as proxy,
        client(config(f"https://localhost:{origin.port}", proxy.url), ssl.create_default_context()) as ask,
    ):
        with pytest.raises(UpstreamUnreachableError):
            await ask()


@clients
async def test_a_tunnel_that_breaks_after_the_request_was_sent_is_no_fault_of_the_proxys(client: Client) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")

    async with connect_proxy(cut) as proxy, client(config("http://ark.invalid", proxy.url)) as ask:
        with pytest.raises(UpstreamBrokenError):
            await ask()


@clients
async def test_a_caller_that_leaves_while_the_tunnel_opens_leaves_no_connection(client: Client) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def wait(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        left.set()

    async with connect_proxy(wait) as proxy, client(config("http://ark.invalid", proxy.url)) as ask, asyncio.TaskGroup() as callers:
        caller = callers.create_task(_until_cancelled(ask))
        await asyncio.wait_for(asked.wait(), 20)
        caller.cancel()

        await asyncio.wait_for(left.wait(), 20)


async def _until_cancelled(ask: Ask) -> None:
    await ask()


async def test_the_environments_proxy_is_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async with serve(answering(ANSWER)) as origin:
        for client in (by_pool, by_ark_client):
            async with client(UpstreamConfig("ark", origin.base_url, {"default": Secret("k")}, 20, 20, 20, 20.0, 1.0)) as ask:
                assert await ask() in (ANSWER[-12:], {"data": [1]})
