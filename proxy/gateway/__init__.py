"""The process: its parts, its start and its stop."""
