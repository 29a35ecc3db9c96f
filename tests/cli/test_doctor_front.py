"""`doctor --url`: a proxy in front of a real gateway with one fault at a time, and the finding."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from proxy.doctor import front
from proxy.doctor.finding import Finding
from tests.support.gateway import Bench


@asynccontextmanager
async def proxy_in_front(gateway: Bench, wrong: str) -> AsyncIterator[str]:
    """Serve a plain reverse proxy with one fault; yield its base URL."""
    kept: dict[str, web.Response] = {}

    async def pass_on(request: web.BaseRequest) -> web.StreamResponse:
        if wrong == "leads elsewhere":
            return web.Response(text="<h1>It works!</h1>", content_type="text/html")
        if wrong == "limits bodies" and (request.content_length or 0) > 2**20:
            return web.Response(status=413, text="<h1>413</h1>", content_type="text/html")
        if wrong == "caches" and request.path in kept:
            return web.Response(body=kept[request.path].body, headers={"x-request-id": kept[request.path].headers["x-request-id"]})
        if wrong == "holds bodies":
            await request.read()
        headers = {name: value for name, value in request.headers.items() if name in ("Authorization", "Content-Type")}
        if wrong == "strips keys":
            headers.pop("Authorization", None)
        body = b"{}" if request.method == "POST" else None
        async with gateway.session.request(request.method, gateway.origin + request.path, headers=headers, data=body) as answer:
            content = await answer.read()
            passed = web.Response(status=answer.status, body=content, headers={"x-request-id": answer.headers["x-request-id"]})
        if wrong == "compresses" and len(content) > 100:
            passed.enable_compression(web.ContentCoding.gzip)
        kept[request.path] = passed
        return passed

    runner = web.ServerRunner(web.Server(pass_on), shutdown_timeout=0.1)
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


async def test_a_gateway_without_anything_in_front_has_nothing_to_be_told_but_what_cannot_be_seen(gateway: Bench) -> None:
    findings = await told(gateway.base_url + "/")

    assert {check: str(finding.state) for check, finding in findings.items()} == {
        "front": "ok",
        "front: keys": "ok",
        "front: answers": "ok",
        "front: large requests": "ok",
        "front: requests": "ok",
        "front: streams": "warning",
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
