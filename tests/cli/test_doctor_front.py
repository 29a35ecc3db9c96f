"""`doctor --url`: a proxy in front of a real gateway with one fault at a time, and the finding."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from proxy.doctor import front
from proxy.doctor.finding import Finding
from proxy.handlers import ops
from tests.support.gateway import Bench

IMPATIENT_SECONDS = 1.0


class Proxy:
    """A plain reverse proxy with one fault."""

    def __init__(self, gateway: Bench, wrong: str) -> None:
        self._gateway = gateway
        self._wrong = wrong
        self._kept: dict[str, web.Response] = {}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        wrong = self._wrong
        if wrong == "leads elsewhere":
            return web.Response(text="<h1>It works!</h1>", content_type="text/html")
        if wrong == "limits bodies" and (request.content_length or 0) > 2**20:
            return web.Response(status=413, text="<h1>413</h1>", content_type="text/html")
        if wrong == "caches" and request.path in self._kept:
            kept = self._kept[request.path]
            return web.Response(body=kept.body, headers={"x-request-id": kept.headers["x-request-id"]})
        if wrong == "holds bodies":
            await request.read()
        try:
            async with asyncio.timeout(IMPATIENT_SECONDS if wrong == "gives up" else None):
                return await self._pass_on(request)
        except TimeoutError:
            return web.Response(status=504, text="<h1>504</h1>", content_type="text/html")

    async def _pass_on(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name in ("Authorization", "Content-Type")}
        if self._wrong == "strips keys":
            headers.pop("Authorization", None)
        body = b"{}" if request.method == "POST" else None
        url = self._gateway.origin + request.path_qs
        async with self._gateway.session.request(request.method, url, headers=headers, data=body) as answer:
            told = {"x-request-id": answer.headers["x-request-id"], "Content-Type": answer.headers["Content-Type"]}
            if answer.content_type == "text/event-stream" and self._wrong != "holds streams":
                return await self._piece_by_piece(request, answer, told)
            content = await answer.read()
        passed = web.Response(status=answer.status, body=content, headers=told)
        if self._wrong == "compresses" and len(content) > 100:
            passed.enable_compression(web.ContentCoding.gzip)
        self._kept[request.path] = passed
        return passed

    async def _piece_by_piece(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        passed = web.StreamResponse(headers=headers)
        await passed.prepare(request)
        async for piece in answer.content.iter_any():
            await passed.write(piece)
        return passed


@asynccontextmanager
async def proxy_in_front(gateway: Bench, wrong: str) -> AsyncIterator[str]:
    """Serve a plain reverse proxy with one fault; yield its base URL."""
    runner = web.ServerRunner(web.Server(Proxy(gateway, wrong).answer), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1"
    finally:
        await runner.cleanup()


async def told(url: str) -> dict[str, Finding]:
    findings = [finding async for finding in front.front(url)]
    return {finding.check: finding for finding in findings}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "HELD_SECONDS", 1.0)
    monkeypatch.setattr(front, "SLOW_SECONDS", 1.9)
    monkeypatch.setattr(front, "STREAM_SECONDS", 0.5)


async def test_a_gateway_without_anything_in_front_is_all_right(gateway: Bench) -> None:
    findings = await told(gateway.base_url + "/")

    assert {check: str(finding.state) for check, finding in findings.items()} == {
        "front": "ok",
        "front: keys": "ok",
        "front: answers": "ok",
        "front: large requests": "ok",
        "front: requests": "ok",
        "front: streams": "ok",
        "front: slow answers": "ok",
    }
    await gateway.assert_charged(0)
    assert not gateway.ark.calls


@pytest.mark.parametrize(
    ("wrong", "check", "state", "advice"),
    [
        ("nothing", "front", "ok", ""),
        ("strips keys", "front: keys", "failed", "pass it on"),
        ("compresses", "front: answers", "warning", "gzip off"),
        ("limits bodies", "front: large requests", "failed", "client_max_body_size"),
        ("holds bodies", "front: requests", "warning", "proxy_request_buffering off"),
        ("caches", "front", "failed", "switch caching off"),
        ("leads elsewhere", "front", "failed", "pass this path"),
        ("holds streams", "front: streams", "failed", "proxy_buffering off"),
        ("gives up", "front: slow answers", "failed", "proxy_read_timeout"),
    ],
)
async def test_what_a_proxy_does_wrong_is_told_with_what_to_do(gateway: Bench, wrong: str, check: str, state: str, advice: str) -> None:
    async with proxy_in_front(gateway, wrong) as url:
        findings = await told(url)

    assert (findings[check].state, advice in findings[check].advice) == (state, True), findings
    assert not [other for other, finding in findings.items() if finding.state == "failed" and other != check]
    await gateway.assert_charged(0)


async def test_an_address_where_nobody_is_and_one_that_is_not_encrypted_are_told() -> None:
    nobody = await told("http://127.0.0.1:9/api/v1")
    plain = await told("http://no-such-host.invalid/api/v1")

    assert nobody["front"].state == "failed"
    assert plain["front"].state == "failed"


async def test_a_gateway_that_has_no_slow_answer_left_is_told_apart_from_an_impatient_proxy(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "SLOW_MAX", 0)

    findings = await told(gateway.base_url)

    assert [findings[f"front: {check}"].state for check in ("streams", "slow answers")] == ["warning", "warning"]
    assert "curl -N" in findings["front: streams"].advice
