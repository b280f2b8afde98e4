"""The orchestrator: agents, planner, agent loop, claims, recovery."""
