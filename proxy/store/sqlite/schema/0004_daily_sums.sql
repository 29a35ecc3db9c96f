-- Daily sums: what is left of requests that are older than the operator keeps them. Their transfers stay for ever.

-- Of a customer's requests of one UTC day, one key, one model. `holds` and `charges` are how many of them have a transfer of that kind,
-- so that the sums can be checked against the ledger.
CREATE TABLE request_days (
  account_id        INTEGER NOT NULL REFERENCES accounts (id),
  day               INTEGER NOT NULL, -- since 1970-01-01
  key_id            TEXT    NOT NULL, -- empty where no keys were used
  model             TEXT    NOT NULL,
  kind              TEXT    NOT NULL CHECK (kind IN ('chat', 'image', 'video')),
  requests          INTEGER NOT NULL CHECK (requests > 0),
  estimated         INTEGER NOT NULL CHECK (estimated BETWEEN 0 AND requests),
  holds             INTEGER NOT NULL CHECK (holds BETWEEN 0 AND requests),
  hold_nanos        INTEGER NOT NULL CHECK (hold_nanos >= 0),
  charges           INTEGER NOT NULL CHECK (charges BETWEEN 0 AND holds),
  charge_nanos      INTEGER NOT NULL CHECK (charge_nanos BETWEEN 0 AND hold_nanos),
  shortfall_nanos   INTEGER NOT NULL CHECK (shortfall_nanos >= 0),
  prompt_tokens     INTEGER NOT NULL CHECK (prompt_tokens >= 0),
  cached_tokens     INTEGER NOT NULL CHECK (cached_tokens >= 0),
  completion_tokens INTEGER NOT NULL CHECK (completion_tokens >= 0),
  reasoning_tokens  INTEGER NOT NULL CHECK (reasoning_tokens >= 0),
  units             INTEGER NOT NULL CHECK (units >= 0),
  PRIMARY KEY (account_id, day, key_id, model, kind)
) STRICT, WITHOUT ROWID;

-- A transfer outlives its request, so it can refer to it no longer; `ledger verify` sees that each one's request is there or in a sum.
-- To rebuild the table would take a minute for ten million transfers. Nothing of a row changes with its foreign key, and for such changes
-- https://www.sqlite.org/lang_altertable.html (section 7) gives this way; the table made above has counted the schema's version up.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'TEXT    REFERENCES requests (id)', 'TEXT') WHERE type = 'table' AND name = 'transfers';
PRAGMA writable_schema = RESET;

-- What the foreign key did for requests: none goes but into a sum.
CREATE TRIGGER requests_only_folded BEFORE DELETE ON requests
WHEN OLD.settled_at_ms IS NULL OR NOT EXISTS (
  SELECT 1 FROM request_days WHERE account_id = OLD.account_id AND day = OLD.created_at_ms / 86400000
    AND key_id = coalesce(OLD.key_id, '') AND model = OLD.model AND kind = OLD.kind)
BEGIN SELECT RAISE(ABORT, 'requests are folded into daily sums, or stay'); END;
