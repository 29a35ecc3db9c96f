"""A throwaway gateway: a temporary directory, the stand-in for Ark (or Ark itself), one account with ¥100, and a key."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from proxy import ids
from proxy.clock import SystemClock
from proxy.config import load
from proxy.core.money import parse_yuan
from proxy.demo.ark import Settings, StandIn, Timeline
from proxy.gateway.app import running
from proxy.gateway.shutdown import StopSignal
from proxy.store.contract import Store
from proxy.store.values import NewKey
from proxy.telemetry.logs import AccessLog

ACCOUNT = "demo"
BALANCE_YUAN = "100.00"
REAL_BASE_URL = "https://ark.cn-beijing.volces.com/api/v3"
STAND_IN_KEY = "stand-in"
CHAT_MODEL, IMAGE_MODEL, VIDEO_MODEL = "doubao-pro-32k", "doubao-seedream-5-0-260128", "doubao-seedance-1-5-pro-251215"

_CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
drain_seconds = 5
[store]
url = "{store}"
[upstreams.ark]
base_url = "{base_url}"
api_key = "env:ARK_API_KEY"
[videos]
poll_seconds = [{poll_seconds}]
[[models]]
id = "doubao-pro-32k"
kind = "chat"
upstream = "ark"
upstream_model = "doubao-seed-2-0-lite-260428"
description = "豆包 Pro 32K 上下文模型"
context_tokens = 32768
upstream_context_tokens = 262144
reasoning_tokens_max = 131072
request_defaults = {{ thinking = {{ type = "disabled" }} }}
price = {{ input = "0.8", output = "2.0", cached_input = "0.16" }}
[[models]]
id = "doubao-seedream-5-0-260128"
kind = "image"
upstream = "ark"
description = "Seedream 5.0 Lite 图片生成模型"
price = {{ image = "0.18" }}
[[models]]
id = "doubao-seedance-1-5-pro-251215"
kind = "video"
upstream = "ark"
description = "Seedance 1.5 Pro 视频生成模型"
resolutions = ["480p", "720p", "1080p"]
price = {{ silent = "8", audio = "16", flex = "0.5" }}
[[models]]
id = "doubao-seedance-2-0"
kind = "video"
upstream = "ark"
upstream_model = "doubao-seedance-2-0-260128"
description = "Seedance 2.0 视频生成模型"
resolutions = ["480p", "720p", "1080p"]
price = {{ silent = "46", audio = "46", by_resolution = {{ "1080p" = {{ silent = "51", audio = "51" }} }} }}
"""


SQLITE = "sqlite:demo.db"


@dataclass(frozen=True, slots=True)
class Upstream:
    """What the gateway asks: the stand-in, or Ark itself."""

    base_url: str
    env: Mapping[str, str]
    """With its key."""
    poll_seconds: str
    ark: StandIn | None
    """None: Ark itself."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The base URL and the key for a customer of the throwaway gateway, and its store for the operator's view."""

    base_url: str
    key: str
    store: Store


@asynccontextmanager
async def setting(*, port: int, real: bool, access_log: AccessLog, stop: StopSignal) -> AsyncIterator[Setting]:
    """Set everything up; on exit, stop and delete it."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="llm-proxy-demo-")))
        upstream = await stack.enter_async_context(upstreams(real=real))
        config = load(write_config(directory, upstream, port=port, store=SQLITE), upstream.env)
        gateway = await stack.enter_async_context(running(config, clock=SystemClock(), access_log=access_log, stop=stop))
        key = await make_customer(gateway.store)
        await gateway.live_keys.refresh()
        yield Setting(f"{gateway.addresses[0]}/api/v1", key, gateway.store)


@asynccontextmanager
async def upstreams(*, real: bool) -> AsyncIterator[Upstream]:
    """Start the stand-in, or name Ark itself."""
    if real:
        yield Upstream(REAL_BASE_URL, dict(os.environ), "3, 15", None)
        return
    settings = Settings(timeline=Timeline(queued_seconds=1.0, running_seconds=3.0), links="local")
    async with StandIn(settings) as ark:
        ark.chat.event_seconds = 0.05
        yield Upstream(ark.base_url, {**os.environ, "ARK_API_KEY": STAND_IN_KEY}, "0.5, 1", ark)


def write_config(directory: Path, upstream: Upstream, *, port: int, store: str) -> Path:
    """Write a gateway's configuration into its directory; return the file."""
    path = directory / "config.toml"
    text = _CONFIG.format(port=port, store=store, base_url=upstream.base_url, poll_seconds=upstream.poll_seconds)
    path.write_text(text, encoding="utf-8")
    return path


async def make_customer(store: Store) -> str:
    """Make the account and its key; return the key's secret."""
    now_ms = SystemClock().now_ms()
    secret = ids.new_secret()
    await store.create_account(ACCOUNT, parse_yuan(BALANCE_YUAN), now_ms)
    await store.create_key(ACCOUNT, NewKey(ids.key_id(), "demo", secret.prefix, secret.sha256, now_ms))
    return secret.text
