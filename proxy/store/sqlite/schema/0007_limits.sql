-- Limits of keys and accounts, and what those with a money limit have spent.

-- A key that was rolled has several secrets, a row each: `identity` is the id of the first. Null: the row's own id. Limits and spend
-- belong to the identity, `ends_at_ms` to one secret: from then on it is refused, whatever the limits say.
ALTER TABLE keys ADD COLUMN identity TEXT REFERENCES keys (id);
ALTER TABLE keys ADD COLUMN ends_at_ms INTEGER;
ALTER TABLE keys ADD COLUMN last_used_at_ms INTEGER;
CREATE INDEX keys_by_identity ON keys (identity) WHERE identity IS NOT NULL;

-- A row for each account (`identity` is empty) and each key's identity that has a limit. Null and `[]`: no limit of that kind.
CREATE TABLE limits (
  account_id          INTEGER NOT NULL REFERENCES accounts (id),
  identity            TEXT    NOT NULL,
  expires_at_ms       INTEGER,
  paused_at_ms        INTEGER,
  models              TEXT    NOT NULL DEFAULT '[]' CHECK (json_type(models) = 'array'),
  networks            TEXT    NOT NULL DEFAULT '[]' CHECK (json_type(networks) = 'array'),
  requests_per_minute INTEGER CHECK (requests_per_minute > 0),
  tokens_per_minute   INTEGER CHECK (tokens_per_minute > 0),
  concurrent          INTEGER CHECK (concurrent > 0),
  day_nanos           INTEGER CHECK (day_nanos > 0),
  month_nanos         INTEGER CHECK (month_nanos > 0),
  total_nanos         INTEGER CHECK (total_nanos > 0),
  PRIMARY KEY (account_id, identity)
) STRICT, WITHOUT ROWID;

-- Of each account and identity with a money limit: what the requests created on one day have cost, and what is held for them. Days are
-- counted since 1970-01-01 in the time zone of `facts`; months and all time are sums of days.
CREATE TABLE spend (
  account_id  INTEGER NOT NULL REFERENCES accounts (id),
  identity    TEXT    NOT NULL,
  day         INTEGER NOT NULL,
  spent_nanos INTEGER NOT NULL CHECK (spent_nanos >= 0),
  held_nanos  INTEGER NOT NULL CHECK (held_nanos >= 0),
  PRIMARY KEY (account_id, identity, day)
) STRICT, WITHOUT ROWID;

-- So that a start compares what is held with the open requests, at the same cost however many days there are.
CREATE INDEX spend_held ON spend (account_id, identity, day) WHERE held_nanos > 0;

-- What is true of the whole file. `zone_minutes`: minutes east of UTC, of the days in `spend` and in `request_days`.
CREATE TABLE facts (
  name  TEXT PRIMARY KEY NOT NULL,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Days that were folded before there was a time zone are UTC's.
INSERT INTO facts (name, value) SELECT 'zone_minutes', 0 WHERE EXISTS (SELECT 1 FROM request_days);

DROP TRIGGER requests_only_folded;
CREATE TRIGGER requests_only_folded BEFORE DELETE ON requests
WHEN OLD.settled_at_ms IS NULL OR NOT EXISTS (
  SELECT 1 FROM request_days WHERE account_id = OLD.account_id
    AND day = (OLD.created_at_ms + 60000 * coalesce((SELECT value FROM facts WHERE name = 'zone_minutes'), 0)) / 86400000
    AND key_id = coalesce(OLD.key_id, '') AND model = OLD.model AND kind = OLD.kind)
BEGIN SELECT RAISE(ABORT, 'requests are folded into daily sums, or stay'); END;
