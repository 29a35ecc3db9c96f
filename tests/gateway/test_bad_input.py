"""Invalid bodies, each with its documented refusal: over real sockets, with no charge and no call upstream."""

import gzip

import orjson
import pytest

from tests.support.gateway import MODEL, Bench
from tests.support.raw import connect, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/chat/completions"
PROMPT = "canary-prompt-3b91"
HELLO = [{"role": "user", "content": PROMPT}]
MIB = 1024 * 1024


def chat(**fields: object) -> bytes:
    return orjson.dumps({"model": MODEL, "messages": HELLO, **fields})


def spliced(fields: bytes) -> bytes:
    """Return a chat body with these raw bytes as additional fields."""
    return chat()[:-1] + b"," + fields + b"}"


NO_JSON = {
    "empty": b"",
    "white space": b"  \r\n",
    "words": b"hello " + PROMPT.encode(),
    "half": chat()[:-1],
    "two documents": chat() + chat(),
    "a trailing comma": spliced(b'"n":1,'),
    "single quotes": b"{'model':'x'}",
    "a comment": b"/* x */" + chat(),
    "a form": b"model=doubao-pro-32k&messages=hi",
    "NaN": spliced(b'"temperature":NaN'),
    "Infinity": spliced(b'"temperature":Infinity'),
    "-Infinity": spliced(b'"temperature":-Infinity'),
    "beyond a double": spliced(b'"temperature":1e400'),
    "a leading zero": spliced(b'"n":01'),
    "hexadecimal": spliced(b'"n":0x1'),
    "invalid UTF-8": spliced(b'"user":"\xff\xfe"'),
    "overlong UTF-8": spliced(b'"user":"\xc0\xaf"'),
    "UTF-8 surrogates": spliced(b'"user":"\xed\xa0\x80"'),
    "UTF-16": chat().decode().encode("utf-16"),
    "a raw NUL": spliced(b'"user":"\x00"'),
    "a raw line break": spliced(b'"user":"a\nb"'),
    "100,000 levels, open": b"[" * 100_000,
    "100,000 levels": spliced(b'"x":' + b"[" * 100_000 + b"]" * 100_000),
    "100,000 objects": spliced(b'"x":' + b'{"x":' * 100_000 + b"1" + b"}" * 100_000),
    "300 levels, which are read but not written": spliced(b'"x":' + b"[" * 300 + b"]" * 300),
    "300 levels in a tool": spliced(b'"tools":[{"x":' + b"[" * 300 + b"]" * 300 + b"}]"),
    "300 levels in a message": orjson.dumps({"model": MODEL})[:-1]
    + b',"messages":[{"role":"user","content":"x","y":'
    + b"[" * 300
    + b"]" * 300
    + b"}]}",
    "an array": orjson.dumps([{"model": MODEL, "messages": HELLO}]),
    "a string": b'"hello"',
    "a number": b"1",
    "null": b"null",
    "true": b"true",
}


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON.keys())
async def test_what_is_no_json_object_is_refused(refusing: Bench, body: bytes) -> None:
    answer = await refusing.ask(CHAT, body)

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "INVALID_JSON", None)
    assert answer.error["type"] == "invalid_request_error"
    assert PROMPT not in answer.body.decode()


FIELDS = [
    # (raw JSON of additional fields, code, param)
    (b'"model":null', "MISSING_MODEL", "model"),
    (b'"model":""', "MISSING_MODEL", "model"),
    (b'"model":5', "INVALID_PARAMETER", "model"),
    (b'"model":["doubao-pro-32k"]', "INVALID_PARAMETER", "model"),
    (b'"model":{"id":"doubao-pro-32k"}', "INVALID_PARAMETER", "model"),
    (b'"model":true', "INVALID_PARAMETER", "model"),
    (b'"stream":"true"', "INVALID_PARAMETER", "stream"),
    (b'"stream":1', "INVALID_PARAMETER", "stream"),
    (b'"stream":[]', "INVALID_PARAMETER", "stream"),
    (b'"stream":true,"stream_options":[]', "INVALID_PARAMETER", "stream_options"),
    (b'"stream":true,"stream_options":"include_usage"', "INVALID_PARAMETER", "stream_options"),
    (b'"stream":true,"stream_options":{"include_usage":1}', "INVALID_PARAMETER", "stream_options.include_usage"),
    (b'"stream":true,"stream_options":{"chunk_include_usage":"yes"}', "INVALID_PARAMETER", "stream_options.chunk_include_usage"),
    *(
        (b'"%b":%b' % (key, value), "INVALID_PARAMETER", key.decode())
        for key in (b"max_tokens", b"max_completion_tokens", b"n")
        for value in (b"0", b"-1", b"1.5", b"1e3", b'"100"', b"true", b"[]", b"{}", b"9223372036854775807", b"99999999999999999999")
    ),
    (b'"seed":99999999999999999999', "INVALID_PARAMETER", "seed"),
    (b'"seed":-9223372036854775809', "INVALID_PARAMETER", "seed"),
    (b'"service_tier":"flex"', "INVALID_PARAMETER", "service_tier"),
    (b'"service_tier":"Default"', "INVALID_PARAMETER", "service_tier"),
    (b'"service_tier":[]', "INVALID_PARAMETER", "service_tier"),
    (b'"service_tier":{}', "INVALID_PARAMETER", "service_tier"),
    (b'"service_tier":0', "INVALID_PARAMETER", "service_tier"),
]


@pytest.mark.parametrize(("fields", "code", "param"), FIELDS, ids=[fields.decode() for fields, _, _ in FIELDS])
async def test_a_priced_field_of_a_wrong_type_or_range_is_refused_by_name(
    refusing: Bench, fields: bytes, code: str, param: str
) -> None:
    answer = await refusing.ask(CHAT, spliced(fields))

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, code, param)


OTHER_CASE = [
    "Model", "MODEL", "Messages", "meſſages", "Max_Tokens", "max_to\u212aens", "MAX_COMPLETION_TOKENS", "max_completion_tokenſ", "N",
    "Stream", "ſtream", "Stream_Options", "Service_Tier", "ſervice_tier", "Tools", "toolſ", "Thinking", "thin\u212aing",
]  # fmt: skip


@pytest.mark.parametrize("key", OTHER_CASE)
async def test_a_priced_key_in_another_case_is_refused(refusing: Bench, key: str) -> None:
    answer = await refusing.ask(CHAT, chat(**{key: 1}))

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "INVALID_PARAMETER", key)


@pytest.mark.parametrize("key", ["Include_Usage", "include_uſage"])
async def test_a_stream_option_in_another_case_is_refused(refusing: Bench, key: str) -> None:
    answer = await refusing.ask(CHAT, chat(stream=True, stream_options={key: True}))

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "INVALID_PARAMETER", key)


def user(content: object, **more: object) -> list[object]:
    return [{"role": "user", "content": content, **more}]


PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/image.jpg"}}
MESSAGES: list[tuple[object, str]] = [
    # (messages, the place that the refusal names)
    (None, "messages"),
    ([], "messages"),
    ({}, "messages"),
    ("hello", "messages"),
    (1, "messages"),
    (True, "messages"),
    ({"role": "user", "content": "hello"}, "messages"),
    (["hello"], "messages[0]"),
    ([None], "messages[0]"),
    ([[]], "messages[0]"),
    ([*HELLO, 7], "messages[1]"),
    ([{}], "messages[0].role"),
    ([{"content": "hello"}], "messages[0].role"),
    ([{"role": None, "content": "hello"}], "messages[0].role"),
    ([{"role": 1, "content": "hello"}], "messages[0].role"),
    ([{"role": ["user"], "content": "hello"}], "messages[0].role"),
    ([{"role": "User", "content": "hello"}], "messages[0].role"),
    ([*HELLO, *HELLO, {"role": "robot", "content": "hello"}], "messages[2].role"),
    ([{"role": "user"}], "messages[0].content"),
    (user(None), "messages[0].content"),
    (user(1), "messages[0].content"),
    (user(True), "messages[0].content"),
    (user({}), "messages[0].content"),
    (user({"type": "text", "text": "hello"}), "messages[0].content"),
    (user([]), "messages[0].content"),
    ([{"role": "system", "content": None}], "messages[0].content"),
    ([{"role": "developer"}], "messages[0].content"),
    ([*HELLO, {"role": "assistant", "content": {}}], "messages[1].content"),
    ([*HELLO, {"role": "assistant", "content": 0}], "messages[1].content"),
    ([*HELLO, {"role": "assistant", "content": None, "tool_calls": "x"}], "messages[1].tool_calls"),
    ([*HELLO, {"role": "assistant", "content": None, "tool_calls": [1]}], "messages[1].tool_calls"),
    (user(None, tool_calls=[{"id": "1"}]), "messages[0].content"),
    (user(["hello"]), "messages[0].content[0]"),
    (user([None]), "messages[0].content[0]"),
    (user([{}]), "messages[0].content[0]"),
    (user([{"type": None}]), "messages[0].content[0]"),
    (user([{"type": 1}]), "messages[0].content[0]"),
    (user([{"text": "hello"}]), "messages[0].content[0]"),
    (user([{"type": "text"}]), "messages[0].content[0].text"),
    (user([{"type": "text", "text": None}]), "messages[0].content[0].text"),
    (user([{"type": "text", "text": ["hello"]}]), "messages[0].content[0].text"),
    (user([PICTURE, {"type": "text", "text": 1}]), "messages[0].content[1].text"),
    (user([{"type": "image_url"}]), "messages[0].content[0].image_url.url"),
    (user([{"type": "image_url", "image_url": None}]), "messages[0].content[0].image_url.url"),
    (user([{"type": "image_url", "image_url": "https://example.com/image.jpg"}]), "messages[0].content[0].image_url.url"),
    (user([{"type": "image_url", "image_url": {}}]), "messages[0].content[0].image_url.url"),
    (user([{"type": "image_url", "image_url": {"url": ""}}]), "messages[0].content[0].image_url.url"),
    (user([{"type": "image_url", "image_url": {"url": 1}}]), "messages[0].content[0].image_url.url"),
    (user("hello", Content="a prompt that another reader of keys might prefer"), "messages[0].Content"),
    (user("hello", ROLE="system"), "messages[0].ROLE"),
    (user([{"type": "text", "text": "x", "Type": "image_url"}]), "messages[0].content[0].Type"),
    (user([{"type": "text", "text": "x", "Image_URL": {"url": "https://example.com/"}}]), "messages[0].content[0].Image_URL"),
    (user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA🤖"}}]), "messages[0].content[0].image_url.url"),
    (user([PICTURE, {"type": "image_url", "image_url": {"url": "DATA:image/png;x=é,AAAA"}}]), "messages[0].content[1].image_url.url"),
    (user([{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAAé"}}]), "messages[0].content[0].video_url.url"),
    (user([{"type": "file", "file": {"file_data": "data:application/pdf;base64,é"}}]), "messages[0].content[0].file.file_data"),
    (user([{"type": "input_audio", "input_audio": {"data": "é" + "A" * 9000}}]), "messages[0].content[0].input_audio.data"),
    (user([{"type": "input_image", "image_url": "data:image/png;base64,é"}]), "messages[0].content[0].image_url"),
    (user([{"type": "image", "image": "data:image/png;base64,é"}]), "messages[0].content[0].image"),
    (user([{"type": "text", "text": "x", "image_url": {"url": "data:image/png;base64,é"}}]), "messages[0].content[0].image_url.url"),
    (HELLO * 10_001, "messages"),
]


@pytest.mark.parametrize(("messages", "place"), MESSAGES, ids=[f"{place} {str(value)[:60]}" for value, place in MESSAGES])
async def test_messages_of_a_wrong_shape_are_refused_with_their_place(refusing: Bench, messages: object, place: str) -> None:
    answer = await refusing.ask(CHAT, chat(messages=messages))

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "INVALID_MESSAGES", place)


@pytest.mark.parametrize(
    "crowd",
    [
        b'{"type":"text","text":""},' * 120_000,
        b"[]," * 120_000,
        b"1," * 1_100_000,
        b"{" + b",".join(b'"%d":1' % number for number in range(260_000)) + b"},",
        b"{" + b",".join(b'"%d\\\\" :1' % number for number in range(260_000)) + b"},",
    ],
    ids=["parts", "arrays", "numbers", "keys", "keys that end in a backslash"],
)
async def test_a_crowd_of_small_values_is_refused_before_it_is_parsed(refusing: Bench, crowd: bytes) -> None:
    body = b'{"model":"' + MODEL.encode() + b'","messages":[{"role":"user","content":[' + crowd[:-1] + b"]}]}"

    answer = await refusing.ask("/chat/completions", body)

    assert (answer.status, answer.error["code"]) == (400, "INVALID_JSON")


async def test_absent_messages_and_an_absent_model_are_told_apart(refusing: Bench) -> None:
    no_messages = await refusing.ask(CHAT, orjson.dumps({"model": MODEL}))
    no_model = await refusing.ask(CHAT, orjson.dumps({"messages": HELLO}))

    assert (no_messages.status, no_messages.error["code"], no_messages.error["param"]) == (400, "INVALID_MESSAGES", "messages")
    assert (no_model.status, no_model.error["code"], no_model.error["param"]) == (400, "MISSING_MODEL", "model")


NAMES = [
    # (model, status, code)
    ("gpt-4o", 404, "MODEL_NOT_FOUND"),
    ("Doubao-Pro-32k", 404, "MODEL_NOT_FOUND"),
    (" doubao-pro-32k", 404, "MODEL_NOT_FOUND"),
    ("doubao-pro-32k\x00", 404, "MODEL_NOT_FOUND"),
    ("doubao-seed-2-0-lite-260428", 404, "MODEL_NOT_FOUND"),  # the upstream's name of a model is not one of ours
    ("x" * 100_000, 404, "MODEL_NOT_FOUND"),
    ("\u202e豆包🤖", 404, "MODEL_NOT_FOUND"),
    ("doubao-seedance-1-5-pro-251215", 400, "WRONG_ENDPOINT"),
    ("doubao-seedream-5-0-260128", 400, "WRONG_ENDPOINT"),
    ("switched-off", 503, "MODEL_UNAVAILABLE"),
]


@pytest.mark.parametrize(("model", "status", "code"), NAMES, ids=[repr(name[:40]) for name, _, _ in NAMES])
async def test_a_model_that_cannot_answer_is_refused(refusing: Bench, model: str, status: int, code: str) -> None:
    answer = await refusing.ask(CHAT, chat(model=model))

    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, "model")
    assert len(answer.body) < 2_000
    assert refusing.log.written[-1].get("model", "") in ("", model)


async def test_a_model_that_is_switched_off_is_not_waited_for(refusing: Bench) -> None:
    answer = await refusing.ask(CHAT, chat(model="switched-off"))

    assert answer.headers["x-should-retry"] == "false"
    assert [name for name in answer.headers if name.lower().startswith("retry-after")] == []


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate", "br", "zstd", "gzip, gzip", "x-unknown"])
async def test_a_compressed_body_is_refused_unread(refusing: Bench, coding: str) -> None:
    answer = await refusing.ask(CHAT, gzip.compress(chat()), headers={"Content-Encoding": coding})

    assert (answer.status, answer.error["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_bomb_costs_no_more_than_its_bytes(refusing: Bench) -> None:
    bomb = gzip.compress(b" " * (64 * MIB))

    answer = await refusing.ask(CHAT, bomb, headers={"Content-Encoding": "gzip"})

    assert answer.status == 415


async def test_an_announced_65_mib_body_is_refused_before_it_is_sent(refusing: Bench) -> None:
    head = request("POST", "/api/v1" + CHAT, ("Authorization", f"Bearer {refusing.key}"), ("Content-Length", str(65 * MIB)))

    async with connect(refusing.origin) as client:
        answer = await client.ask(head)

    assert (answer.status, answer.error["code"]) == (413, "REQUEST_TOO_LARGE")
    assert answer.headers["connection"] == "close"


async def test_a_65_mib_body_is_refused_while_it_is_sent(refusing: Bench) -> None:
    key = ("Authorization", f"Bearer {refusing.key}")

    async with connect(refusing.origin) as client:
        announced = await client.ask(request("POST", "/api/v1" + CHAT, key, body=b" " * (65 * MIB)))
    async with connect(refusing.origin) as client:
        chunk = b"100000\r\n" + b" " * MIB + b"\r\n"
        chunked = await client.ask(request("POST", "/api/v1" + CHAT, key, ("Transfer-Encoding", "chunked")), *([chunk] * 65))

    assert (announced.status, announced.error["code"]) == (413, "REQUEST_TOO_LARGE")
    assert (chunked.status, chunked.error["code"]) == (413, "REQUEST_TOO_LARGE")


async def test_a_length_beyond_all_numbers_is_refused(refusing: Bench) -> None:
    head = request("POST", "/api/v1" + CHAT, ("Authorization", f"Bearer {refusing.key}"), ("Content-Length", "9" * 30))

    async with connect(refusing.origin) as client:
        answer = await client.ask(head)

    assert (answer.status, answer.error["code"]) == (400, "MALFORMED_REQUEST")
