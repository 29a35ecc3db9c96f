"""The API as an OpenAPI 3.1 document, made of the routes, the tables beside the parsers, the table of errors, and the words.

Pure. Nothing is written down here that stands elsewhere: a route, a field or an error without its words is a KeyError, and a test.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from proxy import __version__
from proxy.core import errors
from proxy.core.chat import schema as chat
from proxy.core.chat.request import FETCHING_KEYS, THOUGHT_KEYS
from proxy.core.images import schema as images
from proxy.core.schema import Schema, answer, component
from proxy.core.video import schema as videos
from proxy.core.video.failure import FAILURE_CODES
from proxy.reference.answers import ANSWERS
from proxy.reference.examples import EXAMPLES
from proxy.reference.operations import BEFORE_A_ROUTE, OPERATIONS, TAGS, Operation, Refusal, every_refusal, refusals_of
from proxy.reference.samples import ORIGIN, samples_of
from proxy.reference.words import Words

REQUESTS: Mapping[str, Schema] = {
    "ChatRequest": chat.REQUEST,
    "StreamOptions": chat.STREAM_OPTIONS,
    "ChatMessage": chat.MESSAGE,
    "ContentPart": chat.PART,
    "ImageUrl": chat.IMAGE_URL,
    "ImageRequest": images.REQUEST,
    "VideoRequest": videos.REQUEST,
}
SECURITY: Mapping[str, dict[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "xApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
}
IDEMPOTENCY_KEY = "Idempotency-Key"
ALWAYS = ("x-request-id",)
OF_A_KEY = tuple(f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset"))
OF_A_DELAY = ("Retry-After", "retry-after-ms", "x-should-retry")
REPLAYED = ("idempotent-replayed",)
DELAYED = frozenset(
    {errors.ContextLengthError, errors.ContentRejectedError, errors.KeyLimitReachedError, errors.TaskRunningError}
    | {errors.IdempotencyConflictError, errors.RequestTooLargeError, errors.RateLimitedError, errors.InternalError}
    | {errors.ModelUnavailableError}
)
"""Errors whose answers may say when to ask again, or not to."""


class Served(NamedTuple):
    """A route of the public listener: its method, its path without a prefix, and whether it asks for a key."""

    method: str
    path: str
    needs_key: bool


def document(routes: Iterable[Served], prefixes: tuple[str, ...], words: Words) -> dict[str, Any]:
    """Return the document. Its servers begin with `samples.ORIGIN`, in whose place the gateway's own address goes.

    Raises:
        KeyError: a route, a field or an error is not described.
    """
    paths: dict[str, dict[str, Any]] = {}
    refused = _Refused(words)
    for route in sorted(routes, key=_in_order):
        operation = OPERATIONS[route.method, route.path]
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, operation, prefixes[0], words, refused)
    return {
        "openapi": "3.1.0",
        "info": {"title": words["page"]["title"], "version": __version__, "description": words["page"]["lead"]},
        "servers": [{"url": f"{ORIGIN}{prefix}"} for prefix in prefixes],
        "tags": [{"name": tag, "description": words["tags"][tag]} for tag in TAGS],
        "paths": paths,
        "components": {
            "schemas": {name: _worded(name, schema, words) for name, schema in _schemas().items()},
            "responses": {**{kind.code: refused.answer([kind], ()) for kind in BEFORE_A_ROUTE}, **refused.named},
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in words["headers"].items()},
            "securitySchemes": {name: {**scheme, "description": words["security"][name]} for name, scheme in SECURITY.items()},
        },
        "x-errors": [
            {"status": kind.status, "type": kind.type, "code": kind.code, "description": words["errors"][kind.code]}
            for kind in every_refusal()
        ],
        "x-task-failures": [{"code": code, "description": words["failures"][code]} for code in FAILURE_CODES],
    }


def _in_order(route: Served) -> tuple[int, int]:
    """Return where a route stands: by its tag, then as `OPERATIONS` has it."""
    at = (route.method, route.path)
    return TAGS.index(OPERATIONS[at].tag), list(OPERATIONS).index(at)


def _schemas() -> dict[str, Schema]:
    rows = every_refusal()
    of_error: dict[str, Schema] = {
        "type": {"type": "string", "enum": list(dict.fromkeys(kind.type for kind in rows))},
        "code": {"type": "string", "enum": [kind.code for kind in rows]},
        "message": {"type": "string"},
        "param": {"type": ["string", "null"]},
    }
    return {
        **REQUESTS,
        **ANSWERS,
        "Error": answer({"error": component("ErrorDetail")}),
        "ErrorDetail": answer(of_error),
    }


def _worded(name: str, schema: Schema, words: Words) -> Schema:
    """Return a component with a sentence for each of its fields."""
    texts = words["fields"][name]
    fields = {field: {"description": texts[field], **rules} for field, rules in schema["properties"].items()}
    told = {"description": words["schemas"][name].format(fields=_raising())} if name in words["schemas"] else {}
    return {**told, **schema, "properties": fields}


def _raising() -> str:
    """Return the fields of a chat that pass unjudged and raise what is held."""
    return ", ".join(f"`{name}`" for name in sorted((FETCHING_KEYS | THOUGHT_KEYS) - chat.FIELDS.keys()))


def _operation(route: Served, operation: Operation, prefix: str, words: Words, refused: "_Refused") -> dict[str, Any]:
    texts = words["operations"][operation.id]
    made: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": texts["title"],
        "description": texts["text"],
        "security": [{name: []} for name in SECURITY] if route.needs_key else [],
    }
    if parameters := _parameters(operation, words):
        made["parameters"] = parameters
    if operation.request:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": component(operation.request)}}}
    made["responses"] = _responses(route, operation, words, refused)
    samples = samples_of(route.method, route.path, operation, needs_key=route.needs_key, prefix=prefix)
    if samples:
        made["x-codeSamples"] = [{"lang": sample.language, "label": sample.label, "source": sample.source} for sample in samples]
    return made


def _parameters(operation: Operation, words: Words) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = [
        {
            "name": parameter.name,
            "in": parameter.where,
            **({"required": True} if parameter.where == "path" else {}),
            "description": words["parameters"][f"{operation.id}.{parameter.name}"],
            "schema": dict(parameter.schema),
        }
        for parameter in operation.parameters
    ]
    if operation.is_paid:
        key = {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"}
        told.append({"name": IDEMPOTENCY_KEY, "in": "header", "description": words["parameters"][IDEMPOTENCY_KEY], "schema": key})
    return told


def _responses(route: Served, operation: Operation, words: Words, refused: "_Refused") -> dict[str, Any]:
    names = (*ALWAYS, *(OF_A_KEY if route.needs_key else ()))
    paid = REPLAYED if operation.is_paid else ()
    etag = ("ETag",) if operation.validated else ()
    made: dict[str, Any] = {
        "200": {"description": words["statuses"]["200"], "headers": _headers(*names, *paid, *etag), "content": _content(operation)}
    }
    if operation.validated:
        made["304"] = {"description": words["statuses"]["304"], "headers": _headers(*names, *etag)}
    for status, kinds in groupby(refusals_of(operation), key=lambda kind: kind.status):
        made[str(status)] = refused.reference(list(kinds), (*(OF_A_KEY if route.needs_key else ()), *paid))
    if operation.unready:
        content = {"application/json": {"schema": component(operation.unready)}}
        made["503"] = {"description": words["operations"][operation.id]["text"], "headers": _headers(*names), "content": content}
    return made


def _content(operation: Operation) -> dict[str, Any]:
    if not operation.answer:
        kind: Schema = {"type": "object"} if operation.media == "application/json" else {"type": "string"}
        return {operation.media: {"schema": kind}}
    example = {"example": EXAMPLES[operation.id]} if operation.id in EXAMPLES else {}
    content = {operation.media: {"schema": component(operation.answer), **example}}
    if operation.streams:
        # OpenAPI 3.1 has no word for events: the schema is that of the data of each one.
        content["text/event-stream"] = {"schema": component(operation.streams)}
    return content


class _Refused:
    """Answers of errors, each kept once: many routes refuse the same."""

    def __init__(self, words: Words) -> None:
        self.named: dict[str, dict[str, Any]] = {}
        self._words = words

    def reference(self, kinds: list[Refusal], headers: tuple[str, ...]) -> dict[str, str]:
        """Return a reference to the answer for errors of one status: ``Error400``, or ``Error400-2`` if that is another one."""
        wanted, status = self.answer(kinds, headers), kinds[0].status
        names = [f"Error{status}", *(f"Error{status}-{number}" for number in range(2, 2 + len(self.named)))]
        name = next(name for name in names if self.named.get(name, wanted) == wanted)
        self.named[name] = wanted
        return {"$ref": f"#/components/responses/{name}"}

    def answer(self, kinds: list[Refusal], headers: tuple[str, ...]) -> dict[str, Any]:
        """Return the answer for errors of one status."""
        status = kinds[0].status
        delays = OF_A_DELAY if not DELAYED.isdisjoint(kinds) else ()
        challenge = ("WWW-Authenticate",) if status == 401 else ()
        narrowed = {"error": {"properties": {"code": {"enum": [kind.code for kind in kinds]}}}}
        return {
            "description": "\n".join(f"- `{kind.code}`: {self._words['errors'][kind.code]}" for kind in kinds),
            "headers": _headers(*ALWAYS, *delays, *challenge, *headers),
            "content": {"application/json": {"schema": {**component("Error"), "properties": narrowed}}},
        }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
