"""The governance console: what Django's admin shows of governance, one module for each subject."""

from governance.admin import (  # noqa: F401 - registers their pages
    approvals,
    backtests,
    break_glass,
    budgets,
    decisions,
    policies,
    teams,
)
