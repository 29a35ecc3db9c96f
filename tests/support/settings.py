"""Live settings, for parts of the gateway that are tested alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.config import Config, load
from proxy.live.settings import Live, settings_of
from proxy.upstream.upstreams import Upstream

CONFIGURATION = {
    "LLM_PROXY_UPSTREAMS__ARK__BASE_URL": "http://127.0.0.1:9/api/v3",
    "LLM_PROXY_UPSTREAMS__ARK__API_KEY": "canary",
    "LLM_PROXY_MODELS": '[{"id": "m", "kind": "chat", "reasoning_tokens_max": 0, "price": {"input": "1", "output": "1"}}]',
}
"""The shortest valid configuration."""


def live(config: Config | None = None, upstreams: Mapping[str, Upstream] | None = None, **changes: Any) -> Live:
    """Return live settings of a configuration, by default the shortest; ``changes`` replace fields of `Settings`."""
    return Live(replace(settings_of(config or load(None, CONFIGURATION), upstreams or {}), **changes))
