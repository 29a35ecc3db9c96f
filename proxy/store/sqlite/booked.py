"""SQL: what the books say that was spent and is held within money limits, day by day; and where ``spend`` says otherwise."""

from proxy.store.sqlite.limits import HAS_MONEY, IDENTITY

ZONE_MINUTES = "coalesce((SELECT value FROM facts WHERE name = 'zone_minutes'), 0)"
DAY = f"(requests.created_at_ms + 60000 * {ZONE_MINUTES}) / 86400000"
"""SQL of the day on which a request was created."""
HOLD_DAY = f"(hold.created_at_ms + 60000 * {ZONE_MINUTES}) / 86400000"
"""SQL of the same, of a request whose hold is all that is left."""
LIMITED = f"limited AS (SELECT account_id, identity FROM limits WHERE {HAS_MONEY})"  # noqa: S608
BOOKED = f"""
    moved AS (
      SELECT account_id, coalesce(key_id, '') AS key_id, {DAY} AS day, sum(coalesce(charge_nanos, 0)) AS spent,
        sum(iif(settled_at_ms IS NULL, hold_nanos, 0)) AS held
      FROM requests WHERE account_id IN (SELECT account_id FROM limited) GROUP BY 1, 2, 3
      UNION ALL
      SELECT account_id, key_id, day, charge_nanos, 0 FROM request_days WHERE account_id IN (SELECT account_id FROM limited)),
    booked AS (
      SELECT account_id, identity, day, sum(spent) AS spent, sum(held) AS held FROM (
        SELECT account_id, '' AS identity, day, spent, held FROM moved
        UNION ALL
        SELECT moved.account_id, {IDENTITY}, day, spent, held FROM moved JOIN keys ON keys.id = moved.key_id)
      JOIN limited USING (account_id, identity) GROUP BY 1, 2, 3)"""  # noqa: S608
"""SQL: what the books say that ``spend`` is, of whatever is in ``limited``."""

UNLIKE_THE_BOOKS = """
    SELECT iif(identity = '', 'account ' || account_id, 'key ' || identity) || ', ' || date(day * 86400, 'unixepoch') || ': '
      || sum(spent) || ' spent and ' || sum(held) || ' held, the books say ' || sum(its_spent) || ' and ' || sum(its_held)
    FROM (SELECT account_id, identity, day, spent_nanos AS spent, held_nanos AS held, 0 AS its_spent, 0 AS its_held FROM spend
      UNION ALL SELECT account_id, identity, day, 0, 0, spent, held FROM booked)
    GROUP BY account_id, identity, day HAVING sum(spent) <> sum(its_spent) OR sum(held) <> sum(its_held)"""
"""Days that are not what `BOOKED` says. Days of nobody who has a limit are among them, unless nothing is in them."""
UNLIKE_OPEN_REQUESTS = f"""
    SELECT iif(identity = '', 'account ' || account_id, 'key ' || identity) || ', ' || date(day * 86400, 'unixepoch') || ': held '
      || sum(held) || ', its open requests say ' || sum(its_held)
    FROM (SELECT account_id, identity, day, held_nanos AS held, 0 AS its_held FROM spend INDEXED BY spend_held WHERE held_nanos > 0
      UNION ALL SELECT requests.account_id, limits.identity, {DAY}, 0, hold_nanos
      FROM requests INDEXED BY requests_open LEFT JOIN keys ON keys.id = requests.key_id
      JOIN limits ON limits.account_id = requests.account_id AND limits.identity IN ('', {IDENTITY}) AND {HAS_MONEY}
      WHERE settled_at_ms IS NULL)
    GROUP BY account_id, identity, day HAVING sum(held) <> sum(its_held)"""  # noqa: S608
"""Days on which not that is held which open requests hold: by indexes of what is open alone."""
