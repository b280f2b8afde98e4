"""What every HTTP interface shares: problem errors, pagination, idempotency keys, health."""
