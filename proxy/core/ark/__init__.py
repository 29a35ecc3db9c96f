"""Ark's words: what they mean, and which of them may be shown."""
