"""How the streams of approvals, back-tests, break-glass, budgets and rulebooks fold."""

from cartrita.eventstore.aggregates import aggregate
from governance import approval, break_glass, budget, rulebook
from governance.backtest import back_test

APPROVAL = aggregate(
    "governance.approval",
    approval.ApprovalRequested,
    fold=lambda recorded: approval.fold((each.event, each.recorded_at) for each in recorded),
)
BACK_TEST = aggregate(
    "governance.back_test",
    back_test.BackTestRequested,
    fold=lambda recorded: back_test.fold(each.event for each in recorded),
)
BREAK_GLASS = aggregate(
    "governance.break_glass",
    break_glass.BreakGlassOpened,
    fold=lambda recorded: break_glass.fold(each.event for each in recorded),
)
BUDGET = aggregate(
    "governance.budget",
    budget.BudgetSet,
    fold=lambda recorded: budget.fold(each.event for each in recorded),
)
RULEBOOK = aggregate(
    "governance.rulebook",
    rulebook.RuleWritten,
    rulebook.RulesArranged,
    rulebook.PolicyActivated,
    fold=lambda recorded: rulebook.fold(each.event for each in recorded),
)
TRIALS = aggregate(
    "governance.policy_trials",
    rulebook.PolicyTried,
    fold=lambda recorded: tuple(each.event for each in recorded),
)
