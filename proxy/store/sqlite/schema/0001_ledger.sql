-- Accounts, keys, requests and the double-entry ledger. Amounts are nano-yuan, times unix milliseconds.
-- Migrations are numbered, run once in order, each in one transaction, and never edited after a release.

PRAGMA application_id = 1280135248; -- "LMPP": tells this file from any other SQLite database

-- Customers carry their balance beside their transfers, so that a hold is one conditional UPDATE. The two system accounts do not:
-- theirs is the sum of their transfers, and a settlement need not write a row that all settlements share.
CREATE TABLE accounts (
  id            INTEGER PRIMARY KEY,
  kind          TEXT    NOT NULL CHECK (kind IN ('customer', 'system')),
  name          TEXT    NOT NULL CHECK (name <> ''),
  balance_nanos INTEGER NOT NULL DEFAULT 0,
  held_nanos    INTEGER NOT NULL DEFAULT 0,
  created_at_ms INTEGER NOT NULL,
  UNIQUE (kind, name),
  CHECK (held_nanos >= 0 AND balance_nanos >= held_nanos),
  CHECK (kind = 'customer' OR balance_nanos = 0)
) STRICT;

-- Money comes from cash (1) and goes to revenue (2).
INSERT INTO accounts (id, kind, name, created_at_ms) VALUES (1, 'system', 'cash', 0), (2, 'system', 'revenue', 0);

CREATE TABLE keys (
  id            TEXT    PRIMARY KEY NOT NULL,
  account_id    INTEGER NOT NULL REFERENCES accounts (id),
  name          TEXT    NOT NULL,
  prefix        TEXT    NOT NULL,
  sha256        BLOB    NOT NULL UNIQUE CHECK (length(sha256) = 32),
  created_at_ms INTEGER NOT NULL,
  revoked_at_ms INTEGER
) STRICT;

-- A paid request: the owner of its hold, and in its second half, null until then, how it was settled.
CREATE TABLE requests (
  id                TEXT    PRIMARY KEY NOT NULL,
  kind              TEXT    NOT NULL CHECK (kind IN ('chat', 'image', 'video')),
  account_id        INTEGER NOT NULL REFERENCES accounts (id),
  key_id            TEXT    REFERENCES keys (id),
  model             TEXT    NOT NULL,
  upstream          TEXT    NOT NULL,
  upstream_model    TEXT    NOT NULL,
  stream            INTEGER NOT NULL CHECK (stream IN (0, 1)),
  hold_nanos        INTEGER NOT NULL CHECK (hold_nanos >= 0),
  price             TEXT    NOT NULL,
  created_at_ms     INTEGER NOT NULL,

  settled_at_ms     INTEGER,
  outcome           TEXT    CHECK (outcome IN ('complete', 'client_gone', 'upstream_cut', 'upstream_error', 'refused', 'interrupted')),
  usage_source      TEXT    CHECK (usage_source IN ('reported', 'estimated', 'none')),
  charge_nanos      INTEGER CHECK (charge_nanos BETWEEN 0 AND hold_nanos),
  prompt_tokens     INTEGER CHECK (prompt_tokens >= 0),
  cached_tokens     INTEGER CHECK (cached_tokens >= 0),
  completion_tokens INTEGER CHECK (completion_tokens >= 0),
  reasoning_tokens  INTEGER CHECK (reasoning_tokens >= 0),
  units             INTEGER CHECK (units >= 0),
  shortfall_nanos   INTEGER CHECK (shortfall_nanos >= 0),
  http_status       INTEGER,
  upstream_id       TEXT,
  first_byte_ms     INTEGER,
  total_ms          INTEGER,
  note              TEXT,
  CHECK ((settled_at_ms IS NULL) = (outcome IS NULL)),
  CHECK ((settled_at_ms IS NULL) = (charge_nanos IS NULL)),
  CHECK ((settled_at_ms IS NULL) = (usage_source IS NULL))
) STRICT;

CREATE INDEX requests_by_account ON requests (account_id, created_at_ms);
CREATE INDEX requests_open ON requests (created_at_ms) WHERE settled_at_ms IS NULL;

-- Every movement of money: out of `debit_id`, into `credit_id`. A hold is pending: it moves nothing until its charge posts a part
-- or all of it, or its release voids it. Only credit, refund and charge change a balance.
CREATE TABLE transfers (
  id            INTEGER PRIMARY KEY,
  kind          TEXT    NOT NULL CHECK (kind IN ('credit', 'refund', 'hold', 'charge', 'release')),
  debit_id      INTEGER NOT NULL REFERENCES accounts (id),
  credit_id     INTEGER NOT NULL REFERENCES accounts (id),
  amount_nanos  INTEGER NOT NULL CHECK (amount_nanos > 0),
  request_id    TEXT    REFERENCES requests (id),
  note          TEXT    NOT NULL DEFAULT '',
  created_at_ms INTEGER NOT NULL,
  CHECK ((request_id IS NULL) = (kind IN ('credit', 'refund'))),
  CHECK (CASE kind WHEN 'credit' THEN debit_id = 1 AND credit_id > 2
                   WHEN 'refund' THEN credit_id = 1 AND debit_id > 2
                   ELSE credit_id = 2 AND debit_id > 2 END)
) STRICT;

CREATE UNIQUE INDEX transfers_one_hold ON transfers (request_id) WHERE kind = 'hold';
CREATE UNIQUE INDEX transfers_one_end ON transfers (request_id) WHERE kind IN ('charge', 'release');

CREATE TRIGGER transfers_no_update BEFORE UPDATE ON transfers BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END;
CREATE TRIGGER transfers_no_delete BEFORE DELETE ON transfers BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END;
