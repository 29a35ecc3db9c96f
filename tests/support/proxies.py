"""nginx and Caddy in front of a gateway, with their blocks as they stand in the guide."""

import asyncio
import dataclasses
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support.gateway import Bench
from tests.support.process import free_port
from tests.support.tls import make_certificate

GUIDE = Path(__file__).parents[2] / "proxy/docs/behind-a-proxy.md"
START_SECONDS = 30.0
DEFAULT_READ_SECONDS = 1
"""nginx's default of 60 s, scaled down: a server that says nothing of its own gives up after this."""
NAME = "api.example.com"
UPSTREAM = "127.0.0.1:8080"

NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr warn; {user}
events {{ worker_connections 256; }}
http {{
  access_log off; proxy_read_timeout {seconds}s;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
{block}
}}
"""
CADDY = """
{{
  admin off
  auto_https disable_redirects
  local_certs
  skip_install_trust
  http_port {http_port}
  https_port {port}
  storage file_system {directory}/caddy
}}
{block}
"""


def block_of(language: str, guide: Path = GUIDE) -> str:
    """Return a guide's only block in a language."""
    (block,) = blocks_of(language, guide)
    return block


def blocks_of(language: str, guide: Path) -> list[str]:
    """Return a guide's blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", guide.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """Return the text with each old part, which must be there, in its new form."""
    for old, new in pairs:
        assert old in text, f"the guide has no {old!r} any more"
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def nginx(gateway: Bench, *, plain: bool = False, without: str = "") -> AsyncIterator[Bench]:
    """Run nginx in front of a gateway, and yield the gateway as it is seen through it.

    Args:
        plain: without TLS.
        without: leaves out the block's lines that begin with this.
    """
    block = replaced(block_of("nginx"), (UPSTREAM, gateway.origin.removeprefix("http://")))
    async with nginx_with(block, gateway.directory, plain=plain, without=without) as (origin, session):
        yield dataclasses.replace(gateway, origin=origin, session=session)


@asynccontextmanager
async def nginx_with(
    block: str, place: Path, *, plain: bool = False, without: str = ""
) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """Run nginx with a block of a guide, whose upstreams are real; yield its origin, and a session that trusts it. Args: as above."""
    port, directory = free_port(), place / "nginx"
    directory.mkdir()
    if plain:
        block = re.sub(r" *ssl_certificate.*\n", "", replaced(block, ("listen 443 ssl;", f"listen 127.0.0.1:{port};")))
    else:
        made = make_certificate(directory)
        certificate = (f"/etc/ssl/{NAME}/fullchain.pem", f"{made}/cert.pem"), (f"/etc/ssl/{NAME}/privkey.pem", f"{made}/key.pem")
        block = replaced(block, ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"), *certificate)
    if without:
        block, count = re.subn(rf"^ *{without}.*\n", "", block, flags=re.MULTILINE)
        assert count == 1, f"the guide has no line {without} any more"
    user = "user root;" if os.geteuid() == 0 else ""
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, user=user, seconds=DEFAULT_READ_SECONDS, block=block))
    origin = f"http{'' if plain else 's'}://127.0.0.1:{port}"
    async with _running(place, "nginx", ["-c", str(config), "-e", "stderr"], origin) as session:
        yield origin, session


@asynccontextmanager
async def caddy(gateway: Bench) -> AsyncIterator[Bench]:
    """Run Caddy in front of a gateway, and yield the gateway as it is seen through it."""
    port, directory = free_port(), gateway.directory / "caddy"
    directory.mkdir()
    block = replaced(block_of("caddy"), (UPSTREAM, gateway.origin.removeprefix("http://")), (NAME, "localhost"))
    config = directory / "Caddyfile"
    config.write_text(CADDY.format(directory=directory, port=port, http_port=free_port(), block=block))
    words, origin = ["run", "--config", str(config), "--adapter", "caddyfile"], f"https://localhost:{port}"
    async with _running(gateway.directory, "caddy", words, origin) as session:
        yield dataclasses.replace(gateway, origin=origin, session=session)


@asynccontextmanager
async def _running(place: Path, program: str, words: list[str], origin: str) -> AsyncIterator[aiohttp.ClientSession]:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed: its block in the guide is not run")
    log = place / f"{program}.log"
    with log.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            found, *words, stdout=said, stderr=said, env=os.environ | {"HOME": str(log.parent)}
        )
    connector = aiohttp.TCPConnector(ssl=False, limit=0)
    try:
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            await _until_it_answers(session, origin, process, log)
            yield session
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_it_answers(session: aiohttp.ClientSession, origin: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            assert process.returncode is None, f"it ended: {log}"
            try:
                async with session.get(origin + "/healthz") as answer:
                    assert answer.status == 200, f"it answers {answer.status}: {log}"
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.02)
