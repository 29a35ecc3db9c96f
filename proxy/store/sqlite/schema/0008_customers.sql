-- What an account pays of each price, in ten-thousandths; when it was closed; and charges that are given back.

ALTER TABLE accounts ADD COLUMN discount INTEGER NOT NULL DEFAULT 10000 CHECK (discount BETWEEN 1 AND 10000);
ALTER TABLE accounts ADD COLUMN closed_at_ms INTEGER;
-- The last transfer of the whole ledger when the account was closed: none of its own has a higher id. A clock may be set back, ids go up.
ALTER TABLE accounts ADD COLUMN closed_after INTEGER CHECK ((closed_after IS NULL) = (closed_at_ms IS NULL));

-- That of the account when its task was placed: what is charged by reported tokens is worked out at the end.
ALTER TABLE video_tasks ADD COLUMN discount INTEGER NOT NULL DEFAULT 10000 CHECK (discount BETWEEN 1 AND 10000);

-- A `reversal` gives back a part of one request's charge, or all of it: from revenue to the customer. As in 0004, the table's text alone
-- is edited; no row that fitted its checks before fits them less.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(replace(sql,
    '''charge'', ''release''))', '''charge'', ''release'', ''reversal''))'),
    'WHEN ''refund'' THEN credit_id = 1 AND debit_id > 2', 'WHEN ''refund'' THEN credit_id = 1 AND debit_id > 2
                   WHEN ''reversal'' THEN debit_id = 2 AND credit_id > 2')
  WHERE type = 'table' AND name = 'transfers';
PRAGMA writable_schema = RESET;

CREATE INDEX transfers_reversals ON transfers (request_id) WHERE kind = 'reversal';
