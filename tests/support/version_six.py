"""A file of version 6, from before limits, discounts, refunds of requests and routes: of any length, with all that may be under way.

It is written by SQL with the migrations of that version, since no program of today writes one. All amounts are worked out by hand:
of 50 requests in a row 48 cost 30 nano-yuan, one was released and one held nothing.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from proxy.store.sqlite.file import migrations
from tests.support.store import NOW_MS

VERSION = 6
ACCOUNTS = 4
"""Accounts 3 to 6, ``acme_0`` to ``acme_3``, of which request n has the one with n % 4."""
CREDIT_NANOS = 10**9
DAYS = 40
DAY_MS = 86_400_000
FOLDED_DAYS = 10
"""The oldest days, by UTC, are folded."""
OPEN = 24
"""Of each account's 6: two without an owner, two of a dead one, two of a dead one with a claim."""
BEGIN_MS = NOW_MS // DAY_MS * DAY_MS - DAYS * DAY_MS

_ACCOUNTS = f"""
    INSERT INTO accounts (id, kind, name, created_at_ms)
      SELECT 3 + value, 'customer', 'acme_' || value, {BEGIN_MS} FROM json_each('[0, 1, 2, 3]');
    INSERT INTO keys (id, account_id, name, prefix, sha256, created_at_ms, revoked_at_ms)
      SELECT 'key_' || (accounts.id - 3) || '_' || value, accounts.id, '', 'sk_abcdefg',
        cast(printf('%032d', accounts.id * 10 + value) AS BLOB), {BEGIN_MS}, iif(value = 2, {BEGIN_MS} + 1, NULL)
      FROM accounts CROSS JOIN json_each('[0, 1, 2]') WHERE kind = 'customer';
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms)
      SELECT 'credit', 1, id, {CREDIT_NANOS + 5}, {BEGIN_MS} FROM accounts WHERE kind = 'customer';
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms)
      SELECT 'refund', id, 1, 5, {BEGIN_MS} FROM accounts WHERE kind = 'customer';
    INSERT INTO payments (source, reference, account_id, amount_nanos, transfer_id, created_at_ms)
      SELECT 'cli', 'paid-' || id, iif(kind = 'credit', credit_id, debit_id), iif(kind = 'credit', amount_nanos, -amount_nanos), id,
        created_at_ms FROM transfers;
"""
_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {requests})"
_SETTLED = f"""
    INSERT INTO requests (id, kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price, created_at_ms,
      settled_at_ms, outcome, usage_source, charge_nanos, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, units,
      shortfall_nanos, http_status, upstream_id, first_byte_ms, total_ms, note, claimed, owner)
    {_NUMBERS}
    SELECT printf('req_%08d', n), iif(n % 10 = 9, 'image', 'chat'), 3 + n % {ACCOUNTS},
      iif(n % 7, 'key_' || (n % {ACCOUNTS}) || '_' || (n % 2), NULL), iif(n % 3, 'doubao-pro-32k', 'lite'), 'ark', 'm', n % 2,
      iif(n % 50 = 1, 0, 100), '{{{{}}}}', {BEGIN_MS} + n * {DAYS * DAY_MS} / {{requests}},
      {BEGIN_MS} + n * {DAYS * DAY_MS} / {{requests}} + 900, iif(n % 50, 'complete', 'upstream_error'),
      CASE WHEN n % 50 = 0 THEN 'none' WHEN n % 20 = 2 THEN 'estimated' ELSE 'reported' END,
      iif(n % 50 > 1, 30, 0), 20, 4, 12, 2, iif(n % 10 = 9, 3, 0), iif(n % 50 = 3, 1, 0), iif(n % 50, 200, 503),
      'up_' || n, 300, 900, '', n % 100 = 5, iif(n % 2, 'own_dead', NULL) FROM numbers;
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
      SELECT 'hold', account_id, 2, hold_nanos, id, created_at_ms FROM requests WHERE hold_nanos > 0;
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
      SELECT iif(charge_nanos, 'charge', 'release'), account_id, 2, iif(charge_nanos, charge_nanos, hold_nanos), id, settled_at_ms
      FROM requests WHERE hold_nanos > 0;
    INSERT INTO idempotency (account_id, key, body_sha256, request_id, status, answer, created_at_ms)
      SELECT account_id, 'answered-' || id, zeroblob(32), id, 200, cast('{{{{"answer":1}}}}' AS BLOB), created_at_ms
      FROM requests WHERE claimed AND created_at_ms >= {NOW_MS} - 4 * {DAY_MS};
"""
_OPEN = f"""
    INSERT INTO requests (id, kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price, created_at_ms,
      claimed, owner)
    {_NUMBERS.format(requests=OPEN)}
    SELECT 'open_' || n, 'chat', 3 + n % {ACCOUNTS}, 'key_' || (n % {ACCOUNTS}) || '_' || (n % 2), 'doubao-pro-32k', 'ark', 'm', 0, 100,
      '{{}}', {NOW_MS} - n, n >= {2 * OPEN // 3}, iif(n < {OPEN // 3}, NULL, 'own_dead') FROM numbers;
    INSERT INTO idempotency (account_id, key, body_sha256, request_id, created_at_ms)
      SELECT account_id, 'open-' || id, zeroblob(32), id, created_at_ms FROM requests WHERE claimed AND settled_at_ms IS NULL;
"""
_VIDEOS = f"""
    INSERT INTO requests (id, kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price, created_at_ms,
      owner, settled_at_ms, outcome, usage_source, charge_nanos,
      prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, units,
      shortfall_nanos, note)
    SELECT 'video_' || column1, 'video', 3 + key % {ACCOUNTS}, NULL, 'films', 'ark', 'm', 0, 70, '{{}}', {NOW_MS} - 1000 - key,
      'own_dead',
      iif(column2, {NOW_MS} - 1, NULL), iif(column2, column3, NULL), iif(column2, 'reported', NULL), iif(column2, column4, NULL),
      iif(column2, 0, NULL), iif(column2, 0, NULL), iif(column2, 0, NULL), iif(column2, 0, NULL), iif(column2, 1000, NULL),
      iif(column2, 0, NULL), '' FROM (SELECT *, row_number() OVER () AS key FROM (VALUES
        ('made', 1, 'complete', 70), ('failed', 1, 'upstream_error', 0), ('pending', 0, '', 0), ('processing', 0, '', 0),
        ('submitting', 0, '', 0)));
    INSERT INTO video_tasks (id, account_id, model, upstream, upstream_model, prompt, task_type, resolution, duration_seconds,
      generate_audio, service_tier, seed, safety_identifier, billing, hold_nanos, quote_nanos, quote_tokens, rate_nanos_per_kilotoken,
      created_at_ms, state, upstream_id, polls, missing, urlless, odd_status, video_url, thumbnail_url, error_code, error_message,
      charge_nanos, ended_at_ms, due_at_ms)
    SELECT id, account_id, model, upstream, upstream_model, 'a cat', 'text_to_video', '720p', 5, 0, 'default', NULL, 'c0ffee',
      'formula', hold_nanos, hold_nanos, 1000, 70, created_at_ms,
      CASE substr(id, 7) WHEN 'made' THEN 'succeeded' ELSE substr(id, 7) END, iif(id = 'video_submitting', '', 'cgt-' || id), 1, 0, 0,
      '', iif(id = 'video_made', 'https://example.com/v.mp4', ''), '', iif(id = 'video_failed', 'FAILED', NULL),
      iif(id = 'video_failed', 'It failed.', NULL), coalesce(charge_nanos, 0), settled_at_ms,
      iif(settled_at_ms IS NULL, {NOW_MS} + 3000, NULL) FROM requests WHERE kind = 'video';
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
      SELECT 'hold', account_id, 2, hold_nanos, id, created_at_ms FROM requests WHERE kind = 'video' OR settled_at_ms IS NULL;
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
      SELECT iif(charge_nanos, 'charge', 'release'), account_id, 2, hold_nanos, id, settled_at_ms
      FROM requests WHERE kind = 'video' AND settled_at_ms IS NOT NULL;
"""
_BALANCES = """
    UPDATE accounts SET
      balance_nanos = (SELECT sum(iif(credit_id = accounts.id, amount_nanos, -amount_nanos)) FROM transfers
        WHERE kind IN ('credit', 'refund', 'charge') AND accounts.id IN (debit_id, credit_id)),
      held_nanos = (SELECT sum(hold_nanos) FROM requests WHERE account_id = accounts.id AND settled_at_ms IS NULL)
    WHERE kind = 'customer';
"""
_FOLDED = f"""
    INSERT INTO request_days
      SELECT account_id, created_at_ms / {DAY_MS}, coalesce(key_id, ''), model, kind, count(*), sum(usage_source = 'estimated'),
        sum(hold_nanos > 0), sum(hold_nanos), sum(charge_nanos > 0), sum(charge_nanos), sum(shortfall_nanos), sum(prompt_tokens),
        sum(cached_tokens), sum(completion_tokens), sum(reasoning_tokens), sum(units)
      FROM requests WHERE created_at_ms < {BEGIN_MS + FOLDED_DAYS * DAY_MS} GROUP BY 1, 2, 3, 4, 5;
    DELETE FROM requests WHERE created_at_ms < {BEGIN_MS + FOLDED_DAYS * DAY_MS};
"""


def write(path: Path, requests: int) -> None:
    """Write the file with so many settled requests, a quarter of which is folded, beside what is open."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        for number, script in enumerate(migrations.scripts()[:VERSION], start=1):
            connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")
        parts = (_ACCOUNTS, _SETTLED.format(requests=requests), _OPEN, _VIDEOS, _BALANCES, _FOLDED)
        connection.executescript("BEGIN;" + "".join(parts) + "COMMIT;")
