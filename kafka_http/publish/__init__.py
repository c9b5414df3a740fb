"""Publishing: records in, results out; idempotency keys, uploads, the outbox and its relay."""
