"""Answers held to `/openapi.json`: by the operation that was asked, its status, its schema without any leeway, and its headers."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from jsonschema import Draft202012Validator

from proxy.gateway.routes import PREFIXES

OF_HTTP = {
    "server", "date", "content-type", "content-length", "content-encoding", "content-language", "cache-control", "vary", "connection",
    "transfer-encoding", "allow", "content-security-policy", "x-content-type-options", "referrer-policy", "cross-origin-opener-policy",
    "cross-origin-resource-policy", "permissions-policy", "x-accel-buffering",
}  # fmt: skip
"""Headers that say nothing about this API."""


class Described:
    """A document, and what of it has been seen in answers."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.components = copy.deepcopy(document["components"])
        for schema in self.components["schemas"].values():
            schema.setdefault("additionalProperties", False)  # clients are to take more; the gateway must not send more
        self.seen: set[tuple[str, str]] = set()
        """Fields of components."""
        self.codes: set[tuple[str, str]] = set()
        """Codes of errors, each with its operation."""

    def check(self, method: str, target: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Fail unless the answer is one that the document knows."""
        path = self._path(method, target)
        answers = self.document["paths"][path][method.lower()]["responses"]
        assert str(status) in answers, f"{method} {path} answered {status}, which is not described"
        described = self._resolved(answers[str(status)])
        unknown = {name.lower() for name in headers} - OF_HTTP - {name.lower() for name in described.get("headers", {})}
        assert not unknown, f"{method} {path} {status} has headers that are not described: {unknown}"
        kind = headers.get("Content-Type", "").partition(";")[0]
        if not body and not described.get("content"):
            return
        schema = described["content"][kind]["schema"]
        if kind == "application/json":
            self.hold(schema, orjson.loads(body))
        elif kind == "text/event-stream":
            for line in body.splitlines():
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    self.hold(schema, orjson.loads(line.removeprefix(b"data: ")))
        if status >= 400 and "error" in (value := orjson.loads(body)):
            self.codes.add((f"{method} {path}", value["error"]["code"]))

    def hold(self, schema: dict[str, Any], value: object) -> None:
        """Fail unless a value is what a schema says, and remember the fields that were there."""
        faults = list(self._validator(schema).iter_errors(value))
        assert not faults, "\n".join(f"{fault.json_path}: {fault.message}" for fault in faults)
        self._note(schema, value)

    def fields(self, *, beside: set[str]) -> Iterator[tuple[str, str]]:
        """Yield every field of every component, but for those `beside`."""
        for name, schema in self.components["schemas"].items():
            if name not in beside:
                yield from ((name, field) for field in schema["properties"])

    def _validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        return Draft202012Validator({**schema, "components": self.components}, format_checker=Draft202012Validator.FORMAT_CHECKER)

    def _path(self, method: str, target: str) -> str:
        bare = target.partition("?")[0]
        for prefix in PREFIXES:
            bare = bare.removeprefix(prefix) if bare.startswith(f"{prefix}/") else bare
        paths: dict[str, dict[str, Any]] = self.document["paths"]
        if bare in paths and method.lower() in paths[bare]:
            return bare
        return next(path for path in paths if path.endswith("/{id}") and bare.startswith(path.removesuffix("{id}")))

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = schema
        if "$ref" in schema:
            _, _, group, name = schema["$ref"].split("/")
            found = self.components[group][name]
        return found

    def _note(self, schema: dict[str, Any], value: object) -> None:
        name = schema.get("$ref", "").rpartition("/")[2]
        schema = self._resolved(schema)
        for form in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            if self._validator(form).is_valid(value):
                self._note(form, value)
                break
        if isinstance(value, list) and "items" in schema:
            for entry in value:
                self._note(schema["items"], entry)
        if isinstance(value, dict):
            for field, part in value.items():
                if field in schema.get("properties", {}):
                    if name:
                        self.seen.add((name, field))
                    self._note(schema["properties"][field], part)
                elif isinstance(each := schema.get("additionalProperties"), dict):
                    self._note(each, part)
