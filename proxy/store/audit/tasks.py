"""Invariants of video tasks and idempotency keys."""

from proxy.store.audit.invariant import Invariant

INVARIANTS = (
    Invariant(
        name="each task is its request's",
        figures="SELECT count(*), (SELECT count(*) FROM requests WHERE kind = 'video') FROM video_tasks",
        say="{} tasks, {} requests for videos",
        offenders="""SELECT 'task ' || video_tasks.id || ' of account ' || video_tasks.account_id || ', hold ' || video_tasks.hold_nanos
                       || ': its request ' || CASE WHEN requests.id IS NULL THEN 'is missing'
                         ELSE 'says ' || kind || ', account ' || requests.account_id || ', hold ' || requests.hold_nanos END
                     FROM video_tasks LEFT JOIN requests ON requests.id = video_tasks.id
                     WHERE requests.id IS NULL OR kind <> 'video' OR requests.account_id <> video_tasks.account_id
                       OR requests.hold_nanos <> video_tasks.hold_nanos
                     UNION ALL
                     SELECT 'video ' || requests.id || ': there is no such task' FROM requests
                     WHERE kind = 'video' AND NOT EXISTS (SELECT 1 FROM video_tasks WHERE video_tasks.id = requests.id)""",
    ),
    Invariant(
        name="no ended task without its settlement",
        figures="SELECT count(*) FROM video_tasks WHERE ended_at_ms IS NOT NULL",
        say="{} ended tasks",
        offenders="""SELECT 'task ' || id || ': ' || state || ', but its request is not settled'
                     FROM video_tasks JOIN requests USING (id) WHERE ended_at_ms IS NOT NULL AND settled_at_ms IS NULL""",
    ),
    Invariant(
        name="no settlement of a task that goes on",
        figures="SELECT count(*) FROM video_tasks WHERE ended_at_ms IS NULL",
        say="{} tasks go on",
        offenders="""SELECT 'task ' || id || ': ' || state || ', but its request is settled'
                     FROM video_tasks JOIN requests USING (id) WHERE ended_at_ms IS NULL AND settled_at_ms IS NOT NULL""",
    ),
    Invariant(
        name="a video costs what its task says",
        figures="SELECT count(*), coalesce(sum(charge_nanos), 0) FROM video_tasks WHERE state = 'succeeded'",
        say="{} videos, ¥{}",
        yuan=(1,),
        offenders="""SELECT 'task ' || id || ': ' || state || ' and charged ' || video_tasks.charge_nanos || ', its request '
                       || requests.charge_nanos
                     FROM video_tasks JOIN requests USING (id)
                     WHERE requests.charge_nanos <> CASE state WHEN 'succeeded' THEN video_tasks.charge_nanos ELSE 0 END""",
    ),
    Invariant(
        name="each idempotency key is its request's",
        figures="SELECT count(*), (SELECT count(*) FROM idempotency WHERE status IS NULL) FROM idempotency",
        say="{} keys, {} of them without an answer yet",
        # A settled request without an answer has freed its key; an open request must still own its key.
        offenders="""SELECT 'key of request ' || request_id || ', account ' || idempotency.account_id || ': '
                       || CASE WHEN requests.id IS NULL THEN 'the request is missing'
                         WHEN requests.account_id <> idempotency.account_id THEN 'the request is of account ' || requests.account_id
                         WHEN NOT claimed THEN 'the request has none' ELSE 'the request is settled, and no answer is kept' END
                     FROM idempotency LEFT JOIN requests ON requests.id = request_id
                     WHERE requests.id IS NULL OR requests.account_id <> idempotency.account_id OR NOT claimed
                       OR (settled_at_ms IS NOT NULL AND status IS NULL)
                     UNION ALL
                     SELECT 'request ' || id || ': its key is somebody else''s or nobody''s' FROM requests
                     WHERE claimed AND settled_at_ms IS NULL
                       AND NOT EXISTS (SELECT 1 FROM idempotency WHERE request_id = requests.id)""",
    ),
)
