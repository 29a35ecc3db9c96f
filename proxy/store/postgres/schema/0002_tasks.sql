-- Video tasks, idempotency keys, and the daily sums of requests that are folded.

-- What a video was asked as, in its first half, which never changes, and how far it has come. Its id is its request's.
CREATE TABLE video_tasks (
  id                       text    COLLATE "C" PRIMARY KEY REFERENCES requests,
  account_id               bigint  NOT NULL,
  model                    text    NOT NULL,
  upstream                 text    COLLATE "C" NOT NULL,
  upstream_model           text    NOT NULL,
  key_name                 text    CHECK (key_name <> ''),
  prompt                   bytea   NOT NULL,    -- UTF-8: a text here has no zero character, and a lost submit is found by its prompt
  task_type                text    NOT NULL,
  resolution               text    NOT NULL,
  duration_seconds         bigint  NOT NULL CHECK (duration_seconds > 0),
  generate_audio           boolean NOT NULL,
  service_tier             text    NOT NULL,
  seed                     bigint,
  safety_identifier        text    NOT NULL,
  billing                  text    NOT NULL CHECK (billing IN ('formula', 'usage')),
  hold_nanos               bigint  NOT NULL CHECK (hold_nanos >= 0),
  quote_nanos              bigint  NOT NULL CHECK (quote_nanos >= 0),
  quote_tokens             bigint  NOT NULL CHECK (quote_tokens >= 0),
  rate_nanos_per_kilotoken bigint  NOT NULL CHECK (rate_nanos_per_kilotoken >= 0),
  discount                 integer NOT NULL DEFAULT 10000 CHECK (discount BETWEEN 1 AND 10000),
  created_at_ms            bigint  NOT NULL,

  state                    text    NOT NULL CHECK (state IN ('submitting', 'pending', 'processing', 'succeeded', 'failed')),
  upstream_id              text    COLLATE "C" NOT NULL,
  lost_at_ms               bigint,
  expires_at_ms            bigint,
  polls                    bigint  NOT NULL CHECK (polls >= 0),
  missing                  bigint  NOT NULL CHECK (missing >= 0),
  urlless                  bigint  NOT NULL CHECK (urlless >= 0),
  odd_status               text    NOT NULL,
  video_url                text    NOT NULL,
  thumbnail_url            text    NOT NULL,
  error_code               text,
  error_message            text,
  charge_nanos             bigint  NOT NULL CHECK (charge_nanos BETWEEN 0 AND hold_nanos),
  ended_at_ms              bigint,
  due_at_ms                bigint,

  -- Steps are compare-and-swap: one that was decided on another version than the stored one is decided again. A claim keeps two nodes
  -- from polling a task in the same turn, and from polling one that is being cancelled.
  version                  bigint  NOT NULL DEFAULT 0,
  claimed_by               bigint,
  claimed_until            timestamptz,         -- by the clock of the database: those of two nodes may differ

  -- A task that has not ended is always due at some time, so that none is forgotten; one that has is never.
  CHECK ((due_at_ms IS NULL) = (state IN ('succeeded', 'failed'))),
  CHECK ((ended_at_ms IS NULL) = (due_at_ms IS NOT NULL)),
  CHECK ((error_code IS NULL) = (state <> 'failed')),
  CHECK ((error_code IS NULL) = (error_message IS NULL)),
  CHECK (charge_nanos = 0 OR state = 'succeeded'),
  CHECK (upstream_id <> '' OR state IN ('submitting', 'failed')),
  CHECK ((claimed_by IS NULL) = (claimed_until IS NULL))
) WITH (fillfactor = 60);
CREATE INDEX video_tasks_due ON video_tasks (due_at_ms) WHERE due_at_ms IS NOT NULL;
CREATE INDEX video_tasks_by_account ON video_tasks (account_id, created_at_ms, id);
CREATE INDEX video_tasks_by_upstream ON video_tasks (upstream, created_at_ms, upstream_id) WHERE upstream_id <> '';
CREATE INDEX video_tasks_unanswered ON video_tasks (upstream, created_at_ms) WHERE upstream_id = '';
-- Two lost submits of one prompt may both find the same task upstream: it is one's only.
CREATE UNIQUE INDEX video_tasks_one_upstream_id ON video_tasks (upstream, upstream_id) WHERE upstream_id <> '';

-- Which request an account's idempotency key belongs to, and its first answer, null until there is one.
CREATE TABLE idempotency (
  account_id    bigint NOT NULL,
  key           text   COLLATE "C" NOT NULL CHECK (key <> ''),
  body_sha256   bytea  NOT NULL CHECK (length(body_sha256) = 32),
  request_id    text   COLLATE "C" NOT NULL UNIQUE REFERENCES requests,
  status        integer,
  answer        bytea,
  created_at_ms bigint NOT NULL,
  PRIMARY KEY (account_id, key),
  CHECK ((status IS NULL) = (answer IS NULL))
);
CREATE INDEX idempotency_by_age ON idempotency (created_at_ms);

-- Of a customer's requests of one day, one key, one model: what is left of those that are older than the operator keeps them. `holds` and
-- `charges` are how many of them have a transfer of that kind, so that the sums can be checked against the ledger.
CREATE TABLE request_days (
  account_id        bigint NOT NULL REFERENCES accounts,
  day               bigint NOT NULL,
  key_id            text   COLLATE "C" NOT NULL,  -- empty where no keys were used
  model             text   COLLATE "C" NOT NULL,
  kind              text   NOT NULL CHECK (kind IN ('chat', 'image', 'video')),
  requests          bigint NOT NULL CHECK (requests > 0),
  estimated         bigint NOT NULL CHECK (estimated BETWEEN 0 AND requests),
  holds             bigint NOT NULL CHECK (holds BETWEEN 0 AND requests),
  hold_nanos        bigint NOT NULL CHECK (hold_nanos >= 0),
  charges           bigint NOT NULL CHECK (charges BETWEEN 0 AND holds),
  charge_nanos      bigint NOT NULL CHECK (charge_nanos BETWEEN 0 AND hold_nanos),
  shortfall_nanos   bigint NOT NULL CHECK (shortfall_nanos >= 0),
  prompt_tokens     bigint NOT NULL CHECK (prompt_tokens >= 0),
  cached_tokens     bigint NOT NULL CHECK (cached_tokens >= 0),
  completion_tokens bigint NOT NULL CHECK (completion_tokens >= 0),
  reasoning_tokens  bigint NOT NULL CHECK (reasoning_tokens >= 0),
  units             bigint NOT NULL CHECK (units >= 0),
  refunded_nanos    bigint NOT NULL DEFAULT 0 CHECK (refunded_nanos BETWEEN 0 AND charge_nanos),  -- before they were folded
  PRIMARY KEY (account_id, day, key_id, model, kind)
);

-- What was given back of folded requests since: account and day are known from their holds, key and model no more.
CREATE TABLE refund_days (
  account_id     bigint NOT NULL REFERENCES accounts,
  day            bigint NOT NULL,
  refunded_nanos bigint NOT NULL CHECK (refunded_nanos > 0),
  PRIMARY KEY (account_id, day)
);

-- None goes but into a sum.
CREATE FUNCTION refuse_unfolded() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.settled_at_ms IS NULL OR NOT EXISTS (
    SELECT 1 FROM request_days WHERE account_id = OLD.account_id
      AND day = (OLD.created_at_ms + 60000 * coalesce((SELECT value FROM facts WHERE name = 'zone_minutes'), 0)) / 86400000
      AND key_id = coalesce(OLD.key_id, '') AND model = OLD.model AND kind = OLD.kind)
  THEN
    RAISE EXCEPTION 'requests are folded into daily sums, or stay';
  END IF;
  RETURN OLD;
END $$;
CREATE TRIGGER only_folded BEFORE DELETE ON requests FOR EACH ROW EXECUTE FUNCTION refuse_unfolded();
CREATE TRIGGER only_folded_whole BEFORE TRUNCATE ON requests FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
