-- Who placed a request: one opening of the store, never the same twice. A start settles what dead owners left open, and nothing else.
-- Null: placed before owners were recorded, by a process that has ended since.
ALTER TABLE requests ADD COLUMN owner TEXT CHECK (owner <> '');
