"""Cartrita: an event-sourced platform for LLM agents under governance."""
