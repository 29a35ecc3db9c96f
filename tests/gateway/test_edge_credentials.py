"""Credentials: one key, in any of three headers or in several, and never two."""

from itertools import combinations_with_replacement

import pytest

from tests.support.gateway import Bench
from tests.support.raw import connect, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODELS = "/api/v1/models"
Headers = list[tuple[str, str | bytes]]

KEY = "{key}"
"""Placeholder of the account's key in the tables below."""


def sent(headers: Headers, key: str) -> bytes:
    return request("GET", MODELS, *[(name, value.replace(KEY, key) if isinstance(value, str) else value) for name, value in headers])


SOURCES = [("Authorization", "Bearer {key}"), ("x-api-key", "{key}"), ("api-key", "{key}")]
EQUAL: list[Headers] = [[*pair] for pair in combinations_with_replacement(SOURCES, 2)]
ACCEPTED: list[Headers] = [
    [("Authorization", "Bearer {key}")],
    [("authorization", "bearer {key}")],
    [("AUTHORIZATION", "BEARER   {key}  ")],
    [("x-api-key", "{key}")],
    [("X-Api-Key", "{key}")],
    [("api-key", "{key}")],
    # an empty header is no credential: some clients send one beside the header that they really use
    [("Authorization", ""), ("x-api-key", "{key}")],
    [("Authorization", "Bearer "), ("api-key", "{key}")],
    [("Authorization", "Bearer {key}"), ("x-api-key", ""), ("api-key", " ")],
    # one and the same key in several is one key
    *EQUAL,
    [*SOURCES],
    [("Authorization", "bearer   {key} "), ("x-api-key", " {key}")],
]


@pytest.mark.parametrize("headers", ACCEPTED, ids=str)
async def test_a_key_is_taken_from_any_of_three_headers(refusing: Bench, headers: Headers) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(sent(headers, refusing.key))

    assert answer.status == 200
    assert refusing.log.written[-1]["account"] == "acme"


TWICE: list[Headers] = [
    [("x-api-key", "{key}"), ("api-key", "sk_another")],
    [("x-api-key", "sk_another"), ("x-api-key", "{key}")],
    [("Authorization", "Bearer sk_another"), ("Authorization", "Bearer {key}")],
    [("Authorization", "Bearer {key}"), ("x-api-key", "{key}"), ("api-key", "{key}x")],
    [("Authorization", "Bearer {key}"), ("x-api-key", "Bearer {key}")],
    [("Authorization", "Bearer {key}"), ("x-api-key", "sk_another")],
    [("Authorization", "Bearer sk_another"), ("x-api-key", "{key}")],
    [("Authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", "{key}")],
    [("Authorization", "Basic dXNlcjpwYXNz"), ("Authorization", "Bearer {key}")],
]


@pytest.mark.parametrize("headers", TWICE, ids=str)
async def test_two_credentials_in_one_request_are_refused(refusing: Bench, headers: Headers) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(sent(headers, refusing.key))

    assert (answer.status, answer.error["code"]) == (400, "INVALID_PARAMETER")
    assert answer.error["param"] in ("Authorization", "x-api-key")
    assert refusing.key not in answer.body.decode()


MISSING: list[Headers] = [
    [],
    [("Authorization", "")],
    [("Authorization", "Bearer")],
    [("Authorization", "Bearer   ")],
    [("x-api-key", "")],
    [("api-key", "  ")],
    [("Cookie", "api_key={key}")],
    [("X-Authorization", "Bearer {key}")],
]


@pytest.mark.parametrize("headers", MISSING, ids=str)
async def test_no_key_is_told_apart_from_a_wrong_one(refusing: Bench, headers: Headers) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(sent(headers, refusing.key))

    assert (answer.status, answer.error["code"], answer.error["type"]) == (401, "MISSING_API_KEY", "authentication_error")
    assert answer.headers["www-authenticate"] == "Bearer"


INVALID: list[Headers] = [
    [("Authorization", "{key}")],
    [("Authorization", "Basic {key}")],
    [("Authorization", "Bearer\t{key}")],
    [("Authorization", "Bearer,{key}")],
    [("Authorization", "Token {key}")],
    [("Authorization", "Bearer {key}x")],
    [("Authorization", "Bearer {key} {key}")],
    [("Authorization", "Bearer {key}, Bearer {key}")],
    [("Authorization", 'Bearer "{key}"')],
    [("Authorization", "Bearer sk_your_api_key")],
    [("Authorization", "Bearer " + "x" * 257)],
    [("Authorization", "Bearer " + "x" * 16_000)],
    [("Authorization", b"Bearer \xff\xfe")],
    [("x-api-key", "Bearer {key}")],
    [("x-api-key", "' OR 1=1 --")],
    [("x-api-key", "豆包".encode())],
    [("x-api-key", b"\xed\xa0\x80")],
]


@pytest.mark.parametrize("headers", INVALID, ids=lambda headers: str(headers)[:70])
async def test_a_key_that_is_none_is_refused(refusing: Bench, headers: Headers) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(sent(headers, refusing.key))

    assert (answer.status, answer.error["code"], answer.error["type"]) == (401, "INVALID_API_KEY", "authentication_error")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert refusing.key not in answer.body.decode()


async def test_a_key_in_the_address_is_no_key_and_is_not_logged(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        query = await client.ask(request("GET", f"{MODELS}?api_key={refusing.key}&key={refusing.key}"))
        path = await client.ask(request("GET", f"/api/v1/{refusing.key}"))
        user = await client.ask(request("GET", f"http://user:{refusing.key}@gateway{MODELS}"))

    assert [answer.status for answer in (query, path, user)] == [401, 404, 401]


async def test_a_key_is_asked_for_before_a_body_is_read(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(request("POST", "/v1/chat/completions", ("Content-Length", "1000000")) + b"{")

    assert (answer.status, answer.error["code"]) == (401, "MISSING_API_KEY")
