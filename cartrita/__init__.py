"""Cartrita: an event-sourced platform for LLM agents under governance."""

__version__ = "0.1.0"
