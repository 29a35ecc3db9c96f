"""The published examples for chat and models, run unchanged, except that base URL and key are those of the gateway under test."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import orjson
import pytest

from tests.support.gateway import Bench

BASE_URL = "https://llm-proxy.tejarvis.info/api/v1"
KEY = "sk_your_api_key"
SAID = "Hello! How can I help you today?"
CHARGE = 40_000
NPM_SECONDS_MAX = 15.0

PYTHON = """\
from openai import OpenAI
client = OpenAI(
api_key="sk_your_api_key",
base_url="https://llm-proxy.tejarvis.info/api/v1"
)
response = client.chat.completions.create(
model="doubao-pro-32k",
messages=[{"role": "user", "content": "Hello"}]
)
"""

NODE = """\
import OpenAI from "openai";
const client = new OpenAI({
apiKey: "sk_your_api_key",
baseURL: "https://llm-proxy.tejarvis.info/api/v1",
});
const res = await client.chat.completions.create({
model: "doubao-pro-32k",
messages: [{ role: "user", content: "Hello" }],
});
"""

CURL_CHAT = r"""
curl -X POST https://llm-proxy.tejarvis.info/api/v1/chat/completions \
-H "Authorization: Bearer sk_your_api_key" \
-H "Content-Type: application/json" \
-d '{
"model": "doubao-pro-32k",
"messages": [
{ "role": "system", "content": "You are a helpful assistant." },
{ "role": "user", "content": "Hello, world!" }
],
"temperature": 0.7,
"max_tokens": 1024
}'
"""

CURL_MODELS = r"""
curl https://llm-proxy.tejarvis.info/api/v1/models \
-H "Authorization: Bearer sk_your_api_key"
"""


def pointed_at(gateway: Bench, example: str) -> str:
    """Return an example with the reader's two changes."""
    assert BASE_URL in example
    assert KEY in example
    return example.replace(BASE_URL, gateway.base_url).replace(KEY, gateway.key)


async def run(*command: str, cwd: Path | None = None) -> bytes:
    """Run a program to its end; return its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        printed, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, complained.decode()
    return printed


async def test_the_python_example(gateway: Bench) -> None:
    example = pointed_at(gateway, PYTHON) + "print(response.choices[0].message.content, response.usage.total_tokens)"

    printed = await run(sys.executable, "-c", example)

    assert printed.decode().strip() == f"{SAID} 32"
    await gateway.assert_charged(CHARGE)


@pytest.fixture
async def npm_openai(pytestconfig: pytest.Config) -> Path:
    """A directory in which node finds the ``openai`` package; it is kept between runs."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("there is no node, or no npm, on this machine")
    assert pytestconfig.cache is not None
    directory: Path = pytestconfig.cache.mkdir("npm-openai")
    if not (directory / "installed").exists():
        try:
            async with asyncio.timeout(NPM_SECONDS_MAX):
                await run(npm, "install", "openai", "--no-audit", "--no-fund", "--silent", "--prefix", str(directory))
        except (TimeoutError, AssertionError) as fault:
            pytest.skip(f"npm could not install the openai package: {fault or f'not within {NPM_SECONDS_MAX:g} s'}")
        (directory / "installed").touch()
    return directory


async def test_the_node_example(gateway: Bench, npm_openai: Path, request: pytest.FixtureRequest) -> None:
    script = npm_openai / f"{os.getpid()}.mjs"
    request.addfinalizer(lambda: script.unlink(missing_ok=True))
    script.write_text(pointed_at(gateway, NODE) + "console.log(res.choices[0].message.content, res.usage.total_tokens);\n")

    printed = await run("node", str(script), cwd=npm_openai)

    assert printed.decode().strip() == f"{SAID} 32"
    await gateway.assert_charged(CHARGE)


async def curl(example: str) -> bytes:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    return await run("sh", "-c", example.strip() + " --silent --fail-with-body --noproxy '*'")


async def test_the_curl_example_for_chat(gateway: Bench) -> None:
    answer = orjson.loads(await curl(pointed_at(gateway, CURL_CHAT)))

    assert answer["choices"][0]["message"] == {"role": "assistant", "content": SAID}
    assert answer["usage"]["total_tokens"] == 32
    went_up = gateway.ark.calls[0].json
    assert (went_up["temperature"], went_up["max_tokens"], [message["role"] for message in went_up["messages"]]) == (
        0.7,
        1024,
        ["system", "user"],
    )
    await gateway.assert_charged(CHARGE)


async def test_the_curl_example_for_models(gateway: Bench) -> None:
    answer = orjson.loads(await curl(pointed_at(gateway, CURL_MODELS)))

    assert answer["object"] == "list"
    assert [*answer["data"][0]][:5] == ["id", "object", "created", "owned_by", "description"]  # what follows is ours
    assert {"doubao-pro-32k", "doubao-seedance-1-5-pro-251215"} <= {model["id"] for model in answer["data"]}
