"""Canaries in every secret, on every path that succeeds or fails, with all logging on: none may leak anywhere.

Two are kept by design, and must be absent only elsewhere: the prompt of a video is in the store, because the published API returns it
with the task; the upstream's ids are in the store and in the operator's log, to ask Ark about a receipt.
"""

import re
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.core.money import parse_yuan
from proxy.demo.ark import CANARIES, FAULTS, TASKS, Close, Reset, Send, StandIn, Step, answer_head, answer_sse, known_error
from tests.support.gateway import CANARY_KEY, MODEL
from tests.support.process import GatewayProcess
from tests.support.raw import connect, request

PROMPT = "canary-prompt-of-a-chat"
PICTURE_PROMPT = "canary-prompt-of-a-picture"
VIDEO_PROMPT = "canary-prompt-of-a-video"
WRONG_KEY = "sk_canary-key-that-nobody-has-0123456789abcdefgh"
SAID = "canary-said-by-the-upstream"
DEBUG = """
import logging, sys
from proxy import cli

basic, set_level = logging.basicConfig, logging.Logger.setLevel

def all_of_it(**words):
    basic(**{**words, "level": logging.DEBUG})
    logging.getLogger("test").debug("all is logged")

logging.basicConfig = all_of_it
logging.Logger.setLevel = lambda logger, level: set_level(logger, level if logger.name == "aiosqlite" else logging.DEBUG)
sys.argv[0] = "llm-proxy"
cli.main()
"""
"""The gateway with all loggers at debug, the libraries' too, except aiosqlite's, which is always silent: it would log rows."""


class DebugGateway(GatewayProcess):
    """A gateway at debug level, with its key in a file and no secret in the environment."""

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-X", "dev", "-W", "ignore", "-c", DEBUG, *words, "--config", str(self.config)]

    def environment(self, **more: str) -> dict[str, str]:
        return {name: value for name, value in super().environment(**more).items() if name != "ARK_API_KEY"}


@dataclass
class Heard:
    """The heads and bodies of all answers to customers."""

    answers: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(self.answers)


@pytest.fixture
async def ark() -> AsyncIterator[StandIn]:
    async with StandIn(calls_max=0) as running:
        yield running


@pytest.fixture
async def gateway(tmp_path: Path, ark: StandIn) -> AsyncIterator[DebugGateway]:
    made = DebugGateway(tmp_path, ark.base_url, drain_after_seconds=1, idle_seconds=1, first_byte_seconds=2, poll_seconds="0.05, 0.1")
    (tmp_path / "ark.key").write_text(CANARY_KEY)
    made.config.write_text(made.config.read_text().replace("env:ARK_API_KEY", "file:ark.key"))
    await made.set_up(parse_yuan("1000"))
    await made.start()
    try:
        yield made
    finally:
        if made.process is not None and made.process.returncode is None:
            await made.kill()


async def tell(session: aiohttp.ClientSession, heard: Heard, path: str, body: Any = None, **more: Any) -> None:
    """Send a request, and record the answer, complete or not."""
    method = more.pop("method", "GET" if body is None else "POST")
    with suppress(aiohttp.ClientError, TimeoutError):
        async with session.request(method, f"/v1{path}", data=body if body is None else orjson.dumps(body), **more) as answer:
            heard.answers.append(f"{answer.status} {dict(answer.headers)}")
            with suppress(aiohttp.ClientError):
                async for piece in answer.content.iter_any():
                    heard.answers.append(piece.decode("utf-8", "replace"))


def chat(**fields: Any) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": "look", "description": PROMPT}}]
    return {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "tools": tools, "user": PROMPT, **fields}


STREAM = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


def broken_answers() -> list[list[Step]]:
    """Return answers of a faulty upstream, each with a canary that must not leak."""
    html = f"<html>{SAID} {CANARY_KEY}</html>".encode()
    error = b'data: {"error":{"code":"InternalServiceError","message":"%b of account 2100000001"}}\n\n' % SAID.encode()
    return [
        [Send(answer_head(502, "text/html", body_bytes=len(html)) + html)],
        [Send(answer_head(200, "text/html", body_bytes=len(html)) + html)],
        [Send(answer_head(200, "application/json", body_bytes=1000) + html), Reset()],
        [Send(b"HTTP/1.1 200 OK\r\nX-Broken " + SAID.encode() + b"\r\n\r\n"), Close()],
        [Send(SAID.encode() + b"\r\n\r\n"), Close()],
        [Reset()],
        answer_sse(STREAM + error),
        answer_sse(STREAM),
        [*answer_sse(STREAM)[:1], Reset()],
        answer_sse(STREAM + b"data: {no json\n\n"),
    ]


async def drive(gateway: GatewayProcess, ark: StandIn, heard: Heard) -> None:
    """Take every path that succeeds or fails."""
    headers = {"Authorization": f"Bearer {gateway.key}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(gateway.origin, headers=headers) as session:
        await successes(session, heard)
        for code in FAULTS:
            for path, body in CALLS.items():
                ark.enqueue(known_error(code), TASKS if "videos" in path else path)
                await tell(session, heard, path, body)
        for script in broken_answers():
            for stream in (False, True):
                ark.enqueue(script)
                await tell(session, heard, "/chat/completions", chat(stream=stream))
            ark.enqueue(script, "/images/generations")
            await tell(session, heard, "/images/generations", CALLS["/images/generations"])
        await refusals(session, gateway, heard)
        await leave(gateway)
    await malformed(gateway, heard)


CALLS: dict[str, dict[str, Any]] = {
    "/chat/completions": chat(),
    "/images/generations": {"prompt": PICTURE_PROMPT},
    "/videos/generations": {"prompt": VIDEO_PROMPT},
}


async def successes(session: aiohttp.ClientSession, heard: Heard) -> None:
    for number, (path, body) in enumerate(CALLS.items()):
        for _ in range(2):  # the second is answered from the store
            await tell(session, heard, path, body, headers={"Idempotency-Key": f"order-{number}"})
    await tell(session, heard, "/chat/completions", chat(stream=True))
    for path in ("/models", "/account", "/videos/tasks", "/usage/req_none", "/videos/tasks/vreq_none", "/healthz", "/nothing"):
        await tell(session, heard, path)


async def refusals(session: aiohttp.ClientSession, gateway: GatewayProcess, heard: Heard) -> None:
    for body in (
        chat(n=0),
        chat(model="none"),
        chat(max_tokens=10**9),
        chat(messages=[{"role": "robot", "content": PROMPT}]),
        [PROMPT],
    ):
        await tell(session, heard, "/chat/completions", body)
    await tell(session, heard, f"/usage/{gateway.key}?key={gateway.key}")
    await tell(session, heard, "/models", headers={"Authorization": f"Bearer {WRONG_KEY}"})
    await tell(session, heard, "/models", headers={"x-api-key": WRONG_KEY})
    await tell(session, heard, "/account", headers={"Authorization": f"Basic {WRONG_KEY}"})
    await tell(session, heard, "/chat/completions", chat(), headers={"Content-Encoding": "gzip"})


async def leave(gateway: GatewayProcess) -> None:
    """Begin a stream and disconnect."""
    body = orjson.dumps(chat(stream=True))
    key = ("Authorization", f"Bearer {gateway.key}")
    async with connect(gateway.origin) as client:
        await client.send(request("POST", "/v1/chat/completions", key, body=body))
        await client.reader.readline()
    async with connect(gateway.origin) as client:
        await client.send(request("POST", "/v1/chat/completions", key, ("Content-Length", "999")) + body[:50])


async def malformed(gateway: GatewayProcess, heard: Heard) -> None:
    for sent in (
        request("GET", "/v1/models", ("x-api-key ", gateway.key)),
        request("GET", f"/v1/models/{WRONG_KEY}", ("Authorization", f"Bearer {gateway.key}\x01")),
        request("POST", "/v1/chat/completions", ("Authorization", f"Bearer {gateway.key}"), body=b'{"a":"' + PROMPT.encode() + b'"'),
        request("GET", "/v1/models", ("x-api-key", WRONG_KEY + "x" * 20_000)),
        PROMPT.encode() + b" " + gateway.key.encode() + b"\r\n\r\n",
    ):
        async with connect(gateway.origin) as client:
            answer = await client.ask(sent)
            heard.answers.append(f"{answer.headers} {answer.body!r}")


async def metrics_of(gateway: GatewayProcess) -> str:
    connector = aiohttp.UnixConnector(str(gateway.directory / "admin.sock"))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://admin/metrics") as response:
        return await response.text()


def stored(directory: Path) -> str:
    """Return the bytes of the store and its log."""
    return "".join(file.read_bytes().decode("latin-1") for file in sorted(directory.glob("gateway.db*")))


def seen_from_outside(pid: int) -> str:
    """Return what other processes of this user can see of a process: its command line, environment and children."""
    process = Path(f"/proc/{pid}")
    children = "".join(file.read_text() for file in process.glob("task/*/children"))
    assert not children, "a gateway has no children"
    return (process / "cmdline").read_text() + (process / "environ").read_text()


def found(text: str, *secrets: str) -> list[str]:
    return [secret for secret in secrets if secret in text]


ACCOUNT_NUMBERS = [canary for canary in CANARIES if canary != "Request id"]


@pytest.mark.timeout(180)
async def test_no_path_leaves_a_secret_anywhere(gateway: DebugGateway, ark: StandIn, tmp_path: Path) -> None:
    ark.chat.event_seconds = 0.001
    heard = Heard()
    await drive(gateway, ark, heard)
    assert gateway.process is not None
    outside = seen_from_outside(gateway.process.pid)
    counted = await metrics_of(gateway)
    kept = stored(tmp_path)
    await gateway.kill()
    log = gateway.log.read_text()

    assert len(heard.answers) > 100
    assert "all is logged" in log
    keys = (gateway.key, gateway.key[10:], CANARY_KEY, WRONG_KEY)
    prompts = (PROMPT, PICTURE_PROMPT)
    assert found(log, *keys, *prompts, VIDEO_PROMPT, SAID, *ACCOUNT_NUMBERS) == []
    assert found(kept, *keys, *prompts, SAID, *ACCOUNT_NUMBERS[:1]) == []
    assert found(counted, *keys, *prompts, VIDEO_PROMPT, SAID, *ACCOUNT_NUMBERS, "cgt-") == []
    assert found(str(heard), *keys, *prompts, SAID, *ACCOUNT_NUMBERS, "cgt-", "doubao-seed-2-0-pro-260215", str(tmp_path)) == []
    assert found(outside, *keys, *prompts, VIDEO_PROMPT) == []
    assert VIDEO_PROMPT in kept, "the one prompt that is kept, because the published API gives it back"
    assert "Traceback" not in str(heard)
    assert (await gateway.run("ledger", "verify")).returncode == 0


async def test_a_new_key_is_on_its_own_stdout_once_and_nowhere_else(gateway: DebugGateway, tmp_path: Path) -> None:
    made = await gateway.run("key", "create", "acme", "--name", "web")
    (secret,) = re.findall(r"sk_[A-Za-z0-9_-]{43}", made.stdout)
    listed = [await gateway.run(*words) for words in (("key", "list"), ("account", "show", "acme"), ("check-config",), ("usage",))]
    counted = await metrics_of(gateway)
    await gateway.kill()

    assert made.stdout.count(secret) == 1
    assert [ended.returncode for ended in listed] == [0] * 4
    everywhere = made.stderr + "".join(ended.stdout + ended.stderr for ended in listed) + counted + gateway.log.read_text()
    assert found(everywhere + stored(tmp_path), secret, secret[12:], CANARY_KEY) == []
