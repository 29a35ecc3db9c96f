"""The process: what it is built of, how it starts and how it stops."""
