"""Policies, approvals, break-glass, budgets and decisions."""

from django.urls import path

from governance.api import (
    approvals,
    backtests,
    break_glass,
    budgets,
    coverage,
    decisions,
    policies,
    policy_life,
)

urlpatterns = [
    path("api/v2/policies/rules", policies.Rules.as_view(), name="policy-rules"),
    path("api/v2/policies/rules/<str:name>", policies.RuleDetail.as_view(), name="policy-rule"),
    path("api/v2/policies/draft", policies.DraftDetail.as_view(), name="policy-draft"),
    path("api/v2/policies/import", policies.Imports.as_view(), name="policy-import"),
    path("api/v2/policies/validate", policies.Validations.as_view(), name="policy-validate"),
    path("api/v2/policies/try", policies.Trials.as_view(), name="policy-try"),
    path("api/v2/policies/propose", policies.Proposals.as_view(), name="policy-propose"),
    path("api/v2/policies/activate", policies.Activations.as_view(), name="policy-activate"),
    *(
        path(f"api/v2/policies/{act}", view.as_view(), name=f"policy-{act}")
        for act, view in policy_life.VIEWS.items()
    ),
    path("api/v2/policies/versions", policies.Versions.as_view(), name="policy-versions"),
    path("api/v2/policies/export", policies.Exports.as_view(), name="policy-export"),
    path("api/v2/policies/hits", policies.Hits.as_view(), name="policy-hits"),
    path("api/v2/policies/coverage", coverage.CoverageView.as_view(), name="policy-coverage"),
    path("api/v2/policies/names", policies.Names.as_view(), name="policy-names"),
    path("api/v2/approvals", approvals.Approvals.as_view(), name="approvals"),
    path("api/v2/approvals/<uuid:approval_id>", approvals.ApprovalOne.as_view(), name="approval"),
    path(
        "api/v2/approvals/<uuid:approval_id>/arguments",
        approvals.ApprovalArguments.as_view(),
        name="approval-arguments",
    ),
    *(
        path(f"api/v2/approvals/<uuid:approval_id>/{act}", view.as_view(), name=f"approval-{act}")
        for act, view in approvals.ACTS.items()
    ),
    path("api/v2/break-glass", break_glass.BreakGlasses.as_view(), name="break-glass"),
    path("api/v2/break-glass/acts", break_glass.BreakGlassPassed.as_view(), name="break-glass-acts"),
    path("api/v2/break-glass/<uuid:glass_id>", break_glass.BreakGlassOne.as_view(), name="break-glass-one"),
    path(
        "api/v2/break-glass/<uuid:glass_id>/end",
        break_glass.BreakGlassEnding.as_view(),
        name="break-glass-end",
    ),
    path(
        "api/v2/break-glass/<uuid:glass_id>/review",
        break_glass.BreakGlassReviewing.as_view(),
        name="break-glass-review",
    ),
    path("api/v2/backtests", backtests.BackTests.as_view(), name="back-tests"),
    path("api/v2/backtests/<uuid:back_test_id>", backtests.BackTestOne.as_view(), name="back-test"),
    path(
        "api/v2/backtests/<uuid:back_test_id>/report",
        backtests.BackTestReported.as_view(),
        name="back-test-report",
    ),
    path(
        "api/v2/backtests/<uuid:back_test_id>/cancel",
        backtests.BackTestCancel.as_view(),
        name="back-test-cancel",
    ),
    path("api/v2/budgets", budgets.Budgets.as_view(), name="budgets"),
    path("api/v2/budgets/export", budgets.BudgetExport.as_view(), name="budgets-export"),
    path("api/v2/budgets/<uuid:budget_id>", budgets.BudgetOne.as_view(), name="budget"),
    path("api/v2/budgets/<uuid:budget_id>/raise", budgets.BudgetRaise.as_view(), name="budget-raise"),
    path("api/v2/budgets/<uuid:budget_id>/close", budgets.BudgetClose.as_view(), name="budget-close"),
    path("api/v2/budgets/<uuid:budget_id>/periods", budgets.BudgetPeriods.as_view(), name="budget-periods"),
    path(
        "api/v2/budgets/<uuid:budget_id>/spending", budgets.BudgetSpending.as_view(), name="budget-spending"
    ),
    path("api/v2/decisions", decisions.Decisions.as_view(), name="decisions"),
    path("api/v2/decisions/export", decisions.DecisionExport.as_view(), name="decisions-export"),
    path(
        "api/v2/decisions/<uuid:decision_id>/capsule",
        decisions.DecisionCapsule.as_view(),
        name="decision-capsule",
    ),
    path(
        "api/v2/decisions/<uuid:decision_id>/again", decisions.DecisionAgain.as_view(), name="decision-again"
    ),
    path("api/v2/decisions/<uuid:decision_id>", decisions.DecisionOne.as_view(), name="decision"),
]
