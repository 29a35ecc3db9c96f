-- Video tasks, each the other half of a paid request, and the idempotency keys of paid requests.

-- What a video was asked as, in its first half, which never changes, and how far it has come. Its id is its request's.
CREATE TABLE video_tasks (
  id                       TEXT    PRIMARY KEY NOT NULL REFERENCES requests (id),
  account_id               INTEGER NOT NULL REFERENCES accounts (id),
  model                    TEXT    NOT NULL,
  upstream                 TEXT    NOT NULL,
  upstream_model           TEXT    NOT NULL,
  prompt                   TEXT    NOT NULL,
  task_type                TEXT    NOT NULL,
  resolution               TEXT    NOT NULL,
  duration_seconds         INTEGER NOT NULL CHECK (duration_seconds > 0),
  generate_audio           INTEGER NOT NULL CHECK (generate_audio IN (0, 1)),
  service_tier             TEXT    NOT NULL,
  seed                     INTEGER,
  safety_identifier        TEXT    NOT NULL,
  billing                  TEXT    NOT NULL CHECK (billing IN ('formula', 'usage')),
  hold_nanos               INTEGER NOT NULL CHECK (hold_nanos >= 0),
  quote_nanos              INTEGER NOT NULL CHECK (quote_nanos >= 0),
  quote_tokens             INTEGER NOT NULL CHECK (quote_tokens >= 0),
  rate_nanos_per_kilotoken INTEGER NOT NULL CHECK (rate_nanos_per_kilotoken >= 0),
  created_at_ms            INTEGER NOT NULL,

  state                    TEXT    NOT NULL CHECK (state IN ('submitting', 'pending', 'processing', 'succeeded', 'failed')),
  upstream_id              TEXT    NOT NULL,
  lost_at_ms               INTEGER,
  expires_at_ms            INTEGER,
  polls                    INTEGER NOT NULL CHECK (polls >= 0),
  missing                  INTEGER NOT NULL CHECK (missing >= 0),
  urlless                  INTEGER NOT NULL CHECK (urlless >= 0),
  odd_status               TEXT    NOT NULL,
  video_url                TEXT    NOT NULL,
  thumbnail_url            TEXT    NOT NULL,
  error_code               TEXT,
  error_message            TEXT,
  charge_nanos             INTEGER NOT NULL CHECK (charge_nanos BETWEEN 0 AND hold_nanos),
  ended_at_ms              INTEGER,
  due_at_ms                INTEGER,

  -- A task that has not ended is always due at some time, so that none is forgotten; one that has is never.
  CHECK ((due_at_ms IS NULL) = (state IN ('succeeded', 'failed'))),
  CHECK ((ended_at_ms IS NULL) = (due_at_ms IS NOT NULL)),
  CHECK ((error_code IS NULL) = (state <> 'failed')),
  CHECK ((error_code IS NULL) = (error_message IS NULL)),
  CHECK (charge_nanos = 0 OR state = 'succeeded'),
  CHECK (upstream_id <> '' OR state IN ('submitting', 'failed'))
) STRICT;

CREATE INDEX video_tasks_due ON video_tasks (due_at_ms) WHERE due_at_ms IS NOT NULL;
CREATE INDEX video_tasks_by_account ON video_tasks (account_id, created_at_ms, id);
CREATE INDEX video_tasks_by_upstream ON video_tasks (upstream, created_at_ms, upstream_id) WHERE upstream_id <> '';
-- Two lost submits of one prompt may both find the same task upstream: it is one's only.
CREATE UNIQUE INDEX video_tasks_one_upstream_id ON video_tasks (upstream, upstream_id) WHERE upstream_id <> '';

-- Which request an account's idempotency key belongs to, and its first answer, null until there is one.
CREATE TABLE idempotency (
  account_id    INTEGER NOT NULL REFERENCES accounts (id),
  key           TEXT    NOT NULL CHECK (key <> ''),
  body_sha256   BLOB    NOT NULL CHECK (length(body_sha256) = 32),
  request_id    TEXT    NOT NULL UNIQUE REFERENCES requests (id),
  status        INTEGER,
  answer        BLOB,
  created_at_ms INTEGER NOT NULL,
  PRIMARY KEY (account_id, key),
  CHECK ((status IS NULL) = (answer IS NULL))
) STRICT;

CREATE INDEX idempotency_by_age ON idempotency (created_at_ms);

-- So that a settlement knows, without another look, whether there is a key to keep or give back.
ALTER TABLE requests ADD COLUMN claimed INTEGER NOT NULL DEFAULT 0 CHECK (claimed IN (0, 1));
