"""Parsers of what upstreams and clients send: four times the input takes four times the time, whatever the input.

`tests/test_loop_steps.py` counts the steps of the worst inputs that are known. This looks for worse ones, with a clock.
"""

import time
from typing import Any

import pytest

from tests.support.parsers import PARSERS, Parser

SIZES = (4_000, 16_000)
"""Repetitions, where the parser takes as many. Four times as many take less than `GROWTH_MAX` times as long; if quadratic, 16 times."""
GROWTH_MAX = 10.0
TRIES = 7
BEGIN = b'data: {"id":"u","choices":[{"index":0,"delta":{"content":"'
FRAMES = ((b"", b""), (BEGIN, b""), (BEGIN[6:], b'"}}]}'), (b"POST / HTTP/1.1\r\nHost: a\r\n", b"\r\n\r\n"))
"""Alone, as an event that was cut, in a text, as a head."""
UNITS = [
    *(b'\\"', b"\\\\", b"\\ud83d", b"NaN ", b"-Infinity,", b"1e999,", b"9", b"\r", b"\n", b"\r\n", b" ", b"\xff"),
    *(b"[", b"{", b'"', b'"a":', b": x\n", b"request id ", b"https://", b"ep-", b"a/", b"%41=&", b"1\r\nx\r\n", b"a: b\r\n"),
]


def growth(parser: Parser, begin: bytes, unit: bytes, end: bytes) -> float:
    """Return how much longer four times the input takes: the least of a few runs, as soon as it is little."""
    room = min(parser.bytes_max, 16 * SIZES[1]) - len(begin) - len(end)
    most = max(4, min(SIZES[1], room // len(unit)))
    given = [parser.prepare(begin + unit * units + end) for units in (most // 4, most)]
    least = [float("inf")] * 2
    for _ in range(TRIES):
        least = [min(seconds, seconds_of(parser, value)) for seconds, value in zip(least, given, strict=True)]
        if least[1] < GROWTH_MAX / 2 * least[0]:
            break
    return least[1] / least[0]


def seconds_of(parser: Parser, given: Any) -> float:
    began = time.process_time()
    parser(given)
    return max(time.process_time() - began, 0.000_5)  # below that the clock's grain counts


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", [name for name, parser in PARSERS.items() if parser.any_text])
def test_four_times_the_input_takes_no_more_than_in_proportion(name: str, unit: bytes) -> None:
    growths = {frame: growth(PARSERS[name], frame[0], unit, frame[1]) for frame in FRAMES}

    assert max(growths.values()) < GROWTH_MAX, growths
