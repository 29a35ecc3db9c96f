"""What a request does with money and its key: holds, idempotency, receipts, folding."""
