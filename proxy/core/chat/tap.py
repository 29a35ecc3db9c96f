"""The tap on a chat stream: it sees every byte, records the usage, and changes as little as possible.

Rule: only whole events of a chat stream are passed on, as they came. Withheld are the unfinished tail of an event, the usage event that
the client did not ask for, everything after ``[DONE]``, and everything from the upstream's own error on. An event that is neither a
chunk nor usage counts as such an error: it is one in another shape, or nonsense that no client can read and that might reveal operator
data. The result does not depend on how the stream is split into pieces.

A stream is whole if it said how it ended: a ``finish_reason`` for every choice, or its usage. ``[DONE]`` alone proves nothing, because
servers in front of a model send it after a break too: where nothing else tells the end it is withheld. A stream that ends without text
and without usage is no answer, and counts as an error.

An ordinary piece (one event of one line, with choices, without usage or error) costs a handful of C-level searches and is returned as
the same object; only other pieces are parsed. Most events differ from the previous one in their text only. `shape` returns the bytes
around that text; a caller that finds a piece of this shape need not feed it to the tap.
"""

from typing import Any, NoReturn

from proxy.core.chat.event_bytes import BLANK_LINE, COLON, CR, LF, LINE_END, TOLD, has_content, is_ordinary, is_plain, unit_end
from proxy.core.chat.events import (
    FILTERED,
    error_of,
    fields_of,
    has_too_many_lines,
    is_chunk,
    is_plain_comment,
    is_sense,
    parsed,
    text_bytes_of,
    told_error,
)
from proxy.core.chat.usage import parse_usage
from proxy.core.protocol import EventTooLargeError, SeenAnswer
from proxy.core.repetition import LESSONS_MAX, SHAPE_BYTES_MAX
from proxy.core.settlement import TokenUsage

EVENT_BYTES_MAX = 4 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_UPSTREAM_ID_CHARACTERS_MAX = 200
_CHOICES_LOOKED_MAX = 256  # of one event; a call has 128 at most


class Tap:
    """A reader of one stream. `feed` each piece, then `finish` once; the attributes hold what is known so far.

    Attributes:
        usage: the last usable usage object that the upstream sent.
        begun: an event that has data was seen, other than an error.
        done: ``data: [DONE]`` was seen; after it only a usage is still recorded.
        whole: the stream has ended, and said how.
        upstream_id: the ``id`` of the first event that has data, or "".
    """

    __slots__ = (
        "_after_cr",
        "_all_ended",
        "_at_start",
        "_ended",
        "_event_bytes_max",
        "_held",
        "_is_filtered",
        "_last_withheld",
        "_lessons",
        "_ordinary",
        "_shape",
        "_too_large",
        "_withhold_usage",
        "begun",
        "content_events",
        "counts_text",
        "done",
        "error",
        "text_bytes",
        "upstream_id",
        "usage",
        "whole",
    )

    def __init__(
        self, *, withhold_usage: bool, choices: int = 1, event_bytes_max: int = EVENT_BYTES_MAX, counts_text: bool = False
    ) -> None:
        self.usage: TokenUsage | None = None
        self.begun = False
        self.done = False
        self.whole = False
        self.error: dict[str, Any] | None = None
        self.content_events = 0
        self.counts_text = counts_text
        self.text_bytes = 0
        self.upstream_id = ""
        self._withhold_usage = withhold_usage
        self._event_bytes_max = event_bytes_max
        self._held = bytearray()
        self._at_start = True
        self._ended = 0
        """The choices that said how they ended, a bit each."""
        self._all_ended = (1 << choices) - 1
        self._is_filtered = False
        self._after_cr = False
        self._too_large = False
        self._last_withheld = False
        self._ordinary = False
        """The next piece starts an event other than the first: the fast path may judge it."""
        self._shape: tuple[bytes, bytes] | None = None
        self._lessons = LESSONS_MAX

    def feed(self, piece: bytes) -> bytes:
        """Return the bytes that may be passed on now; `piece` itself if nothing has to be changed. Raises: EventTooLargeError."""
        if self._ordinary and len(piece) <= self._event_bytes_max and is_plain(piece):
            if has_content(piece):
                self._count_content(piece)
            self._learn_shape(piece)
            return piece
        return self._walk(piece)

    def _count_content(self, event: bytes) -> None:
        self.content_events += 1
        if self.counts_text:
            self.text_bytes += text_bytes_of(event)

    def shape(self) -> tuple[bytes, bytes] | None:
        """Return the bytes before and after the text of the last plain event; None: the next piece must be fed, whatever it is.

        A piece of these bytes around an `is_told` text would come back from `feed` unchanged, and be counted in `content_events`.
        """
        return self._shape if self._ordinary else None

    def _learn_shape(self, event: bytes) -> None:
        """Remember the bytes around a plain event's text: the next event most likely differs in its text only.

        After `LESSONS_MAX` changes of shape the search ends: this upstream's events differ in more than their text.
        """
        text = TOLD.search(event) if self._lessons and len(event) <= SHAPE_BYTES_MAX else None
        if text is not None:
            shape = event[: text.start(1)], event[text.end(1) :]
            if shape != self._shape:
                self._lessons -= 1
                self._shape = shape if self._lessons and is_chunk(event) else None

    def finish(self, clean: bool) -> bytes:
        """Return the bytes left to pass on at the end of the body.

        If the stream is whole, an event that lacks only its empty line is judged like any other and passed on as it came. After a cut
        it is dropped: no client would dispatch it, and the next bytes written must not be glued to half a line. A usage or an error in
        it is recorded all the same.
        """
        if self.error is not None:
            return b""
        tail, self._held = bytes(self._held), bytearray()
        was_done = self.done
        withheld = not tail or has_too_many_lines(tail) or self._is_withheld(tail, is_whole=False, mend=clean)
        if not clean:
            self.done = was_done
            return b""
        if self.error is None:
            passed = self.content_events, self.text_bytes
            if not withheld and has_content(tail):
                self._count_content(tail)
            self._conclude()
            if not self.whole:
                self.content_events, self.text_bytes = passed
        return tail if self.whole and not withheld else b""

    def seen(self) -> SeenAnswer:
        """Return what a settlement needs of what has come so far. Without text or tool call no answer has begun."""
        return SeenAnswer(self.usage, self.content_events > 0, self.content_events, self.text_bytes, self.upstream_id)

    def _conclude(self) -> None:
        """Judge the stream at its end: it is whole, or cut, or no answer at all."""
        if not self.content_events and self.usage is None and not self._is_filtered:
            self.error = {"message": "the stream ended without an answer"}
        else:
            self.whole = self.usage is not None or self._ended == self._all_ended

    def _walk(self, piece: bytes) -> bytes:
        """Judge each event, and keep the unfinished tail."""
        if self.error is not None or not piece:
            return b""
        if self._too_large:
            self._refuse()
        self._ordinary = False
        if self._held:
            if not self._completes_held(piece):
                return b""
            piece, self._held = bytes(self._held), bytearray()
        begin = self._skip_start(piece)
        if begin < 0:
            self._held += piece
            return b""
        passed, position = self._judge_all(piece, begin)
        if position < len(piece):
            self._held += piece[position:]
            self._check_held()
        self._after_cr = position == len(piece) and piece[-1] == CR
        self._ordinary = self.begun and not self._held and not self._after_cr and self.error is None and not self.done
        return passed

    def _judge_all(self, piece: bytes, begin: int) -> tuple[bytes, int]:
        """Return what may pass of the whole events from `begin` on (`piece` itself if all of it may), and where they end."""
        kept: list[bytes] = []
        kept_from = 0 if begin == 0 or not self._last_withheld or piece[0] != LF else begin
        position = begin
        has_cr = piece.find(CR) >= 0
        while (end := unit_end(piece, position, has_cr)) >= 0:
            if end - position > self._event_bytes_max:
                self._refuse()
            event = piece[position:end]
            self._last_withheld = self._is_withheld(event)
            if not self._last_withheld:
                if has_content(event):
                    self._count_content(event)
            else:
                kept.append(piece[kept_from:position])
                kept_from = end
            position = end
            if self.error is not None:
                return b"".join(kept), len(piece)
        if not kept:
            return piece[kept_from:position], position
        kept.append(piece[kept_from:position])
        return b"".join(kept), position

    def _skip_start(self, piece: bytes) -> int:
        """Return where the first event of `piece` starts: after a byte order mark or the LF of a CRLF cut in two; -1: wait for more."""
        if self._after_cr:
            return 1 if piece[0] == LF else 0
        if not self._at_start:
            return 0
        if len(piece) < len(_BOM) and _BOM.startswith(piece):
            return -1
        self._at_start = False
        return len(_BOM) if piece.startswith(_BOM) else 0

    def _completes_held(self, piece: bytes) -> bool:
        """Add to the held tail, and return whether something in it is whole now. Linear, however small the pieces."""
        scan_from = len(self._held) - 1
        pattern = LINE_END if self._held[0] == COLON else BLANK_LINE
        self._held += piece
        if self._at_start or pattern.search(self._held, scan_from) is not None:
            return True
        self._check_held()
        return False

    def _check_held(self) -> None:
        if len(self._held) > self._event_bytes_max:
            self._refuse()

    def _refuse(self) -> NoReturn:
        self._too_large = True
        self._held.clear()
        raise EventTooLargeError(f"an event of more than {self._event_bytes_max} bytes, or of too many lines")

    def _is_withheld(self, event: bytes, *, is_whole: bool = True, mend: bool = True) -> bool:
        """Record one event, and return whether it is withheld. Most are recognised by their bytes and not parsed."""
        if event[0] in (LF, CR):
            return self.done
        if event[0] == COLON:
            return self.done or not is_plain_comment(event)
        if self.begun and not self.done and is_ordinary(event):
            return False
        if has_too_many_lines(event):
            self._refuse()
        return self._is_withheld_by_its_data(event, is_whole=is_whole, mend=mend)

    def _is_withheld_by_its_data(self, event: bytes, *, is_whole: bool, mend: bool) -> bool:
        """Record an event that has to be parsed. Nonsense in one that was cut (`is_whole` false) proves nothing."""
        name, text, strays = fields_of(event)
        if not text and not strays and name != b"error":
            return self.done  # an event without data says nothing
        if text.strip() == b"[DONE]" and not strays:
            return self._is_end_withheld(is_whole=is_whole)
        value = parsed(text, mend=mend)
        self._look_at_id(text, value)
        usage = value.get("usage") if isinstance(value, dict) else None
        self.usage = parse_usage(usage) or self.usage
        if self.done:
            return True
        self.error = told_error(name, text, value, strays)
        if self.error is None and is_whole and not is_sense(text, value, strays):
            self.error = error_of(None, strays or text)
        if self.error is not None:
            return True
        self.begun = self.begun or bool(text)
        if isinstance(value, dict):
            self._look_at_ends(value.get("choices"))
        return self._withhold_usage and isinstance(value, dict) and value.get("choices") == [] and isinstance(usage, dict)

    def _is_end_withheld(self, *, is_whole: bool) -> bool:
        """Record ``[DONE]``, and return whether it is withheld."""
        if self.done:
            return True
        self.done = True
        if is_whole:
            self._conclude()
        return is_whole and not self.whole

    def _look_at_ends(self, choices: object) -> None:
        """Record the choices that say in this event how they ended."""
        for choice in choices[:_CHOICES_LOOKED_MAX] if isinstance(choices, list) else ():
            reason = choice.get("finish_reason") if isinstance(choice, dict) else None
            if not reason:
                continue
            index = choice.get("index", 0)
            if type(index) is int and 0 <= index < self._all_ended.bit_length():
                self._ended |= 1 << index
            self._is_filtered = self._is_filtered or reason == FILTERED

    def _look_at_id(self, text: bytes, value: object) -> None:
        if self.begun or not text:
            return
        found = value.get("id") if isinstance(value, dict) else None
        if isinstance(found, str) and len(found) <= _UPSTREAM_ID_CHARACTERS_MAX:
            self.upstream_id = found
