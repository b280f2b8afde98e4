"""The read models of governance, one module for each subject."""

from governance.projections import approvals, break_glass, budgets, decisions, policies  # noqa: F401 - registers them
