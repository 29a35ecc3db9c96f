"""Audit of the books: everything is recomputed from the transfers and compared with the stored values.

Each invariant is one query for the rows that break it and one for its figures; all run on one snapshot.
"""

import sqlite3
from collections.abc import Callable
from functools import partial

from proxy.store.audit import INVARIANTS, OPEN_INVARIANTS
from proxy.store.audit.dialect import Dialect
from proxy.store.audit.invariant import CHECKED, OFFENDERS_MAX, Invariant, result, unreadable
from proxy.store.progress import Progress, Report
from proxy.store.values import Check

SOUND = "the file is sound"

_LIST = """CASE kind WHEN 'image' THEN units * json_extract(price, '$.image') ELSE (
    SELECT (prompt_tokens - cached_tokens) * json_extract(value, '$.input')
      + cached_tokens * json_extract(value, '$.cached_input') + completion_tokens * json_extract(value, '$.output')
    FROM json_each(price, '$.tiers')
    WHERE coalesce(json_extract(value, '$.up_to'), prompt_tokens) >= prompt_tokens ORDER BY key LIMIT 1) END"""
DIALECT = Dialect(
    date="date({} * 86400, 'unixepoch')",
    ordered_join="CROSS JOIN",
    names_indexes=True,
    discounted=f"""
        SELECT *, list_nanos / 10000 * discount + (list_nanos % 10000 * discount + 9999) / 10000 AS due_nanos FROM (
          SELECT id, kind, hold_nanos, charge_nanos, shortfall_nanos, settled_at_ms, json_extract(price, '$.discount') AS discount,
            {_LIST} AS list_nanos
          FROM requests WHERE instr(price, '"discount":'))""",  # noqa: S608  its parts are constants
    held_days="SELECT * FROM spend INDEXED BY spend_held WHERE held_nanos > 0",
)


def verify_open(connection: sqlite3.Connection) -> list[Check]:
    """Return the checks of accounts, open holds and open tasks, on one snapshot."""
    connection.execute("BEGIN")
    try:
        return [_check(connection, invariant, DIALECT.of_open) for invariant in OPEN_INVARIANTS]
    finally:
        connection.execute("ROLLBACK")


def verify(connection: sqlite3.Connection, report: Report | None = None) -> list[Check]:
    """Return the result of every check, the file's own structure first."""
    checks: list[Callable[[sqlite3.Connection], Check]] = [
        _soundness,
        _references,
        *(partial(_check, invariant=invariant, words=DIALECT.of_all) for invariant in INVARIANTS),
    ]
    results: list[Check] = []
    connection.execute("BEGIN")
    try:
        for check in checks:
            if report is not None:
                report(Progress(CHECKED, len(results), len(checks)))
            results.append(check(connection))
    finally:
        connection.execute("ROLLBACK")
    if report is not None:
        report(Progress(CHECKED, len(results), len(checks)))
    return results


def _soundness(connection: sqlite3.Connection) -> Check:
    """Let SQLite check its pages and indexes."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    try:
        faults = [text for (text,) in connection.execute(f"PRAGMA integrity_check({OFFENDERS_MAX})") if text != "ok"]
    except sqlite3.DatabaseError as error:  # too damaged for the check itself
        faults = [str(error)]
    return Check(SOUND, f"{pages} pages, {pages * page_bytes / 2**20:.1f} MiB", faults)


def _references(connection: sqlite3.Connection) -> Check:
    try:
        rows = connection.execute('SELECT "table", rowid, parent FROM pragma_foreign_key_check LIMIT ?', (OFFENDERS_MAX,)).fetchall()
    except sqlite3.DatabaseError as error:
        return Check("every reference leads to a row", "could not be read", [str(error)])
    faults = [f"{table} row {row}: refers to a row of {parent} that is missing" for table, row, parent in rows]
    return Check("every reference leads to a row", f"{len(faults)} lead nowhere", faults)


def _check(connection: sqlite3.Connection, invariant: Invariant, words: Callable[[str], str]) -> Check:
    try:
        figures = connection.execute(words(invariant.figures)).fetchone()
        rows = connection.execute(words(invariant.offenders))
        shown = [text for (text,) in rows.fetchmany(OFFENDERS_MAX)]
        more = sum(1 for _ in rows)
    except sqlite3.DatabaseError as error:  # a damaged page: the check of the structure names it
        return unreadable(invariant.name, error)
    return result(invariant, figures, shown, more)
