"""The governance console: what Django's admin shows of governance, one module for each subject."""

from governance.admin import approvals, budgets, decisions, policies  # noqa: F401 - registers their pages
