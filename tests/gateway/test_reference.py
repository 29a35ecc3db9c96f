"""What the API says of itself is what it does: answers of every route are held to `/openapi.json`; and how both are served."""

import gzip
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.core.limits import SpendLimits
from proxy.core.money import Nanos
from proxy.demo.ark import Settings, StandIn, Timeline
from proxy.gateway.routes import PREFIXES
from tests.support.described import Described
from tests.support.gateway import Bench, Reply, bench
from tests.support.limits import limit_account, limit_key
from tests.support.raw import connect, request
from tests.support.videos import QUICK, ended, submitted

IMAGE = {"prompt": "a lighthouse", "n": 2}
IN_A_YEAR_MS = 1_830_000_000_000
OFTEN = {"requests_per_minute": 1000, "tokens_per_minute": 10_000_000, "concurrent": 100}
MODELS = """
[[models]]
id = "by-resolution"
kind = "video"
upstream = "ark"
upstream_model = "doubao-seedance-2-0-260128"
price = { silent = "46", audio = "46", by_resolution = { "1080p" = { silent = "51", audio = "51" } } }
"""
FROM_THE_UPSTREAM = {"ChatCompletion", "ChatChoice", "AnswerMessage", "ChatUsage", "ChatChunk", "ChunkChoice"}
"""Answers whose fields the model decides."""
ASKED = {"ChatRequest", "StreamOptions", "ChatMessage", "ContentPart", "ImageUrl", "ImageRequest", "VideoRequest"}


class Checked:
    """A gateway whose every answer is held to its own description."""

    def __init__(self, gateway: Bench, described: Described) -> None:
        self.gateway = gateway
        self.described = described

    async def ask(self, path: str, body: Any = None, *, method: str = "", **options: Any) -> Reply:
        reply = await self.gateway.ask(path, body, method=method, **options)
        self.described.check(method or ("GET" if body is None else "POST"), path, reply.status, reply.headers, reply.body)
        return reply


async def described_by(gateway: Bench) -> Described:
    return Described((await gateway.ask("/openapi.json", key=None, headers={"Accept-Encoding": "identity"})).json)


async def test_answers_are_those_of_the_description_and_show_every_field_of_it(tmp_path: Path) -> None:
    ark = Settings(timeline=Timeline(queued_seconds=0.7, running_seconds=0.05))
    async with StandIn(ark) as stand_in, bench(tmp_path, ark=stand_in, models=MODELS, **dict[str, Any](QUICK)) as gateway:
        checked = Checked(gateway, await described_by(gateway))
        spend = SpendLimits(day=Nanos(50 * 10**9), total=Nanos(90 * 10**9))
        await limit_key(gateway, expires_at_ms=IN_A_YEAR_MS, models=("*",), spend=spend, **OFTEN)
        await limit_account(gateway, **OFTEN)
        chat: dict[str, Any] = {"model": "doubao-pro-32k", "messages": [{"role": "user", "content": "Hello"}]}

        said = await checked.ask("/chat/completions", chat)
        streamed = await checked.ask("/chat/completions", {**chat, "stream": True, "stream_options": {"include_usage": True}})
        made = await checked.ask("/images/generations", IMAGE, headers={"Idempotency-Key": "once"})
        again = await checked.ask("/images/generations", IMAGE, headers={"Idempotency-Key": "once"})
        created = await checked.ask("/videos/generations", {"prompt": "waves"})
        await ended(gateway, created.json["id"])
        task = await checked.ask(f"/videos/tasks/{created.json['id']}?wait=1")
        refused = await checked.ask(f"/videos/tasks/{created.json['id']}", method="DELETE")
        stopped = await checked.ask(f"/videos/tasks/{await submitted(gateway)}", method="DELETE")
        tasks = await checked.ask("/videos/tasks?limit=10&offset=0")
        for path in ("/models", "/models/doubao-pro-32k", "/models/tiered/chat", "/account", "/healthz", "/readyz"):
            assert (await checked.ask(path)).status == 200
        assert (await checked.ask("/models/public", key=None)).status == 200
        for paid in (said, streamed, made, task):
            receipt = await checked.ask(f"/usage/{paid.json['id'] if paid is task else paid.headers['x-request-id']}")
            assert receipt.json["status"] == "settled"

        assert (said.status, streamed.status, made.status, task.json["status"], refused.status, stopped.status) == (
            200,
            200,
            200,
            "succeeded",
            409,
            200,
        )
        assert again.body == made.body
        assert {entry["status"] for entry in tasks.json["data"]} == {"succeeded", "failed"}
        missing = set(checked.described.fields(beside=FROM_THE_UPSTREAM | ASKED)) - checked.described.seen
        assert not missing, f"described, and in no answer: {missing}"


REFUSALS: list[tuple[str, str, Any, dict[str, Any], str]] = [
    ("POST", "/chat/completions", b"{", {}, "INVALID_JSON"),
    ("POST", "/chat/completions", {}, {}, "MISSING_MODEL"),
    ("POST", "/chat/completions", {"model": "m"}, {}, "MODEL_NOT_FOUND"),
    ("POST", "/chat/completions", {"model": "doubao-pro-32k"}, {}, "INVALID_MESSAGES"),
    ("POST", "/chat/completions", {"model": "doubao-seedance-2-0"}, {}, "WRONG_ENDPOINT"),
    ("POST", "/chat/completions", {"model": "switched-off", "messages": [1]}, {}, "MODEL_UNAVAILABLE"),
    ("POST", "/chat/completions", {"model": "doubao-pro-32k", "messages": [], "N": 1}, {}, "INVALID_PARAMETER"),
    ("POST", "/chat/completions", {}, {"key": None}, "MISSING_API_KEY"),
    ("POST", "/chat/completions", {}, {"key": "sk_nobody"}, "INVALID_API_KEY"),
    ("POST", "/chat/completions", {}, {"headers": {"Content-Encoding": "gzip"}}, "UNSUPPORTED_MEDIA_TYPE"),
    ("POST", "/images/generations", {}, {}, "MISSING_PROMPT"),
    ("POST", "/images/generations", {"prompt": "p", "n": 5}, {}, "INVALID_PARAMETER"),
    ("POST", "/videos/generations", {"prompt": " "}, {}, "MISSING_PROMPT"),
    ("GET", "/videos/tasks/vreq_nobody", None, {}, "TASK_NOT_FOUND"),
    ("DELETE", "/videos/tasks/vreq_nobody", None, {}, "TASK_NOT_FOUND"),
    ("GET", "/videos/tasks?limit=0", None, {}, "INVALID_PARAMETER"),
    ("GET", "/models/nobody", None, {}, "MODEL_NOT_FOUND"),
    ("GET", "/models", None, {"key": None}, "MISSING_API_KEY"),
    ("GET", "/usage/req_nobody", None, {}, "NOT_FOUND"),
    ("GET", "/account", None, {"key": "sk_nobody"}, "INVALID_API_KEY"),
    ("GET", "/healthz?wait=x", None, {}, "INVALID_PARAMETER"),
    ("GET", "/docs/nothing.css", None, {}, "NOT_FOUND"),
]


@pytest.mark.parametrize(("method", "path", "body", "options", "code"), REFUSALS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_refusal_is_one_that_its_route_is_described_with(
    refusing: Bench, method: str, path: str, body: Any, options: dict[str, Any], code: str
) -> None:
    checked = Checked(refusing, await described_by(refusing))

    reply = await checked.ask(path, body, method=method, **options)

    assert reply.error["code"] == code


SPEAKING = ("/openapi.json", "/docs")


@pytest.mark.parametrize("path", [prefix + path for path in SPEAKING for prefix in ("", *PREFIXES)])
@pytest.mark.asyncio(loop_scope="module")
async def test_both_are_served_without_a_key_everywhere(refusing: Bench, path: str) -> None:
    kind = "application/json" if path.endswith("json") else "text/html; charset=utf-8"
    here = refusing.session

    async with here.get(refusing.origin + path) as got, here.head(refusing.origin + path) as head:
        body = await got.read()
        assert (got.status, got.headers["Content-Type"]) == (head.status, head.headers["Content-Type"]) == (200, kind)
        assert await head.read() == b""
        assert got.headers["Content-Length"] == head.headers["Content-Length"]
        etag = got.headers["ETag"]
    assert refusing.origin.encode() in (gzip.decompress(body) if got.headers.get("Content-Encoding") else body)
    async with here.get(refusing.origin + path, headers={"If-None-Match": f'"other", {etag}'}) as same:
        assert (same.status, await same.read(), same.headers["ETag"]) == (304, b"", etag)
        assert "Content-Length" not in same.headers
    async with here.get(refusing.origin + path, headers={"If-None-Match": '"other"'}) as other:
        assert other.status == 200


@pytest.mark.asyncio(loop_scope="module")
async def test_it_is_compressed_for_those_who_read_that(refusing: Bench) -> None:
    plain = await refusing.ask("/openapi.json", headers={"Accept-Encoding": "identity"})
    packed = await refusing.ask("/openapi.json", headers={"Accept-Encoding": "br, gzip;q=0.5"})
    never = await refusing.ask("/openapi.json", headers={"Accept-Encoding": "gzip;q=0"})

    assert "Content-Encoding" not in plain.headers
    assert "Content-Encoding" not in never.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < 20_000


async def page(gateway: Bench, path: str = "/docs", **headers: str) -> tuple[Reply, str]:
    reply = await gateway.ask(path, key=None, headers={"Accept-Encoding": "identity", **headers})
    return reply, reply.body.decode()


@pytest.mark.parametrize(
    ("path", "accepted", "language"),
    [
        ("/docs", "", "zh"),
        ("/docs", "fr, de;q=0.5", "zh"),
        ("/docs", "en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("/docs", "en;q=0.3, zh-CN;q=0.8", "zh"),
        ("/docs", "zh;q=0, en;q=0.1", "en"),
        ("/docs?lang=en", "zh-CN", "en"),
        ("/docs?lang=zh", "en", "zh"),
        ("/docs?lang=klingon", "en", "en"),
        ("/docs/?lang=en", "zh-CN", "en"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_speaks_its_readers_language(refusing: Bench, path: str, accepted: str, language: str) -> None:
    reply, text = await page(refusing, path, **({"Accept-Language": accepted} if accepted else {}))

    assert reply.headers["Content-Language"] == language
    assert "Accept-Language" in reply.headers["Vary"]
    assert f'<html lang="{"zh-CN" if language == "zh" else "en"}">' in text
    assert ("API 文档" in text) == (language == "zh")


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_asks_nobody_else_and_runs_nothing(refusing: Bench) -> None:
    reply, text = await page(refusing)

    policy = reply.headers["Content-Security-Policy"]
    assert all(part in policy for part in ("default-src 'none'", "script-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"))
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "<script" not in text
    assert not re.findall(r"\s(?:style|on[a-z]+)=", text)
    addresses = re.findall(r'(?:href|src)="([^"]+)"', text)
    assert not [address for address in addresses if re.match(r"[a-z]+:|//", address) and not address.startswith("data:image/svg+xml,")]
    anchors = {address[1:] for address in addresses if address.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', text))


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
@pytest.mark.asyncio(loop_scope="module")
async def test_the_stylesheet_is_where_the_page_says(refusing: Bench, path: str) -> None:
    _, text = await page(refusing, path)
    (address,) = re.findall(r'rel="stylesheet" href="([^"]+)"', text)
    base = refusing.base_url + path

    async with refusing.session.get(base.rpartition("/")[0] + "/" + address) as style:
        assert (style.status, style.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
        assert "immutable" in style.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("host", "forwarded", "origin"),
    [
        ("api.acme.cn", "", "http://api.acme.cn"),
        ("api.acme.cn", "https", "https://api.acme.cn"),
        ("API.acme.cn:8443", "http, https", "https://api.acme.cn:8443"),
        ("[::1]:80", "", "http://[::1]:80"),
        ('a"><script>', "https", "http://localhost"),
        ("a b", "", "http://localhost"),
        ("api.acme.cn", "javascript", "http://api.acme.cn"),
        ("x" * 300, "", "http://localhost"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_it_shows_the_address_that_it_was_asked_by(refusing: Bench, host: str, forwarded: str, origin: str) -> None:
    asked = request("GET", "/openapi.json", ("Host", host), *([("X-Forwarded-Proto", forwarded)] if forwarded else []), host=False)
    async with connect(refusing.origin) as connection:
        answer = await connection.ask(asked)

    assert [server["url"] for server in orjson.loads(answer.body)["servers"]] == [f"{origin}/api/v1", f"{origin}/v1"]


@pytest.mark.asyncio(loop_scope="module")
async def test_however_many_names_it_is_called_by_few_answers_are_kept(refusing: Bench) -> None:
    for number in range(40):
        reply = await refusing.ask("/docs", headers={"Host": f"host-{number}.example"})
        assert reply.status == 200


@pytest.mark.parametrize("path", ["/openapi.json", "/api/v1/openapi.json", "/docs", "/v1/docs"])
async def test_an_operator_can_leave_both_away(tmp_path: Path, path: str) -> None:
    async with bench(tmp_path, server="docs = false") as gateway, gateway.session.get(gateway.origin + path) as answer:
        assert answer.status == 404
        assert b"docs" not in await answer.read()
