"""The samples of `/docs`, pasted from its page and run as they stand, but for the key and the ids of what there is."""

import asyncio
import html
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.gateway import Bench

KEY, TASK, REQUEST = "sk_your_api_key", "vreq_AbCdEfGhIjKlMnOpQrSt", "req_01HQXAMPLE0000000000000000"
SAID = "Hello! How can I help you today?"
CURL = 'curl() { command curl --silent --show-error --fail-with-body --noproxy "*" "$@" && echo; }\n'
SAID_BY = {
    "createChatCompletion": SAID,
    "createImage": "https://",
    "createVideo": "vreq_",
    "getVideoTask": "vreq_",
    "listVideoTasks": "vreq_",
    "cancelVideoTask": "TASK_CANCELLED",
    "listModels": "doubao-pro-32k",
    "listPublicModels": "doubao-pro-32k",
    "getModel": "doubao-pro-32k",
    "getAccount": "acme",
    "getReceipt": "doubao-pro-32k",
    "isAlive": "ok",
    "isReady": "ready",
    "getOpenApi": "3.1.0",
}
"""What each sample prints, by its operation."""


@pytest.mark.parametrize("language", ["curl", "Python", "Node"])
async def test_every_sample_of_the_page_runs(gateway: Bench, tmp_path: Path, language: str) -> None:
    program = {"curl": "curl", "Python": sys.executable, "Node": "node"}[language]
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} on this machine")
    samples = await samples_of(gateway, language)
    assert set(samples) == set(SAID_BY)

    chat = await gateway.chat()
    for operation, source in samples.items():
        created = await gateway.ask("/videos/generations", {"prompt": "waves"})
        ready = source.replace(KEY, gateway.key).replace(TASK, created.json["id"]).replace(REQUEST, chat.headers["x-request-id"])
        printed = await run(language, ready.replace("?wait=30", "?wait=0"), tmp_path)

        assert SAID_BY[operation] in printed, f"{operation}: {printed}"


async def samples_of(gateway: Bench, language: str) -> dict[str, str]:
    """Return the samples that a reader of the page sees under a language's name, by their operations."""
    reply = await gateway.ask("/docs?lang=en", key=None, headers={"Accept-Encoding": "identity"})
    found = {}
    for operation, box in re.findall(
        r'<section class="panel operation" id="(\w+)".*?(?:<fieldset(.*?)</fieldset>|</section>)', reply.body.decode(), re.DOTALL
    ):
        names = re.findall(r"<label [^>]*>(\w+)</label>", box)
        sources = re.findall(r"<pre [^>]*><code>(.*?)</code></pre>", box, re.DOTALL)
        if names:
            found[operation] = html.unescape(dict(zip(names, sources, strict=True))[language])
    return found


async def run(language: str, source: str, directory: Path) -> str:
    """Run a program, and return what it printed."""
    path = directory / {"curl": "sample.sh", "Python": "sample.py", "Node": "sample.mjs"}[language]
    path.write_text((CURL if language == "curl" else "") + source, encoding="utf-8")
    command = {"curl": ["sh", "-e"], "Python": [sys.executable], "Node": ["node"]}[language]
    process = await asyncio.create_subprocess_exec(*command, str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    printed, complained = await process.communicate()
    assert process.returncode == 0, f"{source}\n{printed.decode()}{complained.decode()}"
    return printed.decode()
