"""The single file in a root directory that holds nothing else: no Python, no libraries, no shell, no certificates, no /tmp."""

import asyncio
import shutil
import signal
import socket
import ssl
import struct
import subprocess
from pathlib import Path
from time import perf_counter

import aiohttp
import pytest

from proxy.core.money import parse_yuan
from proxy.demo.ark import StandIn
from proxy.store.sqlite import open_store
from tests.package.conftest import EmptyRoot
from tests.support.books import assert_books_balance
from tests.support.tls import make_certificate

pytestmark = [pytest.mark.package, pytest.mark.timeout(600)]

CHARGE = 40_000
"""20 and 12 tokens at ¥0.8 and ¥2.0 per million, in nano-yuan."""
CONFIG = """
[server]
listen = ["{listen}"]
auth = "none"
[upstreams.ark]
base_url = "{base_url}"
api_key = "env:ARK_API_KEY"
[[models]]
id = "m"
kind = "chat"
reasoning_tokens_max = 0
price = {{ input = "0.8", output = "2.0" }}
"""
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


async def test_the_tour_is_walked_to_its_end(root: EmptyRoot) -> None:
    ended = await root.run("demo", "--once")

    assert (ended.code, ended.stderr) == (0, "")
    assert "All done: the books balance to the nano-yuan." in ended.stdout
    assert sorted(path.name for path in root.path.iterdir()) == ["llm-proxy", "usr"]
    print(f"\nthe tour, with unpacking: {ended.seconds:.1f} s")


async def test_it_serves_a_chat_over_tls_upstream_and_stops_by_sigterm(root: EmptyRoot, authority: Path) -> None:
    shutil.copy(authority / "cert.pem", root.path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    async with StandIn(ssl_context=context) as ark:
        write_config(root, "unix:api.sock", ark.base_url)
        for start in ("first, which unpacks", "second"):
            begun = perf_counter()
            gateway, said_by = await serve(root, SSL_CERT_FILE="/cert.pem")
            print(f"\n{start} start: ready after {perf_counter() - begun:.2f} s", end="")
            credited = await root.run("account", "credit", "default", "1.00")

            status = await ask(aiohttp.UnixConnector(path=str(root.path / "api.sock")), "http://sidecar/v1/chat/completions")
            gateway.send_signal(signal.SIGTERM)
            _, log = await gateway.communicate()

            assert (credited.code, status, gateway.returncode, said_by) == (0, 200, 0, gateway.pid), log.decode()

    store = await open_store(root.path / "llm-proxy.db", read_only=True)
    account = await store.account("default")
    assert (account.balance_nanos, account.held_nanos) == (parse_yuan("2.00") - 2 * CHARGE, 0)
    await assert_books_balance(store)
    await store.close()


async def test_an_upstream_whose_certificate_nobody_vouches_for_is_refused(root: EmptyRoot, authority: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    async with StandIn(ssl_context=context) as ark:
        write_config(root, "unix:api.sock", ark.base_url)
        await root.run("account", "create", "default", "--credit", "1.00")
        await serve(root)

        status = await ask(aiohttp.UnixConnector(path=str(root.path / "api.sock")), "http://sidecar/v1/chat/completions")

        assert (status, len(ark.calls)) == (503, 0)


async def test_the_authorities_inside_are_trusted_where_the_system_has_none(root: EmptyRoot) -> None:
    await root.run("--version")
    (unpacked,) = (Path("/", path.relative_to(root.path)) for path in root.unpacked)
    script = (
        "import os, ssl; from proxy.build import entry;"
        "os.environ['SSL_CERT_FILE'] = str(entry.certificates({}, entry.SYSTEM_BUNDLES, entry._own_bundle()));"
        "print(len(ssl.create_default_context().get_ca_certs()))"
    )
    python = [f"{unpacked}/llm-proxy", "--library-path", f"{unpacked}/lib", f"{unpacked}/bin/python", "-I", "-S", "-c", script]

    command = [*root.command, str(root.path), *python]
    counted = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)

    assert int(counted.stdout) > 100, counted.stderr


async def test_it_takes_the_sockets_that_systemd_opened(root: EmptyRoot) -> None:
    """The process that systemd starts is the one that serves: LISTEN_PID and NotifyAccess=main ask for no other."""
    await root.run("--version")
    write_config(root, "systemd", "http://127.0.0.1:9", auth="keys")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gateway, said_by = await serve(root, shell="export LISTEN_PID=$$", third=listener.fileno(), LISTEN_FDS="1")
        port = listener.getsockname()[1]

    status = await ask(aiohttp.TCPConnector(), f"http://127.0.0.1:{port}/v1/chat/completions")

    assert (status, said_by) == (401, gateway.pid)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def write_config(root: EmptyRoot, listen: str, base_url: str, *, auth: str = "none") -> None:
    text = CONFIG.format(listen=listen, base_url=base_url).replace('auth = "none"', f'auth = "{auth}"')
    (root.path / "config.toml").write_text(text)


async def serve(root: EmptyRoot, *, shell: str = "", third: int | None = None, **env: str) -> tuple[asyncio.subprocess.Process, int]:
    """Start the gateway; return it once it is ready, with the process id that the kernel says the word came from."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        (root.path / "notify").unlink(missing_ok=True)
        systemd.bind(str(root.path / "notify"))
        systemd.settimeout(60)
        environment = {"NOTIFY_SOCKET": "/notify", "ARK_API_KEY": "canary", **env}
        process = await root.start("serve", "--config", "/config.toml", env=environment, shell=shell, third=third)
        try:
            said, ancillary, *_ = await asyncio.to_thread(systemd.recvmsg, 100, socket.CMSG_SPACE(struct.calcsize("3i")))
        except TimeoutError:
            process.kill()
            pytest.fail((await process.communicate())[1].decode())
    assert said == b"READY=1"
    return process, struct.unpack("3i", ancillary[0][2])[0]


async def ask(connector: aiohttp.BaseConnector, url: str) -> int:
    async with aiohttp.ClientSession(connector=connector) as session, session.post(url, json=CHAT) as response:
        await response.read()
        return response.status
