"""Invariants of what money limits count: of all, and of what is open."""

from proxy.store.audit.booked import DAY
from proxy.store.audit.invariant import Invariant
from proxy.store.limit_row import HAS_MONEY, IDENTITY

_WHOSE = "CASE identity WHEN '' THEN 'account ' || account_id ELSE 'key ' || identity END"

# Days of nobody who has a limit are among them, unless nothing is in them.
_UNLIKE_THE_BOOKS = f"""
    SELECT {_WHOSE} || ', ' || date_of(day) || ': '
      || sum(spent) || ' spent and ' || sum(held) || ' held, the books say ' || sum(its_spent) || ' and ' || sum(its_held)
    FROM (SELECT account_id, identity, day, spent_nanos AS spent, held_nanos AS held, 0 AS its_spent, 0 AS its_held FROM spend
      UNION ALL SELECT account_id, identity, day, 0, 0, spent, held FROM booked) AS both_say
    GROUP BY account_id, identity, day HAVING sum(spent) <> sum(its_spent) OR sum(held) <> sum(its_held)"""  # noqa: S608
_UNLIKE_OPEN_REQUESTS = f"""
    SELECT {_WHOSE} || ', ' || date_of(day) || ': held '
      || sum(held) || ', its open requests say ' || sum(its_held)
    FROM (SELECT account_id, identity, day, held_nanos AS held, 0 AS its_held FROM held_days
      UNION ALL SELECT requests.account_id, limits.identity, {DAY}, 0, hold_nanos
      FROM requests INDEXED BY requests_open LEFT JOIN keys ON keys.id = requests.key_id
      JOIN limits ON limits.account_id = requests.account_id AND limits.identity IN ('', {IDENTITY}) AND {HAS_MONEY}
      WHERE settled_at_ms IS NULL) AS both_say
    GROUP BY account_id, identity, day HAVING sum(held) <> sum(its_held)"""  # noqa: S608

INVARIANTS = (
    Invariant(
        name="what money limits count is what the books say",
        figures="""SELECT (SELECT count(*) FROM limited), count(*), coalesce(sum(spent_nanos), 0), coalesce(sum(held_nanos), 0)
                   FROM spend""",
        say="{} accounts and keys with a money limit, {} days of theirs, ¥{} spent, ¥{} held",
        yuan=(2, 3),
        offenders=_UNLIKE_THE_BOOKS,
    ),
)
OPEN_INVARIANTS = (
    Invariant(
        name="what money limits hold is held by open requests",
        figures="SELECT count(*), coalesce(sum(held_nanos), 0) FROM held_days",
        say="{} days of accounts and keys with a money limit, ¥{} held",
        yuan=(1,),
        offenders=_UNLIKE_OPEN_REQUESTS,
    ),
)
"""Days on which not that is held which open requests hold: by indexes of what is open alone."""
