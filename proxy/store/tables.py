"""The tables that every engine has, with the columns that all of them keep, and each difference of the engines with its reason.

A ledger that is moved is these tables. What is not here is an engine's own, and stays where it is.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Row = tuple[int | str | bytes | None, ...]
"""A row of a table, in the order of `Table.columns`; a flag is 0 or 1."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table."""

    name: str
    columns: tuple[str, ...]
    flags: frozenset[str] = frozenset()
    """Columns that are true or false: SQLite keeps 0 or 1."""
    exact: frozenset[str] = frozenset()
    """Columns of text that is kept with its zero characters: PostgreSQL, which has none in a text, keeps its UTF-8."""


def _table(name: str, columns: str, flags: str = "", exact: str = "") -> Table:
    return Table(name, tuple(columns.split()), frozenset(flags.split()), frozenset(exact.split()))


TABLES = (
    _table("accounts", "id kind name balance_nanos held_nanos created_at_ms discount closed_at_ms closed_after"),
    _table("keys", "id number account_id name prefix sha256 created_at_ms revoked_at_ms identity ends_at_ms last_used_at_ms"),
    _table(
        "limits",
        "account_id identity expires_at_ms paused_at_ms models networks requests_per_minute tokens_per_minute concurrent day_nanos "
        "month_nanos total_nanos",
    ),
    _table("facts", "name value"),
    _table("spend", "account_id identity day spent_nanos held_nanos"),
    _table(
        "requests",
        "id kind account_id key_id model upstream upstream_model key_name stream claimed hold_nanos price created_at_ms settled_at_ms "
        "outcome usage_source charge_nanos prompt_tokens cached_tokens completion_tokens reasoning_tokens units shortfall_nanos "
        "http_status upstream_id first_byte_ms total_ms note attempts",
        "stream claimed",
    ),
    _table("transfers", "id kind debit_id credit_id amount_nanos request_id note created_at_ms"),
    _table("payments", "source reference account_id amount_nanos transfer_id created_at_ms"),
    _table(
        "video_tasks",
        "id account_id model upstream upstream_model key_name prompt task_type resolution duration_seconds generate_audio service_tier "
        "seed safety_identifier billing hold_nanos quote_nanos quote_tokens rate_nanos_per_kilotoken discount created_at_ms state "
        "upstream_id lost_at_ms expires_at_ms polls missing urlless odd_status video_url thumbnail_url error_code error_message "
        "charge_nanos ended_at_ms due_at_ms",
        "generate_audio",
        "prompt",
    ),
    _table("idempotency", "account_id key body_sha256 request_id status answer created_at_ms"),
    _table(
        "request_days",
        "account_id day key_id model kind requests estimated holds hold_nanos charges charge_nanos refunded_nanos shortfall_nanos "
        "prompt_tokens cached_tokens completion_tokens reasoning_tokens units",
    ),
    _table("refund_days", "account_id day refunded_nanos"),
)
"""In an order in which each row refers to earlier ones only."""

IDENTITIES = {"accounts": "id", "keys": "number", "transfers": "id"}
"""Columns that count up by themselves: after a move they go on behind the last one."""

OWN: Mapping[str, Mapping[str, str]] = {
    "sqlite": {
        "requests.owner": "who placed it: after a move it is nobody who lives, in either engine",
        "moves": "each ledger's own history, and its mark",
    },
    "postgres": {
        "requests.node_id": "who placed it, as SQLite's owner",
        "video_tasks.version": "steps of several nodes are compare-and-swap; one process needs none",
        "video_tasks.claimed_by": "which node polls it: none that lives after a move",
        "video_tasks.claimed_until": "until when",
        "nodes": "processes that have it open: none does while it is moved",
        "node_writes": "the fence of each of them",
        "jobs": "work that one of them does for all",
        "versions": "what has changed, for the snapshots of all; SQLite's one process knows",
        "llm_proxy_schema": "the schema's version: SQLite has `user_version`",
        "moves": "each ledger's own history, and its mark",
    },
}
"""Tables and columns that one engine has alone, or that are each side's own, with the reason."""


@dataclass(slots=True)
class Digest:
    """Number and sum of the hashes of rows: equal for equal rows in any order."""

    rows: int = 0
    _sum: int = field(default=0, repr=False)

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.rows += 1
            self._sum += int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=16).digest(), "big")
        self._sum %= 2**128

    @property
    def text(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._sum:032x}"


def without_zero_characters(table: Table, rows: Sequence[Row]) -> tuple[Sequence[Row], int]:
    """Return rows as PostgreSQL can keep them, and in how many texts something was replaced: it has no zero character."""
    found = [place for place, row in enumerate(rows) if any(isinstance(cell, str) and "\0" in cell for cell in row)]
    if not found:
        return rows, 0
    cleaned, count = list(rows), 0
    for place in found:
        cells = list(rows[place])
        for number, column in enumerate(table.columns):
            cell = cells[number]
            if isinstance(cell, str) and "\0" in cell and column not in table.exact:
                cells[number] = cell.replace("\0", "\ufffd")
                count += 1
        cleaned[place] = tuple(cells)
    return cleaned, count
