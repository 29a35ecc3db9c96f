"""The gateway's log: a line a request, for programs and for people, and never at the cost of a request."""

import asyncio
import fcntl
import logging
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson
import pytest

from proxy.clock import SystemClock
from proxy.telemetry.logs import (
    JournalFormatter,
    JsonAccessLog,
    JsonFormatter,
    Lines,
    RequestLine,
    TerminalAccessLog,
    TerminalFormatter,
    is_journal,
)

PAID: dict[str, Any] = {
    "request_id": "req_1",
    "method": "POST",
    "route": "/chat/completions",
    "status": 200,
    "bytes": 480,
    "first_byte_ms": 2.5,
    "total_ms": 20.1,
    "account": "acme",
    "key_id": "key_1",
    "model": "doubao-pro-32k",
    "outcome": "complete",
    "usage": "reported",
    "prompt_tokens": 20,
    "cached_tokens": 0,
    "completion_tokens": 12,
    "cost": "0.00004",
}


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    yield ends
    for end in ends:
        os.close(end)


async def test_a_line_for_programs_is_one_json_object(pipe: tuple[int, int]) -> None:
    log = JsonAccessLog(SystemClock(), Lines(partial(os.write, pipe[1])))

    log.write(RequestLine(**PAID))
    await asyncio.sleep(0)

    line = os.read(pipe[0], 4096)
    assert line.endswith(b"\n")
    said = orjson.loads(line)
    assert said.pop("time").endswith("Z")
    assert said == {"level": "info", "event": "request", **PAID}


async def test_a_line_for_the_journal_has_its_priority_in_front(pipe: tuple[int, int]) -> None:
    log = JsonAccessLog(SystemClock(), Lines(partial(os.write, pipe[1])), b"<6>")

    log.write(RequestLine(**PAID))
    await asyncio.sleep(0)

    line = os.read(pipe[0], 4096)
    assert line.startswith(b'<6>{"time":"')
    assert orjson.loads(line[3:])["request_id"] == "req_1"


@pytest.mark.parametrize(
    ("level", "priority"), [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)]
)
def test_what_is_said_to_the_journal_has_syslogs_priority(level: int, priority: int) -> None:
    line = JournalFormatter().format(logging.LogRecord("proxy", level, "", 0, "two\nlines", (), None))

    assert line.startswith(f"<{priority}>{{")
    assert line.count("\n") == 0  # the journal would take a second line for another message without a priority


def test_the_journal_is_told_from_another_descriptor_with_the_same_variable(pipe: tuple[int, int]) -> None:
    journal = os.fstat(pipe[1])
    env = {"JOURNAL_STREAM": f"{journal.st_dev}:{journal.st_ino}"}

    assert is_journal(pipe[1], env)
    with open(os.devnull, "wb") as other:  # noqa: PTH123
        assert not is_journal(other.fileno(), env)
    assert not is_journal(pipe[1], {})


async def test_a_line_for_eyes_tells_what_matters(pipe: tuple[int, int]) -> None:
    log = TerminalAccessLog(SystemClock(), Lines(partial(os.write, pipe[1])))

    log.write(RequestLine(**PAID))
    await asyncio.sleep(0)

    line = os.read(pipe[0], 4096).decode()
    for word in ("200", "complete", "doubao-pro-32k", "acme", "20+12 tokens (reported)", "¥0.00004", "total 20.1 ms", "req_1\n"):
        assert word in line


async def test_the_lines_of_one_turn_of_the_loop_leave_together_and_in_order(pipe: tuple[int, int]) -> None:
    lines = Lines(partial(os.write, pipe[1]))

    lines.add(b"one\n")
    lines.add(b"two\n")
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 4096)
    await asyncio.sleep(0)
    lines.add(b"three\n")
    await asyncio.sleep(0)

    assert os.read(pipe[0], 4096) == b"one\ntwo\nthree\n"


async def test_lines_that_nobody_wants_are_not_written_until_somebody_does(pipe: tuple[int, int]) -> None:
    wanted = False
    lines = Lines(partial(os.write, pipe[1]), lambda: wanted)

    lines.add(b"unwanted\n")
    await asyncio.sleep(0)
    wanted = True
    lines.add(b"wanted\n")
    await asyncio.sleep(0)

    assert os.read(pipe[0], 4096) == b"wanted\n"


async def test_a_log_that_cannot_be_written_fails_nobody(pipe: tuple[int, int]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    lines = Lines(partial(os.write, full))

    lines.add(b"lost\n")
    await asyncio.sleep(0)
    os.dup2(pipe[1], full)
    lines.add(b"kept\n")
    await asyncio.sleep(0)

    assert os.read(pipe[0], 4096) == b"kept\n"
    os.close(full)


def test_everything_else_is_json_too_with_its_traceback() -> None:
    try:
        raise ValueError("broken")
    except ValueError as fault:
        record = logging.LogRecord("proxy.x", logging.ERROR, "x.py", 1, "request %s failed", ("req_1",), (ValueError, fault, None))

    said = orjson.loads(JsonFormatter().format(record))

    assert (said["level"], said["event"], said["message"]) == ("error", "proxy.x", "request req_1 failed")
    assert "ValueError: broken" in said["exception"]


async def test_a_line_that_a_full_pipe_cuts_spoils_no_other(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    lines = Lines(partial(os.write, pipe[1]))
    room = fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ)
    read = bytearray()

    for _ in range(3):
        for _ in range(room // 50):
            lines.add(b"x" * 99 + b"\n")
        await asyncio.sleep(0)
        read += os.read(pipe[0], room)

    whole = [line for line in read.split(b"\n") if len(line) == 99]
    cut = [line for line in read.split(b"\n") if line and len(line) != 99]
    assert len(whole) > 3 * room // 101
    assert len(cut) <= 3
    assert all(len(line) < 99 for line in cut)


def test_what_is_no_utf8_is_written_all_the_same() -> None:
    record = logging.LogRecord("proxy", logging.ERROR, "", 0, "half a pair: %s", ("\ud83d",), None)

    assert orjson.loads(JsonFormatter().format(record))["message"] == "half a pair: \\ud83d"


HOSTILE = "\x1b[2J\x9b31m\u202e\x7f\u2028\r"


def unprintable(text: str) -> list[str]:
    return [char for char in text if not char.isprintable() and char != "\n"]


@pytest.mark.parametrize("kind", [JsonAccessLog, TerminalAccessLog])
async def test_no_line_of_a_request_acts_on_a_terminal(pipe: tuple[int, int], kind: type[JsonAccessLog | TerminalAccessLog]) -> None:
    log = kind(SystemClock(), Lines(partial(os.write, pipe[1])))

    log.write(RequestLine(**{**PAID, "account": f"王\n{HOSTILE}", "upstream_id": HOSTILE}))
    await asyncio.sleep(0)

    line = os.read(pipe[0], 4096).decode()
    assert unprintable(line) == []
    assert line.count("\n") == 1
    assert "王" in line
    if kind is JsonAccessLog:
        assert orjson.loads(line)["upstream_id"] == HOSTILE


@pytest.mark.parametrize("formatter", [JsonFormatter(), JournalFormatter(), TerminalFormatter()])
def test_no_message_and_no_traceback_acts_on_a_terminal(formatter: logging.Formatter) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        record = logging.LogRecord(
            "proxy", logging.ERROR, "", 0, "said %s\nand more", (HOSTILE,), (ValueError, error, error.__traceback__)
        )

    line = formatter.format(record)

    assert unprintable(line) == []
    assert "Traceback" in line
    assert "and more\n" not in line.partition("Traceback")[0].removesuffix("\n")
