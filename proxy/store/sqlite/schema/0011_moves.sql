-- Moves of this ledger to another engine, or from one (`proxy/store/moves.py`). While one makes that nothing may start on this file, 1,000,000
-- is added to its version (`user_version`), so that programs that know nothing of moves refuse it, too.
CREATE TABLE moves (
  id            TEXT    PRIMARY KEY NOT NULL,
  state         TEXT    NOT NULL CHECK (state IN ('arriving', 'arrived', 'leaving', 'left')),
  source        TEXT    NOT NULL,
  target        TEXT    NOT NULL,
  changed_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX moves_one_mark ON moves (1) WHERE state <> 'arrived';
