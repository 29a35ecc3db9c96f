"""A gateway under test: the real application on loopback, with the stand-in for Ark and a real store."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import orjson

from proxy import ids
from proxy.clock import SystemClock
from proxy.config import Source
from proxy.core.money import Nanos, parse_yuan
from proxy.demo.ark import StandIn
from proxy.gateway.app import running
from proxy.gateway.shutdown import StopSignal
from proxy.live.keys import LiveKeys
from proxy.store.contract import Store
from proxy.store.values import NewKey
from proxy.telemetry.logs import Field, RequestLine
from tests.support.books import assert_books_balance

BALANCE = parse_yuan("100")
MODEL = "doubao-pro-32k"
CANARY_KEY = "canary-upstream-key-7f3a"

CONFIG = """
[server]
listen = ["{listen}"]
drain_seconds = {drain_seconds}
body_seconds = {body_seconds}
{server}
[store]
url = "sqlite:gateway.db"
[admin]
listen = "unix:admin.sock"
{admin}
[upstreams.ark]
base_url = "{base_url}"
api_key = "env:ARK_API_KEY"
connect_seconds = {connect_seconds}
first_byte_seconds = {first_byte_seconds}
idle_seconds = {idle_seconds}
{upstream}
[billing]
disconnect = "{disconnect}"
unknown_usage = "{unknown_usage}"
drain_after_seconds = {drain_after_seconds}
{billing}
[videos]
poll_seconds = [{poll_seconds}]
[[models]]
id = "doubao-pro-32k"
kind = "chat"
upstream = "ark"
upstream_model = "doubao-seed-2-0-lite-260428"
description = "豆包 Pro 32K 上下文模型"
context_tokens = 32768
output_tokens_max = 4096
reasoning_tokens_max = 0
price = {{ input = "0.8", output = "2.0", cached_input = "0.16" }}
request_defaults = {{ thinking = {{ type = "disabled" }} }}
[[models]]
id = "tiered/chat"
kind = "chat"
upstream = "ark"
upstream_model = "doubao-seed-2-0-pro-260215"
context_tokens = 262144
reasoning_tokens_max = 0
price = {{ tiers = [ {{ up_to = 32768, input = "3.2", output = "16", cached_input = "0.64" }}, {{ input = "4.8", output = "24" }} ] }}
[[models]]
id = "switched-off"
kind = "chat"
upstream = "ark"
enabled = false
price = {{ input = "0.8", output = "2.0" }}
[[models]]
id = "doubao-seedream-5-0-260128"
kind = "image"
upstream = "ark"
price = {{ image = "0.18" }}
[[models]]
id = "doubao-seedance-1-5-pro-251215"
kind = "video"
upstream = "ark"
description = "Seedance 1.5 Pro 视频生成模型"
price = {{ silent = "8", audio = "16", flex = "0.5" }}
[[models]]
id = "doubao-seedance-2-0"
kind = "video"
upstream = "ark"
upstream_model = "doubao-seedance-2-0-260128"
price = {{ silent = "46", audio = "46" }}
{models}
"""

DEFAULTS: Mapping[str, Any] = {
    "listen": "127.0.0.1:0",
    "drain_seconds": 5,
    "body_seconds": 5,
    "server": "",
    "admin": "",
    "connect_seconds": 2,
    "first_byte_seconds": 5,
    "idle_seconds": 5,
    "upstream": "",
    "disconnect": "drain",
    "unknown_usage": "estimate",
    "drain_after_seconds": 5,
    "billing": "",
    "poll_seconds": "1, 2",
    "models": "",
}


@dataclass
class Lines:
    """An access log that keeps its lines in memory."""

    written: list[dict[str, Field]] = field(default_factory=list)
    _waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = field(default_factory=list)

    def write(self, line: RequestLine) -> None:
        self.written.append(msgspec.to_builtins(line))
        for enough, future in self._waiting:
            if not future.done() and enough():
                future.set_result(None)

    def of(self, route: str) -> list[dict[str, Field]]:
        """The lines of a route's calls. The settlement of a call is durable before its line is written."""
        return [line for line in self.written if line["route"] == route]

    async def until(self, route: str, count: int = 1, timeout_seconds: float = 10.0) -> list[dict[str, Field]]:
        """Return a route's lines once there are `count`, including those of clients that left without an answer."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((lambda: len(self.of(route)) >= count, future))
        if len(self.of(route)) < count:
            async with asyncio.timeout(timeout_seconds):
                await future
        return self.of(route)

    @property
    def chats(self) -> list[dict[str, Field]]:
        return self.of("/chat/completions")

    async def until_chats(self, count: int = 1, timeout_seconds: float = 10.0) -> list[dict[str, Field]]:
        return await self.until("/chat/completions", count, timeout_seconds)


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"type", "code", "message", "param"}
        return error


@dataclass
class Bench:
    """A running gateway with one account of ¥100, its key, and the stand-in for Ark."""

    origin: str
    key: str
    account_id: int
    store: Store
    ark: StandIn
    session: aiohttp.ClientSession
    log: Lines
    stop: StopSignal
    directory: Path
    live_keys: LiveKeys
    scraped_at: tuple[str, ...] = ()

    @property
    def base_url(self) -> str:
        return f"{self.origin}/api/v1"

    @property
    def admin_socket(self) -> Path:
        return self.directory / "admin.sock"

    async def ask(
        self, path: str, body: Any = None, *, method: str = "", key: str | None = "", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one request and return its whole answer; ``key`` None sends no credential."""
        sent = {**({} if key is None else {"Authorization": f"Bearer {key or self.key}"}), **(headers or {})}
        data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        async with self.session.request(
            method or ("GET" if body is None else "POST"), self.base_url + path, data=data and io.BytesIO(data), headers=sent
        ) as response:
            return Reply(response.status, response.headers, await response.read())

    async def chat(self, **fields: Any) -> Reply:
        """Ask for one chat completion of the standard model."""
        return await self.ask("/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], **fields})

    async def balance(self) -> tuple[int, int]:
        """Return balance and held, in nano-yuan."""
        account = await self.store.account_by_id(self.account_id)
        return account.balance_nanos, account.held_nanos

    async def assert_charged(self, nanos: int) -> None:
        """Assert that exactly `nanos` left the account, that nothing is held, and that the books balance."""
        assert await self.balance() == (BALANCE - nanos, 0)
        await assert_books_balance(self.store)


@asynccontextmanager
async def bench(directory: Path, *, balance: Nanos = BALANCE, ark: StandIn | None = None, **options: Any) -> AsyncIterator[Bench]:
    """Start a gateway and its stand-in in a directory; ``options`` replace `DEFAULTS` in the configuration."""
    async with AsyncExitStack() as stack:
        if ark is None:
            ark = await stack.enter_async_context(StandIn())
        path = directory / "config.toml"
        path.write_text(CONFIG.format(**{"base_url": ark.base_url, **DEFAULTS, **options}))
        source = Source(path, {"ARK_API_KEY": CANARY_KEY})
        log, stop = Lines(), StopSignal()
        gateway = await stack.enter_async_context(running(source.read(), clock=SystemClock(), access_log=log, stop=stop, source=source))
        secret, account_id = await _customer(gateway.store, "acme", balance)
        await gateway.live_keys.refresh()
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        started = (gateway.live_keys, gateway.scraped_at)
        yield Bench(gateway.addresses[0], secret, account_id, gateway.store, ark, session, log, stop, directory, *started)


async def _customer(store: Store, name: str, balance: Nanos) -> tuple[str, int]:
    secret = ids.new_secret()
    if not any(account.name == name for account in await store.accounts()):
        await store.create_account(name, balance, 0)
    await store.create_key(name, NewKey(ids.key_id(), "test", secret.prefix, secret.sha256, 0))
    return secret.text, (await store.account(name)).id
