"""The text that the demo prints: base URL, key, and commands that are ready to be pasted."""

from collections.abc import Iterable

from proxy.demo.setting import CHAT_MODEL, IMAGE_MODEL, VIDEO_MODEL


def paste(base_url: str, key: str, *, real: bool) -> str:
    """Return the text; every command in it can be copied unchanged."""
    auth = f"-H 'Authorization: Bearer {key}'"
    post = f"{auth} -H 'Content-Type: application/json'"
    messages = '[{"role":"user","content":"Hello"}]'
    behind = "Ark itself: this costs money" if real else "a stand-in for Ark: no key, no cost"
    return f"""
llm-proxy is running, in front of {behind}.

  base URL  {base_url}
  API key   {key}   (an account with ¥100)

# chat
curl {base_url}/chat/completions {post} -d '{{"model":"{CHAT_MODEL}","messages":{messages}}}'

# chat, streamed
curl -N {base_url}/chat/completions {post} -d '{{"model":"{CHAT_MODEL}","stream":true,"messages":{messages}}}'

# two pictures
curl {base_url}/images/generations {post} -d '{{"model":"{IMAGE_MODEL}","prompt":"a lighthouse at dusk","size":"1280x720","n":2}}'

# a video: submit, then look at the newest task, waiting for it up to 30 s
curl {base_url}/videos/generations {post} -d '{{"model":"{VIDEO_MODEL}","prompt":"waves at sunset","duration":5}}'
curl {auth} '{base_url}/videos/tasks?limit=1'

# what is left
curl {auth} {base_url}/account

# Python (pip install openai)
python3 - <<'END'
from openai import OpenAI
client = OpenAI(api_key="{key}", base_url="{base_url}")
for event in client.chat.completions.create(model="{CHAT_MODEL}", messages=[{{"role": "user", "content": "Hello"}}], stream=True):
    print(event.choices[0].delta.content or "", end="", flush=True)
print()
END

Ctrl-C ends it and deletes everything. Requests are logged below.
"""


def paste_nodes(gateways: Iterable[tuple[int, str, int]], config: str, database: str) -> str:
    """Return what can be tried with several gateways. Args: gateways: number, address and pid of each; config: of one of them."""
    listed = "\n".join(f"  gateway {number}  {address}  pid {pid}" for number, address, pid in gateways)
    pid = next(pid for *_, pid in gateways)
    return f"""
The base URL is that of a balancer before these, which share one ledger in {database}:

{listed}

# who lives
llm-proxy nodes --config {config}

# kill one as a machine dies: the others answer at once, and give back what it held after 20 s
kill -9 {pid}

# the books, whatever you did
llm-proxy ledger verify --config {config}
"""
