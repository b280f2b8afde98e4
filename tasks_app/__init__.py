"""Plans, tasks and runs."""
