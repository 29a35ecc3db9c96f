"""Requests to paste: curl, Python with OpenAI's package, Node without any. A test runs each of them against a gateway.

`BASE` and `KEY` stand for what a reader has: the page puts the gateway's own address in the place of the first.
"""

from collections.abc import Mapping
from typing import NamedTuple

import orjson

from proxy.reference.operations import Operation

ORIGIN = "https://gateway.invalid"
"""Stands for the gateway's own address until it is known: nothing else in document or page may begin so."""
KEY = "sk_your_api_key"
TASK = "vreq_AbCdEfGhIjKlMnOpQrSt"
REQUEST = "req_01HQXAMPLE0000000000000000"
CHAT_MODEL = "doubao-pro-32k"

_BODIES: Mapping[str, dict[str, object]] = {
    "createChatCompletion": {
        "model": CHAT_MODEL,
        "messages": [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Hello!"}],
    },
    "createImage": {"prompt": "A lighthouse at dusk, watercolour", "size": "2048x2048", "n": 2},
    "createVideo": {"prompt": "Waves on a reef at sunset", "resolution": "720p", "duration": 5},
}
_TAILS: Mapping[str, str] = {
    "getVideoTask": f"/videos/tasks/{TASK}?wait=30",
    "listVideoTasks": "/videos/tasks?limit=10&offset=0",
    "cancelVideoTask": f"/videos/tasks/{TASK}",
    "getModel": f"/models/{CHAT_MODEL}",
    "getReceipt": f"/usage/{REQUEST}",
}
_OWN_PYTHON: Mapping[str, str] = {
    "createChatCompletion": f"""stream = client.chat.completions.create(
    model="{CHAT_MODEL}",
    messages=[
        {{"role": "system", "content": "You are a helpful assistant."}},
        {{"role": "user", "content": "Hello!"}},
    ],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
""",
    "createImage": """images = client.images.generate(
    model="doubao-seedream-5-0-260128",
    prompt="A lighthouse at dusk, watercolour",
    size="2048x2048",
    n=2,
    timeout=120,
)
for image in images.data:
    print(image.url)
""",
    "listModels": """for model in client.models.list():
    print(model.id)
""",
    "getModel": f"""print(client.models.retrieve("{CHAT_MODEL}"))
""",
}
"""Where OpenAI's package has a method of its own; all else goes by its `get`, `post` and `delete`."""

_WITHOUT = frozenset({"getDocsFile", "getDocs"})


class Sample(NamedTuple):
    """One request as a program."""

    language: str
    label: str
    source: str


def samples_of(method: str, path: str, operation: Operation, *, needs_key: bool, prefix: str) -> list[Sample]:
    """Return an operation's samples: ``curl``, ``python`` and ``node``; none of a file that only the page asks for."""
    if operation.id in _WITHOUT:
        return []
    target, body = _TAILS.get(operation.id, path), _BODIES.get(operation.id)
    base = ORIGIN + prefix
    return [
        Sample("bash", "curl", _curl(method, base + target, body, needs_key=needs_key)),
        Sample("python", "Python", _python(method, base, target, operation.id)),
        Sample("javascript", "Node", _node(method, base + target, body, operation.id, needs_key=needs_key)),
    ]


def _curl(method: str, url: str, body: dict[str, object] | None, *, needs_key: bool) -> str:
    lines = [f'curl "{url}"' if method in ("GET", "POST") else f'curl -X {method} "{url}"']
    if needs_key:
        lines.append(f'-H "Authorization: Bearer {KEY}"')
    if body is not None:
        written = orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()
        lines += ['-H "Content-Type: application/json"', f"-d '{written}'"]
    return " \\\n  ".join(lines) + "\n"


def _python(method: str, base: str, target: str, name: str) -> str:
    client = f'from openai import OpenAI\n\nclient = OpenAI(api_key="{KEY}", base_url="{base}")\n'
    if name in _OWN_PYTHON:
        return f"{client}\n{_OWN_PYTHON[name]}"
    body = _BODIES.get(name)
    if body is None:
        return f'{client}\nprint(client.{method.lower()}("{target}", cast_to=object))\n'
    lines = "".join(f'        "{field}": {value!r},\n'.replace("'", '"') for field, value in body.items())
    call = f'client.post(\n    "{target}",\n    body={{\n{lines}    }},\n    cast_to=object,\n)'
    return f'{client}\ntask = {call}\nprint(task["id"], task["status"])\n'


def _node(method: str, url: str, body: dict[str, object] | None, name: str, *, needs_key: bool) -> str:
    options = [] if method == "GET" else [f'  method: "{method}",']
    if needs_key:
        json_type = "" if body is None else ', "Content-Type": "application/json"'
        options.append(f'  headers: {{ Authorization: "Bearer {KEY}"{json_type} }},')
    if body is not None:
        written = orjson.dumps(body, option=orjson.OPT_INDENT_2).decode().replace("\n", "\n  ")
        options.append(f"  body: JSON.stringify({written}),")
    asked = f'"{url}"' + (", {\n" + "\n".join(options) + "\n}" if options else "")
    shown = "answer.choices[0].message.content" if name == "createChatCompletion" else "answer"
    return f"const response = await fetch({asked});\nconst answer = await response.json();\nconsole.log({shown});\n"
