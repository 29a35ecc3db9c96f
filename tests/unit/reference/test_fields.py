"""The tables beside the parsers: each value is taken by the parser if, and only if, the table says so."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from proxy.core import fields
from proxy.core.catalog import ChatPrice, ChatTier, Kind, Model, VideoPrice, VideoRate
from proxy.core.chat import schema as chat
from proxy.core.chat.request import parse_chat_call, requested_model
from proxy.core.errors import GatewayError
from proxy.core.images import schema as images
from proxy.core.images.request import PUBLISHED_KEYS as IMAGE_KEYS
from proxy.core.images.request import parse_image_call
from proxy.core.money import Nanos
from proxy.core.schema import Schema
from proxy.core.video import schema as videos
from proxy.core.video.request import PUBLISHED_KEYS as VIDEO_KEYS
from proxy.core.video.request import parse_video_call
from proxy.reference.document import REQUESTS

Body = dict[str, Any]
VIDEO_PRICE = VideoPrice(VideoRate(silent=Nanos(8), audio=Nanos(16)), flex_permille=500)
VIDEO = Model(id="v", kind=Kind.VIDEO, upstream="ark", upstream_model="v", price=VIDEO_PRICE)
CHAT_PRICE = ChatPrice((ChatTier(None, Nanos(800), Nanos(2_000), Nanos(160)),))
CHAT = Model(id="m", kind=Kind.CHAT, upstream="ark", upstream_model="m", price=CHAT_PRICE)


class Recorder(dict[str, Any]):
    """A body that remembers which of its fields were looked at by name."""

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)


def take_image(body: Body) -> None:
    fields.model_id(fields.checked_body(body, IMAGE_KEYS), "m")
    parse_image_call(body)


def take_video(body: Body) -> None:
    fields.model_id(fields.checked_body(body, VIDEO_KEYS), "m")
    parse_video_call(body, VIDEO)


def take_chat(body: Body) -> None:
    requested_model(body)
    parse_chat_call(body, CHAT)


IMAGE, CLIP = {"prompt": "p"}, {"prompt": "p"}
PICTURE = {"prompt": "p", "task_type": "image_to_image", "image_url": "https://a.example/b.png"}
TALK = {"model": "m", "messages": [{"role": "user", "content": "c"}]}


CLIP_OF = PICTURE | {"task_type": "image_to_video"}


@pytest.mark.parametrize(("take", "body", "table"), [(take_image, PICTURE, images.FIELDS), (take_video, CLIP_OF, videos.FIELDS)])
def test_the_table_has_every_field_that_the_parser_reads_and_no_other(take: Callable[[Body], None], body: Body, table: Body) -> None:
    recorder = Recorder(body)

    take(recorder)

    assert recorder.asked == set(table)


def values_for(schema: Schema) -> Iterator[Any]:
    """Yield values of every type, and those at and beyond each bound. JSON Schema takes 1.0 for an integer, the gateway does not."""
    yield [{"role": "user", "content": "c"}]
    yield from (None, True, False, 0, 1, -1, 3, 5, 2.5, "", " ", "x", [], ["x"], {}, 2**31, 2**33, 10**12)
    yield from (choice for choice in schema.get("enum", ()))
    yield from (f"{choice}x" for choice in schema.get("enum", ()) if isinstance(choice, str))
    for bound in ("minimum", "maximum"):
        if bound in schema:
            yield from (schema[bound] - 1, schema[bound], schema[bound] + 1, str(schema[bound]))
    if "maxLength" in schema and schema["maxLength"] < 100_000:
        yield from ("2" * schema["maxLength"], "2" * (schema["maxLength"] + 1))
    yield from schema.get("examples", ())
    yield from ("auto", "2k", "4K", "8K", "1024X1024", "0x5", " 2048x2048 ", "Auto", "png", "webp")


def agree(take: Callable[[Body], None], body: Body, schema: Schema, components: Mapping[str, Schema]) -> bool:
    """Return whether parser and schema both take a body, or both refuse it; fail otherwise."""
    valid: bool = Draft202012Validator({**schema, "components": {"schemas": components}}).is_valid(body)
    refused = ""
    try:
        take(body)
    except GatewayError as refusal:
        refused = refusal.message
    assert valid == (not refused), f"the schema says {valid}, the parser {refused or 'takes it'!r}"
    return valid


CASES = [
    *(pytest.param(take_image, IMAGE, images.REQUEST, name, id=f"image-{name}") for name in images.FIELDS if name != "image_url"),
    *(pytest.param(take_video, CLIP, videos.REQUEST, name, id=f"video-{name}") for name in videos.FIELDS if name != "image_url"),
    *(
        pytest.param(take_chat, TALK, chat.REQUEST, name, id=f"chat-{name}")
        for name in ("model", "messages", "stream", "max_tokens", "max_completion_tokens", "n", "service_tier")
    ),
]


@pytest.mark.parametrize(("take", "body", "schema", "name"), CASES)
def test_a_value_is_taken_if_and_only_if_the_table_says_so(take: Callable[[Body], None], body: Body, schema: Schema, name: str) -> None:
    told = set()
    for value in values_for(schema["properties"][name]):
        asked = {**body, name: value}
        if name == "task_type" and isinstance(value, str) and value.startswith("image_"):
            asked["image_url"] = "https://a.example/b.png"
        told.add(agree(take, asked, schema, REQUESTS))

    assert told == {True, False}, "the values do not try the field"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": "p", "task_type": "image_to_image"},
        {"prompt": "p", "task_type": "image_to_image", "image_url": None},
        {"prompt": "p", "task_type": "image_to_image", "image_url": "https://a.example/b.png"},
        {"prompt": "p", "image_url": 5},
        {"prompt": "p", "image_url": "x"},
    ],
)
def test_a_picture_is_required_where_the_table_says_so(body: Body) -> None:
    agree(take_image, body, images.REQUEST, REQUESTS)
    as_video = body | ({"task_type": "image_to_video"} if "task_type" in body else {})
    agree(take_video, as_video, videos.REQUEST, REQUESTS)


CONTENTS: list[Any] = ["c", "", None, [], 5, {}, ["c"]]
MESSAGES: list[Body] = [
    {},
    {"role": "user"},
    {"role": "nobody", "content": "c"},
    *({"role": role, "content": content} for role in chat.MESSAGE_FIELDS["role"]["enum"] for content in CONTENTS),
    *({"role": role} for role in chat.MESSAGE_FIELDS["role"]["enum"]),
    {"role": "user", "content": [{"type": "text", "text": "c"}]},
    {"role": "user", "content": [{"type": "text"}]},
    {"role": "user", "content": [{"type": "text", "text": None}]},
    {"role": "user", "content": [{"text": "c"}]},
    {"role": "user", "content": [{"type": 5}]},
    {"role": "user", "content": [{"type": "image_url"}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": "https://a.example"}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png", "detail": "low"}}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA"}}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    {"role": "assistant", "content": None, "tool_calls": ["x"]},
    {"role": "assistant", "content": None, "tool_calls": {}},
]


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_a_message_is_taken_if_and_only_if_the_table_says_so(message: Body) -> None:
    agree(take_chat, {"model": "m", "messages": [message]}, chat.REQUEST, REQUESTS)


@pytest.mark.parametrize(
    "options", [None, {}, {"include_usage": True}, {"include_usage": None}, {"include_usage": 1}, {"chunk_include_usage": "x"}, [], "x"]
)
def test_options_of_a_stream_are_taken_if_and_only_if_the_table_says_so(options: Any) -> None:
    agree(take_chat, {**TALK, "stream": True, "stream_options": options}, chat.REQUEST, REQUESTS)
