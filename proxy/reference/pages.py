"""`/docs`: the document as a page for people, without a script. Everything in it is from the document and the words."""

import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from proxy.reference.rows import Row, rows_of
from proxy.reference.words import LANGUAGES, Words, words_of

POLICY = (
    "default-src 'none'; object-src 'none'; script-src 'none'; style-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_CODE = re.compile("`([^`]+)`")
_METHODS = ("get", "post", "delete")


class Section(NamedTuple):
    """One operation on the page."""

    id: str
    method: str
    path: str
    title: str
    text: str
    needs_key: bool
    is_paid: bool
    parameters: list[Row]
    body: list[Row]
    body_text: str
    answer: list[Row]
    answer_of: tuple[str, str] | None
    """Id and title of an earlier operation that has the same answer, whose fields are told there."""
    events: list[Row]
    errors: list[tuple[str, list[str]]]
    """Codes by their status."""
    example: str
    samples: list[dict[str, str]]


def stylesheet() -> tuple[str, bytes]:
    """Return the stylesheet's name, which has a digest of its content in it, and the content."""
    content = files("proxy.reference").joinpath("static/reference.css").read_bytes()
    return f"reference.{hashlib.sha256(content).hexdigest()[:12]}.css", content


def page(document: dict[str, Any], language: str) -> str:
    """Return the page of a document that is in the same language. The addresses in it are relative."""
    words = words_of(language)
    sections = list(_sections(document, words))
    groups = [(tag, [section for owner, section in sections if owner == tag]) for tag in words["tags"]]
    name, _ = stylesheet()
    template = _environment().get_template("reference.html")
    return template.render(
        document=document,
        groups=groups,
        language=language,
        languages={other: words_of(other)["page"]["language"] for other in LANGUAGES},
        stylesheet=name,
        words=words,
        t=words["page"],
    )


def prose(text: str) -> Markup:
    """Return a sentence, with what stands in backticks as code."""
    pieces = _CODE.split(text)
    return Markup("").join(Markup("<code>{}</code>").format(piece) if at % 2 else escape(piece) for at, piece in enumerate(pieces))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("proxy.reference"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["prose"] = prose
    return environment


def _sections(document: dict[str, Any], words: Words) -> Iterator[tuple[str, Section]]:
    told: dict[str, tuple[str, str]] = {}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                operation = methods[method]
                name = _component(operation["responses"]["200"]["content"])
                section = _section(path, method, operation, document, words)
                yield operation["tags"][0], section if name not in told else section._replace(answer=[], answer_of=told[name])
                if name:
                    told.setdefault(name, (section.id, section.title))


def _component(content: dict[str, Any], kind: str = "application/json") -> str:
    """Return the name of the component that is sent as a kind of content; empty: it is none."""
    name: str = content.get(kind, {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
    return name


def _section(path: str, method: str, operation: dict[str, Any], document: dict[str, Any], words: Words) -> Section:
    components = document["components"]
    schemas = components["schemas"]

    def rows(content: dict[str, Any], kind: str, *, is_answer: bool) -> list[Row]:
        name = _component(content, kind)
        return rows_of(name, schemas, words, is_answer=is_answer) if name else []

    asked = operation.get("requestBody", {}).get("content", {})
    answered = operation["responses"]["200"]["content"]
    example = answered.get("application/json", {}).get("example")
    body = rows(asked, "application/json", is_answer=False)
    parameters = operation.get("parameters", ())
    return Section(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        title=operation["summary"],
        text=operation["description"],
        needs_key=bool(operation["security"]),
        is_paid=any(parameter["in"] == "header" for parameter in parameters),
        parameters=_parameters(parameters, words),
        body=body,
        body_text=schemas[_component(asked)].get("description", "") if body else "",
        answer=rows(answered, "application/json", is_answer=True),
        answer_of=None,
        events=rows(answered, "text/event-stream", is_answer=True),
        errors=list(_errors(operation, components["responses"])),
        example="" if example is None else orjson.dumps(example, option=orjson.OPT_INDENT_2).decode(),
        samples=operation.get("x-codeSamples", []),
    )


def _parameters(parameters: Any, words: Words) -> list[Row]:
    fields = {parameter["name"]: {**parameter["schema"], "description": parameter["description"]} for parameter in parameters}
    required = [parameter["name"] for parameter in parameters if parameter.get("required")]
    return rows_of("Parameters", {"Parameters": {"properties": fields, "required": required}}, words, is_answer=False)


def _errors(operation: dict[str, Any], responses: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for status, answer in operation["responses"].items():
        name = answer.get("$ref", "").rpartition("/")[2]
        if name:
            schema = responses[name]["content"]["application/json"]["schema"]
            yield status, schema["properties"]["error"]["properties"]["code"]["enum"]
