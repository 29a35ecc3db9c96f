-- Submits of which nobody knows whether they were made, to tell a lost one apart from the others.
CREATE INDEX video_tasks_unanswered ON video_tasks (upstream, created_at_ms) WHERE upstream_id = '';
