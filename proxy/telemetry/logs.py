"""The log: one line a request, and everything that an operator should know. Never a prompt, never a secret.

A line may quote what an upstream or a customer wrote: no control character of theirs is written, on a terminal or in JSON.

On a terminal lines are for people to read; otherwise each is one JSON object, ready for a log shipper. For the journal its priority
stands in front, as in ``<4>{"time":…``, which systemd removes (man 3 sd-daemon), so that `journalctl -p warning` finds what matters.
"""

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Protocol, TextIO

import orjson
from msgspec import Struct
from msgspec.json import Encoder

from proxy.clock import Clock, iso
from proxy.core.shown_text import shown, shown_json, shown_lines
from proxy.telemetry.log_output import Write, never_waiting

STANDARD_ERROR = 2
Field = str | int | float | bool | None

_encode = Encoder().encode

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class RequestLine(Struct, omit_defaults=True):
    """Fields of one request's line, in this order. Empty ones are left out."""

    request_id: str
    method: str
    route: str
    status: int
    bytes: int
    first_byte_ms: float
    total_ms: float
    upstream_ms: float | None = None
    account: str | None = None
    key_id: str | None = None
    model: str = ""
    code: str | None = None
    """Code of an error."""
    outcome: str | None = None
    """This field and the next ones: for a paid request, once it is settled."""
    usage: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    cost: str | None = None
    upstream_id: str = ""
    units: int = 0
    note: str = ""


class AccessLog(Protocol):
    def write(self, line: RequestLine) -> None:
        """Write one request's line."""


class Lines:
    """Lines for an output; all lines of one turn of the loop go in one ``write(2)``.

    A system call a request would hand the interpreter's lock to the store's thread each time: 44 µs seen under load, instead of 2.
    """

    def __init__(self, output: Write, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Args: is_wanted: whether lines are to be written; called once a turn."""
        self._output = output
        self._is_wanted = is_wanted
        self._waiting: list[bytes] = []
        self._is_cut = False
        """The last write ended within a line."""

    def add(self, line: bytes) -> None:
        if not self._waiting:
            if not self._is_wanted():
                return
            asyncio.get_running_loop().call_soon(self._write_waiting)
        self._waiting.append(line)

    def _write_waiting(self) -> None:
        lines, self._waiting = b"".join(self._waiting), []
        self.write(lines)

    def write(self, lines: bytes) -> None:
        """Write whole lines at once, as far as there is room."""
        if self._is_cut:
            lines = b"\n" + lines
        try:
            written = self._output(lines)
        except OSError:
            # A failed write (full disk, closed pipe, no room) must not fail requests whose money is on the ledger.
            return
        # A nearly full pipe takes a part. The rest is lost, since a slow reader must not block anything, but no later line is.
        self._is_cut = written > 0 and lines[written - 1 : written] != b"\n"


class JsonAccessLog:
    """One JSON object a line."""

    def __init__(self, clock: Clock, lines: Lines, prefix: bytes = b"") -> None:
        """Args: prefix: bytes before each object."""
        self._clock = clock
        self._lines = lines
        self._prefix = prefix
        self._second = -1
        self._second_text = b""
        """Start of each line in that second, made once a second."""

    def write(self, line: RequestLine) -> None:
        second, ms = divmod(self._clock.now_ms(), 1000)
        if second != self._second:
            self._second, self._second_text = second, self._prefix + b'{"time":"' + iso(second * 1000)[:-4].encode()
        self._lines.add(b'%b%03dZ","level":"info","event":"request",%b\n' % (self._second_text, ms, shown_json(_encode(line))[1:]))


class TerminalAccessLog:
    """``12:03:44 200 complete       chat doubao-pro-32k  acme  20+12 tokens  ¥0.00004  first 210 ms  total 950 ms  req_…``"""

    def __init__(self, clock: Clock, lines: Lines) -> None:
        self._clock = clock
        self._lines = lines

    def write(self, line: RequestLine) -> None:
        words = [iso(self._clock.now_ms())[11:19], str(line.status), f"{line.outcome or '-':<14}", f"{line.method} {line.route}"]
        words += [word for word in (line.model, line.account, line.code) if word]
        if line.prompt_tokens is not None:
            words.append(f"{line.prompt_tokens}+{line.completion_tokens} tokens ({line.usage})")
        if line.cost:
            words.append(f"¥{line.cost}")
        words += [f"first {line.first_byte_ms} ms", f"total {line.total_ms} ms", line.request_id]
        self._lines.add(f"{shown('  '.join(words))}\n".encode())


class JsonFormatter(logging.Formatter):
    """Formats all other log records, in the same shape as the requests' lines."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Field] = {
            "time": iso(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "event": record.name,
            "message": _told(record.getMessage()),
        }
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = _told("".join(traceback.format_exception(*record.exc_info)))
        return shown_json(orjson.dumps(entry, default=str)).decode()


class JournalFormatter(JsonFormatter):
    """Formats the same with the priority in front."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_priority(record.levelno)}>{super().format(record)}"


class TerminalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        line = f"{time} {record.levelname.lower():<7} {shown(record.getMessage())}"
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + shown_lines("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return line


class LineHandler(logging.Handler):
    """Passes log records to `Lines`: a `StreamHandler` would wait for the reader."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.write(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:  # noqa: BLE001 - as in every handler of the library: a formatting error fails no caller
            self.handleError(record)


def configure(clock: Clock, stream: TextIO | None = None, *, level: str = "info") -> AccessLog:
    """Send all logging from ``level`` on to ``stream`` (standard error by default) and return the log of requests."""
    stream = stream or sys.stderr
    descriptor = STANDARD_ERROR if stream is None else stream.fileno()  # Python has no stream if the process was started without
    lines = Lines(never_waiting(descriptor), partial(logging.getLogger().isEnabledFor, logging.INFO))
    handler = LineHandler(lines)
    terminal, journal = stream is not None and stream.isatty(), is_journal(descriptor, os.environ)
    handler.setFormatter(TerminalFormatter() if terminal else JournalFormatter() if journal else JsonFormatter())
    logging.basicConfig(handlers=[handler], force=True)
    set_level(level)
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    prefix = f"<{_priority(logging.INFO)}>".encode() if journal else b""
    return TerminalAccessLog(clock, lines) if terminal else JsonAccessLog(clock, lines, prefix)


def is_journal(descriptor: int, env: Mapping[str, str]) -> bool:
    """Return whether a descriptor leads to the journal: ``JOURNAL_STREAM`` names its device and inode (man 5 systemd.exec).

    The variable alone proves nothing: a child inherits it, whatever its own standard error is.
    """
    opened = os.fstat(descriptor)
    return env.get("JOURNAL_STREAM") == f"{opened.st_dev}:{opened.st_ino}"


def _priority(level: int) -> int:
    """Return syslog's number for a logging level."""
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


def set_level(level: str) -> None:
    """Write nothing below ``level`` from now on: debug, info, warning or error."""
    logging.getLogger().setLevel(level.upper())


def _told(text: str) -> str:
    """Return text in writable form: a path or a header may hold half a surrogate pair, which is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
