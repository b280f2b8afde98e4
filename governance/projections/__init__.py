"""The read models of governance, one module for each subject."""

from governance.projections import (  # noqa: F401 - registers them
    approvals,
    backtests,
    break_glass,
    budgets,
    decisions,
    policies,
)
