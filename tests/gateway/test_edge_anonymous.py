"""A sidecar (``auth = "none"``): it checks no key, so it checks which web page a call comes from."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.core.money import parse_yuan
from tests.support.books import assert_books_balance
from tests.support.gateway import Bench, bench
from tests.support.raw import Raw, connect, request
from tests.support.store import reference

LOCAL = ("Host", "127.0.0.1:8080")
HELLO = b'{"model":"doubao-pro-32k","messages":[{"role":"user","content":"Hello"}]}'
CREDIT = parse_yuan("1")


@pytest.fixture
async def sidecar(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path, server='auth = "none"') as running:
        await running.store.credit_account("default", CREDIT, "", 0, reference())
        yield running


async def charged(gateway: Bench) -> int:
    await assert_books_balance(gateway.store)
    account = await gateway.store.account("default")
    assert account.held_nanos == 0
    return CREDIT - account.balance_nanos


CALLERS: list[list[tuple[str, str]]] = [
    [],
    [("Authorization", "Bearer unused")],
    [("Authorization", "Bearer unused"), ("x-api-key", "unused")],
    [("Origin", "http://localhost:3000")],
    [("Origin", "http://app.localhost")],
    [("Origin", "https://127.0.0.1:8443")],
    [("Origin", "http://[::1]:5173")],
]


@pytest.mark.parametrize("headers", CALLERS, ids=str)
async def test_whoever_is_on_the_machine_may_call_with_any_key_or_none(sidecar: Bench, headers: list[tuple[str, str]]) -> None:
    async with connect(sidecar.origin) as client:
        answer = await client.ask(request("POST", "/v1/chat/completions", LOCAL, *headers, body=HELLO, host=False))

    # 20 prompt tokens at ¥0.8/M and 12 completion tokens at ¥2/M
    assert (answer.status, await charged(sidecar)) == (200, 40_000)


FOREIGN = ["https://evil.example", "http://localhost.evil.example", "http://127.0.0.1.nip.io", "null", "", "http://[bad", "file://"]


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_page_of_another_machine_cannot_spend_what_is_here(sidecar: Bench, origin: str) -> None:
    # text/plain needs no preflight: a browser sends it from any page
    async with connect(sidecar.origin) as client:
        answer = await client.ask(
            request("POST", "/v1/chat/completions", LOCAL, ("Origin", origin), ("Content-Type", "text/plain"), body=HELLO, host=False)
        )

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "INVALID_PARAMETER", "Origin")
    assert (await charged(sidecar), sidecar.ark.calls) == (0, [])


HERE = ["localhost", "localhost:8080", "LOCALHOST.", "app.localhost:1", "127.0.0.1", "127.8.0.1:8080", "[::1]", "[::1]:8080"]
REBOUND = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "127.0.0.1.nip.io:8080",
    "192.168.0.7:8080",
    "0.0.0.0",
    "[::]",
    "gateway",
]


@pytest.mark.parametrize("host", HERE)
async def test_this_machine_goes_by_many_names(sidecar: Bench, host: str) -> None:
    async with connect(sidecar.origin) as client:
        answer = await client.ask(request("GET", "/v1/account", ("Host", host), host=False))

    assert answer.status == 200


@pytest.mark.parametrize("host", [*REBOUND, "[bad", "a@127.0.0.1@evil.example", ""])
@pytest.mark.parametrize("path", ["/v1/account", "/v1/videos/tasks", "/v1/usage/req_1"])
async def test_a_page_whose_name_was_made_to_lead_here_reads_nothing(sidecar: Bench, host: str, path: str) -> None:
    # to a page's own origin a browser sends no Origin with a GET
    async with connect(sidecar.origin) as client:
        answer = await client.ask(request("GET", path, ("Host", host), host=False))

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "INVALID_PARAMETER", "Host")


async def test_over_a_unix_socket_any_name_will_do(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with bench(tmp_path, server='auth = "none"', listen=f"unix:{path}") as sidecar:
        await sidecar.store.credit_account("default", CREDIT, "", 0, reference())
        reader, writer = await asyncio.open_unix_connection(path)
        answer = await Raw(reader, writer).ask(request("GET", "/v1/account"))
        writer.close()

    assert answer.status == 200
