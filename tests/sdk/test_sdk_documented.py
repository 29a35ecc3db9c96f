"""The examples of our own documents, run unchanged, except that base URL, key and ids are those of the gateway under test."""

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.gateway import Bench

ROOT = Path(__file__).parents[2]
API = (ROOT / "proxy/docs/api.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
BASE_URL, KEY = "http://127.0.0.1:8080/api/v1", "sk_…"
SAID = "Hello! How can I help you today?"


async def test_the_curl_lines_of_the_api_guide(gateway: Bench) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    settings, *lines = API.partition("```sh\n")[2].partition("```")[0].replace("\\\n", "").splitlines()
    curl = 'curl() { command curl --silent --show-error --fail-with-body --noproxy "*" "$@" && echo; }'
    task, printed = "", []

    for line in lines:
        chat = gateway.log.of("/chat/completions")[0]["request_id"] if "req_…" in line else ""
        asked = re.sub("vreq_…", task, line).replace("req_…", str(chat)).replace("wait=30", "wait=0")
        printed.append(await run("sh", "-ec", "\n".join([pointed_at(gateway, settings), curl, asked])))
        task = task or next(iter(re.findall(r"\bvreq_[A-Za-z0-9]+", printed[-1])), "")

    assert SAID in printed[0]
    assert printed[1].rstrip().endswith("data: [DONE]")
    assert printed[2].count('"url"') == 2
    assert all(task in look for look in printed[3:7])
    assert '"TASK_CANCELLED"' in printed[6]


async def test_the_customer_of_the_readme(gateway: Bench) -> None:
    program = README.partition("```python\n")[2].partition("```")[0]

    printed = await run(sys.executable, "-c", pointed_at(gateway, program) + "print(answer.choices[0].message.content)")

    assert printed.strip() == SAID


def pointed_at(gateway: Bench, example: str) -> str:
    """Return an example with the reader's two changes."""
    return example.replace(BASE_URL, gateway.base_url).replace(KEY, gateway.key)


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    printed, complained = await process.communicate()
    assert process.returncode == 0, printed.decode() + complained.decode()
    return printed.decode()
