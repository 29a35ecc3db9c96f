"""Several gateways on one PostgreSQL, each a process of its own as an operator runs it, with the stand-in for Ark and an account."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from proxy import ids
from proxy.core.money import Nanos
from proxy.demo.ark import StandIn
from proxy.store.postgres import PostgresStore, open_store
from proxy.store.postgres.connection import Connection, Connector
from proxy.store.values import NewKey
from tests.support.books import assert_books_balance
from tests.support.gateway import BALANCE, MODEL, Reply
from tests.support.postgres import database
from tests.support.process import GatewayProcess

LEASE_SECONDS = 3.0
"""Of the gateways in these tests. On a machine that stands still for longer, one that lives is taken for dead."""
CHAT: Mapping[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


class Member(GatewayProcess):
    """One gateway of a cluster."""

    def __init__(self, directory: Path, base_url: str, store_url: str, session: aiohttp.ClientSession, **options: Any) -> None:
        directory.mkdir()
        super().__init__(directory, base_url, **options)
        self.config.write_text(self.config.read_text().replace("sqlite:gateway.db", store_url))
        self.session = session
        self.variables: dict[str, str] = {}
        """Environment variables of its processes, beside the ordinary ones."""

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(**self.variables, **more)

    def command(self, *words: str) -> list[str]:
        launcher = [sys.executable, "-m", "tests.support.quick_lease", str(LEASE_SECONDS)]
        return [*launcher, *words, "--config", str(self.config)]

    async def ask(self, path: str, body: Any = None, *, key: str = "", method: str = "", **headers: str) -> Reply:
        """Send one request and return its whole answer. Raises: aiohttp.ClientError: it is cut, or nobody answers."""
        sent = {"Authorization": f"Bearer {key or self.key}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.session.request(
            method or ("GET" if body is None else "POST"),
            f"{self.origin}/v1{path}",
            data=None if body is None else orjson.dumps(body),
            headers={**sent, "Content-Type": "application/json"},
        ) as response:
            return Reply(response.status, response.headers, await response.read())

    async def chat(self, *, key: str = "", **fields: Any) -> Reply:
        return await self.ask("/chat/completions", {**CHAT, **fields}, key=key)

    async def metrics(self, name: str = "admin.sock") -> dict[str, float]:
        """Scrape its admin socket, or a worker's; return the values, by name and labels."""
        connector = aiohttp.UnixConnector(path=str(self.directory / name))
        async with aiohttp.ClientSession(connector=connector) as session, session.get("http://gateway/metrics") as response:
            lines = [line.rpartition(" ") for line in (await response.text()).splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self) -> None:
        """Stop the process where it is, as a machine that stands still does."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def command_answer(self, *words: str) -> Any:
        """Run one command, which must succeed, and return the JSON that it prints."""
        ended = await self.run(*words, "--json")
        assert ended.returncode == 0, ended.stderr
        return orjson.loads(ended.stdout)


class Cluster:
    """A database with the account ``acme`` and its key, and gateways as they are started."""

    def __init__(self, directory: Path, url: str, ark: StandIn, store: PostgresStore, session: aiohttp.ClientSession) -> None:
        self.directory, self.url, self.ark, self.store, self.session = directory, url, ark, store, session
        self.members: list[Member] = []
        self.key = ""
        self.account_id = 0

    async def start(self, count: int = 1, *, url: str = "", variables: Mapping[str, str] | None = None, **options: Any) -> list[Member]:
        """Start more gateways, all at once, and wait until each listens.

        Args: url: their way to the database, if it is another; variables: of their environment.
        """
        fresh = []
        for _ in range(count):
            member = Member(self.directory / f"node{len(self.members)}", self.ark.base_url, url or self.url, self.session, **options)
            member.key = self.key
            member.variables.update(variables or {})
            self.members.append(member)
            fresh.append(member)
        await asyncio.gather(*(member.start() for member in fresh))
        return fresh

    async def customer(self, name: str, balance: Nanos = BALANCE) -> str:
        """Make an account with a key, and return its secret."""
        secret = ids.new_secret()
        await self.store.create_account(name, balance, 0)
        await self.store.create_key(name, NewKey(ids.key_id(), "test", secret.prefix, secret.sha256, 0))
        return secret.text

    async def balance(self, name: str = "acme") -> tuple[int, int]:
        """Return balance and held, in nano-yuan."""
        account = await self.store.account(name)
        return account.balance_nanos, account.held_nanos

    async def sql(self, query: str, *args: object) -> Any:
        """Return the first value of a query's answer."""
        connection: Connection = await Connector(self.url).connect()
        try:
            return await connection.fetchval(query, *args)
        finally:
            await connection.close()

    async def row(self, query: str, *args: object) -> Any:
        """Return the first row of a query's answer."""
        connection: Connection = await Connector(self.url).connect()
        try:
            return await connection.fetchrow(query, *args)
        finally:
            await connection.close()

    async def until(self, query: str, *args: object, seconds: float = 30.0) -> Any:
        """Return the first value of a query's answer once it is true."""
        connection: Connection = await Connector(self.url).connect()
        try:
            async with asyncio.timeout(seconds):
                while not (value := await connection.fetchval(query, *args)):
                    await connection.execute("SELECT pg_sleep(0.02)")
                return value
        finally:
            await connection.close()

    async def all_counted(self) -> None:
        """Wait until every gateway that runs has been counted by all others for a lease, so that each has its share."""
        await self.until(
            """SELECT bool_and(clock_timestamp() - started_at > make_interval(secs => $1)) FROM nodes
               WHERE serving AND dead_at IS NULL""",
            LEASE_SECONDS * 1.3,
        )


@asynccontextmanager
async def cluster(directory: Path, count: int = 2, balance: Nanos = BALANCE, *, at: str = "", **options: Any) -> AsyncIterator[Cluster]:
    """Start gateways on a database of their own; at the end kill those that run, and check the books.

    Args: at: the URL of an empty database to take instead.
    """
    async with AsyncExitStack() as stack:
        store_url = at or await stack.enter_async_context(database())
        ark = await stack.enter_async_context(StandIn())
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        store = await open_store(store_url)
        stack.push_async_callback(store.close)
        made = Cluster(directory, store_url, ark, store, session)
        made.key = await made.customer("acme", balance)
        made.account_id = (await store.account("acme")).id
        try:
            await made.start(count, **options)
            yield made
        finally:
            for member in made.members:
                if member.process is not None and member.process.returncode is None:
                    await member.kill()
        await assert_books_balance(store)
