"""The document: valid, whole, in both languages, and with nothing in it that is not there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from proxy.core import errors
from proxy.core.chat.request import FETCHING_KEYS, KNOWN_KEYS, THOUGHT_KEYS
from proxy.core.chat.schema import FIELDS as CHAT_FIELDS
from proxy.core.video import failure
from proxy.gateway.routes import PREFIXES
from proxy.reference.document import Served, document
from proxy.reference.examples import EXAMPLES
from proxy.reference.operations import OPERATIONS
from proxy.reference.samples import ORIGIN
from proxy.reference.words import LANGUAGES, words_of
from tests.support.described import Described

ROOT = Path(__file__).parents[3]
API = (ROOT / "proxy/docs/api.md").read_text(encoding="utf-8")
ROUTES = [
    Served(method, path, "needs_key=False" not in rest)
    for method, path, rest in re.findall(
        r'Route\("([A-Z]+)", "([^"]+)"([^)]*)\)', (ROOT / "proxy/gateway/routes.py").read_text(encoding="utf-8")
    )
    if path not in ("/metrics", "/operations/{id}")
]
MADE = {language: document(ROUTES, PREFIXES, words_of(language)) for language in LANGUAGES}
ENGLISH = MADE["en"]


def all_errors(root: type[errors.GatewayError] = errors.GatewayError) -> set[type[errors.GatewayError]]:
    return {root}.union(*(all_errors(child) for child in root.__subclasses__()))


PUBLIC_ERRORS = {(kind.status, kind.type, kind.code) for kind in all_errors() if not kind.__name__.startswith("_")}


def leaves(table: dict[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{place}{key}/")
        else:
            yield place + key, value


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_an_openapi_document(language: str) -> None:
    assert list(OpenAPIV31SpecValidator(MADE[language]).iter_errors()) == []


def test_it_has_every_route_and_no_other() -> None:
    told = {(method.upper(), path) for path, methods in ENGLISH["paths"].items() for method in methods}

    assert told == {(route.method, route.path) for route in ROUTES} == set(OPERATIONS)
    assert len({operation.id for operation in OPERATIONS.values()}) == len(OPERATIONS)


def test_a_key_is_asked_for_where_the_route_asks_for_one() -> None:
    told = {
        (method.upper(), path): bool(operation["security"])
        for path, methods in ENGLISH["paths"].items()
        for method, operation in methods.items()
    }

    assert told == {(route.method, route.path): route.needs_key for route in ROUTES}
    assert {("GET", "/models"), ("POST", "/chat/completions")} <= {at for at, asks in told.items() if asks}
    assert {("GET", "/models/public"), ("GET", "/healthz")} <= {at for at, asks in told.items() if not asks}


def test_a_gateway_that_asks_for_no_keys_says_so() -> None:
    made = document([route._replace(needs_key=False) for route in ROUTES], PREFIXES, words_of("en"))

    assert {bool(operation["security"]) for methods in made["paths"].values() for operation in methods.values()} == {False}


def test_it_has_every_error_and_no_other() -> None:
    told = {(row["status"], row["type"], row["code"]) for row in ENGLISH["x-errors"]}
    detail = ENGLISH["components"]["schemas"]["ErrorDetail"]["properties"]

    assert told == PUBLIC_ERRORS
    assert set(detail["code"]["enum"]) == {code for _, _, code in PUBLIC_ERRORS}
    assert set(detail["type"]["enum"]) == {kind for _, kind, _ in PUBLIC_ERRORS}


def test_every_error_stands_under_its_status_where_it_may_come() -> None:
    told = set()
    for name, answer in ENGLISH["components"]["responses"].items():
        codes = answer["content"]["application/json"]["schema"]["properties"]["error"]["properties"]["code"]["enum"]
        statuses = {status for status, _, code in PUBLIC_ERRORS if code in codes}
        assert len(statuses) == 1, f"{name} has codes of several statuses"
        told |= {(status, code) for status in statuses for code in codes}
    used = {
        answer["$ref"].rpartition("/")[2]
        for methods in ENGLISH["paths"].values()
        for operation in methods.values()
        for status, answer in operation["responses"].items()
        if "$ref" in answer and answer["$ref"].rpartition("/")[2].startswith(f"Error{status}")
    }

    assert told == {(status, code) for status, _, code in PUBLIC_ERRORS}
    assert set(ENGLISH["components"]["responses"]) == used | {"NOT_FOUND", "METHOD_NOT_ALLOWED"}


def test_every_component_is_used() -> None:
    text = orjson.dumps(ENGLISH).decode()

    for group in ("schemas", "headers"):
        unused = [name for name in ENGLISH["components"][group] if f'"#/components/{group}/{name}"' not in text]
        assert not unused


def test_the_codes_of_failed_tasks_are_those_of_the_code() -> None:
    source = Path(failure.__file__).read_text(encoding="utf-8")

    assert set(failure.FAILURE_CODES) == set(re.findall(r'TaskError\("([A-Z_]+)"', source))
    assert [row["code"] for row in ENGLISH["x-task-failures"]] == list(failure.FAILURE_CODES)


def test_the_chat_has_every_field_that_is_judged_or_priced() -> None:
    within_stream_options = {"include_usage", "chunk_include_usage"}
    schemas = ENGLISH["components"]["schemas"]

    assert KNOWN_KEYS - within_stream_options <= set(CHAT_FIELDS)
    assert within_stream_options == set(schemas["StreamOptions"]["properties"])
    raising = set(re.findall(r"`(\w+)`", schemas["ChatRequest"]["description"]))
    assert raising | set(CHAT_FIELDS) >= FETCHING_KEYS | THOUGHT_KEYS
    assert raising <= FETCHING_KEYS | THOUGHT_KEYS


def test_both_languages_say_the_same_things() -> None:
    words = {language: dict(leaves(words_of(language))) for language in LANGUAGES}

    assert set(words["zh"]) == set(words["en"])
    assert not [key for key, text in {**words["zh"], **words["en"]}.items() if not text.strip()]
    for key, english in words["en"].items():
        chinese = words["zh"][key]
        assert re.findall(r"\{fields\}", chinese) == re.findall(r"\{fields\}", english), key
        if not key.startswith(("security/", "page/null_word")) and chinese == english:
            assert re.fullmatch(r"[`\w. ]*", english), f"{key} is not translated"


def test_no_word_is_said_of_what_is_not_there() -> None:
    words, schemas = words_of("en"), ENGLISH["components"]["schemas"]

    assert {name: set(texts) for name, texts in words["fields"].items()} == {
        name: set(schema["properties"]) for name, schema in schemas.items()
    }
    assert set(words["schemas"]) <= set(schemas)
    assert set(words["operations"]) == {operation.id for operation in OPERATIONS.values()}
    wanted = {f"{operation.id}.{parameter.name}" for operation in OPERATIONS.values() for parameter in operation.parameters}
    assert set(words["parameters"]) == {*wanted, "Idempotency-Key"}
    assert set(words["errors"]) == {code for _, _, code in PUBLIC_ERRORS}
    assert set(words["failures"]) == set(failure.FAILURE_CODES)


def test_the_guide_says_the_same_of_each_error() -> None:
    told = dict(re.findall(r"^\| \d{3} \| `([A-Z_]+)` \| (.*) \|$", API, re.MULTILINE))

    assert told == words_of("en")["errors"]


def test_the_address_to_be_put_in_stands_in_servers_and_samples_only() -> None:
    without = orjson.loads(orjson.dumps(ENGLISH))
    del without["servers"]
    for methods in without["paths"].values():
        for operation in methods.values():
            operation.pop("x-codeSamples", None)

    assert ENGLISH["servers"] == [{"url": f"{ORIGIN}/api/v1"}, {"url": f"{ORIGIN}/v1"}]
    assert ".invalid" not in orjson.dumps(without).decode()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_its_schema_says(name: str) -> None:
    operation = next(operation for operation in OPERATIONS.values() if operation.id == name)

    Described(ENGLISH).hold({"$ref": f"#/components/schemas/{operation.answer}"}, EXAMPLES[name])
