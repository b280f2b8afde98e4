"""What people, programs and the start of the system may do with policies, approvals and budgets."""
