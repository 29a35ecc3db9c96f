"""Parsers of what upstreams and clients send: twice the input takes twice the work, whatever the input."""

import time
from collections.abc import Callable

import pytest

from proxy.core.ark.lenient_json import read_mended
from proxy.core.ark.text import clean_message
from proxy.core.catalog import ChatPrice, ChatTier, Kind, Model
from proxy.core.chat.answer import read_answer
from proxy.core.chat.events import fields_of, parsed
from proxy.core.chat.tap import Tap
from proxy.core.json_text import is_crowded, without_lone_surrogates
from proxy.core.money import Nanos

SIZES = (4_000, 16_000)
"""Repetitions: four times the input may take at most `GROWTH_MAX` times the time; a quadratic parser takes sixteen."""
GROWTH_MAX = 10.0
TRIES = 7


def tapped(stream: bytes) -> None:
    tap = Tap(withhold_usage=True)
    tap.feed(b'data: {"choices":[{"delta":{"content":"x"}}],"id":"1"}\n\n')
    tap.feed(stream)
    tap.finish(clean=False)


MODEL = Model("m", Kind.CHAT, "ark", "m", ChatPrice((ChatTier(None, Nanos(1), Nanos(1), Nanos(1)),)))
PARSERS: dict[str, Callable[[bytes], object]] = {
    "read_mended": read_mended,
    "read_answer": lambda text: read_answer(text, MODEL, ()),
    "event": parsed,
    "fields": fields_of,
    "tap": tapped,
    "surrogates": without_lone_surrogates,
    "crowd": is_crowded,
    "message": lambda text: clean_message(text.decode("latin-1")),
}
BEGIN = b'data: {"id":"u","choices":[{"index":0,"delta":{"content":"'
UNITS = [
    *(b'\\"', b"\\\\", b"\\ud83d", b"NaN ", b"-Infinity,", b"1e999,", b"9"),
    *(b"[", b"{", b'"', b'"a":', b": x\n", b"request id ", b"https://", b"ep-"),
]


def seconds_of(parse: Callable[[bytes], object], text: bytes) -> float:
    """Return the least CPU time of some runs."""
    least = float("inf")
    for _ in range(TRIES):
        began = time.process_time()
        parse(text)
        least = min(least, time.process_time() - began)
    return max(least, 0.000_5)  # below that the clock's grain counts


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize(("begin", "end"), [(b"", b""), (BEGIN, b""), (BEGIN[6:], b'"}}]}')], ids=["alone", "a cut event", "in a text"])
def test_four_times_the_input_takes_no_more_than_in_proportion(name: str, unit: bytes, begin: bytes, end: bytes) -> None:
    parse = PARSERS[name]
    small, large = (seconds_of(parse, begin + unit * size + end) for size in SIZES)

    assert large / small < GROWTH_MAX, (small, large)
