"""What the tap lets through, what it learns, and that no splitting of the stream changes either."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.settlement import TokenUsage
from proxy.core.sse import EventTooLargeError, Tap

REST = b'"created":1742632436,"id":"0217abc","model":"doubao-1-5-pro-32k-250115","object":"chat.completion.chunk"'
HELLO = b'data: {"choices":[{"delta":{"content":"Hello","role":"assistant"},"index":0}],' + REST + b',"usage":null}\n\n'
EMPTY = (
    b'data: {"choices":[{"delta":{"content":"","role":"assistant"},"finish_reason":"stop","index":0}],' + REST + b',"usage":null}\n\n'
)
THINK = b'data: {"choices":[{"delta":{"content":"","reasoning_content":"hm"},"index":0}],' + REST + b',"usage":null}\n\n'
CALL = b'data: {"choices":[{"delta":{"content":"","tool_calls":[{"function":{"arguments":"{"}}]},"index":0}],' + REST + b"}\n\n"
USAGE = b'data: {"choices":[],' + REST + b',"usage":{"completion_tokens":124,"prompt_tokens":90,"total_tokens":214}}\n\n'
LAST = b'data: {"choices":[{"delta":{"content":"!"}}],' + REST + b',"usage":{"completion_tokens":3,"prompt_tokens":7}}\n\n'
ERROR = b'data: {"error":{"code":"InternalServiceError","message":"acct 2100 broke"}}\n\n'
DONE = b"data: [DONE]\n\n"
USED = TokenUsage(prompt_tokens=90, completion_tokens=124)


@dataclass(frozen=True)
class Facts:
    passed: bytes
    usage: TokenUsage | None
    done: bool
    error: dict[str, Any] | None
    content_events: int
    upstream_id: str


def run(pieces: list[bytes], *, withhold_usage: bool = True, clean: bool = True) -> Facts:
    tap = Tap(withhold_usage=withhold_usage)
    passed = [tap.feed(piece) for piece in pieces]
    passed.append(tap.finish(clean))
    return Facts(b"".join(passed), tap.usage, tap.done, tap.error, tap.content_events, tap.upstream_id)


def cut(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def test_an_ordinary_stream_passes_as_the_same_objects() -> None:
    tap = Tap(withhold_usage=True)
    pieces = [HELLO, EMPTY, THINK, CALL, HELLO + HELLO, DONE]

    passed = [tap.feed(piece) for piece in pieces]

    assert all(out is piece for out, piece in zip(passed, pieces, strict=True))
    assert (tap.usage, tap.done, tap.error, tap.upstream_id) == (None, True, None, "0217abc")
    assert tap.content_events == 5  # HELLO, THINK, CALL, and two in one piece; EMPTY and DONE carry nothing


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_only_the_usage_event_is_withheld(size: int, line_end: bytes) -> None:
    before = (HELLO + EMPTY).replace(b"\n", line_end)
    usage = USAGE.replace(b"\n", line_end)
    after = DONE.replace(b"\n", line_end)

    facts = run(cut(before + usage + after, size))

    assert facts == Facts(before + after, USED, True, None, 1, "0217abc")


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_client_that_asked_for_usage_gets_every_byte(size: int) -> None:
    stream = HELLO + USAGE + DONE

    facts = run(cut(stream, size), withhold_usage=False)

    assert facts == Facts(stream, USED, True, None, 1, "0217abc")


def test_usage_on_the_last_content_event_is_learnt_and_the_event_passed() -> None:
    facts = run([HELLO, LAST, DONE])

    assert facts.passed == HELLO + LAST + DONE
    assert facts.usage == TokenUsage(7, 3)


def test_of_usage_in_every_event_the_last_wins() -> None:
    first = HELLO.replace(b'"usage":null', b'"usage":{"prompt_tokens":7,"completion_tokens":1}')
    second = HELLO.replace(b'"usage":null', b'"usage":{"prompt_tokens":7,"completion_tokens":2}')

    facts = run([first + second, second])

    assert facts.passed == first + second + second
    assert facts.usage == TokenUsage(7, 2)


def test_an_unusable_usage_does_not_replace_a_usable_one() -> None:
    broken = USAGE.replace(b":90", b":-90")

    facts = run([USAGE, broken])

    assert facts.usage == USED
    assert facts.passed == b""


def test_usage_is_found_whatever_the_white_space_and_however_many_lines() -> None:
    spaced = b'data: {"choices" : [ ] , "usage" :\t{ "prompt_tokens" : 90,\ndata:  "completion_tokens": 124 } }\n\n'

    facts = run([HELLO + spaced])

    assert facts.passed == HELLO
    assert facts.usage == USED


@pytest.mark.parametrize(
    "text",
    [
        b'{"choices":[],"x":1}',  # no usage
        b'{"choices":[],"usage":null}',
        b'{"choices":[],"usage":7}',  # no object
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}',  # no choices
        b'{"choices":null,"usage":{"prompt_tokens":1,"completion_tokens":1}}',
        b'[{"choices":[],"usage":{}}]',
        b'{"choices":[],"usage":{"prompt_tokens":1',  # no JSON
    ],
)
def test_nothing_that_is_not_exactly_the_usage_event_is_withheld(text: bytes) -> None:
    event = b"data: " + text + b"\n\n"

    assert run([HELLO, event, HELLO]).passed == HELLO + event + HELLO


@pytest.mark.parametrize(
    "word", [b"usage", b"error", b"[DONE]", b'\\"usage\\":{', b'\\"error\\": 1', b"event: error", b"\\n\\ndata: [DONE]"]
)
def test_telling_words_inside_content_are_only_content(word: bytes) -> None:
    event = HELLO.replace(b"Hello", word)

    facts = run([HELLO, event, event + event])

    assert facts == Facts(HELLO + 3 * event, None, False, None, 4, "0217abc")


def test_data_without_the_space_is_read_alike() -> None:
    stream = (HELLO + USAGE + DONE).replace(b"data: ", b"data:")

    facts = run([stream])

    assert facts == Facts((HELLO + DONE).replace(b"data: ", b"data:"), USED, True, None, 1, "0217abc")


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_byte_order_mark_is_passed_on_and_hides_nothing(size: int) -> None:
    facts = run(cut(b"\xef\xbb\xbf" + USAGE + HELLO, size))

    assert facts == Facts(b"\xef\xbb\xbf" + HELLO, USED, False, None, 1, "0217abc")


def test_a_keep_alive_comment_is_never_held_back() -> None:
    tap = Tap(withhold_usage=True)

    passed = [tap.feed(piece) for piece in (b": ping\n", HELLO, b": pi", b"ng\n", b":\n\n", USAGE)]

    assert passed == [b": ping\n", HELLO, b"", b": ping\n", b":\n\n", b""]
    assert tap.usage == USED


def test_a_comment_before_the_usage_event_stays_when_the_event_goes() -> None:
    assert run([HELLO + b": note\n" + USAGE + DONE]).passed == HELLO + b": note\n" + DONE


def test_the_tail_of_an_event_waits_for_the_rest() -> None:
    tap = Tap(withhold_usage=True)

    passed = [tap.feed(piece) for piece in (HELLO + HELLO[:30], HELLO[30:-1], b"\n", HELLO[:-1] + b"\n")]

    assert passed == [HELLO, b"", HELLO, HELLO]


def test_the_line_feed_of_a_cut_crlf_goes_with_the_event_it_ends() -> None:
    event, usage = HELLO.replace(b"\n", b"\r\n"), USAGE.replace(b"\n", b"\r\n")
    tap = Tap(withhold_usage=True)

    passed = [tap.feed(piece) for piece in (event[:-1], b"\n" + usage[:-1], b"\n", b"\n", event)]

    assert passed == [event[:-1], b"\n", b"", b"\n", event]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_from_the_upstreams_error_on_nothing_passes(size: int) -> None:
    facts = run(cut(HELLO + ERROR + HELLO + DONE, size))

    assert facts == Facts(HELLO, None, False, {"code": "InternalServiceError", "message": "acct 2100 broke"}, 1, "0217abc")


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (b'event: error\ndata: {"code":"X","message":"m"}\n\n', {"code": "X", "message": "m"}),
        (b'event:error\ndata: {"error":{"code":"X"}}\n\n', {"code": "X"}),
        (b"event: error\ndata: out of order\n\n", {"message": "out of order"}),
        (b'data: {"error":"plain"}\n\n', {"message": "plain"}),
        (b'data: {\ndata:   "error" :\ndata: {"code": 5}}\n\n', {"code": 5}),
        (b'data: {"error":{"message":"\\ud83d cut"}}\n\n', {"message": "\ufffd cut"}),
        (b'data: {\revent: error\rdata: "code": 5}\n\n', {"code": 5}),
        (b'data: {"error":{"message":"\xff"}}\n\n', {"message": "\ufffd"}),
    ],
)
def test_every_form_of_an_error_is_one(event: bytes, error: dict[str, Any]) -> None:
    facts = run([HELLO, event, HELLO])

    assert facts.error == error
    assert facts.passed == HELLO


@pytest.mark.parametrize(
    "event", [b'data: {"error":null,"choices":[]}\n\n', b'data: {"error":{},"choices":[]}\n\n', b"event: delta\ndata: 1\n\n"]
)
def test_an_error_that_is_none_is_ordinary(event: bytes) -> None:
    facts = run([HELLO, event, HELLO])

    assert facts.error is None
    assert facts.passed == HELLO + event + HELLO


def test_after_a_clean_end_a_last_event_without_its_empty_line_passes() -> None:
    facts = run([HELLO, b"data: [DONE]\n"])

    assert facts == Facts(HELLO + b"data: [DONE]\n", None, True, None, 1, "0217abc")


def test_after_a_clean_end_a_usage_event_without_its_empty_line_is_still_withheld() -> None:
    facts = run([HELLO, USAGE[:-1]])

    assert facts == Facts(HELLO, USED, False, None, 1, "0217abc")


def test_after_a_cut_the_half_event_is_dropped() -> None:
    facts = run([HELLO, HELLO[:40]], clean=False)

    assert facts == Facts(HELLO, None, False, None, 1, "0217abc")


def test_after_a_cut_a_usage_that_stands_whole_is_learnt() -> None:
    facts = run([HELLO, USAGE[:-2]], clean=False, withhold_usage=False)

    assert facts == Facts(HELLO, USED, False, None, 1, "0217abc")


def test_a_done_that_was_not_passed_on_does_not_count() -> None:
    facts = run([HELLO, b"data: [DONE]\n"], clean=False)

    assert facts == Facts(HELLO, None, False, None, 1, "0217abc")


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_an_event_above_the_limit_is_refused_for_good(size: int) -> None:
    tap = Tap(withhold_usage=True, event_bytes_max=100)
    ordinary = b"data: " + 92 * b"x" + b"\n\n"  # 6 + 92 + 2 = 100 bytes
    assert b"".join(tap.feed(piece) for piece in cut(ordinary + ordinary, size)) == ordinary + ordinary

    with pytest.raises(EventTooLargeError):
        b"".join(tap.feed(piece) for piece in cut(b"data: " + 93 * b"x" + b"\n\n", size))

    with pytest.raises(EventTooLargeError):
        tap.feed(ordinary)
    assert tap.finish(clean=True) == b""


def test_content_is_counted_in_pretty_printed_events_too() -> None:
    pretty = b'data: {"choices": [{"delta": {"content": "Hi"}}], "usage": null}\n\n'
    nothing = b'data: {"choices": [{"delta": {"content": ""}}], "usage": null}\n\n'

    assert run([HELLO, pretty + nothing, pretty]).content_events == 3


# any stream, any splitting

_EVENTS = st.sampled_from(
    [
        HELLO,
        EMPTY,
        THINK,
        CALL,
        USAGE,
        LAST,
        DONE,
        b": ping\n",
        b": ping\n\n",
        b"\n",
        b"event: delta\ndata: 1\n\n",
        b"data: {\ndata: }\n\n",
        b"data\n\n",
        b"id: 7\nretry: 10\n\n",
        USAGE.replace(b'"choices"', b' "choices" ').replace(b",", b",\ndata: "),
        HELLO.replace(b"Hello", b"\xe4\xbd\xa0\xe5\xa5\xbd"),
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes, list[bytes]]:
    """Return a stream, what of it passes when usage is withheld, and the stream in pieces."""
    whole: list[bytes] = []
    passes: list[bytes] = []
    following = b""
    for event in reversed(draw(st.lists(_EVENTS, max_size=8))):
        rendered = b""
        for line in reversed(event.split(b"\n")[:-1]):
            end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
            # A CR before an LF would be one line end, not two.
            rendered = line + (b"\r\n" if end == b"\r" and following == b"\n" else end) + rendered
            following = rendered[:1]
        whole.insert(0, rendered)
        if b"total_tokens" not in event:
            passes.insert(0, rendered)
    stream = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + b"".join(whole)
    passing = (b"\xef\xbb\xbf" if stream.startswith(b"\xef\xbb\xbf") else b"") + b"".join(passes)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    return stream, passing, pieces


@given(streams())
@example((HELLO, HELLO, list(cut(HELLO, 1))))
def test_no_splitting_changes_what_passes_or_what_is_learnt(case: tuple[bytes, bytes, list[bytes]]) -> None:
    stream, passing, pieces = case

    split, bytewise, unsplit = run(pieces), run(cut(stream, 1)), run([stream])

    assert split.passed == passing
    assert split == bytewise == unsplit


@given(
    st.lists(
        st.sampled_from([b"\n", b"\r", b":", b"data: ", b"event: error", b'{"error":1}', USAGE[:-2], b"\xef\xbb\xbf", b"x"]),
        max_size=14,
    ),
    st.data(),
)
def test_even_of_a_garbled_stream_no_splitting_changes_anything(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    size = data.draw(st.integers(1, max(1, len(stream))))
    clean = data.draw(st.booleans())

    assert run(cut(stream, size), clean=clean) == run([stream], clean=clean)
