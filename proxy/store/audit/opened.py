"""Invariants of accounts and what is open, which a start checks."""

from proxy.store.audit.accounts import OVERDRAWN
from proxy.store.audit.invariant import Invariant
from proxy.store.audit.spend import OPEN_INVARIANTS

INVARIANTS = (
    Invariant(
        name="available is never negative",
        figures="SELECT count(*) FROM accounts WHERE kind = 'customer'",
        say="{} accounts",
        offenders=OVERDRAWN,
    ),
    Invariant(
        name="held = sum of open holds",
        figures="SELECT count(*), coalesce(sum(hold_nanos), 0) FROM requests WHERE settled_at_ms IS NULL",
        say="{} open holds, ¥{}",
        yuan=(1,),
        offenders="""SELECT 'account ' || name || ': held ' || held_nanos || ', its open requests say ' || coalesce(amount, 0)
                      FROM accounts LEFT JOIN (SELECT account_id, sum(hold_nanos) AS amount FROM requests INDEXED BY requests_open
                        WHERE settled_at_ms IS NULL GROUP BY account_id) AS held ON account_id = accounts.id
                      WHERE held_nanos <> coalesce(amount, 0)""",
    ),
    Invariant(
        name="each open request has its hold, and no end",
        figures="SELECT count(*) FROM requests WHERE settled_at_ms IS NULL",
        say="{} open requests",
        offenders="""SELECT 'request ' || requests.id || ': hold ' || hold_nanos || ', its transfers say '
                       || coalesce(hold.amount_nanos || '', 'nothing') || coalesce(' and ' || ending.kind, '')
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
    *OPEN_INVARIANTS,
)
"""Checks that use only indexes of open rows, and cost the same after ten million transfers."""
