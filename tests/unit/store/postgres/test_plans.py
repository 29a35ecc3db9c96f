"""Query plans: queries at each start, scrape and round of due work cost the same at any length of the ledger."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest

from proxy.core.days import CHINA
from proxy.store.daily_sums import REFUND
from proxy.store.postgres import counting, folding, idempotency, reads, tasks
from proxy.store.postgres.connection import Connection, Connector
from proxy.store.postgres.verify import verify_open
from proxy.store.values import UsageQuery
from tests.support.postgres import database
from tests.support.store import NOW_MS

REQUESTS = 20_000
OPEN = 40
DAYS = 200
_AT = f"{NOW_MS - DAYS * 86_400_000} + n::bigint * {DAYS * 86_400_000 // REQUESTS}"
_TASK = """prompt, task_type, resolution, duration_seconds, generate_audio, service_tier, safety_identifier, billing, hold_nanos,
    quote_nanos, quote_tokens, rate_nanos_per_kilotoken, polls, missing, urlless, odd_status, video_url, thumbnail_url, charge_nanos"""
_ITS = "'', 't', '720p', 5, false, 'default', '', 'formula', 9, 9, 9, 9, 0, 0, 0, '', '', '', 0"
BOOKS = f"""
    INSERT INTO nodes (name, dead_at) SELECT 'node ' || n, CASE WHEN n < 300 THEN now() END FROM generate_series(1, 302) AS n;
    INSERT INTO accounts (id, kind, name, created_at_ms) SELECT n + 2, 'customer', 'account ' || n, 0 FROM generate_series(1, 200) AS n;
    INSERT INTO requests (id, kind, account_id, model, upstream, upstream_model, stream, claimed, hold_nanos, price, created_at_ms,
        node_id, settled_at_ms, outcome, usage_source, charge_nanos)
      SELECT 'req_' || n, CASE n % 4 WHEN 0 THEN 'video' ELSE 'chat' END, 3 + n % 200, 'm', 'ark', 'm', false, n % 5 = 0, 9, '{{}}',
        {_AT}, 302, {_AT}, 'complete', 'none', 0 FROM generate_series(1, {REQUESTS}) AS n;
    INSERT INTO requests (id, kind, account_id, model, upstream, upstream_model, stream, claimed, hold_nanos, price, created_at_ms,
        node_id)
      SELECT 'open_' || n, CASE n % 2 WHEN 0 THEN 'video' ELSE 'chat' END, 3 + n, 'm', 'ark', 'm', false, false, 9, '{{}}',
        {NOW_MS} - n, 298 + n % 5 FROM generate_series(1, {OPEN}) AS n;
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
      SELECT 'hold', account_id, 2, 9, id, created_at_ms FROM requests;
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
      SELECT 'release', account_id, 2, 9, id, created_at_ms FROM requests WHERE settled_at_ms IS NOT NULL;
    INSERT INTO video_tasks (id, account_id, model, upstream, upstream_model, {_TASK}, created_at_ms, state, upstream_id, ended_at_ms,
        due_at_ms)
      SELECT id, account_id, 'm', 'ark', 'm', {_ITS}, created_at_ms,
        CASE WHEN settled_at_ms IS NULL THEN 'pending' ELSE 'succeeded' END, 'cgt-' || id, settled_at_ms,
        CASE WHEN settled_at_ms IS NULL THEN {NOW_MS} END FROM requests WHERE kind = 'video';
    INSERT INTO idempotency (account_id, key, body_sha256, request_id, status, answer, created_at_ms)
      SELECT account_id, id, decode(repeat('00', 32), 'hex'), id, 200, '', created_at_ms FROM requests WHERE claimed;
    INSERT INTO limits (account_id, identity, day_nanos) SELECT id, '', 1000 FROM accounts WHERE id > 2;
    INSERT INTO spend (account_id, identity, day, spent_nanos, held_nanos)
      SELECT id, '', {NOW_MS // 86_400_000} - n, 1, 0 FROM accounts, generate_series(0, {DAYS}) AS n WHERE id > 2;
    INSERT INTO request_days SELECT id, day, '', 'm', 'chat', 1, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0
      FROM accounts, generate_series(10000, 10200) AS day WHERE id > 2;
    INSERT INTO refund_days SELECT account_id, day, 1 FROM request_days;
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
      SELECT 'reversal', 2, account_id, 1, id, created_at_ms FROM requests WHERE settled_at_ms IS NOT NULL;
    ANALYZE;
"""
GROWING = {"requests", "transfers", "video_tasks", "idempotency", "spend", "request_days", "refund_days"}

Asked = Callable[[Connection], Awaitable[object]]
ASKED: dict[str, Asked] = {
    "a start's checks": verify_open,
    "census": reads.census,
    "open requests": reads.open_requests,
    "orphaned requests": reads.orphaned_requests,
    "a slice of orphaned requests": lambda connection: reads.orphaned_requests(connection, 512, False),
    "a receipt": lambda connection: reads.receipt(connection, "req_7"),
    "usage of a day": lambda connection: reads.usage(
        connection, UsageQuery(account="account 3", since_ms=NOW_MS - 86_400_000, until_ms=NOW_MS), CHINA
    ),
    "open tasks": tasks.open_tasks,
    "orphaned tasks": tasks.orphaned_tasks,
    "due tasks": lambda connection: tasks.due_tasks(connection, 1, NOW_MS, 10, None, -1),
    "due tasks of an upstream": lambda connection: tasks.due_tasks(connection, 1, NOW_MS, 10, "ark", -1),
    "claiming due tasks": lambda connection: tasks.claim_due_tasks(connection, 1, NOW_MS, 10, "ark", -1),
    "next due": lambda connection: tasks.next_due_at_ms(connection, -1, None),
    "next due of an upstream": lambda connection: tasks.next_due_at_ms(connection, -1, "ark"),
    "unanswered tasks": lambda connection: tasks.unanswered_tasks(connection, "ark", NOW_MS - 3_600_000),
    "known ids": lambda connection: tasks.known_upstream_ids(connection, "ark", NOW_MS - 3_600_000),
    "an account's tasks": lambda connection: tasks.tasks(connection, 3, 10, 0),
    "an idempotency key": lambda connection: idempotency.claimed_key(connection, 3, "req_5", NOW_MS),
    "forgetting claims": lambda connection: idempotency.forget(connection, NOW_MS - (DAYS - 2) * 86_400_000),
    "accounts to fold": lambda connection: folding.accounts_to_fold(connection, CHINA.begins_ms(0)),
    "accounts to fold, of which all are": lambda connection: folding.accounts_to_fold(connection, NOW_MS),
    "folding": lambda connection: folding.fold(connection, 3, CHINA.begins_ms(CHINA.day(NOW_MS) - 10), CHINA),
    "a day's sums": lambda connection: folding.has_daily_sums(connection, NOW_MS, CHINA),
    "giving back of a folded request": lambda connection: connection.execute(REFUND.format(request="$1", amount_nanos=5), "gone"),
    "what has moved since": lambda connection: counting._moved(connection, 3, "", 2 * REQUESTS, 2**62),
    "what has moved since of a key": lambda connection: counting._moved(connection, 3, "key_1", 2 * REQUESTS, 2**62),
    "a folded request": lambda connection: folding.folded(connection, "req_7", CHINA),
}


class Planned:
    """A connection that asks for the plan of each statement before it runs it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.steps: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        its = getattr(self._connection, name)
        if name not in ("fetch", "fetchrow", "fetchval", "execute"):
            return its

        async def planned(query: str, *args: object) -> Any:
            if not query.startswith(("SAVEPOINT", "RELEASE")):
                (plan,) = orjson.loads(await self._connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *args))
                self._take(plan["Plan"])
            return await its(query, *args)

        return planned

    def _take(self, step: dict[str, Any]) -> None:
        self.steps.append(step)
        for inner in step.get("Plans", ()):
            self._take(inner)


@pytest.fixture
async def books() -> AsyncIterator[Connection]:
    """Yield a connection to books with many settled requests, tasks and keys, and few open ones."""
    async with database(is_fresh=True) as url:
        connection = await Connector(url).connect()
        await connection.execute("SET session_replication_role = replica")  # rows by themselves do not balance
        await connection.execute(BOOKS)
        await connection.execute("SET session_replication_role = DEFAULT")
        yield connection
        await connection.close()


async def test_nothing_that_grows_is_walked_through(books: Connection) -> None:
    walked: dict[str, set[str]] = {}
    for what, ask in ASKED.items():
        planned = Planned(books)
        await ask(planned)
        assert planned.steps, what
        walked[what] = {_walk(step) for step in planned.steps} - {""}

    assert {what: steps for what, steps in walked.items() if steps} == {}


def _walk(step: dict[str, Any]) -> str:
    """Return which table a step reads as a whole, or through an index of more than is asked for."""
    table = step.get("Relation Name", "")
    if table not in GROWING:
        return ""
    if step["Node Type"] == "Seq Scan":
        return f"reads all of {table}"
    index = step.get("Index Name", "")
    return f"walks all of {index}" if index not in ("", "requests_open", "video_tasks_due") and "Index Cond" not in step else ""
