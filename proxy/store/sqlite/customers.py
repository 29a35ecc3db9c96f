"""What an operator agrees with one customer: a discount, a charge that is given back, the end of the account.

Functions of a connection, inside a transaction of the writer's; and what `verify` checks of them.
"""

import sqlite3

from proxy.core.money import DISCOUNT_WHOLE
from proxy.store.errors import StoreRefusedError
from proxy.store.sqlite import ledger
from proxy.store.sqlite.invariant import Invariant
from proxy.store.values import Account


def set_discount(connection: sqlite3.Connection, name: str, discount: int) -> Account:
    """Raises: AccountNotFoundError; StoreRefusedError: no factor above 0 and up to the whole price."""
    account = ledger.account_by_name(connection, name)
    if not 1 <= discount <= DISCOUNT_WHOLE:
        raise StoreRefusedError(f"a discount is 1 to {DISCOUNT_WHOLE} ten-thousandths, not {discount}")
    connection.execute("UPDATE accounts SET discount = ? WHERE id = ?", (discount, account.id))
    return ledger.account_by_id(connection, account.id)


INVARIANTS = (
    Invariant(
        name="a discount is in the charge as it is in the price",
        figures="SELECT count(*), coalesce(sum(charge_nanos), 0) FROM discounted WHERE settled_at_ms IS NOT NULL",
        say="{} requests with a discount, ¥{} charged",
        yuan=(1,),
        # Of what costs more than its hold, the hold is charged. What a video's discount came to, the check of its task says.
        offenders="""SELECT 'request ' || id || ': ' || charge_nanos || ' and ' || shortfall_nanos || ' not charged, it is '
                       || list_nanos || ' times ' || discount || ' / 10000'
                     FROM (SELECT discounted.*, CASE kind WHEN 'image' THEN units * json_extract(price, '$.image') ELSE (
                         SELECT (prompt_tokens - cached_tokens) * json_extract(value, '$.input')
                           + cached_tokens * json_extract(value, '$.cached_input') + completion_tokens * json_extract(value, '$.output')
                         FROM json_each(price, '$.tiers')
                         WHERE coalesce(json_extract(value, '$.up_to'), prompt_tokens) >= prompt_tokens ORDER BY key LIMIT 1) END
                         AS list_nanos
                       FROM discounted WHERE kind <> 'video' AND settled_at_ms IS NOT NULL)
                     WHERE CASE WHEN shortfall_nanos > 0 THEN charge_nanos <> hold_nanos
                       ELSE charge_nanos <> list_nanos / 10000 * discount + (list_nanos % 10000 * discount + 9999) / 10000 END
                     UNION ALL
                     SELECT 'task ' || video_tasks.id || ': discount ' || video_tasks.discount || ', its request''s price says '
                       || coalesce(discounted.discount, 'none')
                     FROM video_tasks LEFT JOIN discounted USING (id)
                     WHERE video_tasks.discount <> coalesce(discounted.discount, 10000)
                     UNION ALL
                     SELECT 'account ' || name || ': discount ' || discount FROM accounts WHERE discount NOT BETWEEN 1 AND 10000""",
    ),
)
