"""Names that are kept of a chat for its refusal: few, short, and none where no tools stand."""

from typing import Any

import pytest

from proxy.core.chat.bounds import OutputBound, PromptBound
from proxy.core.chat.refusal import MESSAGES_READ_MAX, chosen_names
from proxy.core.chat.request import ChatCall

CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
QUESTION = {"role": "user", "content": "Hello"}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}


def names(messages: list[dict[str, Any]], **fields: Any) -> tuple[str, ...]:
    return chosen_names(
        ChatCall(
            fields={"model": "m", "messages": messages, **fields},
            stream=False,
            include_usage=False,
            text_bytes=0,
            prompt=PromptBound(tokens=0, text_tokens=0, picture_tokens=0, uncounted=0),
            output=OutputBound(tokens=1, answer_tokens=1, thinking_tokens=0, choices=1, limit=""),
        )
    )


def tool(name: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("messages", "fields", "kept"),
    [
        ([QUESTION], {}, ()),
        ([QUESTION, {"role": "assistant", "content": "Hi"}, QUESTION], {}, ()),
        ([QUESTION], {"tools": [tool("get_weather"), tool("get_time")]}, ("get_weather", "get_time")),
        ([QUESTION], {"functions": [{"name": "get_weather"}]}, ("get_weather",)),
        ([QUESTION, ASKED, RESULT], {}, ("call_1", "get_weather")),
        ([QUESTION, {"role": "assistant", "content": "", "function_call": {"name": "f"}}, QUESTION], {}, ("f",)),
        ([QUESTION, QUESTION, {"role": "function", "name": "f", "content": ""}], {}, ("f",)),
        # what the upstream is to judge, and not we
        ([QUESTION], {"tools": None, "functions": "f"}, ()),
        ([QUESTION], {"tools": [None, 7, {}, {"function": []}, tool(None), tool(7), tool(["x"]), tool(""), tool("x" * 65)]}, ()),
        ([QUESTION, QUESTION, {"role": "assistant", "content": "", "tool_calls": {}}], {}, ()),
    ],
)
def test_the_names_of_functions_and_calls_are_kept(
    messages: list[dict[str, Any]], fields: dict[str, Any], kept: tuple[str, ...]
) -> None:
    assert names(messages, **fields) == kept


def test_few_are_kept_of_many_and_the_latest_calls_first() -> None:
    calls = [{"role": "tool", "tool_call_id": f"call_{index}", "content": ""} for index in range(10_000)]

    kept = names(calls, tools=[tool(f"f{index}") for index in range(100)])

    assert kept == (*(f"f{index}" for index in range(100)), *(f"call_{index}" for index in range(9_999, 9_971, -1)))


def test_only_the_last_messages_are_looked_at() -> None:
    early = [{"role": "tool", "tool_call_id": "early", "content": ""}]

    assert names(early + [QUESTION] * (MESSAGES_READ_MAX - 1)) == ("early",)
    assert names(early + [QUESTION] * MESSAGES_READ_MAX) == ()
