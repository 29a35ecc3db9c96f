"""Invariants of accounts, requests and transfers; and of what is left of folded ones."""

from proxy.store.audit.invariant import Invariant

OVERDRAWN = """SELECT 'account ' || name || ': balance ' || balance_nanos || ', held ' || held_nanos
                FROM accounts WHERE balance_nanos < held_nanos OR held_nanos < 0"""

INVARIANTS = (
    Invariant(
        name="transfers sum to zero",
        figures="""SELECT (SELECT coalesce(sum(balance_nanos), 0) FROM accounts),
                      (SELECT coalesce(sum(amount), 0) FROM posted WHERE account_id = 2),
                      (SELECT coalesce(-sum(amount), 0) FROM posted WHERE account_id = 1)""",
        say="customers ¥{} + revenue ¥{} = cash ¥{}",
        yuan=(0, 1, 2),
        offenders="""SELECT 'customers'' balances, revenue and cash differ by ' || rest || ' nano-yuan' FROM (
                        SELECT (SELECT coalesce(sum(balance_nanos), 0) FROM accounts)
                          + (SELECT coalesce(sum(amount), 0) FROM posted WHERE account_id IN (1, 2)) AS rest) AS w WHERE rest <> 0""",
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
                      FROM accounts LEFT JOIN (SELECT debit_id, sum(amount_nanos) AS amount FROM open_holds GROUP BY debit_id) AS held
                        ON debit_id = accounts.id
                      WHERE held_nanos <> coalesce(amount, 0)""",
    ),
    Invariant(
        name="available is never negative",
        figures="SELECT coalesce(min(balance_nanos - held_nanos), 0) FROM accounts WHERE kind = 'customer'",
        say="least available ¥{}",
        yuan=(0,),
        offenders=OVERDRAWN,
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
                       WHEN charge_nanos = 0 THEN coalesce(ending.kind, '') <> 'release' OR amount_nanos <> hold_nanos
                       ELSE coalesce(ending.kind, '') <> 'charge' OR amount_nanos <> charge_nanos END""",
    ),
    Invariant(
        name="no charge is above its hold",
        figures="SELECT count(*), coalesce(sum(shortfall_nanos), 0) FROM requests WHERE shortfall_nanos > 0",
        say="{} requests would have cost ¥{} more than their holds",
        yuan=(1,),
        offenders="""SELECT 'request ' || charge.request_id || ': charge ' || charge.amount_nanos || ', hold '
                       || coalesce(hold.amount_nanos || '', 'none')
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
)

FOLDED = (
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
                       AND coalesce(account_id, hold.debit_id, 0) <> transfers.debit_id""",
    ),
    Invariant(
        name="what was folded is in the daily sums",
        figures="SELECT coalesce(sum(requests), 0), count(*), coalesce(sum(charge_nanos), 0) FROM request_days",
        say="{} requests in {} sums, ¥{} charged",
        yuan=(2,),
        offenders="""SELECT 'account ' || account_id || ', ' || date_of(day) || ': the daily sums say '
                       || sum(holds) || ' holds of ' || sum(hold_nanos) || ' and ' || sum(charges) || ' charges of '
                       || sum(charge_nanos)
                       || ', transfers without a request ' || sum(its_holds) || ' of ' || sum(its_hold_nanos) || ' and '
                       || sum(its_charges) || ' of ' || sum(its_charge_nanos)
                     FROM (SELECT *, 0 AS its_holds, 0 AS its_hold_nanos, 0 AS its_charges, 0 AS its_charge_nanos FROM daily
                       UNION ALL SELECT account_id, day, 0, 0, 0, 0, holds, hold_nanos, charges, charge_nanos FROM folded)
                       AS both_say
                     GROUP BY account_id, day
                     HAVING sum(holds) <> sum(its_holds) OR sum(hold_nanos) <> sum(its_hold_nanos)
                       OR sum(charges) <> sum(its_charges) OR sum(charge_nanos) <> sum(its_charge_nanos)""",
    ),
)
