"""An app of tests alone: tools whose effects are counted outside the event store."""
