"""``GET /openapi.json``, ``/docs`` and its stylesheet: what the API says of itself, to anybody.

Nothing of it is imported or built before somebody asks. Then document and page are made once for each language, in a thread; for each
address that the gateway is known by, that address is put into them and they are compressed, once for the latest of those.
"""

import asyncio
import gzip
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import orjson

from proxy.core.errors import NotFoundError
from proxy.edge.context import Context
from proxy.edge.origin import origin_of
from proxy.edge.response import Response

ROUTES = ("/openapi.json", "/docs", "/docs/{id}")
MADE_MAX = 16
"""Finished answers that are kept. A host is whatever the client calls it."""
_YEAR_SECONDS = 31_536_000
_LANGUAGE = re.compile(r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9-]{1,32})?\s*(?:;\s*q=([01](?:\.[0-9]{1,3})?)\s*)?")
_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q=(?!0(?:\.0{1,3})?\s*(?:,|$))[0-9.]+\s*)?(?=,|$)", re.IGNORECASE)


class Finished(NamedTuple):
    """An answer that is ready to be sent."""

    body: bytes
    zipped: bytes
    etag: str
    content_type: str
    headers: Mapping[str, str]


class ReferenceHandlers:
    def __init__(self, served: Callable[[], Sequence[tuple[str, str, bool]]], prefixes: tuple[str, ...], public_url: str = "") -> None:
        """Args: served: method and path of each public route, and whether it asks for a key."""
        self._served = served
        self._prefixes = prefixes
        self._public_url = public_url
        self._parts: dict[tuple[str, str], str] = {}
        """Documents and pages by their kind and language, without an address."""
        self._made: OrderedDict[tuple[str, str, str, str], Finished] = OrderedDict()
        self._making = asyncio.Lock()

    async def document(self, context: Context) -> Response:
        """Answer with the OpenAPI document; in English, unless ``?lang=`` says otherwise."""
        return await self._answer(context, "document", _asked_language(context) or "en")

    async def page(self, context: Context) -> Response:
        """Answer with the page, in the language of ``?lang=``, else of ``Accept-Language``, else in Chinese."""
        accepted = ",".join(context.header_values("Accept-Language"))
        context.headers["Content-Language"] = language = _asked_language(context) or preferred_language(accepted)
        return await self._answer(context, "page", language)

    async def file(self, context: Context) -> Response:
        """Answer with the stylesheet under the name that the page has for it. Raises: NotFoundError: any other name."""
        return await self._answer(context, "style", context.tail)

    async def _answer(self, context: Context, kind: str, which: str) -> Response:
        path = context.request.target.partition("?")[0]
        up = "../" if path.endswith("/") else ""  # the page's addresses are relative: a proxy may serve it below a path of its own
        key = (kind, which, origin_of(context.request, self._public_url), up) if kind != "style" else (kind, which, "", "")
        if key not in self._made:
            async with self._making:  # one at a time: what many ask for is made once
                if key not in self._made:
                    self._made[key] = await asyncio.to_thread(self._finish, *key)
                    if len(self._made) > MADE_MAX:
                        self._made.popitem(last=False)
        return _sent(context, self._made[key])

    def _finish(self, kind: str, which: str, origin: str, up: str) -> Finished:
        """Return an answer. It runs in a thread, one at a time. Raises: NotFoundError: there is no such file."""
        from proxy.reference import pages, samples  # noqa: PLC0415  Jinja2 takes 28 ms and 4 MB, which a start does not need

        if kind == "style":
            name, content = pages.stylesheet()
            if which != name:
                raise NotFoundError("There is no such file")
            return _finished(content, "text/css; charset=utf-8", {"Cache-Control": f"public, max-age={_YEAR_SECONDS}, immutable"})
        text = self._part(kind, which).replace(samples.ORIGIN, origin).replace("@UP@", up)
        headers = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding, Accept-Language, X-Forwarded-Proto"}
        if kind == "document":
            return _finished(text.encode(), "application/json", headers)
        if origin.startswith("https://") and self._public_url:
            headers["Strict-Transport-Security"] = f"max-age={_YEAR_SECONDS}"
        return _finished(text.encode(), "text/html; charset=utf-8", {**headers, **pages.PAGE_HEADERS})

    def _part(self, kind: str, language: str) -> str:
        """Return the document or the page of a language, without an address."""
        from proxy.reference.document import Served, document  # noqa: PLC0415
        from proxy.reference.pages import page  # noqa: PLC0415
        from proxy.reference.words import words_of  # noqa: PLC0415

        part = self._parts.get((kind, language))
        if part is None:
            described = document([Served(*route) for route in self._served()], self._prefixes, words_of(language))
            part = page(described, language) if kind == "page" else orjson.dumps(described).decode()
            self._parts[kind, language] = part
        return part


def preferred_language(accepted: str) -> str:
    """Return ``zh`` or ``en``, whichever an ``Accept-Language`` header likes better; ``zh`` where it names neither."""
    best, best_quality = "zh", 0.0
    for part in accepted[:1024].split(","):
        found = _LANGUAGE.fullmatch(part)
        if found is not None and (language := found[1].lower()) in ("zh", "en"):
            quality = 1.0 if found[2] is None else float(found[2])
            if quality > best_quality:
                best, best_quality = language, quality
    return best


def takes_gzip(accepted: str) -> bool:
    """Return whether an ``Accept-Encoding`` header names ``gzip``, or anything, with a quality above 0."""
    return _GZIP.search(accepted) is not None


def _asked_language(context: Context) -> str | None:
    """Return the language of ``?lang=``; None: it names none that there is."""
    values = context.request.query_values("lang")
    return values[0] if len(values) == 1 and values[0] in ("zh", "en") else None


def _finished(body: bytes, content_type: str, headers: Mapping[str, str]) -> Finished:
    # Weak: the compressed body is another one by its bytes, and the same by what it says.
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:20]}"'
    return Finished(body, gzip.compress(body, mtime=0), etag, content_type, headers)


def _sent(context: Context, finished: Finished) -> Response:
    """Return the answer for a client: nothing if it has it already, compressed if it reads that."""
    context.headers.update(finished.headers)
    context.headers["ETag"] = finished.etag
    known = {tag.strip().removeprefix("W/") for value in context.header_values("If-None-Match") for tag in value.split(",")}
    if "*" in known or finished.etag.removeprefix("W/") in known:
        return Response(304, context.headers, b"")
    if takes_gzip(",".join(context.header_values("Accept-Encoding"))):
        context.headers["Content-Encoding"] = "gzip"
        return context.answer(finished.zipped, content_type=finished.content_type)
    return context.answer(finished.body, content_type=finished.content_type)
