"""The tour of all functions, which ends by verifying the books."""

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proxy.core.shown_text import shown
from proxy.demo.setting import CHAT_MODEL, IMAGE_MODEL, VIDEO_MODEL, Setting

MESSAGES = [{"role": "user", "content": "Hello"}]
VIDEO_SECONDS = 900.0
WAIT_SECONDS = 30


class TourError(Exception):
    """A step of the tour failed; the message says what happened instead."""


@dataclass
class Tour:
    """The steps of the tour. Each makes a customer's call and prints the result; `receipts` and `verify` look at the books."""

    console: Console
    stage: Setting
    session: aiohttp.ClientSession
    steps: int = 0

    async def walk(self) -> None:
        """Run all steps. Raises: TourError at the first that fails."""
        self.console.print(f"A gateway at {self.stage.base_url} with an account of ¥100.00\n")
        await self.models()
        requests = [await self.chat(), await self.stream(), await self.image(), await self.video()]
        await self.receipts(requests)
        await self.verify()

    async def models(self) -> None:
        found = await self.call("GET", "/models")
        self.say("GET /models", ", ".join(model["id"] for model in found["data"]))

    async def chat(self) -> str:
        body = {"model": CHAT_MODEL, "messages": MESSAGES}
        async with self.session.post(self.stage.base_url + "/chat/completions", json=body) as response:
            answer = await _read(response)
            self.say("POST /chat/completions", answer["choices"][0]["message"]["content"], _tokens(answer["usage"]))
            return response.headers["x-request-id"]

    async def stream(self) -> str:
        body = {"model": CHAT_MODEL, "messages": MESSAGES, "stream": True}
        async with self.session.post(self.stage.base_url + "/chat/completions", json=body) as response:
            if response.status != 200:
                await _read(response)
            text = await response.text()
            if not text.endswith("data: [DONE]\n\n"):
                raise TourError("the stream did not end with [DONE]")
            self.say("POST /chat/completions, stream", f"{text.count('data: {')} events, then data: [DONE]")
            return response.headers["x-request-id"]

    async def image(self) -> str:
        body = {"model": IMAGE_MODEL, "prompt": "赛博朋克风格的城市夜景", "size": "1280x720", "n": 2}
        answer = await self.call("POST", "/images/generations", body)
        self.say("POST /images/generations", f"{len(answer['image_urls'])} images", f"¥{answer['total_cost']}", answer["image_urls"][0])
        return str(answer["request_id"])

    async def video(self) -> str:
        body = {"model": VIDEO_MODEL, "prompt": "日落时分,海浪轻拍礁石", "resolution": "720p", "duration": 5}
        task = await self.call("POST", "/videos/generations", body)
        seen = [task["status"]]
        async with asyncio.timeout(VIDEO_SECONDS):
            while task["status"] not in ("succeeded", "failed"):
                task = await self.call("GET", f"/videos/tasks/{task['id']}?wait={WAIT_SECONDS}")
                seen += [task["status"]] if task["status"] != seen[-1] else []
        if task["status"] == "failed":
            raise TourError(f"the video failed: {task['error']}")
        self.say("POST /videos/generations", " → ".join(seen), f"¥{task['total_cost']}", task["video_url"])
        return str(task["id"])

    async def receipts(self, requests: list[str]) -> None:
        table = Table("request", "model", "outcome", "held", "charged", box=None, pad_edge=False)
        for request in requests:
            receipt = await self.call("GET", f"/usage/{request}")
            if receipt["status"] != "settled":
                raise TourError(f"request {request} is not settled")
            cells = (request, receipt["model"], receipt["outcome"], f"¥{receipt['hold']}", f"¥{receipt['cost']}")
            table.add_row(*(escape(shown(cell)) for cell in cells))
        account = await self.call("GET", "/account")
        self.say("GET /usage/{request_id}", "one receipt a request:")
        self.console.print(table)
        self.say("GET /account", f"¥{account['balance']} left, ¥{account['held']} held")

    async def nodes(self) -> None:
        """Show the gateways that live."""
        living = [node for node in await self.stage.store.nodes() or () if node.serves]
        self.say("llm-proxy nodes", f"{len(living)} gateways live", *(node.introduction.address for node in living))

    async def verify(self) -> None:
        checks = await self.stage.store.verify()
        self.say("llm-proxy ledger verify", "every invariant, checked in the store:")
        for check in checks:
            mark = "[green]holds[/green]" if check.holds else "[red]BROKEN[/red]"
            self.console.print(f"  {mark}  {check.name}  [dim]{check.figures}[/dim]")
        if broken := [check.name for check in checks if not check.holds]:
            raise TourError(f"the books do not balance: {', '.join(broken)}")
        self.console.print("\n[green]All done:[/green] the books balance to the nano-yuan.")

    async def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        async with self.session.request(method, self.stage.base_url + path, json=body) as response:
            return await _read(response)

    def note(self, words: str) -> None:
        """Print a line about the step before."""
        self.console.print(shown(f"  {words}"), markup=False, style="dim")

    def say(self, what: str, *words: str) -> None:
        """Print a step and what came of it."""
        self.steps += 1
        self.console.print(f"[bold cyan]{self.steps}[/bold cyan] [bold]{what}[/bold]")
        self.console.print(shown("  " + "  ·  ".join(words)), markup=False)


async def _read(response: aiohttp.ClientResponse) -> dict[str, Any]:
    answer: dict[str, Any] = await response.json()
    if response.status != 200:
        raise TourError(f"{response.method} {response.url.path} was answered with {response.status}: {answer['error']['message']}")
    return answer


def _tokens(usage: dict[str, int]) -> str:
    return f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens"
