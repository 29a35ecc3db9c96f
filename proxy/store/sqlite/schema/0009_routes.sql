-- By which key of its upstream a request was answered, and how many upstreams were asked for it.

-- `key_name` is the name that the configuration gives the key; null: placed before keys had names. `upstream` and `upstream_model` are
-- those that answered, or the last that were asked. `attempts`: a JSON array with an object for each, where there was more than one.
ALTER TABLE requests ADD COLUMN key_name TEXT CHECK (key_name <> '');
ALTER TABLE requests ADD COLUMN attempts TEXT CHECK (json_type(attempts) = 'array');

-- A task is asked for under the key that it was sent with.
ALTER TABLE video_tasks ADD COLUMN key_name TEXT CHECK (key_name <> '');
