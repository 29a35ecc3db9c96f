"""The fault stand: a gateway in a separate process, fifty customers' accounts, mixed traffic, Ark's own books, and the audit.

Call `Stand.start` and `ForkedGateway.kill` any number of times; `Stand.customers` makes the traffic between them. After every fault:
``faults.cost(await stand.losses())``.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from proxy import ids
from proxy.core.catalog import Kind
from proxy.core.money import parse_yuan
from proxy.demo.ark import Settings, StandIn, Timeline
from proxy.store.sqlite import open_store
from proxy.store.values import NewKey
from proxy.tasks import TaskGroup
from tests.support.ark_books import INPUT, NEVER_ENDS, OUTPUT, PROMPT, TOKENS_MIN, ArkBooks
from tests.support.audit import Audit, Hands
from tests.support.gateway import MODEL
from tests.support.images import ROUTE as IMAGES
from tests.support.process import GatewayProcess
from tests.support.videos import QUICK, SUBMIT

ACCOUNTS = 50
CUSTOMERS = 10
EACH = parse_yuan("100000")
"""The balance of each account, which is never used up."""
CHECKPOINT_FRAMES = 60
PATIENT = {"connect_seconds": 300, "first_byte_seconds": 300, "idle_seconds": 300}
"""Limits so long that on a busy machine only the injected fault ends a call."""
ROOT = Path(__file__).parent.parent.parent

MIX = {"json": 30, "stream": 25, "stream with usage": 15, "leave": 10, "image": 8, "video": 4, "json by key": 8}
"""The mix of calls, in per cent."""


class ForkedGateway(GatewayProcess):
    """A `GatewayProcess` that a zygote forks, in a tenth of the time. `rig`: arguments of `tests.support.rigging.rig`."""

    def __init__(self, directory: Path, base_url: str, **options: Any) -> None:
        super().__init__(directory, base_url, **options)
        self.keys: dict[str, str] = {}
        self.rig: dict[str, Any] = {}
        self.within: tuple[str, ...] = ()
        """A command that runs the zygote and thus the gateway."""
        self._zygote: asyncio.subprocess.Process | None = None
        self._pid = 0
        self._ended: asyncio.Future[int] | None = None
        self._tasks = TaskGroup("zygote")

    async def set_up_accounts(self, names: list[str]) -> None:
        store = await open_store(self.directory / "gateway.db")
        for name in names:
            secret = ids.new_secret()
            self.keys[name] = secret.text
            await store.create_account(name, EACH, 0)
            await store.create_key(name, NewKey(ids.key_id(), "test", secret.prefix, secret.sha256, 0))
        await store.close()

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def zygote_pid(self) -> int:
        """The pid of the zygote, after `launch`."""
        assert self._zygote is not None
        return self._zygote.pid

    async def launch(self) -> None:
        """Fork the gateway and return at once; `ready` waits until it serves."""
        if self._zygote is None:
            command = (*self.within, sys.executable, "-m", "tests.support.zygote")
            pipe = asyncio.subprocess.PIPE
            self._zygote = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe, env=self.environment())
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        order = {
            "argv": ["llm-proxy", "serve", "--config", str(self.config)],
            "environment": {"ARK_API_KEY": self.environment()["ARK_API_KEY"]},
            "log": str(self.log),
            "rig": self.rig,
        }
        self._zygote.stdin.write(orjson.dumps(order) + b"\n")
        self._pid = int(await self._zygote.stdout.readline())
        self._ended = self._tasks.spawn(self._wait(self._zygote.stdout), "child")

    async def ready(self) -> bool:
        """Wait until the gateway serves. Return False if it died before."""
        assert self._ended is not None
        host, _, port = self.origin.removeprefix("http://").partition(":")
        while not self._ended.done():
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.wait([self._ended], timeout=0.005)
            else:
                writer.close()
                return True
        return False

    @property
    def has_ended(self) -> bool:
        return self._ended is None or self._ended.done()

    async def ended(self) -> int:
        """Wait for the end and return the exit code; minus the signal's number if a signal ended it."""
        assert self._ended is not None
        return await asyncio.shield(self._ended)

    def send(self, number: signal.Signals) -> None:
        os.kill(self._pid, number)

    async def kill(self) -> None:
        if self._ended is not None and not self._ended.done():
            os.kill(self._pid, signal.SIGKILL)
            await self.ended()

    async def close(self) -> None:
        await self.kill()
        if self._zygote is not None:
            assert self._zygote.stdin is not None
            self._zygote.stdin.close()
            await self._zygote.wait()

    @staticmethod
    async def _wait(told: asyncio.StreamReader) -> int:
        return os.waitstatus_to_exitcode(int(await told.readline()))


class Stand:
    """The stand-in, the gateway, Ark's books, and the answers that customers have received."""

    def __init__(self, ark: StandIn, gateway: ForkedGateway, books: ArkBooks, chance: random.Random) -> None:
        self.ark = ark
        self.gateway = gateway
        self.books = books
        self.hands = Hands()
        self.chance = chance
        self._serial = 0
        self._audit = Audit(gateway.directory / "gateway.db", books, ark.videos, self.hands)
        self._unanswered: list[tuple[str, str, dict[str, Any]]] = []
        """Unanswered calls under an idempotency key, to be retried."""

    async def start(self, **rig: Any) -> bool:
        """Start a gateway, with the given rig; return whether it came to serve."""
        self.gateway.rig = {"is_hasty": True, "checkpoint_frames": CHECKPOINT_FRAMES, **rig}
        await self.gateway.launch()
        return await self.gateway.ready()

    async def losses(self, *, all_ended: bool = False) -> list[str]:
        """Return what is missing or wrong by the audit and by the store's own checks of its books."""
        async with self.gateway.looked_into() as store:
            broken = [f"{check.name}: {check.offenders}" for check in await store.verify() if not check.holds]
        return broken + self._audit.losses(all_ended=all_ended)

    async def recovered(self) -> list[str]:
        """Return open requests that a start should have ended: all but videos."""
        async with self.gateway.looked_into() as store:
            return [f"{one.id} is still held" for one in await store.open_requests() if one.kind is not Kind.VIDEO]

    async def all_ended(self, timeout_seconds: float = 60.0) -> None:
        """Wait until no request is open, including videos."""
        async with self.gateway.looked_into() as store, asyncio.timeout(timeout_seconds):
            while await store.open_requests():  # noqa: ASYNC110  another process writes the file, so there is no event
                await asyncio.sleep(0.05)

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(sorted(self._audit.outcomes.items()))

    # Traffic.

    async def customers(self, count: int = CUSTOMERS, *, calls: int = 0) -> None:
        """Run `count` customers, for `calls` calls each, or until the gateway dies, beside one more whose stream never ends."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(self.gateway.origin, connector=connector) as session:
            wants = [self._customer(session, calls) for _ in range(count)]
            if not calls:
                wants.append(self._chat(session, NEVER_ENDS, stream=True))
            ends = await asyncio.gather(*wants, return_exceptions=True)
        surprising = [end for end in ends if end is not None and not isinstance(end, aiohttp.ClientError | ConnectionError)]
        assert not surprising, surprising

    async def _customer(self, session: aiohttp.ClientSession, calls: int) -> None:
        done = 0
        while not calls or done < calls:
            want = self.chance.choices(list(MIX), list(MIX.values()))[0]
            await self.want(session, want, f"{self.chance.randrange(ACCOUNTS):03d}")
            done += 1

    async def want(self, session: aiohttp.ClientSession, want: str, account: str) -> None:
        """Make one call of the `MIX`."""
        match want:
            case "json":
                await self._chat(session, account)
            case "stream":
                await self._chat(session, account, stream=True)
            case "stream with usage":
                await self._chat(session, account, stream=True, stream_options={"include_usage": True})
            case "leave":
                await self._chat(session, account, stream=True, leaves=True)
            case "json by key":
                await self._chat_by_key(session, account)
            case "image":
                await self._image(session, account)
            case "video":
                await self._video(session, account)

    def body(self, account: str, **fields: Any) -> dict[str, Any]:
        self._serial += 1
        messages = [{"role": "user", "content": PROMPT.format(account=account, serial=self._serial)}]
        return {"model": MODEL, "messages": messages, "max_tokens": TOKENS_MIN + self._serial, **fields}

    async def refused(self, session: aiohttp.ClientSession, account: str = "000", *, asks_max: int = 200) -> int:
        """Make calls until the gateway refuses one with 503; return how many it accepted before."""
        for taken in range(asks_max):
            async with session.post("/v1/chat/completions", json=self.body(account), headers=self.headers(account)) as answer:
                told = await answer.json()
                if answer.status == 503:
                    assert (told["error"]["code"], "retry-after" in answer.headers) == ("MODEL_UNAVAILABLE", True)
                    return taken
                if answer.status == 500:  # there was room for its hold but not for its settlement, which is retried
                    assert answer.headers["x-should-retry"] == "false"
                    continue
                self.hands.whole[answer.headers["x-request-id"]] = _told(await answer.read())
        raise AssertionError(f"{asks_max} calls were taken")

    async def taken_again(self, session: aiohttp.ClientSession, account: str = "000") -> None:
        """Make calls until one is answered."""
        while True:
            async with session.post("/v1/chat/completions", json=self.body(account), headers=self.headers(account)) as answer:
                whole = await answer.read()
                if answer.status == 200:
                    self.hands.whole[answer.headers["x-request-id"]] = _told(whole)
                    return
            await asyncio.sleep(0.05)  # like a customer who was told to retry

    async def reads_go_on(self, session: aiohttp.ClientSession) -> None:
        for path in ("/v1/account", "/v1/models", "/healthz"):
            async with session.get(path, headers=self.headers("000")) as answer:
                assert answer.status == 200, await answer.text()

    async def readiness(self, session: aiohttp.ClientSession) -> int:
        async with session.get("/readyz") as answer:
            return answer.status

    def headers(self, account: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.gateway.keys[account]}"}

    async def _chat(self, session: aiohttp.ClientSession, account: str, *, leaves: bool = False, **fields: Any) -> None:
        body = self.body(account, **fields)
        async with session.post("/v1/chat/completions", json=body, headers=self.headers(account)) as answer:
            assert answer.status == 200, await answer.text()
            request_id = answer.headers["x-request-id"]
            self.hands.begun.add(request_id)
            if leaves:
                answer.close()
                return
            whole = await answer.read()
            self.hands.whole[request_id] = _told(whole)

    async def _chat_by_key(self, session: aiohttp.ClientSession, account: str) -> None:
        """Make a call under a new idempotency key, or retry one whose answer was lost."""
        if self._unanswered:
            account, key, body = self._unanswered.pop()
        else:
            body = self.body(account)
            key = f"key-{self._serial}"
        headers = self.headers(account) | {"Idempotency-Key": key}
        try:
            async with session.post("/v1/chat/completions", json=body, headers=headers) as answer:
                whole = await answer.read()
        except (aiohttp.ClientError, ConnectionError):
            self._unanswered.append((account, key, body))
            raise
        assert answer.status == 200, whole
        self.hands.whole[answer.headers["x-request-id"]] = _told(whole)
        self.hands.by_key[key].add(answer.headers["x-request-id"])

    async def _image(self, session: aiohttp.ClientSession, account: str) -> None:
        body = {"prompt": f"{account} a lighthouse", "n": self.chance.randint(1, 2)}
        async with session.post(f"/v1{IMAGES}", json=body, headers=self.headers(account)) as answer:
            told = await answer.json()
            assert answer.status == 200, told
            self.hands.pictures[told["request_id"]] = told["image_urls"]

    async def _video(self, session: aiohttp.ClientSession, account: str) -> None:
        async with session.post(f"/v1{SUBMIT}", json={"prompt": f"{account} waves"}, headers=self.headers(account)) as answer:
            told = await answer.json()
            assert answer.status == 200, told
            self.hands.videos.add(told["id"])


def _told(answer: bytes) -> int | None:
    """Return the cost of an answer by the usage in it, or None if it has no usage."""
    events = [part.removeprefix(b"data: ") for part in answer.split(b"\n\n") if b'"usage":{' in part]
    if not events:
        assert answer.endswith(b"data: [DONE]\n\n"), answer
        return None
    usage = orjson.loads(events[-1])["usage"]
    return int(usage["prompt_tokens"]) * INPUT + int(usage["completion_tokens"]) * OUTPUT


@asynccontextmanager
async def stand(
    directory: Path,
    *,
    seed: int = 0,
    event_seconds: float = 0.0,
    first_byte_seconds: float = 0.0,
    ark_host: str = "127.0.0.1",
    **options: Any,
) -> AsyncIterator[Stand]:
    """Set everything up. The caller starts the gateway; if it still runs at the end, it is killed.

    Args: ark_host: the host name of Ark in the gateway's configuration.
    """
    async with StandIn(Settings(timeline=Timeline(0.02, 0.04)), calls_max=0) as ark:
        base_url = ark.base_url.replace("127.0.0.1", ark_host)
        gateway = ForkedGateway(directory, base_url, **{**QUICK, **PATIENT, **options})
        await gateway.set_up_accounts([*(f"{number:03d}" for number in range(ACCOUNTS)), NEVER_ENDS])
        books = ArkBooks(ark, event_seconds=event_seconds, first_byte_seconds=first_byte_seconds)
        try:
            yield Stand(ark, gateway, books, random.Random(seed))
        finally:
            await gateway.close()
