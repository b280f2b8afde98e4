"""REST: what the rules of a set did, and which of them never did anything."""

from operator import itemgetter
from typing import Any, get_args

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.http.pagination import PAGE_PARAMETERS, page_of_all, page_parameters
from governance.api.policies import PolicyView
from governance.api.shared import time_parameter
from governance.policy import Outcome
from governance.queries.coverage import RuleCoverage, coverage


class RuleApprovals(serializers.Serializer[Any]):
    """The approvals that a rule asked for. `other` are those replaced, made void or withdrawn."""

    requested = serializers.IntegerField()
    granted = serializers.IntegerField()
    denied = serializers.IntegerField()
    expired = serializers.IntegerField()
    waiting = serializers.IntegerField()
    other = serializers.IntegerField()
    median_seconds = serializers.FloatField(allow_null=True, help_text="From the request to a yes or a no.")
    always_granted = serializers.BooleanField()


class RuleCoverageEntry(serializers.Serializer[Any]):
    """What one rule did, in the decisions that were made under the set."""

    rule = serializers.CharField()
    rule_hash = serializers.CharField()
    priority = serializers.IntegerField()
    outcome = serializers.ChoiceField(choices=get_args(Outcome))
    evaluated = serializers.IntegerField(help_text="Decisions on acts that the rule's match takes in.")
    matched = serializers.IntegerField()
    erred = serializers.IntegerField(help_text="It could not be evaluated, which counts as deny.")
    decided = serializers.IntegerField()
    slowed = serializers.IntegerField(help_text="Acts that it made wait.")
    overridden_by = serializers.DictField(
        child=serializers.IntegerField(), help_text="What decided where it matched, and how often."
    )
    counts_anyway = serializers.BooleanField(
        help_text="It has an effect whichever rule decides: a review, documents left out, findings redacted."
    )
    doubts = serializers.ListField(
        child=serializers.CharField(), help_text="Why it can never match, or never decide."
    )
    never_hit = serializers.BooleanField()
    always_overridden = serializers.BooleanField()
    never_slowed = serializers.BooleanField(help_text="A throttle that let everything pass at once.")
    lacks_examples = serializers.BooleanField(
        help_text="No example shows it at work, or none of its own where its condition does not hold."
    )
    approvals = RuleApprovals(allow_null=True, help_text="Of rules that escalate.")


class CoverageReport(serializers.Serializer[Any]):
    """What a set of rules did. Decisions of other sets in the range (`others`) say nothing about it."""

    policy_hash = serializers.CharField()
    policy = serializers.CharField()
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    decisions = serializers.IntegerField()
    others = serializers.IntegerField()
    by_no_rule = serializers.DictField(
        child=serializers.IntegerField(), help_text="What decided where no rule did, and how often."
    )
    items = RuleCoverageEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class CoverageView(PolicyView):
    """What the rules of a set did."""

    @extend_schema(
        operation_id="policy_coverage",
        parameters=[
            OpenApiParameter(
                "since", OpenApiTypes.DATETIME, description="30 days before `until` by default."
            ),
            OpenApiParameter("until", OpenApiTypes.DATETIME, description="Excluded; now by default."),
            OpenApiParameter(
                "policy_hash",
                {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                description="A set that is or was in force; the one in force where it is left out.",
            ),
            *PAGE_PARAMETERS,
        ],
        responses=CoverageReport,
    )
    def get(self, request: Request) -> Response:
        """Tell which rules were hit, overridden, always approved, or never did anything."""
        cursor, limit = page_parameters(request)
        found = coverage(
            caller(request).workspace_id,
            since=time_parameter(request, "since"),
            until=time_parameter(request, "until"),
            policy_hash=request.query_params.get("policy_hash"),
        )
        placed = [(f"{number:05}", each) for number, each in enumerate(found.rules)]
        page = page_of_all(placed, key=itemgetter(0), cursor=cursor, limit=limit)
        return Response(
            {
                "policy_hash": found.policy_hash,
                "policy": found.policy,
                "since": found.since,
                "until": found.until,
                "decisions": found.decisions,
                "others": found.others,
                "by_no_rule": found.by_no_rule,
                "items": [rule_as_json(each) for _, each in page.items],
                "next_cursor": page.next_cursor,
            }
        )


def rule_as_json(rule: RuleCoverage) -> dict[str, Any]:
    """Return what a rule did as JSON."""
    return dict(RuleCoverageEntry(rule).data)
