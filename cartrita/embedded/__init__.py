"""The one-command start: embedded PostgreSQL, local model, supervision."""
