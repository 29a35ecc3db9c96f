-- What of each day's charges was given back, so that sums of folded requests tell it too.

-- Given back before the requests were folded.
ALTER TABLE request_days ADD COLUMN refunded_nanos INTEGER NOT NULL DEFAULT 0 CHECK (refunded_nanos BETWEEN 0 AND charge_nanos);

-- Given back afterwards: of a folded request account and day are known from its hold, key and model no more.
CREATE TABLE refund_days (
  account_id     INTEGER NOT NULL REFERENCES accounts (id),
  day            INTEGER NOT NULL, -- of the request's creation, in the time zone of `facts`
  refunded_nanos INTEGER NOT NULL CHECK (refunded_nanos > 0),
  PRIMARY KEY (account_id, day)
) STRICT, WITHOUT ROWID;

-- Before this version nothing was kept of either.
INSERT INTO refund_days (account_id, day, refunded_nanos)
SELECT hold.debit_id, (hold.created_at_ms + 60000 * coalesce((SELECT value FROM facts WHERE name = 'zone_minutes'), 0)) / 86400000,
  sum(reversal.amount_nanos)
FROM transfers AS reversal JOIN transfers AS hold ON hold.request_id = reversal.request_id AND hold.kind = 'hold'
WHERE reversal.kind = 'reversal' AND NOT EXISTS (SELECT 1 FROM requests WHERE id = reversal.request_id) GROUP BY 1, 2;
