"""Invariants of payments, discounts, refunds and closed accounts."""

from proxy.store.audit.invariant import Invariant

PAYMENTS = (
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
                     FROM payments LEFT JOIN (SELECT id, CASE kind WHEN 'refund' THEN debit_id ELSE credit_id END AS customer_id,
                         CASE WHEN kind IN ('credit', 'reversal') THEN amount_nanos WHEN kind = 'refund' THEN -amount_nanos END
                         AS amount FROM transfers)
                       AS transfer ON transfer.id = transfer_id
                     WHERE payments.amount_nanos <> coalesce(amount, 0)
                       OR (payments.amount_nanos <> 0 AND account_id <> coalesce(customer_id, 0))
                     UNION ALL
                     SELECT 'reference ' || source || ' ' || reference || ': it stands for ' || count(*) || ' payments'
                     FROM payments GROUP BY source, reference HAVING count(*) > 1
                     UNION ALL
                     SELECT 'transfer ' || transfer_id || ': it has ' || count(*) || ' references'
                     FROM payments WHERE transfer_id IS NOT NULL GROUP BY transfer_id HAVING count(*) > 1""",
    ),
)

INVARIANTS = (
    Invariant(
        name="a discount is in the charge as it is in the price",
        figures="SELECT count(*), coalesce(sum(charge_nanos), 0) FROM discounted WHERE settled_at_ms IS NOT NULL",
        say="{} requests with a discount, ¥{} charged",
        yuan=(1,),
        # Of what costs more than its hold, the hold is charged. What a video's discount came to, the check of its task says.
        offenders="""SELECT 'request ' || id || ': ' || charge_nanos || ' and ' || shortfall_nanos || ' not charged, it is '
                       || list_nanos || ' times ' || discount || ' / 10000'
                     FROM discounted WHERE kind <> 'video' AND settled_at_ms IS NOT NULL
                       AND charge_nanos <> CASE WHEN shortfall_nanos > 0 THEN hold_nanos ELSE due_nanos END
                     UNION ALL
                     SELECT 'task ' || video_tasks.id || ': discount ' || video_tasks.discount || ', its request''s price says '
                       || coalesce(discounted.discount || '', 'none')
                     FROM video_tasks LEFT JOIN discounted USING (id)
                     WHERE video_tasks.discount <> coalesce(discounted.discount, 10000)
                     UNION ALL
                     SELECT 'account ' || name || ': discount ' || discount FROM accounts WHERE discount NOT BETWEEN 1 AND 10000""",
    ),
    Invariant(
        name="no refund of a request is above its charge",
        figures="SELECT count(*), coalesce(sum(amount_nanos), 0) FROM transfers WHERE kind = 'reversal'",
        say="{} refunds of requests, ¥{}",
        yuan=(1,),
        offenders="""SELECT 'request ' || refunds.request_id || ': ' || given || ' given back to account ' || account_id || ', charged '
                       || coalesce(charge.amount_nanos || ' to account ' || charge.debit_id, 'nothing')
                     FROM (SELECT request_id, credit_id AS account_id, sum(amount_nanos) AS given FROM transfers
                       WHERE kind = 'reversal' GROUP BY request_id, credit_id) AS refunds
                     LEFT JOIN transfers AS charge ON charge.request_id = refunds.request_id AND charge.kind IN ('charge', 'release')
                     WHERE coalesce(charge.kind, '') <> 'charge' OR given > charge.amount_nanos OR account_id <> charge.debit_id""",
    ),
    Invariant(
        name="refunds of folded requests are in the daily sums",
        figures="""SELECT coalesce(sum(amount), 0), (SELECT coalesce(sum(refunded_nanos), 0) FROM refund_days) FROM folded_refunds""",
        say="¥{} given back of folded requests, ¥{} of it since they were folded",
        yuan=(0, 1),
        offenders="""SELECT 'account ' || account_id || ', ' || date_of(day) || ': the daily sums say '
                       || sum(refunded) || ' given back, transfers without a request ' || sum(its_refunded)
                     FROM (SELECT account_id, day, refunded_nanos AS refunded, 0 AS its_refunded FROM request_days
                       UNION ALL SELECT account_id, day, refunded_nanos, 0 FROM refund_days
                       UNION ALL SELECT account_id, day, 0, amount FROM folded_refunds) AS both_say
                     GROUP BY account_id, day HAVING sum(refunded) <> sum(its_refunded)""",
    ),
    Invariant(
        name="nothing happens to a closed account",
        figures="SELECT count(*), coalesce(sum(balance_nanos), 0) FROM accounts WHERE closed_at_ms IS NOT NULL",
        say="{} accounts are closed, with ¥{}",
        yuan=(1,),
        offenders="""SELECT 'account ' || name || ': closed, and has ' || held_nanos || ' held'
                     FROM accounts WHERE closed_at_ms IS NOT NULL AND held_nanos <> 0
                     UNION ALL
                     SELECT 'account ' || name || ': closed, and request ' || requests.id || ' is under way'
                     FROM requests JOIN accounts ON accounts.id = account_id WHERE settled_at_ms IS NULL AND closed_at_ms IS NOT NULL
                     UNION ALL
                     SELECT 'account ' || accounts.name || ': closed, and key ' || keys.id || ' lives'
                     FROM keys JOIN accounts ON accounts.id = account_id WHERE closed_at_ms IS NOT NULL AND revoked_at_ms IS NULL
                     UNION ALL
                     SELECT 'account ' || name || ': closed, and task ' || video_tasks.id || ' has its prompt'
                     FROM video_tasks JOIN accounts ON accounts.id = account_id WHERE closed_at_ms IS NOT NULL AND prompt <> ''
                     UNION ALL
                     SELECT 'account ' || name || ': closed, and ' || transfers.kind || ' ' || transfers.id || ' came later'
                     FROM transfers ORDERED JOIN accounts ON accounts.id = CASE WHEN debit_id > 2 THEN debit_id ELSE credit_id END
                     WHERE transfers.id > closed_after""",
    ),
)
