"""Policies, approvals, budgets and decisions."""

from django.urls import path

from governance.api import policies

urlpatterns = [
    path("api/v2/policies/rules", policies.Rules.as_view(), name="policy-rules"),
    path("api/v2/policies/rules/<str:name>", policies.RuleDetail.as_view(), name="policy-rule"),
    path("api/v2/policies/draft", policies.DraftDetail.as_view(), name="policy-draft"),
    path("api/v2/policies/import", policies.Imports.as_view(), name="policy-import"),
    path("api/v2/policies/validate", policies.Validations.as_view(), name="policy-validate"),
    path("api/v2/policies/try", policies.Trials.as_view(), name="policy-try"),
    path("api/v2/policies/propose", policies.Proposals.as_view(), name="policy-propose"),
    path("api/v2/policies/activate", policies.Activations.as_view(), name="policy-activate"),
    path("api/v2/policies/versions", policies.Versions.as_view(), name="policy-versions"),
    path("api/v2/policies/export", policies.Exports.as_view(), name="policy-export"),
    path("api/v2/policies/hits", policies.Hits.as_view(), name="policy-hits"),
    path("api/v2/policies/names", policies.Names.as_view(), name="policy-names"),
]
