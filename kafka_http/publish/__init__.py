"""Publishing: records in, results out. Also idempotency keys, streaming uploads, and the outbox with its relay."""
