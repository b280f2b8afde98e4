"""Policy, decisions, and their console."""
