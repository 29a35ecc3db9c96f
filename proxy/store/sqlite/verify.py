"""Audit of the books: everything is recomputed from the transfers and compared with the stored values.

Each invariant is one query for the rows that break it and one for its figures; all run on one snapshot.
"""

import sqlite3
from collections.abc import Callable
from functools import partial

from proxy.core.money import format_yuan
from proxy.store.progress import Progress, Report
from proxy.store.sqlite.booked import BOOKED, HOLD_DAY, LIMITED, UNLIKE_OPEN_REQUESTS, UNLIKE_THE_BOOKS
from proxy.store.sqlite.customers import INVARIANTS as CUSTOMERS
from proxy.store.sqlite.invariant import Invariant
from proxy.store.values import Check

OFFENDERS_MAX = 20
"""Rows shown for each check; the number of the others is given after them."""

SOUND = "the file is sound"
CHECKED = "checks of the books"
"""The unit of progress."""


_DEFINITIONS = f"""
    WITH {LIMITED}, {BOOKED},
    -- credits - debits per account; pending transfers have moved nothing
    posted AS (
      SELECT account_id, sum(amount) AS amount FROM (
        SELECT credit_id AS account_id, amount_nanos AS amount FROM transfers
          WHERE kind IN ('credit', 'refund', 'charge', 'reversal')
        UNION ALL
        SELECT debit_id, -amount_nanos FROM transfers WHERE kind IN ('credit', 'refund', 'charge', 'reversal')
      ) GROUP BY account_id),
    open_holds AS (
      SELECT hold.* FROM transfers AS hold
      LEFT JOIN transfers AS ending ON ending.request_id = hold.request_id AND ending.kind IN ('charge', 'release')
      WHERE hold.kind = 'hold' AND ending.id IS NULL),
    -- what the ledger says of the requests that are folded, by their days
    folded AS (
      SELECT hold.debit_id AS account_id, {HOLD_DAY} AS day, count(*) AS holds,
        sum(hold.amount_nanos) AS hold_nanos,
        sum(ending.kind = 'charge') AS charges, sum(iif(ending.kind = 'charge', ending.amount_nanos, 0)) AS charge_nanos
      FROM transfers AS hold
      JOIN transfers AS ending ON ending.request_id = hold.request_id AND ending.kind IN ('charge', 'release')
      WHERE hold.kind = 'hold' AND NOT EXISTS (SELECT 1 FROM requests WHERE id = hold.request_id) GROUP BY 1, 2),
    folded_refunds AS (
      SELECT hold.debit_id AS account_id, {HOLD_DAY} AS day, sum(reversal.amount_nanos) AS amount
      FROM transfers AS reversal JOIN transfers AS hold ON hold.request_id = reversal.request_id AND hold.kind = 'hold'
      WHERE reversal.kind = 'reversal' AND NOT EXISTS (SELECT 1 FROM requests WHERE id = reversal.request_id) GROUP BY 1, 2),
    discounted AS (
      SELECT requests.*, json_extract(price, '$.discount') AS discount FROM requests WHERE instr(price, '"discount":')),
    daily AS (
      SELECT account_id, day, sum(holds) AS holds, sum(hold_nanos) AS hold_nanos, sum(charges) AS charges,
        sum(charge_nanos) AS charge_nanos
      FROM request_days GROUP BY 1, 2)
"""  # noqa: S608  its parts are constants

_OVERDRAWN = """SELECT 'account ' || name || ': balance ' || balance_nanos || ', held ' || held_nanos
                FROM accounts WHERE balance_nanos < held_nanos OR held_nanos < 0"""

_INVARIANTS = (
    Invariant(
        name="transfers sum to zero",
        figures="""SELECT (SELECT coalesce(sum(balance_nanos), 0) FROM accounts),
                      (SELECT coalesce(sum(amount), 0) FROM posted WHERE account_id = 2),
                      (SELECT coalesce(-sum(amount), 0) FROM posted WHERE account_id = 1)""",
        say="customers ¥{} + revenue ¥{} = cash ¥{}",
        yuan=(0, 1, 2),
        offenders="""SELECT 'customers'' balances, revenue and cash differ by ' || rest || ' nano-yuan' FROM (
                        SELECT (SELECT coalesce(sum(balance_nanos), 0) FROM accounts)
                          + (SELECT coalesce(sum(amount), 0) FROM posted WHERE account_id IN (1, 2)) AS rest) WHERE rest <> 0""",
    ),
    Invariant(
        name="balance = credits - debits",
        figures="SELECT (SELECT count(*) FROM accounts WHERE kind = 'customer'), (SELECT count(*) FROM transfers)",
        say="{} accounts, {} transfers",
        offenders="""SELECT 'account ' || name || ': balance ' || balance_nanos || ', its transfers say ' || coalesce(amount, 0)
                      FROM accounts LEFT JOIN posted ON account_id = accounts.id
                      WHERE kind = 'customer' AND balance_nanos <> coalesce(amount, 0)""",
    ),
    Invariant(
        name="held = sum of open holds",
        figures="SELECT count(*), coalesce(sum(amount_nanos), 0) FROM open_holds",
        say="{} open holds, ¥{}",
        yuan=(1,),
        offenders="""SELECT 'account ' || name || ': held ' || held_nanos || ', its open holds say ' || coalesce(amount, 0)
                      FROM accounts LEFT JOIN (SELECT debit_id, sum(amount_nanos) AS amount FROM open_holds GROUP BY debit_id)
                        ON debit_id = accounts.id
                      WHERE held_nanos <> coalesce(amount, 0)""",
    ),
    Invariant(
        name="available is never negative",
        figures="SELECT coalesce(min(balance_nanos - held_nanos), 0) FROM accounts WHERE kind = 'customer'",
        say="least available ¥{}",
        yuan=(0,),
        offenders=_OVERDRAWN,
    ),
    Invariant(
        name="each request has its hold",
        figures="SELECT count(*), coalesce(sum(hold_nanos), 0) FROM requests",
        say="{} requests, ¥{} held in all",
        yuan=(1,),
        offenders="""SELECT 'request ' || requests.id || ': hold ' || hold_nanos || ', its transfer says '
                       || coalesce(amount_nanos || ' from account ' || debit_id, 'nothing')
                     FROM requests LEFT JOIN transfers AS hold ON hold.request_id = requests.id AND hold.kind = 'hold'
                     WHERE hold_nanos <> coalesce(amount_nanos, 0) OR coalesce(debit_id, account_id) <> account_id""",
    ),
    Invariant(
        name="each settled request has one charge or release",
        figures="SELECT count(*), coalesce(sum(charge_nanos), 0) FROM requests WHERE settled_at_ms IS NOT NULL",
        say="{} settled requests, ¥{} charged",
        yuan=(1,),
        # A charge of 0 is a release of the whole hold; a hold of 0 has neither. A unique index prevents a second one.
        offenders="""SELECT 'request ' || requests.id || ': charge ' || charge_nanos || ', its transfer says '
                       || coalesce(ending.kind || ' of ' || amount_nanos, 'nothing')
                     FROM requests LEFT JOIN transfers AS ending
                       ON ending.request_id = requests.id AND ending.kind IN ('charge', 'release')
                     WHERE settled_at_ms IS NOT NULL AND CASE
                       WHEN hold_nanos = 0 THEN ending.id IS NOT NULL OR charge_nanos <> 0
                       WHEN charge_nanos = 0 THEN ending.kind IS NOT 'release' OR amount_nanos <> hold_nanos
                       ELSE ending.kind IS NOT 'charge' OR amount_nanos <> charge_nanos END""",
    ),
    Invariant(
        name="no charge is above its hold",
        figures="SELECT count(*), coalesce(sum(shortfall_nanos), 0) FROM requests WHERE shortfall_nanos > 0",
        say="{} requests would have cost ¥{} more than their holds",
        yuan=(1,),
        offenders="""SELECT 'request ' || charge.request_id || ': charge ' || charge.amount_nanos || ', hold '
                       || coalesce(hold.amount_nanos, 'none')
                     FROM transfers AS charge LEFT JOIN transfers AS hold ON hold.request_id = charge.request_id AND hold.kind = 'hold'
                     WHERE charge.kind IN ('charge', 'release') AND charge.amount_nanos > coalesce(hold.amount_nanos, 0)""",
    ),
    Invariant(
        name="no open hold without a live request or task",
        figures="""SELECT count(*), (SELECT count(*) FROM video_tasks WHERE ended_at_ms IS NULL)
                   FROM requests WHERE settled_at_ms IS NULL""",
        say="{} live requests, {} of them with a live task",
        offenders="""SELECT 'hold of request ' || request_id || ', ' || amount_nanos || ': the request is '
                        || CASE WHEN requests.id IS NULL THEN 'missing' ELSE 'settled' END
                      FROM open_holds LEFT JOIN requests ON requests.id = request_id
                      WHERE requests.id IS NULL OR settled_at_ms IS NOT NULL
                      UNION ALL
                      SELECT 'hold of video ' || requests.id || ', ' || requests.hold_nanos || ': its task has '
                        || CASE WHEN video_tasks.id IS NULL THEN 'never been' ELSE 'ended' END
                      FROM requests LEFT JOIN video_tasks ON video_tasks.id = requests.id
                      WHERE kind = 'video' AND settled_at_ms IS NULL AND (video_tasks.id IS NULL OR ended_at_ms IS NOT NULL)""",
    ),
    Invariant(
        name="no finished request without its settlement",
        figures="SELECT count(*) FROM transfers WHERE kind IN ('charge', 'release')",
        say="{} charges and releases",
        offenders="""SELECT 'request ' || requests.id || ': ' || transfers.kind || ' of ' || amount_nanos || ', but not settled'
                     FROM transfers JOIN requests ON requests.id = request_id
                     WHERE transfers.kind IN ('charge', 'release') AND settled_at_ms IS NULL""",
    ),
    Invariant(
        name="each task is its request's",
        figures="SELECT count(*), (SELECT count(*) FROM requests WHERE kind = 'video') FROM video_tasks",
        say="{} tasks, {} requests for videos",
        offenders="""SELECT 'task ' || video_tasks.id || ' of account ' || video_tasks.account_id || ', hold ' || video_tasks.hold_nanos
                       || ': its request ' || CASE WHEN requests.id IS NULL THEN 'is missing'
                         ELSE 'says ' || kind || ', account ' || requests.account_id || ', hold ' || requests.hold_nanos END
                     FROM video_tasks LEFT JOIN requests ON requests.id = video_tasks.id
                     WHERE requests.id IS NULL OR kind <> 'video' OR requests.account_id <> video_tasks.account_id
                       OR requests.hold_nanos <> video_tasks.hold_nanos
                     UNION ALL
                     SELECT 'video ' || requests.id || ': there is no such task' FROM requests
                     WHERE kind = 'video' AND NOT EXISTS (SELECT 1 FROM video_tasks WHERE video_tasks.id = requests.id)""",
    ),
    Invariant(
        name="no ended task without its settlement",
        figures="SELECT count(*) FROM video_tasks WHERE ended_at_ms IS NOT NULL",
        say="{} ended tasks",
        offenders="""SELECT 'task ' || id || ': ' || state || ', but its request is not settled'
                     FROM video_tasks JOIN requests USING (id) WHERE ended_at_ms IS NOT NULL AND settled_at_ms IS NULL""",
    ),
    Invariant(
        name="no settlement of a task that goes on",
        figures="SELECT count(*) FROM video_tasks WHERE ended_at_ms IS NULL",
        say="{} tasks go on",
        offenders="""SELECT 'task ' || id || ': ' || state || ', but its request is settled'
                     FROM video_tasks JOIN requests USING (id) WHERE ended_at_ms IS NULL AND settled_at_ms IS NOT NULL""",
    ),
    Invariant(
        name="a video costs what its task says",
        figures="SELECT count(*), coalesce(sum(charge_nanos), 0) FROM video_tasks WHERE state = 'succeeded'",
        say="{} videos, ¥{}",
        yuan=(1,),
        offenders="""SELECT 'task ' || id || ': ' || state || ' and charged ' || video_tasks.charge_nanos || ', its request '
                       || requests.charge_nanos
                     FROM video_tasks JOIN requests USING (id)
                     WHERE requests.charge_nanos <> CASE state WHEN 'succeeded' THEN video_tasks.charge_nanos ELSE 0 END""",
    ),
    Invariant(
        name="each idempotency key is its request's",
        figures="SELECT count(*), (SELECT count(*) FROM idempotency WHERE status IS NULL) FROM idempotency",
        say="{} keys, {} of them without an answer yet",
        # A settled request without an answer has freed its key; an open request must still own its key.
        offenders="""SELECT 'key of request ' || request_id || ', account ' || idempotency.account_id || ': '
                       || CASE WHEN requests.id IS NULL THEN 'the request is missing'
                         WHEN requests.account_id <> idempotency.account_id THEN 'the request is of account ' || requests.account_id
                         WHEN claimed = 0 THEN 'the request has none' ELSE 'the request is settled, and no answer is kept' END
                     FROM idempotency LEFT JOIN requests ON requests.id = request_id
                     WHERE requests.id IS NULL OR requests.account_id <> idempotency.account_id OR claimed = 0
                       OR (settled_at_ms IS NOT NULL AND status IS NULL)
                     UNION ALL
                     SELECT 'request ' || id || ': its key is somebody else''s or nobody''s' FROM requests
                     WHERE claimed = 1 AND settled_at_ms IS NULL
                       AND NOT EXISTS (SELECT 1 FROM idempotency WHERE request_id = requests.id)""",
    ),
    Invariant(
        name="each credit and refund has one reference",
        figures="""SELECT count(*), count(DISTINCT source), coalesce(sum(amount_nanos), 0) FROM payments""",
        say="{} references of {} sources, ¥{} in all",
        yuan=(2,),
        offenders="""SELECT kind || ' ' || id || ' of ' || amount_nanos || ': it has no reference' FROM transfers
                     WHERE kind IN ('credit', 'refund', 'reversal')
                       AND NOT EXISTS (SELECT 1 FROM payments WHERE transfer_id = transfers.id)
                     UNION ALL
                     SELECT 'reference ' || source || ' ' || reference || ': ' || payments.amount_nanos || ' for account '
                       || account_id || ', its transfer says ' || coalesce(amount || ' for account ' || customer_id, 'nothing')
                     FROM payments LEFT JOIN (SELECT id, iif(kind = 'refund', debit_id, credit_id) AS customer_id,
                         CASE WHEN kind IN ('credit', 'reversal') THEN amount_nanos WHEN kind = 'refund' THEN -amount_nanos END
                         AS amount FROM transfers)
                       AS transfer ON transfer.id = transfer_id
                     WHERE payments.amount_nanos <> coalesce(amount, 0)
                       OR (payments.amount_nanos <> 0 AND account_id IS NOT customer_id)
                     UNION ALL
                     SELECT 'reference ' || source || ' ' || reference || ': it stands for ' || count(*) || ' payments'
                     FROM payments GROUP BY source, reference HAVING count(*) > 1
                     UNION ALL
                     SELECT 'transfer ' || transfer_id || ': it has ' || count(*) || ' references'
                     FROM payments WHERE transfer_id IS NOT NULL GROUP BY transfer_id HAVING count(*) > 1""",
    ),
    Invariant(
        name="no charge without a request",
        figures="SELECT count(*), coalesce(sum(amount_nanos), 0) FROM transfers WHERE kind = 'charge'",
        say="{} charges, ¥{}",
        yuan=(1,),
        # If the request is missing, its hold stands for it; the next check proves that it was folded.
        offenders="""SELECT transfers.kind || ' ' || transfers.id || ' of ' || transfers.amount_nanos || ' from account '
                       || transfers.debit_id || ': request ' || transfers.request_id
                       || CASE WHEN requests.id IS NULL AND hold.id IS NULL THEN ' is missing'
                         ELSE ' is of account ' || coalesce(account_id, hold.debit_id) END
                     FROM transfers LEFT JOIN requests ON requests.id = transfers.request_id
                     LEFT JOIN transfers AS hold ON hold.request_id = transfers.request_id AND hold.kind = 'hold'
                     WHERE transfers.kind IN ('hold', 'charge', 'release')
                       AND coalesce(account_id, hold.debit_id) IS NOT transfers.debit_id""",
    ),
    Invariant(
        name="what was folded is in the daily sums",
        figures="SELECT coalesce(sum(requests), 0), count(*), coalesce(sum(charge_nanos), 0) FROM request_days",
        say="{} requests in {} sums, ¥{} charged",
        yuan=(2,),
        offenders="""SELECT 'account ' || account_id || ', ' || date(day * 86400, 'unixepoch') || ': the daily sums say '
                       || sum(holds) || ' holds of ' || sum(hold_nanos) || ' and ' || sum(charges) || ' charges of '
                       || sum(charge_nanos)
                       || ', transfers without a request ' || sum(its_holds) || ' of ' || sum(its_hold_nanos) || ' and '
                       || sum(its_charges) || ' of ' || sum(its_charge_nanos)
                     FROM (SELECT *, 0 AS its_holds, 0 AS its_hold_nanos, 0 AS its_charges, 0 AS its_charge_nanos FROM daily
                       UNION ALL SELECT account_id, day, 0, 0, 0, 0, holds, hold_nanos, charges, charge_nanos FROM folded)
                     GROUP BY account_id, day
                     HAVING sum(holds) <> sum(its_holds) OR sum(hold_nanos) <> sum(its_hold_nanos)
                       OR sum(charges) <> sum(its_charges) OR sum(charge_nanos) <> sum(its_charge_nanos)""",
    ),
    Invariant(
        name="what money limits count is what the books say",
        figures="""SELECT (SELECT count(*) FROM limited), count(*), coalesce(sum(spent_nanos), 0), coalesce(sum(held_nanos), 0)
                   FROM spend""",
        say="{} accounts and keys with a money limit, {} days of theirs, ¥{} spent, ¥{} held",
        yuan=(2, 3),
        offenders=UNLIKE_THE_BOOKS,
    ),
)

_OPEN_INVARIANTS = (
    Invariant(
        name="available is never negative",
        figures="SELECT count(*) FROM accounts WHERE kind = 'customer'",
        say="{} accounts",
        offenders=_OVERDRAWN,
    ),
    Invariant(
        name="held = sum of open holds",
        figures="SELECT count(*), coalesce(sum(hold_nanos), 0) FROM requests WHERE settled_at_ms IS NULL",
        say="{} open holds, ¥{}",
        yuan=(1,),
        offenders="""SELECT 'account ' || name || ': held ' || held_nanos || ', its open requests say ' || coalesce(amount, 0)
                      FROM accounts LEFT JOIN (SELECT account_id, sum(hold_nanos) AS amount FROM requests INDEXED BY requests_open
                        WHERE settled_at_ms IS NULL GROUP BY account_id) ON account_id = accounts.id
                      WHERE held_nanos <> coalesce(amount, 0)""",
    ),
    Invariant(
        name="each open request has its hold, and no end",
        figures="SELECT count(*) FROM requests WHERE settled_at_ms IS NULL",
        say="{} open requests",
        offenders="""SELECT 'request ' || requests.id || ': hold ' || hold_nanos || ', its transfers say '
                       || coalesce(hold.amount_nanos, 'nothing') || coalesce(' and ' || ending.kind, '')
                     FROM requests
                     LEFT JOIN transfers AS hold ON hold.request_id = requests.id AND hold.kind = 'hold'
                     LEFT JOIN transfers AS ending ON ending.request_id = requests.id AND ending.kind IN ('charge', 'release')
                     WHERE settled_at_ms IS NULL AND (hold_nanos <> coalesce(hold.amount_nanos, 0) OR ending.id IS NOT NULL)""",
    ),
    Invariant(
        name="each open video has a task that goes on",
        figures="SELECT count(*) FROM requests INDEXED BY requests_open WHERE settled_at_ms IS NULL AND kind = 'video'",
        say="{} videos",
        offenders="""SELECT 'video ' || requests.id || ': its task has '
                       || CASE WHEN video_tasks.id IS NULL THEN 'never been' ELSE 'ended' END
                     FROM requests LEFT JOIN video_tasks ON video_tasks.id = requests.id
                     WHERE settled_at_ms IS NULL AND kind = 'video' AND (video_tasks.id IS NULL OR ended_at_ms IS NOT NULL)""",
    ),
    Invariant(
        name="what money limits hold is held by open requests",
        figures="SELECT count(*), coalesce(sum(held_nanos), 0) FROM spend INDEXED BY spend_held WHERE held_nanos > 0",
        say="{} days of accounts and keys with a money limit, ¥{} held",
        yuan=(1,),
        offenders=UNLIKE_OPEN_REQUESTS,
    ),
)
"""Checks that use only indexes of open rows, and cost the same after ten million transfers."""


def verify_open(connection: sqlite3.Connection) -> list[Check]:
    """Return the checks of accounts, open holds and open tasks, on one snapshot."""
    connection.execute("BEGIN")
    try:
        return [_check(connection, invariant=invariant) for invariant in _OPEN_INVARIANTS]
    finally:
        connection.execute("ROLLBACK")


def verify(connection: sqlite3.Connection, report: Report | None = None) -> list[Check]:
    """Return the result of every check, the file's own structure first."""
    checks: list[Callable[[sqlite3.Connection], Check]] = [
        _soundness,
        _references,
        *(partial(_check, invariant=invariant) for invariant in (*_INVARIANTS, *CUSTOMERS)),
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


def _check(connection: sqlite3.Connection, *, invariant: Invariant) -> Check:
    try:
        row = connection.execute(_DEFINITIONS + invariant.figures).fetchone()
        rows = connection.execute(_DEFINITIONS + invariant.offenders)
        offenders = [text for (text,) in rows.fetchmany(OFFENDERS_MAX)]
        more = sum(1 for _ in rows)
    except sqlite3.DatabaseError as error:  # a damaged page: the check of the structure names it
        return Check(invariant.name, "could not be read", [str(error)])
    if more:
        offenders.append(f"and {more} more")
    figures = invariant.say.format(*(format_yuan(cell) if place in invariant.yuan else cell for place, cell in enumerate(row)))
    return Check(invariant.name, figures, offenders)
