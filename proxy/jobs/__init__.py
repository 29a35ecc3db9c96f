"""What the gateway does of itself; the scheduler runs it."""
