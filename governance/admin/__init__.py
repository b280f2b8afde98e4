"""The governance console: what Django's admin shows of governance, one module for each subject."""

from governance.admin import approvals, break_glass, budgets, decisions, policies  # noqa: F401 - registers their pages
