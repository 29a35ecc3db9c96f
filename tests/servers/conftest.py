"""Servers that nobody here wrote, as upstreams: each installed once into a virtual environment of its own, outside the project."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from proxy.upstream.http1.framing import Chunked
from tests.support.process import free_port

HOME = Path(os.environ.get("LLM_PROXY_TEST_SERVERS", Path.home() / ".cache" / "llm-proxy-test-servers"))
INSTALL_SECONDS = 1800.0
START_SECONDS = 180.0
TIMEOUT = aiohttp.ClientTimeout(total=5)


def installed(name: str, *requirements: str) -> Path:
    """Return the ``bin`` of a virtual environment with these packages; make it if there is none."""
    folder = HOME / name
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *requirements], check=True, timeout=INSTALL_SECONDS)
        (folder / "complete").touch()
    return folder / "bin"


@dataclass
class Server:
    """A server in a process of its own, behind a socket that keeps every byte that it answers."""

    base_url: str
    answered: list[bytearray] = field(default_factory=list)
    """What came over each connection since the last `forget`."""

    def forget(self) -> None:
        for kept in self.answered:
            kept.clear()

    def body(self) -> bytes:
        """Return the body of the answer that came since, without its framing."""
        (answer,) = filter(None, self.answered)
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        return Chunked().feed(body)[0] if b"transfer-encoding: chunked" in head.lower() else body


@asynccontextmanager
async def serving(command: Sequence[object], port: int, ready: str, directory: Path) -> AsyncIterator[Server]:
    """Start a server and wait until it answers; stop it at the end."""
    with (directory / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*map(str, command), stdout=log, stderr=log, cwd=directory)
        try:
            await _until_ready(process, f"http://127.0.0.1:{port}{ready}", directory / "server.log")
            async with _kept(port) as server:
                yield server
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _until_ready(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession(timeout=TIMEOUT) as session:
        while True:
            if process.returncode is not None:
                raise AssertionError(await asyncio.to_thread(log.read_text, errors="replace"))
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.5)  # the server tells nobody when it is ready


@asynccontextmanager
async def _kept(port: int) -> AsyncIterator[Server]:
    """Listen before a server, and keep what it answers, an entry for each connection."""
    server = Server("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        kept = bytearray()
        server.answered.append(kept)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copied(reader, upstream_writer, bytearray()))
                both.create_task(_copied(upstream_reader, writer, kept))
        except* OSError:
            pass  # either side left
        finally:
            writer.close()
            upstream_writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.base_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    async with listening:
        yield server


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
    while piece := await reader.read(65_536):
        kept += piece
        writer.write(piece)
        await writer.drain()
    writer.close()


@pytest.fixture
async def litellm(tmp_path: Path) -> AsyncIterator[Server]:
    """LiteLLM's proxy with an answer that it makes up itself."""
    bin_folder, port = installed("litellm", "litellm[proxy]"), free_port()
    (tmp_path / "litellm.yaml").write_text(
        "model_list:\n  - model_name: doubao-seed-2-0-pro-260215\n    litellm_params:\n      model: openai/mock\n"
        "      api_key: none\n      mock_response: 你好, hello from the mock, which says a few words.\n"
        "general_settings:\n  dangerously_permit_weak_or_unset_master_key: true\n",
        encoding="utf-8",
    )
    command = [bin_folder / "litellm", "--config", "litellm.yaml", "--host", "127.0.0.1", "--port", port, "--telemetry", "False"]
    async with serving(command, port, "/health/liveliness", tmp_path) as server:
        yield server


@pytest.fixture
async def llama(tmp_path: Path) -> AsyncIterator[Server]:
    """llama.cpp's server with a model of two layers and random weights, and a context of 512 tokens."""
    bin_folder, port = installed("llama", "llama-cpp-python[server]", "gguf", "numpy"), free_port()
    maker = await asyncio.create_subprocess_exec(bin_folder / "python", Path(__file__).with_name("tiny_model.py"), cwd=tmp_path)
    assert await maker.wait() == 0
    options = ["--model", "tiny.gguf", "--host", "127.0.0.1", "--port", port, "--n_ctx", 512]
    async with serving([bin_folder / "python", "-m", "llama_cpp.server", *options], port, "/v1/models", tmp_path) as server:
        yield server
