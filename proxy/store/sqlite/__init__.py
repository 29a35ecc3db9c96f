"""The store in one SQLite file: one writer with group commit, read-only connections for everything else."""

from proxy.store.sqlite.opening import open_store
from proxy.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore", "open_store"]
