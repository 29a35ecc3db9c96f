-- Moves of this ledger to another engine, or from one (`proxy/store/moves.py`). While one makes that nothing may start on this database,
-- 1,000,000 is added to both versions in `llm_proxy_schema`, so that programs that know nothing of moves refuse it, too.
CREATE TABLE moves (
  id            text   COLLATE "C" PRIMARY KEY,
  state         text   NOT NULL CHECK (state IN ('arriving', 'arrived', 'leaving', 'left')),
  source        text   NOT NULL,
  target        text   NOT NULL,
  changed_at_ms bigint NOT NULL
);
CREATE UNIQUE INDEX moves_one_mark ON moves ((1)) WHERE state <> 'arrived';
