"""What governance knows: policies, decisions, approvals, budgets."""
