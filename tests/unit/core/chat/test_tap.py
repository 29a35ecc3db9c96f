"""The tap: what it passes on, what it learns, and that no splitting of the stream changes either."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.ark.text import ArkError, read_error
from proxy.core.chat.event_bytes import is_told
from proxy.core.chat.events import LINES_MAX
from proxy.core.chat.tap import Tap
from proxy.core.protocol import EventTooLargeError
from proxy.core.repetition import SHAPE_BYTES_MAX
from proxy.core.settlement import TokenUsage

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
    assert tap.content_events == 5  # HELLO, THINK, CALL, and two in one piece; EMPTY and DONE have no content


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


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    "beside",
    [b'"error":{"code":"boom"}', b'"err\\u006fr":{"code":"boom"}', b'"error" : {"code":"boom"}'],
    ids=["an error", "escaped", "with a space"],
)
@pytest.mark.parametrize(
    "choices",
    [
        b'data: {"choices":[{"index":0}],%b}\n\n',
        b'data: {"id":"1","choices": [{"index":0}],%b}\n\n',
        b'data:{"choices":[{"index":0}],%b}\n\n',
    ],
)
def test_an_error_beside_choices_is_one_also_where_ordinary_events_are_not_parsed(
    beside: bytes, choices: bytes, line_end: bytes
) -> None:
    event = (choices % beside).replace(b"\n", line_end)

    facts = run([HELLO, event, HELLO])

    assert (facts.passed, facts.error) == (HELLO, {"code": "boom"})


def test_a_message_and_a_code_beside_choices_are_no_error() -> None:
    event = b'data: {"code":"ok","message":"fine","choices":[{"index":0}]}\n\n'

    assert run([HELLO, event, HELLO]).passed == HELLO + event + HELLO


def test_an_error_that_holds_choices_further_down_is_one() -> None:
    event = b'data: {"code":"AccountOverdueError","message":"account 2100123456","details":{"choices":[{}]}}\n\n'

    facts = run([HELLO, event])

    assert (facts.passed, facts.error is None) == (HELLO, False)


def test_a_comment_between_the_lines_of_an_event_is_no_nonsense() -> None:
    event = HELLO[:-1] + b": ping\n\n"

    facts = run([HELLO, event])

    assert (facts.passed, facts.error) == (HELLO + event, None)


def test_an_error_in_json_that_only_sdks_read_is_no_chunk() -> None:
    facts = run([HELLO, b'data: {"choices":[{"logprob":NaN}],"error":{"message":"account 2100123456"}}\n\n'])

    assert (facts.passed, facts.error is None) == (HELLO, False)


def test_what_is_no_utf_8_is_told_as_an_error_all_the_same() -> None:
    facts = run([HELLO, b"data: \xff\xfe\n\n"])

    assert (facts.passed, facts.error) == (HELLO, {"message": "\ufffd\ufffd"})


def test_of_stray_lines_and_data_the_stray_lines_tell_the_error() -> None:
    facts = run([HELLO, b"data: {\nupstream 502\n\n"])

    assert facts.error == {"message": "upstream 502"}


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
        b'{"choices":[],"usage":7}',  # not an object
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}',  # no choices
        b'{"choices":null,"usage":{"prompt_tokens":1,"completion_tokens":1}}',
        b'{"choices":[],"usage":{"prompt_tokens":1',  # not JSON
        b'{"choices":[{"delta":{"content":"a"},"logprobs":[-Infinity]}]}',  # orjson refuses it, SDKs read it
        b'{"choices":[{"delta":{"content":"a"},"code":"x","message":"y"}],"code":"z"}',
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
    "event",
    [
        b'data: {"error":null,"choices":[]}\n\n',
        b'data: {"error":{},"choices":[]}\n\n',
        b'event: delta\ndata: {"choices":[]}\n\n',
        b"id: 1742632436123-0\nretry: 100\n" + HELLO,
        b"event: delta\n\n",
    ],
)
def test_an_error_that_is_none_is_ordinary(event: bytes) -> None:
    facts = run([HELLO, event, HELLO])

    assert facts.error is None
    assert facts.passed == HELLO + event + HELLO


OVERDUE = b'{"code":"AccountOverdueError","message":"account 2100123456"}'
METADATA = b'{"ResponseMetadata":{"RequestId":"0217","Error":{"Code":"AccountOverdue","Message":"account 2100123456"}}}'


@pytest.mark.parametrize("size", [1, 9, 100_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    ("event", "code"),
    [
        (b"data: " + OVERDUE + b"\n\n", "AccountOverdueError"),
        (b"data:" + OVERDUE + b"\n\n", "AccountOverdueError"),
        (b'data: {"choices":[],' + OVERDUE[1:] + b"\n\n", "AccountOverdueError"),
        (b'data: {"choices":null,"usage":null,' + OVERDUE[1:] + b"\n\n", "AccountOverdueError"),
        (b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1},' + OVERDUE[1:] + b"\n\n", "AccountOverdueError"),
        (b"data: " + METADATA + b"\n\n", "AccountOverdue"),
        (b'data: {"err\\u006fr":' + OVERDUE + b"}\n\n", "AccountOverdueError"),
        (b'data: {"choices":[{"delta":{"content":"a"}}],"\\u0065rror":' + OVERDUE + b"}\n\n", "AccountOverdueError"),
        (b'{"error":' + OVERDUE + b"}\n\n", "AccountOverdueError"),
        (OVERDUE + b"\n\n", "AccountOverdueError"),
        (METADATA + b"\n" + HELLO, "AccountOverdue"),
    ],
)
def test_an_error_without_its_wrapper_or_its_field_is_one(event: bytes, code: str, line_end: bytes, size: int) -> None:
    facts = run(cut((HELLO + event + HELLO + DONE).replace(b"\n", line_end), size))

    assert read_error(200, facts.error) == ArkError(200, code, "account 2100123456")
    assert (facts.passed, facts.done) == (HELLO.replace(b"\n", line_end), False)


@pytest.mark.parametrize("size", [1, 9, 100_000])
@pytest.mark.parametrize(
    "event",
    [
        b"upstream connect error: account 2100123456\n\n",
        b"data: upstream connect error: account 2100123456\n\n",
        b"<html>2100123456</html>\n\n",
        HELLO[:-1] + b"x-account: 2100123456\n\n",
        HELLO[:-1] + b": account 2100123456\n\n",
        b"event: account 2100123456\n" + HELLO,
        b"retry: soon, says 2100123456\n" + HELLO,
        b"x" + HELLO,
        b'data: {"note":"account 2100123456"}\n\n',
        b'data: {"id":"0217","model":"deepseek"}\n\n',
        b'data: {"choices":null}\n\n',
        b'data: {"choices":{"account":2100123456}}\n\n',
        b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1},"message":"account 2100123456"}\n\n',
        b'data: [{"choices":[],"usage":{}}]\n\n',
        b"data: {}\n\n",
        b"data: 1\n\n",
        b"data: null\n\n",
    ],
)
def test_what_is_no_event_of_a_chat_stream_ends_it(event: bytes, size: int) -> None:
    facts = run(cut(HELLO + event + HELLO + DONE, size))

    assert facts.error is not None
    assert (facts.passed, facts.done) == (HELLO, False)


@pytest.mark.parametrize("cut_at", [3, 8, 20, 40])
def test_half_an_event_at_the_end_is_a_cut_and_no_nonsense(cut_at: int) -> None:
    assert [run([HELLO, HELLO[:cut_at]], clean=clean) for clean in (True, False)] == 2 * [Facts(HELLO, None, False, None, 1, "0217abc")]


@pytest.mark.parametrize("clean", [True, False])
def test_an_error_on_a_bare_line_at_the_end_is_learnt(clean: bool) -> None:
    facts = run([HELLO, b'{"error":' + OVERDUE + b"}"], clean=clean)

    assert (facts.passed, facts.error) == (HELLO, {"code": "AccountOverdueError", "message": "account 2100123456"})


@pytest.mark.parametrize("said", [b'{"error":' + OVERDUE + b",", b"{" + OVERDUE[1:-1] + b",", b'{"note":"x",'])
def test_usage_beside_an_error_is_learnt(said: bytes) -> None:
    facts = run([HELLO, b"data: " + said + b'"usage":{"prompt_tokens":90,"completion_tokens":124},"message":"m"}\n\n', HELLO])

    assert facts.error is not None
    assert (facts.passed, facts.usage) == (HELLO, USED)


@pytest.mark.parametrize("size", [1, 9, 100_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(
    "late", [HELLO, ERROR, DONE, b": note\n", b"\n", b"account 2100123456\n\n", b"account 2100123456", b"data: " + OVERDUE, b"id: 7\n"]
)
def test_after_done_nothing_passes_and_no_error_is_made_of_it(late: bytes, line_end: bytes, size: int) -> None:
    facts = run(cut((HELLO + EMPTY + DONE + late).replace(b"\n", line_end), size))

    assert facts == Facts((HELLO + EMPTY + DONE).replace(b"\n", line_end), None, True, None, 1, "0217abc")


def test_usage_after_done_is_learnt_and_stays_here() -> None:
    facts = run([HELLO, EMPTY, DONE, USAGE], withhold_usage=False)

    assert facts == Facts(HELLO + EMPTY + DONE, USED, True, None, 1, "0217abc")


@pytest.mark.parametrize("comment", [b":\n", b": ping\n", b": keep-alive\n\n", b": ping - 2026-11-23 10:00:00.123456+00:00\n\n"])
def test_a_plain_comment_passes(comment: bytes) -> None:
    assert run([HELLO, comment, HELLO]).passed == HELLO + comment + HELLO


@pytest.mark.parametrize("size", [1, 9, 100_000])
@pytest.mark.parametrize(
    "comment", [b": account 2100123456\n", b': {"code":"x"}\n', b": ark-canary.example\n", b": \xff\n", b":" + 300 * b" a" + b"\n"]
)
def test_a_comment_that_is_not_plain_stays_and_the_stream_goes_on(comment: bytes, size: int) -> None:
    facts = run(cut(HELLO + comment + HELLO + EMPTY + DONE, size))

    assert facts == Facts(HELLO + HELLO + EMPTY + DONE, None, True, None, 2, "0217abc")


def test_after_a_clean_end_a_last_event_without_its_empty_line_passes() -> None:
    facts = run([HELLO, EMPTY, b"data: [DONE]\n"])

    assert facts == Facts(HELLO + EMPTY + b"data: [DONE]\n", None, True, None, 1, "0217abc")


def test_after_a_clean_end_a_usage_event_without_its_empty_line_is_still_withheld() -> None:
    facts = run([HELLO, USAGE[:-1]])

    assert facts == Facts(HELLO, USED, False, None, 1, "0217abc")


@pytest.mark.parametrize(("last", "counted"), [(HELLO[:-1], (1, 0)), (EMPTY + HELLO[:-1], (2, 5))])
def test_of_a_last_event_without_its_empty_line_the_text_counts_only_if_it_passes(last: bytes, counted: tuple[int, int]) -> None:
    tap = Tap(withhold_usage=True, counts_text=True)
    passed = tap.feed(THINK + last) + tap.finish(clean=True)

    assert (tap.content_events, tap.text_bytes) == (counted[0], counted[1] + 2)
    assert passed.endswith(last if tap.whole else THINK)


def test_after_a_cut_the_half_event_is_dropped() -> None:
    facts = run([HELLO, HELLO[:40]], clean=False)

    assert facts == Facts(HELLO, None, False, None, 1, "0217abc")


def test_after_a_cut_a_usage_that_stands_whole_is_learnt() -> None:
    facts = run([HELLO, USAGE[:-2]], clean=False, withhold_usage=False)

    assert facts == Facts(HELLO, USED, False, None, 1, "0217abc")


def test_a_done_that_was_not_passed_on_does_not_count() -> None:
    facts = run([HELLO, b"data: [DONE]\n"], clean=False)

    assert facts == Facts(HELLO, None, False, None, 1, "0217abc")


# How a stream ends.

TWO = [b'data: {"choices":[{"index":%d,"delta":{"content":"x"},"finish_reason":null}],"id":"0217abc"}\n\n' % index for index in (0, 1)]
TWO_ENDS = [b'data: {"choices":[{"index":%d,"delta":{},"finish_reason":"length"}],"id":"0217abc"}\n\n' % index for index in (0, 1)]


def ended(pieces: list[bytes], *, choices: int = 1, clean: bool = True) -> tuple[bytes, bool, bool]:
    """Return what passes of these pieces, and whether the stream counts as whole, and as an error."""
    tap = Tap(withhold_usage=False, choices=choices)
    passed = b"".join([*map(tap.feed, pieces), tap.finish(clean)])
    return passed, tap.whole, tap.error is not None


@pytest.mark.parametrize("size", [1, 9, 100_000])
@pytest.mark.parametrize("last", [EMPTY, EMPTY.replace(b":", b": "), USAGE, LAST])
@pytest.mark.parametrize("done", [b"", DONE])
def test_a_stream_that_says_how_it_ended_is_whole_with_or_without_done(last: bytes, done: bytes, size: int) -> None:
    stream = HELLO + last + done

    assert ended(cut(stream, size)) == (stream, True, False)


@pytest.mark.parametrize("done", [b"", DONE])
def test_a_stream_that_does_not_say_how_it_ended_is_cut_and_its_done_stays_here(done: bytes) -> None:
    assert ended([HELLO, done, DONE]) == (HELLO, False, False)


def test_after_a_cut_an_end_without_done_does_not_count() -> None:
    assert ended([HELLO, EMPTY], clean=False) == (HELLO + EMPTY, False, False)


@pytest.mark.parametrize(
    ("ends", "is_whole"), [(TWO_ENDS, True), (TWO_ENDS[:1], False), (TWO_ENDS[1:], False), (TWO_ENDS[1:] * 2, False)]
)
@pytest.mark.parametrize("done", [b"", DONE])
def test_every_choice_has_to_say_how_it_ended(ends: list[bytes], is_whole: bool, done: bytes) -> None:
    passed, whole, is_error = ended([*TWO, *ends, done], choices=2)

    assert (whole, is_error) == (is_whole, False)
    assert passed == b"".join([*TWO, *ends]) + (done if is_whole else b"")


@pytest.mark.parametrize("size", [1, 9, 100_000])
@pytest.mark.parametrize(
    "events", [[], [EMPTY], [b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n', EMPTY], [b": ping\n\n"]]
)
@pytest.mark.parametrize("done", [b"", DONE, DONE[:-1]])
def test_a_stream_without_text_and_usage_is_an_error_and_no_answer(events: list[bytes], done: bytes, size: int) -> None:
    facts = run(cut(b"".join(events) + done, size))

    assert facts.passed == b"".join(events)
    assert facts.error is not None
    assert facts.content_events == 0


@pytest.mark.parametrize(
    "delta",
    [
        b'{"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"now","arguments":""}}]}',
        b'{"function_call":{"name":"now","arguments":""}}',
        b'{"content":null,"refusal":"No."}',
        b'{"audio":{"data":"UklG"}}',
    ],
)
def test_a_call_of_a_tool_a_refusal_or_a_sound_is_an_answer_without_text(delta: bytes) -> None:
    event = b'data: {"choices":[{"index":0,"delta":' + delta + b'}],"id":"0217abc"}\n\n'

    assert ended([event, EMPTY, DONE]) == (event + EMPTY + DONE, True, False)


def test_a_filtered_answer_is_an_answer_without_text() -> None:
    filtered = EMPTY.replace(b'"stop"', b'"content_filter"')

    assert ended([filtered, DONE]) == (filtered + DONE, True, False)


@pytest.mark.parametrize("index", [b"-1", b"1", b"128", b"99999999999999999999", b"true", b'"0"', b"null", b"0.0"])
def test_an_end_of_a_choice_that_was_not_asked_for_ends_nothing(index: bytes) -> None:
    odd = EMPTY.replace(b'"index":0', b'"index":' + index)

    assert ended([HELLO, odd]) == (HELLO + odd, False, False)


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_an_event_above_the_limit_is_refused_for_good(size: int) -> None:
    tap = Tap(withhold_usage=True, event_bytes_max=100)
    ordinary = b'data: {"choices":["' + 76 * b"x" + b'"]}\n\n'  # 19 + 76 + 5 = 100 bytes
    assert b"".join(tap.feed(piece) for piece in cut(ordinary + ordinary, size)) == ordinary + ordinary

    with pytest.raises(EventTooLargeError):
        b"".join(tap.feed(piece) for piece in cut(ordinary.replace(b"x", b"xx", 1), size))

    with pytest.raises(EventTooLargeError):
        tap.feed(ordinary)
    assert tap.finish(clean=True) == b""


@pytest.mark.parametrize("size", [1_000, 1_000_000])
@pytest.mark.parametrize("line", [b"data: \n", b"id\n", b": x\n", b"data\r"])
def test_an_event_of_too_many_lines_is_refused_for_good(line: bytes, size: int) -> None:
    tap = Tap(withhold_usage=True)
    most = HELLO.replace(b"\n\n", b"\n" + b"id\n" * (LINES_MAX - 2) + b"\n")  # with its own line and the empty one
    assert b"".join(tap.feed(piece) for piece in cut(most, size)) == most

    with pytest.raises(EventTooLargeError):
        b"".join(tap.feed(piece) for piece in cut(b"id\n" + line * LINES_MAX + line[-1:], size))

    with pytest.raises(EventTooLargeError):
        tap.feed(HELLO)


def test_a_last_event_of_too_many_lines_is_dropped() -> None:
    tap = Tap(withhold_usage=True)
    passed = tap.feed(HELLO + LAST + b"data:\n" * (LINES_MAX + 1))

    assert passed + tap.finish(clean=True) == HELLO + LAST
    assert tap.whole


def test_of_comments_within_one_event_only_a_few_are_read() -> None:
    """Each costs a look at all its words. Between events any number may stand."""
    few = HELLO.replace(b"\n\n", b"\n" + b": ping\n" * 32 + b"\n")
    many = HELLO.replace(b"\n\n", b"\n" + b": ping\n" * 33 + b"\n")

    assert run([HELLO, few]).passed == HELLO + few
    assert run([HELLO, b": ping\n" * 33 + HELLO]).passed == HELLO + b": ping\n" * 33 + HELLO
    assert run([HELLO, many]).error is not None


@pytest.mark.parametrize("event", [b"event: x\n\n", b"id: 1\n\n", b"data:\n\n", b"retry: 5\n\n"])
def test_an_event_without_data_passes_and_is_no_beginning(event: bytes) -> None:
    tap = Tap(withhold_usage=True)

    assert (tap.feed(event), tap.begun) == (event, False)
    assert tap.feed(HELLO + LAST + DONE + event) == HELLO + LAST + DONE


def test_content_is_counted_in_pretty_printed_events_too() -> None:
    pretty = b'data: {"choices": [{"delta": {"content": "Hi"}}], "usage": null}\n\n'
    nothing = b'data: {"choices": [{"delta": {"content": ""}}], "usage": null}\n\n'

    assert run([HELLO, pretty + nothing, pretty]).content_events == 3


# Any stream, any splitting.

CHINESE = HELLO.replace(b"Hello", b"\xe4\xbd\xa0\xe5\xa5\xbd")

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
        b'event: delta\ndata: {"choices":[1]}\n\n',
        b'data: {\ndata: "choices":[{}]}\n\n',
        b"data\n\n",
        b"id: 7\nretry: 10\n\n",
        USAGE.replace(b'"choices"', b' "choices" ').replace(b",", b",\ndata: "),
        CHINESE,
    ]
)


_PRETTY_USAGE = USAGE.replace(b'"choices"', b' "choices" ').replace(b",", b",\ndata: ")


def passes_done(before: list[bytes]) -> bool:
    """Return whether ``[DONE]`` passes after these events: text and its end, or a usage."""
    return bool({USAGE, LAST, _PRETTY_USAGE} & {*before}) or (EMPTY in before and any(map(has_text, before)))


def has_text(event: bytes) -> bool:
    return event in (HELLO, THINK, CALL, CHINESE)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes, list[bytes]]:
    """Return a stream, the part that passes when usage is withheld (nothing after the first ``[DONE]``), and the stream in pieces."""
    whole: list[bytes] = []
    passes: list[bytes] = []
    following = b""
    events = draw(st.lists(_EVENTS, max_size=8))
    passing_to = events.index(DONE) if DONE in events else len(events)
    if not passes_done(events[:passing_to]):
        passing_to -= 1
    for number, event in reversed(list(enumerate(events))):
        rendered = b""
        for line in reversed(event.split(b"\n")[:-1]):
            end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
            # A CR before an LF would be one line end, not two.
            rendered = line + (b"\r\n" if end == b"\r" and following == b"\n" else end) + rendered
            following = rendered[:1]
        whole.insert(0, rendered)
        if b"total_tokens" not in event and number <= passing_to:
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
        st.sampled_from(
            [b"\n", b"\r", b":", b"data: ", b"event: error", b'{"error":1}', USAGE[:-2], HELLO[:-2], DONE[:-2], b"\xef\xbb\xbf", b"x"]
        ),
        max_size=14,
    ),
    st.data(),
)
def test_even_of_a_garbled_stream_no_splitting_changes_anything(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    size = data.draw(st.integers(1, max(1, len(stream))))
    clean = data.draw(st.booleans())

    assert run(cut(stream, size), clean=clean) == run([stream], clean=clean)


# The shape of events that differ from the last one only in their text.

LEFT, RIGHT = HELLO.split(b"Hello")


def test_the_shape_is_what_stands_around_the_text_of_the_last_plain_event() -> None:
    tap = Tap(withhold_usage=True)
    told = []

    for event in (HELLO, HELLO, EMPTY, THINK, b": ping\n\n", HELLO[:20], HELLO[20:], HELLO, USAGE, DONE):
        tap.feed(event)
        told.append(tap.shape())

    hello, think = (LEFT, RIGHT), tuple(THINK.split(b"hm"))
    # The first event is parsed for its id. A shape is not used inside an event or after the last one.
    assert told == [None, hello, hello, think, think, None, think, hello, hello, None]


@pytest.mark.parametrize(
    ("text", "may_be"),
    [
        *((told, True) for told in (b"Hello", b"usage", b"[DONE]", "你好".encode(), b"\x7f", b"\xff", b"\\n", b'a\\"b\\\\', b"\\/")),
        *((not_told, False) for not_told in (b"", b'"', b"\\", b'\\\\"', b"\\u0065", b"\\x", b"a\n", b"\r", b'\\"\n', b"\\")),
    ],
)
def test_only_a_strings_inside_is_told(text: bytes, may_be: bool) -> None:
    assert is_told(text) is may_be


def test_an_upstream_whose_events_have_no_shape_is_soon_left_alone() -> None:
    tap = Tap(withhold_usage=True)
    for turn in range(100):
        tap.feed(HELLO.replace(b'"index":0', b'"index":0,"nonce":%d' % turn))

    assert tap.shape() is None
    assert tap.content_events == 100


@pytest.mark.parametrize(
    "odd",
    [
        HELLO.replace(b'"Hello"', b'"Hello":""'),
        b'data: {"asked":{"choices":[{"index":0}]},"content":"Hello"}\n\n',
        b'data: {"code":"AccessDenied","asked":{"choices":[{"index":0}]},"content":"Hello"}\n\n',
        b'data: {"choices":[{"delta":{"content":"Hello"}}],"choices":null}\n\n',
        b'data: {"choices":[{"delta":{"content":"Hello"}}],"choices":[],"code":"AccessDenied"}\n\n',
    ],
    ids=["no JSON", "choices within", "an error with choices within", "no choices after all", "an error after all"],
)
def test_an_event_that_is_no_chunk_when_it_is_parsed_has_no_shape(odd: bytes) -> None:
    tap = Tap(withhold_usage=True)

    for event in (HELLO, odd, odd):
        assert tap.feed(event) is event  # some SDK might read it

    assert tap.shape() is None
    assert tap.feed(odd.replace(b"Hello", b"error")) == b""


def test_a_long_event_is_not_kept_for_its_shape() -> None:
    tap = Tap(withhold_usage=True)
    for size in (SHAPE_BYTES_MAX, SHAPE_BYTES_MAX + 1):
        event = HELLO.replace(b"Hello", b"x" * (5 + size - len(HELLO)))
        for _ in range(2):
            assert tap.feed(event) is event
    told = tap.shape()

    assert told == (LEFT, RIGHT)  # the shape of the shorter event
    assert len(event) == SHAPE_BYTES_MAX + 1

    long = Tap(withhold_usage=True)
    for _ in range(2):
        long.feed(event)
    assert long.shape() is None


def test_to_see_the_same_shape_again_is_no_lesson() -> None:
    tap = Tap(withhold_usage=True)
    for _ in range(100):
        tap.feed(HELLO)

    assert tap.shape() == (LEFT, RIGHT)


# Limits, to the byte.


@pytest.mark.parametrize("size", [1, 7, 30])
def test_an_event_that_comes_in_small_pieces_and_never_ends_is_refused_at_the_limit(size: int) -> None:
    tap = Tap(withhold_usage=False, event_bytes_max=100)
    pieces = cut(b"data: " + b"x" * 1_000, size)
    within = 100 // size

    assert [tap.feed(piece) for piece in pieces[:within]] == [b""] * within
    with pytest.raises(EventTooLargeError):
        tap.feed(pieces[within])


def test_an_unfinished_event_over_the_limit_is_refused_with_the_piece_that_it_comes_in() -> None:
    tap = Tap(withhold_usage=False, event_bytes_max=100)

    with pytest.raises(EventTooLargeError):
        tap.feed(b'data: {"choices":[{}]}\n\n' + b"data: " + b"x" * 95)
    with pytest.raises(EventTooLargeError):  # and nothing after it is parsed
        tap.feed(b'data: {"choices":[{}]}\n\n')


def test_an_event_of_exactly_the_limit_passes_whole_or_in_pieces() -> None:
    event = b'data: {"choices":[{"delta":{"content":"' + b"x" * 53 + b'"}}]}\n\n'
    assert len(event) == 99
    for cut_at in (0, 10, 98):
        tap = Tap(withhold_usage=False, event_bytes_max=99)

        assert tap.feed(event[:cut_at]) + tap.feed(event[cut_at:]) == event


def test_the_id_is_that_of_the_first_event_with_data_whatever_comes_later() -> None:
    tap = Tap(withhold_usage=False)

    tap.feed(b"event: ping\n\n")
    tap.feed(b'data: {"id":"first","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n')
    tap.feed(b'data: {"id":"second","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n')

    assert tap.upstream_id == "first"


@pytest.mark.parametrize(("length", "kept"), [(200, True), (201, False)])
def test_an_id_of_more_than_200_characters_is_none(length: int, kept: bool) -> None:
    tap = Tap(withhold_usage=False)

    tap.feed(b'data: {"id":"%b","choices":[{}]}\n\n' % (b"i" * length))

    assert tap.upstream_id == ("i" * length if kept else "")


def test_an_error_that_is_no_object_is_kept_to_2000_characters() -> None:
    tap = Tap(withhold_usage=False)

    tap.feed(b"event: error\ndata: " + b"x" * 3_000 + b"\n\n")

    assert tap.error == {"message": "x" * 2_000}


@pytest.mark.parametrize(("length", "passes"), [(256, True), (257, False)])
def test_a_comment_of_more_than_256_bytes_is_withheld(length: int, passes: bool) -> None:
    comment = b": " + b"ok " * 84 + b"o" * (length - 2 - 3 * 84 - 1) + b"\n"
    assert len(comment) == length

    assert Tap(withhold_usage=False).feed(comment) == (comment if passes else b"")


# The fast path.


PLAIN = b'data: {"choices":[{"delta":{"content":"x"}}],"id":"1"}\n\n'


def test_an_ordinary_event_after_done_is_withheld_like_any_other() -> None:
    tap = Tap(withhold_usage=False)

    passed = [tap.feed(piece) for piece in (PLAIN, EMPTY, b"data: [DONE]\n\n", PLAIN, PLAIN)]

    assert passed == [PLAIN, EMPTY, b"data: [DONE]\n\n", b"", b""]
    assert tap.content_events == 1


def test_an_ordinary_event_never_overtakes_the_beginning_of_the_one_before_it() -> None:
    tap = Tap(withhold_usage=False)
    begun = b'data: {"choices":[{"delta":{"content":"y"}}],\n'

    passed = tap.feed(PLAIN) + tap.feed(begun) + tap.feed(b'data: "id":"1"}\n\n') + tap.feed(PLAIN)

    assert passed == PLAIN + begun + b'data: "id":"1"}\n\n' + PLAIN


def test_a_tail_holds_back_what_would_be_ordinary_by_itself() -> None:
    tap = Tap(withhold_usage=False)

    assert tap.feed(PLAIN) == PLAIN
    assert tap.feed(b"id: 7\n") == b""
    assert tap.feed(PLAIN) == b"id: 7\n" + PLAIN
