-- Nodes: who may write. Errors of ours: LP001 the node is dead · LP002 the batch has to be decided row by row · LP003 this write is late.

-- Each write of a node begins here, in its own transaction. `p_number` counts the node's writes up; a write that is sent again, because
-- nobody knows whether it was committed, keeps its number.
-- p_once: it must not have been committed before (the caller remembers what came of it); else it may run again, as `book` decides by ids.
CREATE FUNCTION fence(p_node bigint, p_number bigint, p_once boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE node_writes SET number = p_number
  WHERE node_id = p_node AND NOT is_fenced AND (number < p_number OR (number = p_number AND NOT p_once));
  IF NOT FOUND THEN
    PERFORM 1 FROM node_writes WHERE node_id = p_node AND NOT is_fenced;
    IF FOUND THEN
      RAISE EXCEPTION 'write % of node % is late', p_number, p_node USING ERRCODE = 'LP003';
    END IF;
    RAISE EXCEPTION 'node % is dead', p_node USING ERRCODE = 'LP001';
  END IF;
END $$;

CREATE FUNCTION enter_node(p_name text, p_program text, p_serving boolean) RETURNS bigint LANGUAGE sql AS $$
  WITH entered AS (INSERT INTO nodes (name, program, serving) VALUES (p_name, p_program, p_serving) RETURNING id)
  INSERT INTO node_writes (node_id) SELECT id FROM entered RETURNING node_id;
$$;

-- Set a node dead, for good, if its beat is still the one that was observed; null: whatever it is. Returns whether it is dead now by this
-- call. The row of its writes comes first: a write that is under way is waited for, and none passes from then on.
CREATE FUNCTION end_node(p_node bigint, p_beat bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM node_writes WHERE node_id = p_node FOR UPDATE;
  UPDATE nodes SET dead_at = clock_timestamp(), has_left = p_beat IS NULL WHERE id = p_node AND dead_at IS NULL AND (p_beat IS NULL OR beat = p_beat);
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  UPDATE node_writes SET is_fenced = true WHERE node_id = p_node;
  RETURN true;
END $$;

-- Count a node's beat up, and return what it sees: every living node with its beat, itself among them unless it was set dead.
CREATE FUNCTION beat_node(p_node bigint, p_seen_keys bigint, p_seen_node bigint)
RETURNS TABLE (node_id bigint, node_beat bigint, node_serving boolean, node_seen bigint, node_leave boolean, keys_version bigint) LANGUAGE plpgsql AS $$
BEGIN
  UPDATE nodes SET beat = beat + 1, beat_at = clock_timestamp(), seen_keys = p_seen_keys, seen_node = p_seen_node
    WHERE id = p_node AND dead_at IS NULL;
  RETURN QUERY SELECT id, beat, serving, seen_node, leave, (SELECT version FROM versions WHERE what = 'keys')
    FROM nodes WHERE dead_at IS NULL ORDER BY id;
END $$;
