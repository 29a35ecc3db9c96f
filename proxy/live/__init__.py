"""Settings and keys that are in force now, and their reload."""
