-- The money path: one batch of one node in one call, one transaction, one commit.

-- The first day of a day's month, in days since 1970-01-01.
CREATE FUNCTION month_first(p_day bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT (date_trunc('month', (DATE '1970-01-01' + p_day::integer)::timestamp)::date - DATE '1970-01-01')::bigint
$$;
CREATE FUNCTION month_end(p_day bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT ((date_trunc('month', (DATE '1970-01-01' + p_day::integer)::timestamp) + interval '1 month')::date - DATE '1970-01-01')::bigint
$$;

-- What is left of each money limit of an account and of a key's identity, for requests created on a day: negative where a limit was lowered.
-- The account must be locked.
CREATE FUNCTION money_left(p_account bigint, p_identity text, p_day bigint)
RETURNS TABLE (whose text, period text, most bigint, remaining bigint) LANGUAGE plpgsql STABLE AS $$
DECLARE
  l record; day_sum bigint; month_sum bigint; total_sum bigint; first bigint := month_first(p_day); beyond bigint := month_end(p_day);
BEGIN
  FOR l IN SELECT identity, day_nanos, month_nanos, total_nanos FROM limits
    WHERE account_id = p_account AND identity IN ('', p_identity) AND coalesce(day_nanos, month_nanos, total_nanos) IS NOT NULL
  LOOP
    SELECT coalesce(sum(spent_nanos + held_nanos) FILTER (WHERE day = p_day), 0)::bigint,
        coalesce(sum(spent_nanos + held_nanos) FILTER (WHERE day >= first AND day < beyond), 0)::bigint,
        coalesce(sum(spent_nanos + held_nanos), 0)::bigint
      INTO day_sum, month_sum, total_sum FROM spend
      WHERE account_id = p_account AND identity = l.identity
        AND day >= CASE WHEN l.total_nanos IS NOT NULL THEN -1000000 WHEN l.month_nanos IS NOT NULL THEN first ELSE p_day END;
    whose := CASE l.identity WHEN '' THEN 'account' ELSE 'key' END;
    IF l.day_nanos IS NOT NULL THEN
      period := 'day'; most := l.day_nanos; remaining := l.day_nanos - day_sum;
      RETURN NEXT;
    END IF;
    IF l.month_nanos IS NOT NULL THEN
      period := 'month'; most := l.month_nanos; remaining := l.month_nanos - month_sum;
      RETURN NEXT;
    END IF;
    IF l.total_nanos IS NOT NULL THEN
      period := 'total'; most := l.total_nanos; remaining := l.total_nanos - total_sum;
      RETURN NEXT;
    END IF;
  END LOOP;
END $$;

-- Move what is spent and held within money limits, of whoever has one: of each request its account, key, day of creation and amounts.
-- What is taken off first: a row that is inserted is checked before its conflict is seen. The accounts must be locked.
CREATE FUNCTION move_spend(m_account bigint[], m_key text[], m_day bigint[], m_spent bigint[], m_held bigint[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  WITH m AS (
    SELECT l.account_id, l.identity, v.day, sum(v.spent)::bigint AS spent, sum(v.held)::bigint AS held
    FROM unnest(m_account, m_key, m_day, m_spent, m_held) AS v (account, key, day, spent, held)
    LEFT JOIN keys k ON k.id = v.key
    JOIN limits l ON l.account_id = v.account AND l.identity IN ('', coalesce(k.identity, k.id, ''))
      AND coalesce(l.day_nanos, l.month_nanos, l.total_nanos) IS NOT NULL
    WHERE v.held < 0 GROUP BY 1, 2, 3)
  UPDATE spend s SET spent_nanos = s.spent_nanos + m.spent, held_nanos = s.held_nanos + m.held
  FROM m WHERE s.account_id = m.account_id AND s.identity = m.identity AND s.day = m.day;

  INSERT INTO spend AS s (account_id, identity, day, spent_nanos, held_nanos)
  SELECT l.account_id, l.identity, v.day, 0, sum(v.held)::bigint
  FROM unnest(m_account, m_key, m_day, m_held) AS v (account, key, day, held)
  LEFT JOIN keys k ON k.id = v.key
  JOIN limits l ON l.account_id = v.account AND l.identity IN ('', coalesce(k.identity, k.id, ''))
    AND coalesce(l.day_nanos, l.month_nanos, l.total_nanos) IS NOT NULL
  WHERE v.held > 0 GROUP BY 1, 2, 3
  ON CONFLICT (account_id, identity, day) DO UPDATE SET held_nanos = s.held_nanos + excluded.held_nanos;
END $$;

-- Why a key, or its account, may place no hold at a moment; null: it may.
CREATE FUNCTION key_refusal(p_account bigint, p_key text, p_at_ms bigint) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
  k keys; l limits;
BEGIN
  SELECT * INTO l FROM limits WHERE account_id = p_account AND identity = '';
  IF l.paused_at_ms IS NOT NULL THEN RETURN jsonb_build_object('reason', 'suspended', 'at', l.paused_at_ms); END IF;
  IF l.expires_at_ms <= p_at_ms THEN RETURN jsonb_build_object('reason', 'account_expired', 'at', l.expires_at_ms); END IF;
  IF p_key IS NULL THEN RETURN NULL; END IF;
  SELECT * INTO k FROM keys WHERE id = p_key;
  IF NOT FOUND OR k.account_id <> p_account THEN RETURN jsonb_build_object('reason', 'unknown'); END IF;
  IF k.revoked_at_ms IS NOT NULL THEN RETURN jsonb_build_object('reason', 'revoked', 'at', k.revoked_at_ms); END IF;
  IF k.ends_at_ms <= p_at_ms THEN RETURN jsonb_build_object('reason', 'rolled', 'at', k.ends_at_ms); END IF;
  SELECT * INTO l FROM limits WHERE account_id = p_account AND identity = coalesce(k.identity, k.id);
  IF l.paused_at_ms IS NOT NULL THEN RETURN jsonb_build_object('reason', 'paused', 'at', l.paused_at_ms); END IF;
  IF l.expires_at_ms <= p_at_ms THEN RETURN jsonb_build_object('reason', 'expired', 'at', l.expires_at_ms); END IF;
  RETURN NULL;
END $$;

-- Holds (h_*) and settlements (s_*) of one node, all or nothing. A settlement is never in the batch of its own hold, and no id is twice
-- among the settlements.
-- h_told: 1 held · 2 too little money · 3 key or account refused · 4 claimed · 5 beyond a money limit · 6 no such account · 7 it is closed ·
--   8 the id is taken, or the key unknown. h_why says more, as JSON; without p_careful it is null.
-- s_told: 1 settled now · 2 before, alike · 3 before, otherwise · 4 a charge above its hold · 5 a video whose task goes on · 0 no such request.
-- p_number: of this write, for the fence; null: within a transaction that has passed it.
-- p_careful: decide the holds one by one under the accounts' locks. Without it the ordinary batch is written in a few statements, and
--   whatever is out of the ordinary raises LP002 (or 23505, of an id): nothing has happened then, and the batch is sent again careful.
-- p_again: nobody knows whether a try before was committed: a hold that is there, and is this node's, is success.
-- p_claim_life_ms: how long an idempotency key belongs to its request; longer while that is not settled.
-- Locks are taken in this order, as everywhere: the node's row, requests, accounts by their ids, and what is written under their locks.
CREATE FUNCTION book(p_node bigint, p_number bigint, p_careful boolean, p_again boolean, p_claim_life_ms bigint,
  h_id text[], h_kind text[], h_account bigint[], h_key text[], h_model text[], h_upstream text[], h_umodel text[], h_stream boolean[],
  h_hold bigint[], h_price text[], h_created bigint[], h_kname text[], h_claim text[], h_body bytea[],
  s_id text[], s_at bigint[], s_outcome text[], s_source text[], s_charge bigint[], s_prompt bigint[], s_cached bigint[],
  s_completion bigint[], s_reasoning bigint[], s_units bigint[], s_short bigint[], s_status integer[], s_upid text[], s_first bigint[],
  s_total bigint[], s_note text[], s_upstream text[], s_umodel text[], s_kname text[], s_attempts text[], s_astatus integer[],
  s_answer bytea[],
  OUT h_told smallint[], OUT h_why text[], OUT s_told smallint[])
LANGUAGE plpgsql AS $$
DECLARE
  d_id text[]; d_account bigint[]; d_key text[]; d_created bigint[]; d_hold bigint[]; d_charge bigint[]; d_claimed boolean;  -- settled now
  n_id text[] := '{}'; n_account bigint[] := '{}'; n_hold bigint[] := '{}';                                                 -- held now
  wanted integer; moved integer; has_limits boolean; zone_ms bigint; i integer; last_account bigint; free bigint; why jsonb;
  told smallint; its_identity text; its_day bigint; a accounts;
BEGIN
  IF p_number IS NOT NULL THEN
    PERFORM fence(p_node, p_number, false);
  END IF;

  IF cardinality(s_id) > 0 THEN
    -- `outcome IS NULL`, not `settled_at_ms IS NULL`: else the planner may walk the whole index of what is open.
    WITH v AS (SELECT * FROM unnest(s_id, s_at, s_outcome, s_source, s_charge, s_prompt, s_cached, s_completion, s_reasoning, s_units,
             s_short, s_status, s_upid, s_first, s_total, s_note, s_upstream, s_umodel, s_kname, s_attempts)
             AS v (id, at, outcome, source, charge, prompt, cached, completion, reasoning, units, short, status, upid, first, total, note,
               upstream, umodel, kname, attempts)),
    s AS (UPDATE requests r SET settled_at_ms = v.at, outcome = v.outcome, usage_source = v.source, charge_nanos = v.charge,
             prompt_tokens = v.prompt, cached_tokens = v.cached, completion_tokens = v.completion, reasoning_tokens = v.reasoning,
             units = v.units, shortfall_nanos = v.short, http_status = v.status, upstream_id = v.upid, first_byte_ms = v.first,
             total_ms = v.total, note = v.note, attempts = v.attempts, upstream = coalesce(v.upstream, r.upstream),
             upstream_model = coalesce(v.umodel, r.upstream_model),
             key_name = CASE WHEN v.upstream IS NULL THEN r.key_name ELSE v.kname END
          FROM v WHERE r.id = v.id AND r.outcome IS NULL AND v.charge <= r.hold_nanos
            AND (r.kind <> 'video' OR NOT EXISTS (SELECT 1 FROM video_tasks t WHERE t.id = r.id AND t.ended_at_ms IS NULL))
          RETURNING r.id, r.account_id, r.key_id, r.created_at_ms, r.hold_nanos, r.charge_nanos, r.settled_at_ms, r.claimed),
    t AS (INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
          SELECT CASE WHEN charge_nanos > 0 THEN 'charge' ELSE 'release' END, account_id, 2,
             CASE WHEN charge_nanos > 0 THEN charge_nanos ELSE hold_nanos END, id, settled_at_ms FROM s WHERE hold_nanos > 0)
    SELECT array_agg(id), array_agg(account_id), array_agg(key_id), array_agg(created_at_ms), array_agg(hold_nanos),
        array_agg(charge_nanos), bool_or(claimed)
      INTO d_id, d_account, d_key, d_created, d_hold, d_charge, d_claimed FROM s;
    IF coalesce(cardinality(d_id), 0) = cardinality(s_id) THEN
      s_told := array_fill(1::smallint, ARRAY[cardinality(s_id)]);
    ELSE
      SELECT array_agg((CASE WHEN v.id = ANY (d_id) THEN 1 WHEN r.id IS NULL THEN 0
            WHEN r.outcome IS NOT NULL THEN CASE WHEN r.outcome = v.outcome AND r.charge_nanos = v.charge THEN 2 ELSE 3 END
            WHEN v.charge > r.hold_nanos THEN 4 ELSE 5 END)::smallint ORDER BY n)
        INTO s_told FROM unnest(s_id, s_outcome, s_charge) WITH ORDINALITY v (id, outcome, charge, n) LEFT JOIN requests r ON r.id = v.id;
    END IF;
    IF d_claimed THEN
      UPDATE idempotency c SET status = v.status, answer = v.answer FROM unnest(s_id, s_astatus, s_answer) AS v (id, status, answer)
        WHERE v.id = ANY (d_id) AND c.request_id = v.id AND v.status IS NOT NULL AND c.status IS NULL;
      DELETE FROM idempotency c USING unnest(s_id, s_astatus) AS v (id, status)
        WHERE v.id = ANY (d_id) AND c.request_id = v.id AND v.status IS NULL AND c.status IS NULL;
    END IF;
  END IF;

  IF cardinality(h_id) > 0 AND NOT p_careful THEN
    PERFORM 1 FROM (SELECT account, key, max(created) AS at FROM unnest(h_account, h_key, h_created) u (account, key, created)
        GROUP BY 1, 2) w
      LEFT JOIN keys k ON k.id = w.key
      LEFT JOIN limits kl ON kl.account_id = k.account_id AND kl.identity = coalesce(k.identity, k.id)
      LEFT JOIN limits al ON al.account_id = w.account AND al.identity = ''
      WHERE al.paused_at_ms IS NOT NULL OR al.expires_at_ms <= w.at OR kl.paused_at_ms IS NOT NULL OR kl.expires_at_ms <= w.at
        OR k.revoked_at_ms IS NOT NULL OR k.ends_at_ms <= w.at OR (w.key IS NOT NULL AND k.account_id IS DISTINCT FROM w.account)
      LIMIT 1;
    IF FOUND THEN RAISE EXCEPTION 'careful' USING ERRCODE = 'LP002'; END IF;
    h_told := array_fill(1::smallint, ARRAY[cardinality(h_id)]);
    n_account := h_account;
    n_hold := h_hold;
    WITH v AS (SELECT * FROM unnest(h_id, h_kind, h_account, h_key, h_model, h_upstream, h_umodel, h_stream, h_hold, h_price, h_created,
             h_kname, h_claim)
             AS v (id, kind, account, key, model, upstream, umodel, stream, hold, price, created, kname, claim)),
    r AS (INSERT INTO requests (id, kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price, created_at_ms,
             key_name, claimed, node_id)
          SELECT id, kind, account, key, model, upstream, umodel, stream, hold, price, created, kname, claim IS NOT NULL, p_node FROM v)
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
      SELECT 'hold', account, 2, hold, id, created FROM v WHERE hold > 0;
  END IF;

  -- Accounts late, so that a hot one is locked for the shortest time.
  PERFORM 1 FROM accounts WHERE id IN (SELECT unnest(h_account) UNION SELECT unnest(d_account)) ORDER BY id FOR NO KEY UPDATE;
  SELECT EXISTS (SELECT 1 FROM limits WHERE coalesce(day_nanos, month_nanos, total_nanos) IS NOT NULL) INTO has_limits;
  IF has_limits THEN
    SELECT coalesce((SELECT value FROM facts WHERE name = 'zone_minutes'), 0) * 60000 INTO zone_ms;
    PERFORM move_spend(array_agg(account), array_agg(key), array_agg((created + zone_ms) / 86400000), array_agg(charge), array_agg(held))
      FROM (SELECT account, key, created, charge, -hold AS held
          FROM unnest(d_account, d_key, d_created, d_charge, d_hold) d (account, key, created, charge, hold)
        UNION ALL SELECT account, key, created, 0, hold FROM unnest(h_account, h_key, h_created, h_hold) h (account, key, created, hold)
          WHERE NOT p_careful) moved;
    IF cardinality(h_id) > 0 AND NOT p_careful THEN
      -- As `money_left`, of all at once: what is spent and held is counted by now.
      PERFORM 1 FROM (SELECT DISTINCT account, coalesce(k.identity, k.id, '') AS identity, (created + zone_ms) / 86400000 AS day
          FROM unnest(h_account, h_key, h_created, h_hold) u (account, key, created, hold) LEFT JOIN keys k ON k.id = u.key
          WHERE hold > 0) w
        JOIN limits l ON l.account_id = w.account AND l.identity IN ('', w.identity)
          AND coalesce(l.day_nanos, l.month_nanos, l.total_nanos) IS NOT NULL
        CROSS JOIN LATERAL (SELECT sum(spent_nanos + held_nanos) FILTER (WHERE day = w.day) AS of_day,
            sum(spent_nanos + held_nanos) FILTER (WHERE day >= month_first(w.day) AND day < month_end(w.day)) AS of_month,
            sum(spent_nanos + held_nanos) AS of_all
          FROM spend WHERE account_id = l.account_id AND identity = l.identity
            AND day >= CASE WHEN l.total_nanos IS NOT NULL THEN -1000000 WHEN l.month_nanos IS NOT NULL THEN month_first(w.day)
              ELSE w.day END) t
        WHERE t.of_day > l.day_nanos OR t.of_month > l.month_nanos OR t.of_all > l.total_nanos LIMIT 1;
      IF FOUND THEN RAISE EXCEPTION 'careful' USING ERRCODE = 'LP002'; END IF;
    END IF;
  END IF;

  IF cardinality(array_remove(h_claim, NULL)) > 0 AND NOT p_careful THEN
    PERFORM 1 FROM unnest(h_account, h_claim, h_created) v (account, claim, created)
      JOIN idempotency c ON c.account_id = v.account AND c.key = v.claim JOIN requests r ON r.id = c.request_id
      WHERE c.created_at_ms > v.created - p_claim_life_ms OR r.settled_at_ms IS NULL LIMIT 1;
    IF FOUND THEN RAISE EXCEPTION 'careful' USING ERRCODE = 'LP002'; END IF;
    DELETE FROM idempotency c USING unnest(h_account, h_claim) v (account, claim) WHERE c.account_id = v.account AND c.key = v.claim;
    INSERT INTO idempotency (account_id, key, body_sha256, request_id, created_at_ms)
      SELECT account, claim, body, id, created FROM unnest(h_account, h_claim, h_body, h_id, h_created) v (account, claim, body, id, created)
      WHERE claim IS NOT NULL;
  END IF;

  IF cardinality(h_id) > 0 AND p_careful THEN
    h_told := array_fill(1::smallint, ARRAY[cardinality(h_id)]);
    h_why := array_fill(NULL::text, ARRAY[cardinality(h_id)]);
    FOR i IN SELECT n FROM unnest(h_account) WITH ORDINALITY w (account, n) ORDER BY account, n LOOP
      IF last_account IS DISTINCT FROM h_account[i] THEN
        last_account := h_account[i];
        SELECT * INTO a FROM accounts WHERE id = last_account AND id > 2;
        SELECT a.balance_nanos - a.held_nanos + coalesce(sum(hold - charge), 0)::bigint INTO free
          FROM unnest(d_account, d_hold, d_charge) AS x (account, hold, charge) WHERE account = last_account;
      END IF;
      told := 1;
      SELECT coalesce(k.identity, k.id, '') INTO its_identity FROM keys k WHERE k.id = h_key[i];
      its_day := (h_created[i] + zone_ms) / 86400000;
      IF p_again AND NOT h_id[i] = ANY (n_id) AND EXISTS (SELECT 1 FROM requests WHERE id = h_id[i] AND node_id = p_node) THEN
        CONTINUE;  -- the first try was committed
      END IF;
      why := key_refusal(h_account[i], h_key[i], h_created[i]);
      IF why ->> 'reason' = 'unknown' THEN
        told := 8;
      ELSIF why IS NOT NULL THEN
        told := 3;
      END IF;
      IF told = 1 AND h_claim[i] IS NOT NULL THEN
        SELECT jsonb_build_object('request', c.request_id, 'body', encode(c.body_sha256, 'hex'), 'status', c.status,
            'answer', encode(c.answer, 'base64')) INTO why
          FROM idempotency c JOIN requests r ON r.id = c.request_id WHERE c.account_id = h_account[i] AND c.key = h_claim[i]
            AND (c.created_at_ms > h_created[i] - p_claim_life_ms OR r.settled_at_ms IS NULL);
        IF FOUND THEN told := 4; END IF;
      END IF;
      IF told = 1 AND has_limits AND h_hold[i] > 0 THEN
        SELECT jsonb_agg(m) INTO why FROM money_left(h_account[i], its_identity, its_day) m WHERE m.remaining < h_hold[i];
        IF why IS NOT NULL THEN told := 5; END IF;
      END IF;
      IF told <> 1 THEN
        NULL;
      ELSIF a.id IS NULL THEN
        told := 6;
      ELSIF a.closed_at_ms IS NOT NULL THEN
        told := 7; why := jsonb_build_object('account', a.name, 'at', a.closed_at_ms);
      ELSIF h_hold[i] > free THEN
        told := 2; why := jsonb_build_object('account', a.name, 'available', free);
      ELSIF EXISTS (SELECT 1 FROM requests WHERE id = h_id[i]) THEN
        told := 8; why := '{"reason": "taken"}';
      ELSE
        free := free - h_hold[i];
        n_id := n_id || h_id[i]; n_account := n_account || h_account[i]; n_hold := n_hold || h_hold[i];
        INSERT INTO requests (id, kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price, created_at_ms,
            key_name, claimed, node_id)
          VALUES (h_id[i], h_kind[i], h_account[i], h_key[i], h_model[i], h_upstream[i], h_umodel[i], h_stream[i], h_hold[i], h_price[i],
            h_created[i], h_kname[i], h_claim[i] IS NOT NULL, p_node);
        IF h_hold[i] > 0 THEN
          INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms)
            VALUES ('hold', h_account[i], 2, h_hold[i], h_id[i], h_created[i]);
          IF has_limits THEN
            PERFORM move_spend(ARRAY[h_account[i]], ARRAY[h_key[i]], ARRAY[its_day], ARRAY[0::bigint], ARRAY[h_hold[i]]);
          END IF;
        END IF;
        IF h_claim[i] IS NOT NULL THEN
          DELETE FROM idempotency WHERE account_id = h_account[i] AND key = h_claim[i];
          INSERT INTO idempotency (account_id, key, body_sha256, request_id, created_at_ms)
            VALUES (h_account[i], h_claim[i], h_body[i], h_id[i], h_created[i]);
        END IF;
      END IF;
      h_told[i] := told;
      h_why[i] := CASE WHEN told > 1 THEN why::text END;
    END LOOP;
  END IF;

  -- One conditional UPDATE of each account, by its net change.
  WITH x AS (SELECT account, sum(held)::bigint AS held, sum(charged)::bigint AS charged FROM (
               SELECT account, hold AS held, 0 AS charged FROM unnest(n_account, n_hold) w (account, hold)
               UNION ALL SELECT account, -hold, charge FROM unnest(d_account, d_hold, d_charge) w (account, hold, charge)) y GROUP BY account),
  u AS (UPDATE accounts SET balance_nanos = balance_nanos - x.charged, held_nanos = held_nanos + x.held FROM x
        WHERE accounts.id = x.account AND id > 2 AND closed_at_ms IS NULL AND x.held <= balance_nanos - x.charged - held_nanos
        RETURNING 1)
  SELECT (SELECT count(*) FROM x), (SELECT count(*) FROM u) INTO wanted, moved;
  IF moved <> wanted THEN RAISE EXCEPTION 'careful' USING ERRCODE = 'LP002'; END IF;
END $$;

-- One plan for all calls, since making one costs more than running it, and made when the tables may have been empty. So the planner must
-- not read a table from end to end, however small it seems: a cost is the number of rows looked at, and pages cost nothing. Seen without it:
-- every account for every hold, and every limit for every settlement. On the function, as a pooler swallows settings of a connection.
ALTER FUNCTION book SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION book SET enable_seqscan = off;
ALTER FUNCTION book SET enable_bitmapscan = off;
ALTER FUNCTION book SET enable_hashjoin = off;
ALTER FUNCTION book SET enable_mergejoin = off;
ALTER FUNCTION book SET seq_page_cost = 0;
ALTER FUNCTION book SET random_page_cost = 0;
ALTER FUNCTION book SET cpu_tuple_cost = 1;
ALTER FUNCTION book SET cpu_index_tuple_cost = 1;
ALTER FUNCTION book SET jit = off;
ALTER FUNCTION book SET lock_timeout = '5s';
