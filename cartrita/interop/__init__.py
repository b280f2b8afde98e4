"""What other programs speak: the OpenAI-compatible API."""
