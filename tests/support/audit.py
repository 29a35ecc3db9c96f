"""An audit that compares the gateway's receipts with Ark's own books, row by row, and with what customers received.

It does not use the gateway or its store: it reads the file with plain SQL. A receipt may differ from Ark's bill only by the documented
rules (proxy/DECISIONS.md, D4, D5, D11, D12):

- ``estimated``: no usage ever came. The charge is a lower bound, never above what Ark billed.
- ``interrupted``: the process ended while the call was open. Free.
- ``client_gone`` without usage: the client left before the answer began. Free.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from proxy.demo.ark import Videos
from tests.support.ark_books import HOLD_MIN, NEVER_ENDS, OUTPUT, ArkBooks
from tests.support.images import PRICE as IMAGE_PRICE
from tests.support.videos import SILENT

_RECEIPTS = """
    SELECT requests.id, requests.kind, accounts.name, requests.hold_nanos, outcome, usage_source, requests.charge_nanos,
      prompt_tokens, completion_tokens, units, coalesce(video_tasks.upstream_id, requests.upstream_id), settled_at_ms, note
    FROM requests JOIN accounts ON accounts.id = requests.account_id LEFT JOIN video_tasks ON video_tasks.id = requests.id"""


@dataclass
class Hands:
    """The answers that customers received, by the gateway's request id."""

    begun: set[str] = field(default_factory=set)
    """Requests answered with status 200 and headers."""
    whole: dict[str, int | None] = field(default_factory=dict)
    """Complete answers, each with its cost by the usage in it; None if it has no usage."""
    pictures: dict[str, list[str]] = field(default_factory=dict)
    """Links of the pictures in each answer."""
    videos: set[str] = field(default_factory=set)
    by_key: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Requests that were answered under each idempotency key."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A row of the gateway's table of requests."""

    id: str
    kind: str
    account: str
    hold_nanos: int
    outcome: str | None
    usage_source: str | None
    charge_nanos: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    units: int | None
    upstream_id: str | None
    settled_at_ms: int | None
    note: str | None

    @property
    def is_free_by_rule(self) -> bool:
        return self.charge_nanos == 0 and self.usage_source == "none" and self.outcome in _FREE


_FREE = ("interrupted", "client_gone", "upstream_error", "refused")


def receipts(path: Path) -> dict[str, Receipt]:
    """Return every receipt of a store, settled or not."""
    with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as connection:
        rows = connection.execute(_RECEIPTS).fetchall()
    connection.close()
    return {row[0]: Receipt(*row) for row in rows}


class Audit:
    """Repeated audits of one store. A settlement that was seen once may never change."""

    def __init__(self, path: Path, books: ArkBooks, videos: Videos, hands: Hands) -> None:
        self._path = path
        self._books = books
        self._videos = videos
        self._hands = hands
        self._seen: dict[str, Receipt] = {}

    def losses(self, *, all_ended: bool = False) -> list[str]:
        """Return what is missing, wrong or duplicated, one line each.

        Args: all_ended: whether nothing may be open any more, including videos.
        """
        found = receipts(self._path)
        settled = {one.id: one for one in found.values() if one.settled_at_ms is not None}
        losses = [f"{one} has changed" for one in self._seen.values() if found.get(one.id) != one]
        self._seen = settled
        losses += self._of_chats(found)
        losses += self._of_images(found)
        losses += self._of_videos(found, all_ended=all_ended)
        losses += self._of_hands(found)
        if all_ended:
            losses += [f"{one} is not settled" for one in found.values() if one.settled_at_ms is None]
        return losses

    @property
    def outcomes(self) -> Counter[str]:
        """Number of requests by kind and outcome, at the last audit."""
        return Counter(f"{one.kind} {one.outcome}" for one in self._seen.values())

    def _of_chats(self, found: dict[str, Receipt]) -> Iterator[str]:
        chats = [one for one in found.values() if one.kind == "chat"]
        asked = Counter((chat.account, chat.serial) for chat in self._books.chats.values())
        held = Counter((one.account, _serial(one)) for one in chats)
        for call, times in asked.items():
            if times > held[call]:
                yield f"Ark was asked {times} times for {call}, and {held[call]} times was it held"
        for upstream_id, times in Counter(one.upstream_id for one in chats if one.upstream_id).items():
            if times > 1:
                yield f"{times} receipts are for Ark's {upstream_id}"
        for one in chats:
            if one.settled_at_ms is not None and (why := self._wrong_chat(one)):
                yield f"{one}: {why}"

    def _wrong_chat(self, one: Receipt) -> str:
        chat = self._books.chats.get(one.upstream_id or "")
        if one.upstream_id and chat is None:
            return "Ark knows no such call"
        if chat is not None and (chat.account, chat.serial) != (one.account, _serial(one)):
            return f"its answer is that of {chat.account} {chat.serial}"
        if one.is_free_by_rule:
            return ""
        if chat is None:
            return "charged, and for nothing that Ark knows"
        if one.usage_source == "reported":
            billed = (chat.nanos, chat.prompt_tokens, chat.completion_tokens)
            is_right = billed == (one.charge_nanos, one.prompt_tokens, one.completion_tokens) and chat.account != NEVER_ENDS
            return "" if is_right else f"Ark billed {billed}"
        return "" if (one.charge_nanos or 0) <= chat.nanos else f"the estimate is above the {chat.nanos} that Ark billed"

    def _of_images(self, found: dict[str, Receipt]) -> Iterator[str]:
        made, charged, unlearnt = Counter[str](), Counter[str](), Counter[str]()
        for image in self._books.images.values():
            made[image.account] += 1
        for one in found.values():
            if one.kind != "image":
                continue
            charged[one.account] += one.units or 0
            if one.settled_at_ms is None or one.is_free_by_rule or one.outcome == "interrupted":
                unlearnt[one.account] += one.hold_nanos // IMAGE_PRICE - (one.units or 0)
            if one.charge_nanos not in (None, (one.units or 0) * IMAGE_PRICE):
                yield f"{one}: {one.units} images cost something else"
        for account in made | charged:
            if not made[account] - unlearnt[account] <= charged[account] <= made[account]:
                yield f"{account}: {made[account]} images made, {charged[account]} charged, {unlearnt[account]} left open by a death"

    def _of_videos(self, found: dict[str, Receipt], *, all_ended: bool) -> Iterator[str]:
        ours = {one.upstream_id: one for one in found.values() if one.kind == "video" and one.upstream_id}
        if len(ours) < sum(one.kind == "video" and bool(one.upstream_id) for one in found.values()):
            yield "two tasks have one video"
        for upstream_id, one in ours.items():
            if upstream_id not in self._videos.tasks:
                yield f"{one}: Ark knows no such task"
        for one in found.values():
            if (
                one.kind == "video"
                and one.settled_at_ms is not None
                and one.charge_nanos != (SILENT if one.outcome == "complete" else 0)
            ):
                yield f"{one}: not what was quoted"
        if all_ended:
            for upstream_id, task in self._videos.tasks.items():
                mine = ours.get(upstream_id)
                if mine is None or (mine.outcome == "complete") != (task.status == "succeeded"):
                    yield f"Ark's {upstream_id} {task.status}: {mine}"

    def _of_hands(self, found: dict[str, Receipt]) -> Iterator[str]:
        hands = self._hands
        for request_id in hands.begun | hands.videos:
            if request_id not in found:
                yield f"{request_id} was answered with 200, and is not on the books"
        for request_id, nanos in hands.whole.items():
            one = found.get(request_id)
            if one is None or one.outcome != "complete" or one.usage_source != "reported" or nanos not in (None, one.charge_nanos):
                yield f"{request_id} was answered whole, for {nanos}: {one}"
        for request_id, links in hands.pictures.items():
            one = found.get(request_id)
            known = [link for link in links if any(image in link for image in self._books.images)]
            if one is None or one.units != len(links) or known != links:
                yield f"{request_id} was given {len(links)} pictures: {one}"
        for key, request_ids in hands.by_key.items():
            if len(request_ids) > 1:
                yield f"the key {key} was answered by {request_ids}"


def _serial(one: Receipt) -> int:
    serial, rest = divmod(one.hold_nanos - HOLD_MIN, OUTPUT)
    assert rest == 0, one
    return serial
