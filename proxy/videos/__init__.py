"""Videos as durable jobs: submitted, polled, cancelled, swept."""
