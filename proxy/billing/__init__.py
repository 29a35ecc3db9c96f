"""Billing of requests: holds, idempotency keys, receipts, folding."""
