"""Warnings of a configuration that loads."""

import pytest

from proxy.config import load
from proxy.config.warnings import warnings
from tests.support.settings import CONFIGURATION

CONTEXT = (
    'models "m".context_tokens: not set, so a video, a file or audio is held at billing.context_tokens_unknown, {limit} tokens, '
    "and no prompt is refused for its length"
)
THINKING = (
    'models "m".reasoning_tokens_max: not set, so unless a request turns thinking off up to {limit} tokens are held for it; '
    "0 says that the model cannot think"
)
PICTURES = 'models "m".image_tokens: 2048 is less than the 5120 that Ark counts for a picture at detail high'


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("", [CONTEXT.format(limit=262_144), THINKING.format(limit=262_144)]),
        ('"context_tokens": 32768, ', [THINKING.format(limit=32_768)]),
        ('"context_tokens": 32768, "upstream_context_tokens": 65536, ', [THINKING.format(limit=65_536)]),
        ('"upstream_context_tokens": 65536, "reasoning_tokens_max": 0, ', []),
        ('"context_tokens": 32768, "reasoning_tokens_max": 0, "image_tokens": 2048, ', [PICTURES]),
        ('"context_tokens": 32768, "reasoning_tokens_max": 1, "image_tokens": 5120, ', []),
        ('"enabled": false, ', []),
    ],
)
def test_a_bound_that_is_left_out_is_told_with_its_key_and_what_is_held(keys: str, told: list[str]) -> None:
    model = f'[{{"id": "m", "kind": "chat", {keys}"price": {{"input": 1, "output": 1}}}}]'

    assert warnings(load(None, {**CONFIGURATION, "LLM_PROXY_MODELS": model})) == told


def test_what_is_held_is_the_operators_figure() -> None:
    model = '[{"id": "m", "kind": "chat", "price": {"input": 1, "output": 1}}]'

    config = load(None, {**CONFIGURATION, "LLM_PROXY_BILLING__CONTEXT_TOKENS_UNKNOWN": "100000", "LLM_PROXY_MODELS": model})

    assert config.catalog["m"].context_tokens_assumed == 100_000
    assert warnings(config) == [CONTEXT.format(limit=100_000), THINKING.format(limit=100_000)]


def test_pictures_and_videos_have_nothing_to_warn_of() -> None:
    models = '[{"id": "p", "kind": "image", "price": {"image": 1}}, {"id": "v", "kind": "video", "price": {"silent": 1}}]'

    assert warnings(load(None, {**CONFIGURATION, "LLM_PROXY_MODELS": models})) == []


def test_proxies_that_are_everybody_are_told() -> None:
    trusted = '["10.0.0.0/8", "0.0.0.0/0", "::/0"]'

    told = warnings(load(None, {**CONFIGURATION, "LLM_PROXY_SERVER__TRUSTED_PROXIES": trusted}))

    network = "server.trusted_proxies: {} is everybody, so anybody can say where a call comes from"
    assert [line for line in told if line.startswith("server")] == [network.format("0.0.0.0/0"), network.format("::/0")]
