"""The only door to a database: `contract` says what a store does, `sqlite` does it."""
