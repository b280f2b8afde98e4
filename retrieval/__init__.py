"""Collections, documents, search and its metrics."""
