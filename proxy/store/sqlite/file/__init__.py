"""The SQLite file itself: its lock, schema, damage, backup and restore."""
