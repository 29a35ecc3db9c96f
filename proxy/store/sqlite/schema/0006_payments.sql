-- Each payment by the name that it has where it came from, so that one which is told twice is booked once, for ever.

-- Written in the transaction of its transfer. An account that was opened with nothing has an amount of 0 and no transfer: whoever repeats
-- its opening is told apart from whoever opens another of its name. A negative amount was paid back.
CREATE TABLE payments (
  source        TEXT    NOT NULL CHECK (source <> ''),
  reference     TEXT    NOT NULL CHECK (reference <> ''),
  account_id    INTEGER NOT NULL REFERENCES accounts (id),
  amount_nanos  INTEGER NOT NULL,
  transfer_id   INTEGER UNIQUE REFERENCES transfers (id),
  created_at_ms INTEGER NOT NULL,
  PRIMARY KEY (source, reference),
  CHECK ((transfer_id IS NULL) = (amount_nanos = 0))
) STRICT, WITHOUT ROWID;

CREATE TRIGGER payments_no_update BEFORE UPDATE ON payments BEGIN SELECT RAISE(ABORT, 'payments are append-only'); END;
CREATE TRIGGER payments_no_delete BEFORE DELETE ON payments BEGIN SELECT RAISE(ABORT, 'payments are append-only'); END;

-- What was booked before references were recorded is known by its transfer's number, so that every credit and refund has exactly one.
INSERT INTO payments (source, reference, account_id, amount_nanos, transfer_id, created_at_ms)
SELECT 'transfer', id, iif(kind = 'credit', credit_id, debit_id), iif(kind = 'credit', amount_nanos, -amount_nanos), id, created_at_ms
FROM transfers WHERE kind IN ('credit', 'refund');
