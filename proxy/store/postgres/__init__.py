"""The store in a PostgreSQL database, which many gateways share. It needs the extra ``llm-proxy[postgres]``.

How an operation is written:

- A read is ``async def name(connection, ...)``. `PostgresStore._read` runs it on a shared connection, each statement on a snapshot of
its
  own: what belongs together is asked in one statement, or by `PostgresStore._read_long`, which has a connection and one snapshot
  (``REPEATABLE READ``) for as long as it takes. A read may run twice, where the connection broke under it.
- A write is ``async def name(connection, ...)`` handed to `Writer.submit` (`PostgresStore._write`): a transaction of its own, in the
order
  of the calls, which has passed this node's fence and is committed once, whatever breaks. It neither begins nor ends a transaction, has
  no effect but on the database, and may run more than once: after a deadlock, a lost connection, or a `ChangedMeanwhileError`, which it
  raises where another node was faster. Each statement of it sees what was committed before that statement began (``READ COMMITTED``),
  so it locks what it decides on. Locks in this order, as in ``book``: the fence, tasks, requests, accounts by their ids
  (`ledger.locked_by_name`), then keys, limits, ``spend``, claims and payments.
- Money of requests moves in the function ``book`` alone (``schema/0004_book.sql``): `Writer.hold` and `Writer.settle` in batches,
  `ledger.hold` and `ledger.settle` within a write that changes more, as a video task does.
- Text from outside passes `batch.shown`: PostgreSQL has no zero character. ``sum`` and ``extract`` are Decimals unless they are cast.
- A refusal is a class of `proxy.store.errors`; words that both engines say are in `proxy.store.refusals`.
"""

from proxy.store.postgres.inspection import inspect
from proxy.store.postgres.opening import open_store
from proxy.store.postgres.store import PostgresStore

__all__ = ["PostgresStore", "inspect", "open_store"]
