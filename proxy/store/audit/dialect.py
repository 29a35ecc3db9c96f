"""An engine's own words in the queries of invariants, and what those queries speak of.

What engines write differently stands in an invariant as ``date_of(day)``, ``ORDERED JOIN`` (a join in the order of its tables) and
``INDEXED BY name``; two tables of their ``WITH`` clause are an engine's own.
"""

import re
from dataclasses import dataclass

from proxy.store.audit.booked import BOOKED, HOLD_DAY, LIMITED

_DATE = re.compile(r"date_of\((\w+)\)")
_INDEX = re.compile(r"INDEXED BY \w+")
_DEFINITIONS = f"""
    WITH {LIMITED}, {BOOKED},
    -- credits - debits per account; pending transfers have moved nothing
    posted AS (
      SELECT account_id, sum(amount) AS amount FROM (
        SELECT credit_id AS account_id, amount_nanos AS amount FROM transfers
          WHERE kind IN ('credit', 'refund', 'charge', 'reversal')
        UNION ALL
        SELECT debit_id, -amount_nanos FROM transfers WHERE kind IN ('credit', 'refund', 'charge', 'reversal')
      ) AS halves GROUP BY account_id),
    open_holds AS (
      SELECT hold.* FROM transfers AS hold
      LEFT JOIN transfers AS ending ON ending.request_id = hold.request_id AND ending.kind IN ('charge', 'release')
      WHERE hold.kind = 'hold' AND ending.id IS NULL),
    -- what the ledger says of the requests that are folded, by their days
    folded AS (
      SELECT hold.debit_id AS account_id, {HOLD_DAY} AS day, count(*) AS holds,
        sum(hold.amount_nanos) AS hold_nanos, count(*) FILTER (WHERE ending.kind = 'charge') AS charges,
        sum(CASE ending.kind WHEN 'charge' THEN ending.amount_nanos ELSE 0 END) AS charge_nanos
      FROM transfers AS hold
      JOIN transfers AS ending ON ending.request_id = hold.request_id AND ending.kind IN ('charge', 'release')
      WHERE hold.kind = 'hold' AND NOT EXISTS (SELECT 1 FROM requests WHERE id = hold.request_id) GROUP BY 1, 2),
    folded_refunds AS (
      SELECT hold.debit_id AS account_id, {HOLD_DAY} AS day, sum(reversal.amount_nanos) AS amount
      FROM transfers AS reversal JOIN transfers AS hold ON hold.request_id = reversal.request_id AND hold.kind = 'hold'
      WHERE reversal.kind = 'reversal' AND NOT EXISTS (SELECT 1 FROM requests WHERE id = reversal.request_id) GROUP BY 1, 2),
    daily AS (
      SELECT account_id, day, sum(holds) AS holds, sum(hold_nanos) AS hold_nanos, sum(charges) AS charges,
        sum(charge_nanos) AS charge_nanos
      FROM request_days GROUP BY 1, 2),
"""  # noqa: S608  its parts are constants


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine's words."""

    date: str
    """SQL of the date of a day, whose name stands in it as ``{}``: days are counted since 1970-01-01."""
    ordered_join: str
    names_indexes: bool
    """Whether a query may name the index that it must use."""
    discounted: str
    """SQL of a SELECT: requests with a discount, settled or not. Columns: id, kind, hold_nanos, charge_nanos, shortfall_nanos,
    settled_at_ms, discount; of chats and pictures list_nanos, which they would cost without it, and due_nanos, with it."""
    held_days: str
    """SQL of a SELECT: the rows of ``spend`` that hold something, by an index or otherwise cheap at any length of the ledger."""

    def of_all(self, query: str) -> str:
        """Return a query of an invariant of the whole books."""
        return self._words(f"{_DEFINITIONS} discounted AS ({self.discounted}) {query}")

    def of_open(self, query: str) -> str:
        """Return a query of an invariant of what is open."""
        return self._words(f"WITH held_days AS ({self.held_days}) {query}")

    def _words(self, text: str) -> str:
        text = _DATE.sub(lambda found: self.date.format(found[1]), text).replace("ORDERED JOIN", self.ordered_join)
        return text if self.names_indexes else _INDEX.sub("", text)
