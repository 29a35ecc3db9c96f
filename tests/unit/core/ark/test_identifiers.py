"""Names that the customer chose survive the filter; whatever looks like the operator's does not, even if the customer sent it."""

import orjson
import pytest

from proxy.core.ark.identifiers import own_names
from proxy.core.ark.refusal import read_refusal
from proxy.core.ark.text import public_message

UPSTREAM_MODEL = "ep-20260101120000-abcde"


def message(said: str, *names: str, upstream_model: str = UPSTREAM_MODEL) -> str:
    body = orjson.dumps({"error": {"code": "InvalidParameter", "message": said, "param": "tools"}})
    return read_refusal(400, body, upstream_model=upstream_model, names=names).error.message


@pytest.mark.parametrize(
    "name",
    [
        "get_weather",
        "getWeatherForAllOfTheCities",
        "mcp__github__create_pull_request",
        "web-search-v2",
        "get.weather",
        "call_9f86d081884c7d65",
        "toolu_01A09q90qw90lq917835lq9",
        "functions.get_weather:0",
    ],
)
@pytest.mark.parametrize("said", ["{} is not found in the previous message.", "invalid function name {}.", "tool '{}' is not valid"])
def test_a_name_that_the_customer_sent_is_repeated_to_him(name: str, said: str) -> None:
    assert message(said.format(name), name) == said.format(name)


NOT_SHOWN = [
    "ep-20260101120000-abcde",  # the endpoint itself
    "ep-20260202120000-fghij",
    "call-ep-20260101120000-abcde",
    "EP-20260101120000-ABCDE",
    "cgt-20260119201255-2tnnx",
    "bot-20260101-abc12",
    "asset-20260101-abc12",
    "account_2100123456",
    "acct2100123456",
    "2100123456",
    "call_2100123456",
    "ark-CANARYKEY-1234567890",
    "sk-canarykey1",
    "AKLTcanary12345",
    "req_0217canary",
    "0217659525251112223334445556667778889990",
    "123e4567-e89b-12d3-a456-426614174000",
    "doubao-seed-2-0-lite-260428",
    "deepseek-v3-2-251201",
    "ask_gemini",
    "ark.cn-beijing.volces.com",
    "localhost:8080",
    "10.1.2.3",
    "tiger.inference.Server",
    "server-7.internal",
    "/data00/x.py",
    "a b",
    "",
]


@pytest.mark.parametrize("canary", NOT_SHOWN)
@pytest.mark.parametrize(
    "said",
    ["{} is bad", "invalid function name {}.", "function '{}' is bad", "tool_call_id {} is not found", "the size {} of tool `{}`"],
)
def test_a_name_that_looks_like_the_operators_is_not_even_if_the_customer_sent_it(canary: str, said: str) -> None:
    assert own_names([canary], UPSTREAM_MODEL) == frozenset()
    if canary and canary != "a b":
        assert canary.casefold() not in message(said.format(canary, canary), canary).casefold()


def test_the_models_id_upstream_is_nobodys_tool() -> None:
    assert own_names(["lite-7", "my-lite-7x", "lite"], "lite-7") == {"lite"}
    assert message("function 'lite-7' is bad", "lite-7", upstream_model="lite-7") == "function the model is bad"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("invalid function name get.weather.", "invalid function name …."),
        ("tool_call_id call_9f86d081884c7d65 is not found", "tool_call_id … is not found"),
        ("function 'tiger.inference.Server' is bad", "function '…' is bad"),
        ("Invalid schema for function 'get_weather': 'properties' must be an object.",) * 2,  # plain words, quoted
        ("function 'ask_gemini' is bad", "function '…' is bad"),
        ("function get_weather failed", "function … failed"),  # not quoted: it could be one of the upstream's
        ("the tool is not supported",) * 2,
        ("the function `size` is bad",) * 2,
        ("function /data00/x is bad", ""),
        ("function 'x' of canary_table is bad", ""),
    ],
)
def test_without_the_customers_names_a_function_is_left_out_and_the_rest_is_told(said: str, shown: str) -> None:
    assert public_message(said) == shown


def test_digits_on_both_sides_of_a_name_are_counted_together() -> None:
    assert message("2100 get_weather_x1 987654", "get_weather_x1") == "The parameter tools was refused"
