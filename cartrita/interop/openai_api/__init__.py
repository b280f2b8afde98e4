"""The OpenAI-compatible API: agents, tiers and models for every program that speaks to OpenAI's."""
