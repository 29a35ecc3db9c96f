"""CPU per request and per streamed chunk, beside references that run in the same minute. ``pytest -m bench -s tests/bench``.

Nothing is asserted on absolute times: machines are noisy. Printed are figures and their ratio to each reference.
"""

import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from tests.bench.contenders import Contender, contenders, stand_in
from tests.bench.load import run_json, run_streams

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

ROUNDS = 3
STREAMS, CHUNKS, CHUNK_MS = 100, 200, 20
"""Half the streams at half the pace of the target: load, stand-in and contender share two cores here, and where they are busy chunks
arrive together, which flatters whoever is slower."""
CONNECTIONS, JSON_SECONDS = 64, 4.0
MESSAGES = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Hello, world!"}]
ASK = {"model": "doubao-pro-32k", "messages": MESSAGES}
ASK_JSON = orjson.dumps(ASK)
ASK_STREAM = orjson.dumps({**ASK, "stream": True, "stream_options": {"include_usage": True}})

Load = Callable[[Contender], Coroutine[Any, Any, int]]


def measure(running: list[Contender], load: Load, unit: str, per: int = 1) -> dict[str, float]:
    """Run the load on each in turn, ROUNDS times; print and return the least CPU µs a unit of each, and the gateway's ratio."""
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for contender in running:
            before, began = contender.cpu_seconds(), time.monotonic()
            done = uvloop.run(load(contender)) * per
            spent = (contender.cpu_seconds() - before) * 1e6 / max(1, done)
            print(f"  {contender.name:<14} {spent:8.1f} µs a {unit}   {done / (time.monotonic() - began):8.0f}/s", flush=True)
            best[contender.name] = min(spent, best.get(contender.name, spent))
    for name, figure in best.items():
        print(f"{name:<14} {figure:8.1f} µs a {unit}   the gateway is {best['gateway'] / figure:.2f} ×")
    return best


def test_cpu_per_json_request(tmp_path: Path) -> None:
    with stand_in() as upstream, contenders(upstream, tmp_path) as running:
        print(f"\nJSON chat, {CONNECTIONS} connections, {JSON_SECONDS:g} s")

        best = measure(running, lambda one: run_json(one.target, ASK_JSON, b"}", CONNECTIONS, JSON_SECONDS), "request")

    assert min(best.values()) > 0


def test_cpu_per_streamed_chunk(tmp_path: Path) -> None:
    options = ("--chunks", str(CHUNKS), "--chunk-chars", "10", "--chunk-ms", str(CHUNK_MS))
    with stand_in(*options) as upstream, contenders(upstream, tmp_path) as running:
        print(f"\n{STREAMS} streams of {CHUNKS} chunks, one each {CHUNK_MS} ms")

        best = measure(running, lambda one: run_streams(one.target, ASK_STREAM, STREAMS), "chunk", CHUNKS)

    assert min(best.values()) > 0
