"""Ark's errors and field names: their meaning, and the texts that may be shown."""
