"""One paid call from its hold to its settlement."""
