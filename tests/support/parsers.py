"""Every parser of what clients and upstreams send: what it is given in one turn of the loop at most, and the worst input found for it.

A text of growing size is `begin`, a unit again and again, and `end`. `tests/test_loop_steps.py` counts the steps that each takes, and
holds that no module that parses is missing here.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.billing import idempotency, retries
from proxy.clock import SystemClock
from proxy.config import quoting, store_url
from proxy.config import values as config_values
from proxy.core import credential, json_text, money, networks, shown_text, waiting
from proxy.core.ark import context_length, creation, field_names, identifiers, named_field, plain_text, refusal, text
from proxy.core.ark.lenient_json import MENDED_BYTES_MAX, read_mended
from proxy.core.ark.text import ArkError
from proxy.core.catalog import ChatPrice, ChatTier, Kind, Model, VideoPrice, VideoRate
from proxy.core.chat import answer as chat_answer
from proxy.core.chat import events, usage
from proxy.core.chat.event_bytes import is_told
from proxy.core.chat.refusal import chosen_names
from proxy.core.chat.request import parse_chat_call, requested_model, upstream_body
from proxy.core.chat.tap import Tap
from proxy.core.days import CHINA, Zone
from proxy.core.errors import GatewayError
from proxy.core.images import request as image_request
from proxy.core.images import upstream as image_upstream
from proxy.core.money import Nanos
from proxy.core.protocol import EventTooLargeError
from proxy.core.video import answers, failure
from proxy.core.video import request as video_request
from proxy.core.video import upstream as video_upstream
from proxy.core.video.price import VideoBilling
from proxy.core.video.record import new_task
from proxy.core.video.report import Polled
from proxy.edge import body, entrance, slips
from proxy.edge.origin import origin_of
from proxy.edge.request import Request
from proxy.edge.response import Response
from proxy.edge.router import Route, Router
from proxy.edge.server import Server
from proxy.exchange import ends
from proxy.handlers import reference
from proxy.operations import dates
from proxy.top import exposition
from proxy.upstream import ark_client, tunnel
from proxy.upstream.failures import UpstreamUnreachableError
from proxy.upstream.http1.answer import BODY_SLICE_BYTES, STREAM_SLICE_BYTES
from proxy.upstream.http1.framing import Chunked, Counted, FramingError, UntilClose
from proxy.upstream.http1.head import HeadError, HeadReader

KB, MB = 1024, 1024 * 1024
HEADER_BYTES = 16_000
"""A header, or a request line, at its limit."""
MESSAGE_BYTES = 2_000
"""As much of an upstream's message is read."""
MESSAGE_STEPS_MAX = 45_000_000
"""Less than 5 ms: a customer can make an upstream refuse as often as he likes."""
REFUSED = (GatewayError, ValueError, EventTooLargeError, FramingError, HeadError, UpstreamUnreachableError)


@dataclass(frozen=True)
class Worst:
    """An input: at its largest it takes the most steps of all that were found."""

    unit: bytes | Callable[[int], bytes]
    """Repeated; or made from its number, where each must differ."""
    begin: bytes = b""
    end: bytes = b""
    bytes_max: int = 0
    """Where it is less than the parser's."""
    units_max: int = 0
    """0: only the length is a limit."""

    def text(self, units: int) -> bytes:
        unit = self.unit
        middle = unit * units if isinstance(unit, bytes) else b"".join(map(unit, range(units)))
        return self.begin + middle + self.end

    def most(self, bytes_max: int) -> int:
        """Return as many units as the largest text has."""
        room = (self.bytes_max or bytes_max) - len(self.begin) - len(self.end)
        unit = self.unit if isinstance(self.unit, bytes) else self.unit(123_456)
        return min(room // len(unit), self.units_max or room)


@dataclass(frozen=True)
class Parser:
    parse: Callable[[Any], object]
    bytes_max: int
    """The longest text that it is given in one turn of the loop."""
    worst: tuple[Worst, ...]
    modules: tuple[str, ...]
    """The modules whose expressions and loops it runs."""
    prepare: Callable[[bytes], Any] = bytes
    """Makes of a text what the parser is given, in another turn of the loop."""
    in_proportion: bool = False
    """A body or an answer of megabytes: nobody can parse or write JSON in parts, so it may take as long as its bytes are many."""
    steps_max: int = 0
    """0: as many as 50 ms allow."""
    is_apart: bool = False
    """Runs in a process of its own, with no loop to hold up."""
    any_text: bool = True
    """It may be given any text, not only those of `worst`."""

    def __call__(self, given: Any) -> None:
        with suppress(*REFUSED):
            self.parse(given)


# what drives the parsers

MODEL = Model("m", Kind.CHAT, "ark", "doubao-seed-2-0-lite", ChatPrice((ChatTier(None, Nanos(1), Nanos(1), Nanos(1)),)))
VIDEO_MODEL = Model("v", Kind.VIDEO, "ark", "u", VideoPrice(VideoRate(Nanos(1), Nanos(1))))
FIRST = b'data: {"choices":[{"delta":{"content":"x"}}],"id":"1"}\n\n'
CHAT = b'{"model":"m","messages":[{"role":"user","content":"x"}],'
MESSAGES = b'{"model":"m","messages":['
TASK = new_task(
    request_id="vreq_1",
    account_id=1,
    model="v",
    upstream="ark",
    upstream_model="u",
    call=video_request.VideoCall("p", seed=7),
    safety_identifier="s",
    billing=VideoBilling.FORMULA,
    hold_nanos=Nanos(1),
    quote_nanos=Nanos(1),
    rate_nanos_per_kilotoken=1,
    now_ms=1_000_000,
)


def words_of(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def message(raw: bytes) -> ArkError:
    """An upstream's error as it is read: each of its texts is cut."""
    said = words_of(raw)
    error = text.read_error(400, {"error": {"code": "InvalidParameter", "message": said, "param": said}})
    assert error is not None
    return error


def tapped(stream: bytes) -> None:
    tap = Tap(withhold_usage=True)
    tap.feed(FIRST)
    tap.feed(stream)
    tap.finish(clean=False)


def text_counted(stream: bytes) -> None:
    """The same, of an upstream that tells no usage: the text of each event is counted."""
    tap = Tap(withhold_usage=True, counts_text=True)
    tap.feed(FIRST)
    tap.feed(stream)
    tap.finish(clean=False)


def cut(stream: bytes) -> None:
    """The same stream in pieces that end anywhere."""
    tap = Tap(withhold_usage=True)
    for begin in range(0, len(stream), 1009):
        tap.feed(stream[begin : begin + 1009])
    tap.finish(clean=True)


def crowded(piece: bytes) -> None:
    body._Crowd().add(piece)


def checked(value: Any) -> object:
    requested_model(value)
    return parse_chat_call(value, MODEL)


def written(value: Any) -> object:
    requested_model(value)
    call = parse_chat_call(value, MODEL)
    return chosen_names(call), upstream_body(call, MODEL)


def digested(value: Any) -> bytes:
    return idempotency.digest("/chat/completions", value)


def image_called(value: Any) -> object:
    call = image_request.parse_image_call(value)
    return [made.pieces() for made in image_upstream.upstream_bodies(call, "u")]


def video_called(value: Any) -> object:
    return video_upstream.upstream_body(video_request.parse_video_call(value, VIDEO_MODEL), "u", "s")


def image_answered(value: Any) -> None:
    image_upstream.parse_image_answer(200, value)
    end = image_upstream.parse_image_answer(400, value)
    if isinstance(end, ArkError):
        image_upstream.without_refused(image_upstream.UpstreamBody({"model": "u", "seed": 1}, b"{}"), end)
        creation.creation_refusal(400, value, image_upstream.FIELD_NAMES, upstream_model=MODEL.upstream_model)


def video_answered(value: Any) -> None:
    answers.read_submit(400, value)
    creation.creation_refusal(400, value, video_upstream.FIELD_NAMES, upstream_model=MODEL.upstream_model)
    polled = answers.read_poll(200, value)
    if isinstance(polled, Polled):
        failure.public_error(polled.error)


def named(raw: bytes) -> None:
    error = message(raw)
    named_field.refused_chat_field(error)
    for names in (image_upstream.FIELD_NAMES, video_upstream.FIELD_NAMES):
        names.told(error.message)
        names.published_name(error.message)
        names.is_ours(error)
        field_names.without_unsupported({"a": 1}, error, frozenset())


def own(raw: bytes) -> None:
    said = words_of(raw)
    names = [said[at : at + identifiers.NAME_CHARACTERS_MAX] for at in range(0, len(said), identifiers.NAME_CHARACTERS_MAX)]
    identifiers.own_names(names[: identifiers.NAMES_MAX], MODEL.upstream_model)


def refused(raw: bytes) -> None:
    refusal.read_refusal(400, {"error": {"code": "InvalidParameter", "message": words_of(raw)}}, MODEL.upstream_model, names=("a", "b"))


def credentials(raw: bytes) -> None:
    said = words_of(raw)
    for name in ("Authorization", "x-api-key"):
        with suppress(*REFUSED):
            credential.secret_of(CIMultiDictProxy(CIMultiDict([(name, said)] * 50)))
    for origin in (said, f"http://{said}", f"http://[{said}]"):
        with suppress(*REFUSED):
            credential.refuse_foreign_page(origin, said)


def forwarded(raw: bytes) -> None:
    proxies = networks.TrustedProxies(["10.0.0.0/8", "2001:db8::/32"])
    for values in ([words_of(raw)], [words_of(raw)] * 50):
        proxies.client("10.0.0.1", values)


def preferred(raw: bytes) -> None:
    said = words_of(raw)
    reference.preferred_language(said)
    reference.takes_gzip(said)
    origin_of(cast("Request", SimpleNamespace(headers={"Host": said, "X-Forwarded-Proto": said})))


def headed(raw: bytes) -> None:
    found = HeadReader(64 * KB).feed(raw)
    if found is not None:
        head, _ = found
        head.field(b"x")
        _ = head.shape


def connected(raw: bytes) -> None:
    tunnel._require_joined(tunnel.Proxy("p", 1), raw)


class Asking:
    """A request's target, without its connection."""

    def __init__(self, target: str) -> None:
        self.target = target


def queried(raw: bytes) -> object:
    return Request.query_values(cast("Request", Asking("/v1/videos?" + words_of(raw))), "wait")


@cache
def router() -> Router:
    async def never(_: object) -> Any:
        raise AssertionError

    gets = ["/models", "/models/{id}", "/videos", "/videos/{id}", "/usage/{id}", "/account"]
    routes = [Route("GET", path, never) for path in gets] + [Route("POST", "/chat/completions", never)]
    return Router(routes, ("/api/v1", "/v1"), elsewhere={"/embeddings": "nothing", "/responses": "nothing"})


def routed(raw: bytes) -> None:
    target = words_of(raw)
    for path in (target, f"/v1/videos/{target}", f"/v1/{target}"):
        with suppress(*REFUSED):
            router().match("GET", entrance.origin_form(path))
    entrance._HEADER_NAMES.fullmatch(target)
    slips._parts(target)


def headers(raw: bytes) -> None:
    said = words_of(raw)
    with suppress(*REFUSED):
        idempotency._key_of([said])
    retries._retry_count(cast("Any", Headers(said)))
    with suppress(*REFUSED):
        waiting.wait_seconds([said])


class Headers:
    """A call with one header."""

    def __init__(self, value: str) -> None:
        self._value = value

    def header_values(self, _: str) -> list[str]:
        return [self._value]


def configured(raw: bytes) -> None:
    said = words_of(raw)
    for parse in (
        lambda: config_values.parse_address(said, Path("/")),
        lambda: config_values.parse_base_url(said),
        lambda: config_values.parse_proxy(said),
        lambda: store_url.parse_store_url(said, Path("/")),
        lambda: config_values.read_secret(said, Path("/nowhere"), {}),
        lambda: money.parse_yuan(said),
        lambda: money.parse_token_price(said),
        lambda: dates.parse_moment(said, 0, CHINA),
        lambda: Zone.parse(said),
        lambda: quoting.masked(said),
        lambda: quoting.told_key(said, ("server", "store", "upstreams")),
    ):
        with suppress(*REFUSED):
            parse()


def shown(raw: bytes) -> None:
    said = words_of(raw)
    shown_text.shown_lines(said)
    shown_text.first_unseen(said)
    shown_text.is_plain(said)
    shown_text.shown_json(said.encode())
    shown_text.csv_cell(said)


def received(raw: bytes) -> None:
    """What a client's connection gets in one piece, and the turns that follow."""
    loop().run_until_complete(_received(raw))


@cache
def loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


async def _received(raw: bytes) -> None:
    async def answer(request: Request) -> Response:
        while await request.content.readany():
            pass
        return Response(200, {}, b"")

    connection = Server(answer, clock=SystemClock(), keepalive_seconds=75, stall_seconds=30)()
    connection.connection_made(cast("asyncio.Transport", Silent()))
    await asyncio.sleep(0)
    connection.data_received(raw)
    await asyncio.sleep(0)
    connection.connection_lost(None)
    for _ in range(4):
        await asyncio.sleep(0)


class Silent:
    """A transport that leads nowhere."""

    def is_closing(self) -> bool:
        return False

    def write(self, _: bytes) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _: str, default: object = None) -> object:
        return default

    close = abort = write_eof = pause_reading = resume_reading = lambda self: None


def loaded(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def entry(number: int) -> bytes:
    return b'{"id":"a%d","model":"u","status":"succeeded","created_at":1000,"safety_identifier":"s","seed":7},' % number


def key(number: int) -> bytes:
    return b'"%d":1,' % number


# the parsers

CORE = "proxy.core"
ARK = "proxy.core.ark"
CHAT_CALL = (
    Worst(b'{"role":"tool","content":"x","a":"","b":""},', MESSAGES, b'{"role":"user","content":"x"}]}', units_max=9_999),
    Worst(
        b'{"type":"text","text":"x","z":""},',
        MESSAGES + b'{"role":"user","content":[',
        b'{"type":"text","text":"x"}]}]}',
        units_max=4_500,
    ),
    Worst(b'"abcdef",', CHAT + b'"stop":[', b"1]}", units_max=body.VALUES_MAX - 1_000),
    Worst("字".encode(), MESSAGES + b'{"role":"user","content":"', b'"}]}'),
    Worst(b"\\n", MESSAGES + b'{"role":"user","content":"', b'"}]}'),
    Worst(key, CHAT + b'"logit_bias":{', b'"a":1}}', units_max=body.KEYS_MAX - 1_000),
)
PARSERS: dict[str, Parser] = {
    # from clients
    "a client's bytes": Parser(
        received,
        256_000,  # as much as libuv reads at a time; of chunks it parses 4,096, then it pauses
        (
            Worst(b"1\r\nx\r\n", b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", units_max=8_192),
            Worst(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Worst(b"a:\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"),
            Worst(b"a:b\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"),
        ),
        ("proxy.edge.receiver", "proxy.edge.repetition", "proxy.edge.request", "proxy.edge.connection"),
    ),
    "the target of a request": Parser(
        routed,
        HEADER_BYTES,
        (Worst(b"%2f"), Worst(b"/v1", bytes_max=1024)),
        ("proxy.edge.router", "proxy.edge.slips", "proxy.edge.entrance"),
    ),
    "a query": Parser(queried, HEADER_BYTES, (Worst(b"%41=1&"), Worst(b"a&")), ("proxy.edge.request",)),
    "whose address a call comes from": Parser(
        forwarded, HEADER_BYTES, (Worst(b"10.0.0.1,"), Worst(b"2001:db8::1,"), Worst(b","), Worst(b"1:")), (f"{CORE}.networks",)
    ),
    "a credential, an origin, a host": Parser(credentials, HEADER_BYTES, (Worst(b" \t"), Worst("℀".encode())), (f"{CORE}.credential",)),
    "what a browser prefers": Parser(
        preferred,
        HEADER_BYTES,
        (Worst(b"zh;q=0.1,"), Worst(b"gzip;q=0,"), Worst(b" "), Worst(b"9"), Worst(b"9", b"gzip;q=")),
        ("proxy.handlers.reference", "proxy.edge.origin"),
    ),
    "other headers": Parser(
        headers,
        HEADER_BYTES,
        (Worst(b"!"), Worst(b"9")),
        ("proxy.billing.idempotency", "proxy.billing.retries", f"{CORE}.waiting", "proxy.handlers.videos"),
    ),
    "the values of a body, counted": Parser(crowded, 256_000, (Worst(b'\\":'), Worst(b"{")), ("proxy.edge.body",)),
    "a body of many values": Parser(
        body.parsed,
        64 * MB,
        (
            Worst(key, CHAT + b'"logit_bias":{', b'"a":1}}', units_max=body.KEYS_MAX - 1_000),
            Worst(b'"abcdef",', CHAT + b'"stop":[', b"1]}", units_max=body.VALUES_MAX - 1_000),
            Worst(b"1234567890123456789,", CHAT + b'"stop":[', b"1]}", units_max=body.VALUES_MAX - 1_000),
            Worst(b"1.234567890123456789012345678901e-300,", CHAT + b'"stop":[', b"1]}", units_max=body.VALUES_MAX - 1_000),
            Worst(b"{},", CHAT + b'"stop":[', b"1]}", units_max=body.STRUCTURES_MAX - 10),
            Worst(b"\\ud83d", CHAT + b'"user":"', b'"}', units_max=json_text.SURROGATES_MAX - 10),
            Worst(
                b"x", CHAT + b'"user":"' + b"\\ud83d\\\\" * (json_text.SURROGATES_MAX - 10), b'"}', bytes_max=body.REPAIRED_BYTES_MAX
            ),
            Worst(b"[", CHAT + b'"seed":', b"}", units_max=body.STRUCTURES_MAX - 10),
        ),
        ("proxy.edge.body", f"{CORE}.json_text"),
    ),
    "a long body": Parser(
        body.parsed,
        64 * MB,
        (
            Worst(b"\\u4e2d", CHAT + b'"user":"', b'"}'),
            Worst(b"1" * 64, CHAT + b'"seed":', b"}"),
        ),
        ("proxy.edge.body",),
        in_proportion=True,
    ),
    "a chat call, checked": Parser(
        checked,
        64 * MB,
        CHAT_CALL,
        (f"{CORE}.chat.request", f"{CORE}.chat.measure", f"{CORE}.chat.pictures"),
        loaded,
        in_proportion=True,
    ),
    "a chat call, written": Parser(
        written, 64 * MB, CHAT_CALL, (f"{CORE}.chat.request", f"{CORE}.chat.refusal"), loaded, in_proportion=True
    ),
    "a call under an idempotency key": Parser(
        digested, 64 * MB, CHAT_CALL[-4:], ("proxy.billing.idempotency",), loaded, in_proportion=True
    ),
    "a picture call": Parser(
        image_called,
        64 * MB,
        (
            Worst(b"a", b'{"prompt":"p","task_type":"image_to_image","image_url":"data:image/png;base64,', b'"}', bytes_max=40 * MB),
            Worst("字".encode(), b'{"prompt":"', b'"}', bytes_max=10_000),
            Worst(b"a", b'{"prompt":"p","task_type":"image_to_image","image_url":"http://', b'"}', bytes_max=8_200),
        ),
        (f"{CORE}.fields", f"{CORE}.images.request"),
        loaded,
        in_proportion=True,
    ),
    "a video call": Parser(
        video_called,
        64 * MB,
        (
            Worst(b"-\\u200b", b'{"prompt":"', b'"}', bytes_max=70_000),
            Worst(b"a", b'{"prompt":"p","task_type":"image_to_video","image_url":"data:image/png;base64,', b'"}', bytes_max=40 * MB),
        ),
        (f"{CORE}.fields", f"{CORE}.video.request", f"{CORE}.video.upstream"),
        loaded,
        in_proportion=True,
    ),
    # from upstreams
    "the head of an answer": Parser(
        headed,
        64 * KB,
        (Worst(b"HTTP/1.1 100 C\r\n\r\n"), Worst(b"connection: a\r\n", b"HTTP/1.1 200 OK\r\n", b"\r\n")),
        ("proxy.upstream.http1.head", "proxy.upstream.http1.connection"),
    ),
    "a proxy's answer to CONNECT": Parser(connected, 16 * KB, (Worst(b"a", b"HTTP/1.1 200 "),), ("proxy.upstream.tunnel",)),
    "a chunked body": Parser(
        lambda raw: Chunked().feed(raw),
        BODY_SLICE_BYTES,
        (Worst(b"1\r\nx\r\n"), Worst(b"1;\r\nx\r\n")),
        ("proxy.upstream.http1.framing", "proxy.upstream.http1.answer"),
    ),
    "other bodies": Parser(
        lambda raw: (UntilClose().feed(raw), Counted(9).feed(raw)), BODY_SLICE_BYTES, (Worst(b"x"),), ("proxy.upstream.http1.framing",)
    ),
    "a stream": Parser(
        tapped,
        2 * STREAM_SLICE_BYTES,
        (
            Worst(b":\n\n"),
            Worst(b"\r"),
            Worst(b"id\n\n"),
            Worst(b"data\n\n"),
            Worst(b'data:{"choices":[NaN]}\n\n'),
            Worst(b'data:{"choices":[]}\n\n'),
            Worst(lambda number: b":%d\n" % number),
            Worst(lambda number: b":" + b" a" * 120 + b" %d\n" % number),
        ),
        (f"{CORE}.chat.tap", "proxy.exchange.stream"),
    ),
    "a stream, its text counted": Parser(
        text_counted,
        2 * STREAM_SLICE_BYTES,
        (Worst(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'), Worst(b'data:{"choices":[NaN,"content":"x"]}\n\n')),
        (f"{CORE}.chat.tap", f"{CORE}.chat.events"),
    ),
    "a stream in small pieces": Parser(cut, 2 * STREAM_SLICE_BYTES, (Worst(b": x\n\n"), Worst(b"data\r")), (f"{CORE}.chat.tap",)),
    "an event": Parser(
        tapped,
        4 * MB,
        (
            Worst(lambda number: b":%d\n" % number, b"id\n", b"\n", units_max=events.LINES_MAX - 10),
            Worst(b"x\n", b"data:x\n", b"\n", units_max=events.LINES_MAX - 10),
            Worst(key, b'data: {"choices":[{', b'"a":1}]}\n\n', units_max=json_text.VALUES_MAX - 1_000),
            Worst(b'{"finish_reason":"a"},', b'data: {"choices":[', b"1]}\n\n", units_max=events.STRUCTURES_MAX - 10),
            Worst(b'\\"', b'data: {"usage":{},"choices":["', b'"]}\n\n'),
            Worst(b"\\ud83d", b'data: {"usage":NaN,"choices":["', b'"]}\n\n', units_max=json_text.SURROGATES_MAX - 10),
            Worst(b"NaN ", b'data: {"usage":NaN,"choices":["', b'"]}\n\n', units_max=19_000),
            Worst(b"1e400,", b'data: {"choices":[', b"1]}\n\n", bytes_max=128 * KB),
            Worst(b"\xff", b'data: {"usage":{},"choices":["', b'"]}\n\n', bytes_max=MENDED_BYTES_MAX // 3),
        ),
        (f"{CORE}.chat.tap", f"{CORE}.chat.events"),
    ),
    "a text within an event": Parser(is_told, 2 * KB, (Worst(b"\\n"),), (f"{CORE}.chat.event_bytes",)),
    "the lines of an event": Parser(events.fields_of, 10_000, (Worst(b"x\n"),), (f"{CORE}.chat.events",)),
    "a comment": Parser(
        lambda raw: events.is_plain_comment(b":" + raw),
        255,
        (Worst(b"a "),),
        (f"{CORE}.chat.events", f"{ARK}.plain_text"),
        steps_max=MESSAGE_STEPS_MAX // 10,
    ),
    "the data of an event": Parser(
        lambda raw: (events.parsed(raw), events.is_chunk(raw)),
        4 * MB,
        (Worst(b"{},", b'{"choices":[', b"1]}", units_max=events.STRUCTURES_MAX - 10),),
        (f"{CORE}.chat.events",),
    ),
    "an answer": Parser(
        lambda raw: chat_answer.read_answer(raw, MODEL, ("a",)),
        ends.ANSWER_BYTES_MAX,
        (
            Worst(b"{},", b'{"choices":[{}],"usage":{"prompt_tokens":1,"completion_tokens":1},"id":[', b"1]}", units_max=33_000),
            Worst(b"[],", b'{"choices":[', b'1],"usage":{"prompt_tokens":1,"completion_tokens":1}}'),
            Worst(b"\\n", b'{"choices":["', b'"],"usage":{"prompt_tokens":1,"completion_tokens":1}}'),
            Worst("字".encode(), b'{"choices":["', b'"],"usage":{"prompt_tokens":1,"completion_tokens":1}}'),
            Worst(key, b'{"choices":[{', b'"a":1}]}', units_max=json_text.VALUES_MAX - 1_000),
            Worst(b"\\n", b'{"choices":[{"message":{"content":"', b'"}}]}', bytes_max=json_text.PARSED_BYTES_MAX),
            Worst(b"1", b'{"choices":[', b"]}", bytes_max=MENDED_BYTES_MAX),
        ),
        (f"{CORE}.chat.answer", f"{CORE}.chat.usage"),
        in_proportion=True,
    ),
    "a usage": Parser(
        lambda raw: (usage.read_plain_answer(raw), usage.parse_usage(loaded(raw))),
        64 * KB,
        (Worst(b" ", b'{"choices":[{}],"usage":', b"{}}"),),
        (f"{CORE}.chat.usage",),
    ),
    "JSON to mend": Parser(
        read_mended,
        MENDED_BYTES_MAX,
        (
            Worst(b"\\ud83d", b'{"a":"', b'"}', units_max=json_text.SURROGATES_MAX - 10),
            Worst(b"NaN ", b'{"a":"', b'"}', units_max=19_000),
            Worst(b"1e400,", b'{"a":[', b"1]}", bytes_max=128 * KB),
            Worst(b"9", b'{"a":[1e', b"]}"),
        ),
        (f"{ARK}.lenient_json", f"{CORE}.json_text"),
    ),
    "JSON, counted": Parser(
        lambda raw: (json_text.is_crowded(raw), json_text.has_surrogate_escape(raw), json_text.is_utf8(raw)),
        16 * MB,
        (Worst(b"["),),
        (f"{CORE}.json_text",),
    ),
    "lone surrogates": Parser(
        json_text.without_lone_surrogates,
        8 * MB,
        (Worst(b"\\ud83d", units_max=json_text.SURROGATES_MAX - 10), Worst(b"\\ud83d\\\\", units_max=json_text.SURROGATES_MAX - 10)),
        (f"{CORE}.json_text",),
    ),
    "an error's message": Parser(
        lambda raw: text.public_message(words_of(raw), ("a", "b")),
        MESSAGE_BYTES,
        (Worst(b"https://a."), Worst(b"`"), Worst(b"a b ")),
        (f"{ARK}.text", f"{ARK}.plain_text"),
        steps_max=MESSAGE_STEPS_MAX,
    ),
    "an error's body": Parser(
        lambda raw: refusal.read_refusal(400, raw, "u", names=("a",)),
        256 * KB,
        (Worst(b"{},", b'{"error":[', b"1]}"), Worst(key, b'{"error":{', b'"a":1}}')),
        (f"{ARK}.refusal", f"{ARK}.text"),
    ),
    "an error": Parser(
        refused, MESSAGE_BYTES, (Worst(b"1.1.1."), Worst(b"1 and "), Worst(b"`")), (f"{ARK}.refusal",), steps_max=MESSAGE_STEPS_MAX
    ),
    "a full context": Parser(
        lambda raw: context_length.read_overflow(message(raw)),
        MESSAGE_BYTES,
        (Worst(b"exceeds "), Worst(b"  a_")),
        (f"{ARK}.context_length",),
        steps_max=MESSAGE_STEPS_MAX,
    ),
    "the field of an error": Parser(
        named,
        MESSAGE_BYTES,
        (Worst(b"`a"), Worst(b"a[1].")),
        (f"{ARK}.named_field", f"{ARK}.field_names", f"{ARK}.plain_text"),
        steps_max=MESSAGE_STEPS_MAX,
    ),
    "a customer's names": Parser(
        own, identifiers.NAMES_MAX * identifiers.NAME_CHARACTERS_MAX, (Worst(b"ep-"), Worst(b"a-")), (f"{ARK}.identifiers",)
    ),
    "a word's path": Parser(
        lambda raw: (plain_text.public_param(words_of(raw)), plain_text.is_plain_text(words_of(raw))),
        MESSAGE_BYTES,
        (Worst(b"text[0]."), Worst(b"x ")),
        (f"{ARK}.plain_text",),
        steps_max=MESSAGE_STEPS_MAX,
    ),
    "an answer about pictures or videos": Parser(
        ark_client._parsed,
        ark_client.ANSWER_BYTES_MAX,
        (
            Worst(key, b"[{", b'"a":1}]', units_max=json_text.VALUES_MAX - 1_000),
            Worst(b"{},", b"[", b"1]", units_max=33_000),
            Worst(b"\\n", b'["', b'"]'),
        ),
        ("proxy.upstream.ark_client",),
    ),
    "a picture's answer": Parser(
        image_answered,
        1 * MB,
        (
            Worst(b'{"error":{"code":"a","message":"`a"}},', b'{"data":[', b"1]}"),
            Worst(b"`a", b'{"error":{"code":"a","message":"', b'"}}', bytes_max=2_100),
        ),
        (f"{CORE}.images.upstream", f"{ARK}.creation"),
        loaded,
    ),
    "a video's answer": Parser(
        video_answered,
        1 * MB,
        (Worst(b"`a", b'{"status":"failed","error":{"code":"a","message":"', b'"}}', bytes_max=2_100), Worst(b"~", b'{"id":"', b'"}')),
        (f"{CORE}.video.answers", f"{CORE}.video.failure", f"{ARK}.creation"),
        loaded,
    ),
    "a list of videos": Parser(
        lambda items: answers.find_lost(TASK, items, ()),
        2 * MB,
        (Worst(entry, b"[", b"1]", units_max=10_000),),
        (f"{CORE}.video.answers", "proxy.videos.calls", "proxy.videos.poll"),
        loaded,
        any_text=False,
    ),
    "a list of videos, for those unproven": Parser(
        lambda items: (answers.unproven(TASK, items, ()), answers.lone_unmarked(TASK, items, ())),
        2 * MB,
        (Worst(entry, b"[", b"1]", units_max=10_000),),
        (f"{CORE}.video.answers",),
        loaded,
        any_text=False,
    ),
    "a text to be shown": Parser(
        shown, 4 * KB, (Worst("\u202e".encode()), Worst(b"\x7f"), Worst("©\ufe0f".encode())), (f"{CORE}.shown_text",)
    ),
    # from operators
    "a line of the configuration": Parser(
        configured,
        64 * KB,
        (Worst(b"a"), Worst(b"1"), Worst(b"/a")),
        (
            "proxy.config.values",
            "proxy.config.store_url",
            "proxy.config.quoting",
            f"{CORE}.days",
            f"{CORE}.money",
            "proxy.operations.dates",
            "proxy.operations.parameters",
        ),
    ),
    "a scrape": Parser(
        lambda raw: exposition.parse(words_of(raw), 0.0),
        64 * KB,
        (Worst(b'a{b="c"} 1\n'), Worst(b'\\"', b'a{b="', b'"} 1\n')),
        ("proxy.top.exposition",),
        is_apart=True,
    ),
}
