"""Checks of the public address: what a proxy in front of the gateway does to requests and answers. They need no valid key.

Slow answers and streams are ``/healthz?wait=``, which costs nothing.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import orjson

from proxy.doctor.finding import Finding, failed, ok, warning

SECONDS_MAX = 10.0
HELD_SECONDS = 3.0
"""The proxy waits for the body if an answer that does not need the body takes longer than this."""
LARGE_BODY_BYTES = 16 * 2**20
"""The size of a few pictures. It is announced in a header, but no body is sent."""
SLOW_SECONDS = 65.0
"""Longer than a proxy waits that was told nothing: nginx and most load balancers give up after 60 s."""
STREAM_SECONDS = 2.0
"""Between the first piece of a stream and its last: pieces that come together were held back."""
GUIDE = "proxy/docs/behind-a-proxy.md has blocks for nginx, Caddy and Cloudflare"
_NO_KEY = "sk_doctor-asks-with-a-key-that-nobody-has"
_OURS = re.compile(r"req_[0-9a-z]{26,28}")
_HEALTH = "/healthz"
_CHAT = "/chat/completions"


async def front(url: str) -> AsyncIterator[Finding]:
    """Yield the findings about a gateway's public base URL, such as ``https://api.example.com/api/v1``."""
    base = url.rstrip("/")
    if urlsplit(base).scheme == "http" and urlsplit(base).hostname not in ("localhost", "127.0.0.1", "::1"):
        yield warning("front", f"{base} is not encrypted: customers' keys can be read on the way", "put TLS in front (https://)")
    timeout = aiohttp.ClientTimeout(total=SECONDS_MAX)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        try:
            reached = await _reached(session, base)
            yield reached
            if reached.advice:
                return
            for findings in await asyncio.gather(_quick(session, base), _slow_answers(session, base)):
                for one in findings:
                    yield one
        except TimeoutError:
            yield failed("front", f"{base} does not answer in {SECONDS_MAX:g} s", "look at the proxy's log: does it reach the gateway?")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            yield failed("front", f"{base} cannot be asked: {str(error) or type(error).__name__}", "look at --url, DNS, and the proxy")


async def _quick(session: aiohttp.ClientSession, base: str) -> list[Finding]:
    return [await look(session, base) for look in (_credentials, _compression, _large_bodies, _held_bodies, _streams)]


async def _reached(session: aiohttp.ClientSession, base: str) -> Finding:
    """Ask for the health twice: the gateway itself must answer, and no cache."""
    ids = []
    for _ in range(2):
        async with session.get(base + _HEALTH) as answer:
            body = await answer.read()
            ids.append(answer.headers.get("x-request-id", ""))
            if answer.status != 200 or not _is_ours(answer):
                said = f"{answer.status} without the gateway's x-request-id ({len(body)} bytes)"
                return failed(
                    "front", f"{base}{_HEALTH} answers {said}", "does the proxy pass this path to the gateway, and headers back?"
                )
            via = answer.headers.get("Server", "")
    if ids[0] == ids[1]:
        return failed("front", "gives one answer twice: it caches", "switch caching off for the gateway's paths")
    return ok("front", f"{base} leads to a gateway" + (f", by way of {via}" if via not in ("", "llm-proxy") else ""))


async def _credentials(session: aiohttp.ClientSession, base: str) -> Finding:
    """Send a key that nobody has: if the gateway calls it unknown, the key has reached it."""
    async with session.get(base + "/models", headers={"Authorization": f"Bearer {_NO_KEY}"}) as answer:
        code = _code(await answer.read())
    if code == "INVALID_API_KEY":
        return ok("front: keys", "reach the gateway")
    if code == "MISSING_API_KEY":
        return failed(
            "front: keys", "the proxy takes the Authorization header away", "pass it on (nginx does, unless proxy_set_header says else)"
        )
    return warning(
        "front: keys",
        f"an unknown key is answered with {answer.status} {code}".rstrip(),
        'is that a sidecar (auth = "none"), or another program?',
    )


async def _compression(session: aiohttp.ClientSession, base: str) -> Finding:
    async with session.get(base + "/models/public", headers={"Accept-Encoding": "gzip, br, zstd"}) as answer:
        await answer.read()
        coding = answer.headers.get("Content-Encoding")
    if coding:
        advice = "switch it off for the gateway's paths: what is compressed is held back, streams too (nginx: gzip off)"
        return warning("front: answers", f"the proxy compresses them ({coding})", advice)
    return ok("front: answers", "are not compressed")


async def _large_bodies(session: aiohttp.ClientSession, base: str) -> Finding:
    """Announce a large body and send none: the gateway refuses the missing key, a proxy with a limit the size."""
    status, code = await _announce(session, base, LARGE_BODY_BYTES)
    size = f"{LARGE_BODY_BYTES // 2**20} MiB"
    if status == 413 and code != "REQUEST_TOO_LARGE":
        return failed(
            "front: large requests", f"the proxy refuses {size}: pictures would be", f"nginx: client_max_body_size 64m; {GUIDE}"
        )
    if status == 413:
        return warning("front: large requests", f"the gateway refuses {size}", "that is server.body_bytes_max; are pictures sent?")
    return ok("front: large requests", f"of {size} may pass")


async def _held_bodies(session: aiohttp.ClientSession, base: str) -> Finding:
    """Announce a small body and send none: a proxy that holds bodies back would wait for it and not answer."""
    status, _ = await _announce(session, base, 1000)
    if status is None:
        advice = "nginx: proxy_request_buffering off; it costs time and disk with large pictures"
        return warning("front: requests", "the proxy holds them back until they are whole", advice)
    return ok("front: requests", "are passed on as they come")


async def _streams(session: aiohttp.ClientSession, base: str) -> Finding:
    """Read a stream whose second piece comes later: both at once were held back."""
    loop = asyncio.get_running_loop()
    async with session.get(base + _HEALTH, params={"wait": f"{STREAM_SECONDS:g}", "stream": "true"}) as answer:
        pieces = [loop.time() async for _ in answer.content.iter_any()]
        is_stream = answer.content_type == "text/event-stream"
    if not is_stream or not pieces:
        return warning(
            "front: streams",
            "whether they are held back was not seen: the gateway sent no stream",
            f"look at a paid one: curl -N {base}{_CHAT} …, the pieces must come one by one",
        )
    if pieces[-1] - pieces[0] < STREAM_SECONDS / 2:
        return failed("front: streams", "the proxy holds them back until they are whole", f"nginx: proxy_buffering off; {GUIDE}")
    return ok("front: streams", "pass piece by piece")


async def _slow_answers(session: aiohttp.ClientSession, base: str) -> list[Finding]:
    """Ask for an answer that takes as long as a picture."""
    loop = asyncio.get_running_loop()
    timeout = aiohttp.ClientTimeout(total=SLOW_SECONDS + SECONDS_MAX)
    began = loop.time()
    try:
        async with session.get(base + _HEALTH, params={"wait": f"{SLOW_SECONDS:g}"}, timeout=timeout) as answer:
            await answer.read()
            ending = "" if answer.status == 200 and _is_ours(answer) else f"with {answer.status}"
    except (aiohttp.ClientError, TimeoutError):
        ending = "without an answer"
    seconds = loop.time() - began
    if ending:
        says = f"the proxy gives up after {seconds:.0f} s, {ending}: a picture that takes longer is paid for and never arrives"
        return [failed("front: slow answers", says, f"nginx: proxy_read_timeout 660s, above first_byte_seconds; {GUIDE}")]
    if seconds < SLOW_SECONDS - 1:
        says = "how long the proxy waits was not seen: the gateway answered at once"
        return [warning("front: slow answers", says, "does it stop, or does another look at it? look again later")]
    return [ok("front: slow answers", f"are waited for, for {SLOW_SECONDS:g} s at least; longer was not tried")]


def _is_ours(answer: aiohttp.ClientResponse) -> bool:
    return bool(_OURS.fullmatch(answer.headers.get("x-request-id", "")))


async def _announce(session: aiohttp.ClientSession, base: str, size: int) -> tuple[int | None, str]:
    """Return status and error code for a chat call without a key, whose body never comes; status None without an answer."""

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(HELD_SECONDS * 2)

    try:
        async with (
            asyncio.timeout(HELD_SECONDS),
            session.post(
                base + _CHAT, data=never(), headers={"Content-Length": str(size), "Content-Type": "application/json"}
            ) as answer,
        ):
            return answer.status, _code(await answer.read())
    except TimeoutError:
        return None, ""


def _code(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"]["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
