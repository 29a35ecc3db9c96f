"""Background jobs of the gateway; the scheduler runs them."""
