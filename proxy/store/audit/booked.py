"""SQL: what the books say that was spent and is held within money limits, day by day. Every engine's."""

from proxy.store.limit_row import HAS_MONEY, IDENTITY

ZONE_MINUTES = "coalesce((SELECT value FROM facts WHERE name = 'zone_minutes'), 0)"
DAY = f"(requests.created_at_ms + 60000 * {ZONE_MINUTES}) / 86400000"
"""SQL of the day on which a request was created."""
HOLD_DAY = f"(hold.created_at_ms + 60000 * {ZONE_MINUTES}) / 86400000"
"""SQL of the same, of a request whose hold is all that is left."""
LIMITED = f"limited AS (SELECT account_id, identity FROM limits WHERE {HAS_MONEY})"  # noqa: S608
BOOKED = f"""
    moved AS (
      SELECT account_id, coalesce(key_id, '') AS key_id, {DAY} AS day, sum(coalesce(charge_nanos, 0)) AS spent,
        sum(CASE WHEN settled_at_ms IS NULL THEN hold_nanos ELSE 0 END) AS held
      FROM requests WHERE account_id IN (SELECT account_id FROM limited) GROUP BY 1, 2, 3
      UNION ALL
      SELECT account_id, key_id, day, charge_nanos, 0 FROM request_days WHERE account_id IN (SELECT account_id FROM limited)),
    booked AS (
      SELECT account_id, identity, day, sum(spent) AS spent, sum(held) AS held FROM (
        SELECT account_id, '' AS identity, day, spent, held FROM moved
        UNION ALL
        SELECT moved.account_id, {IDENTITY}, day, spent, held FROM moved JOIN keys ON keys.id = moved.key_id) AS whose
      JOIN limited USING (account_id, identity) GROUP BY 1, 2, 3)"""  # noqa: S608
"""SQL: what the books say that ``spend`` is, of whatever is in ``limited``."""
