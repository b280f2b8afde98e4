"""The event store: append, log, projections, sealing and erasure, integrity."""
