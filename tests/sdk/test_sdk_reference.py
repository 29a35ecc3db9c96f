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
EACH = "import runpy, sys; [print(end=chr(0)) or runpy.run_path(path) for path in sys.argv[1:]]"
SECTION = re.compile(r'<section class="panel operation" id="(\w+)".*?(?:<fieldset(.*?)</fieldset>|</section>)', re.DOTALL)
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
    programs = []
    for operation, source in sorted(samples.items(), key=lambda sample: sample[0] != "cancelVideoTask"):  # while its task is queued
        created = await gateway.ask("/videos/generations", {"prompt": "waves"})
        ready = source.replace(KEY, gateway.key).replace(TASK, created.json["id"]).replace(REQUEST, chat.headers["x-request-id"])
        programs.append(tmp_path / (operation + {"curl": ".sh", "Python": ".py", "Node": ".mjs"}[language]))
        programs[-1].write_text((CURL if language == "curl" else "") + ready.replace("?wait=30", "?wait=0"), encoding="utf-8")
    printed = await run_all(language, programs)

    for operation, expected in SAID_BY.items():
        assert expected in printed[operation], f"{operation}: {printed[operation]}"


async def samples_of(gateway: Bench, language: str) -> dict[str, str]:
    """Return the samples that a reader of the page sees under a language's name, by their operations."""
    reply = await gateway.ask("/docs?lang=en", key=None, headers={"Accept-Encoding": "identity"})
    found = {}
    for operation, box in SECTION.findall(reply.body.decode()):
        names = re.findall(r"<label [^>]*>(\w+)</label>", box)
        sources = re.findall(r"<pre [^>]*><code>(.*?)</code></pre>", box, re.DOTALL)
        if names:
            found[operation] = html.unescape(dict(zip(names, sources, strict=True))[language])
    return found


async def run_all(language: str, programs: list[Path]) -> dict[str, str]:
    """Run programs one after the other, and return what each printed. Python's are run by one process: it imports once."""
    if language == "Python":
        printed = await run(sys.executable, "-c", EACH, *map(str, programs))
        return dict(zip((program.stem for program in programs), printed.split("\0")[1:], strict=True))
    command = {"curl": ["sh", "-e"], "Node": ["node"]}[language]
    return {program.stem: await run(*command, str(program)) for program in programs}


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    printed, complained = await process.communicate()
    assert process.returncode == 0, f"{command}\n{printed.decode()}{complained.decode()}"
    return printed.decode()
