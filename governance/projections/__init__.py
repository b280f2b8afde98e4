"""The read models of governance, one module for each subject."""

from governance.projections import approvals, budgets, decisions, policies  # noqa: F401 - registers them
