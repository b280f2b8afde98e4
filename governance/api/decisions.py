"""REST: decisions."""

from typing import Any, get_args
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.accounts.console import CONSOLE_ROLES
from cartrita.errors import BadInput
from cartrita.http.pagination import PAGE_PARAMETERS, page_parameters
from cartrita.http.parameters import uuid_parameter
from cartrita.http.views import ApiView
from governance.api.shared import time_parameter
from governance.capsules import decision_capsule
from governance.commands.exports import record_export
from governance.decide import Verdict
from governance.decision import ActOutcome, DecisionMade, verdict_of
from governance.downloads import capsule_answer
from governance.policy import Outcome, SubjectKind
from governance.queries import decision_log
from governance.queries.decisions import decision_made, in_order, redecide
from governance.spreadsheet import as_csv, csv_answer


class DecisionEntry(serializers.Serializer[Any]):
    """A decision and, once the act has ended, its outcome. Money is in micro-units of `currency`."""

    id = serializers.UUIDField()
    created_at = serializers.DateTimeField()
    workspace_id = serializers.UUIDField()
    session_id = serializers.UUIDField(allow_null=True)
    requester_id = serializers.UUIDField(allow_null=True)
    subject_kind = serializers.ChoiceField(choices=get_args(SubjectKind))
    tool = serializers.CharField(allow_blank=True)
    model = serializers.CharField(allow_blank=True)
    agent = serializers.CharField(allow_blank=True)
    outcome = serializers.ChoiceField(choices=get_args(Outcome))
    rule = serializers.CharField()
    rule_hash = serializers.CharField(allow_blank=True)
    policy_hash = serializers.CharField()
    reason = serializers.CharField()
    review = serializers.BooleanField()
    matched = serializers.ListField(child=serializers.CharField())
    not_matched = serializers.ListField(child=serializers.CharField())
    erred = serializers.ListField(child=serializers.CharField())
    message_for_people = serializers.CharField(allow_blank=True)
    parameters = serializers.DictField()
    cost_limit_before = serializers.IntegerField(allow_null=True)
    cost_limit_after = serializers.IntegerField(allow_null=True)
    currency = serializers.CharField()
    resource_usage_before = serializers.DictField(child=serializers.IntegerField())
    resource_usage_after = serializers.DictField(child=serializers.IntegerField())
    user_context = serializers.DictField()
    budget_id = serializers.UUIDField(allow_null=True, help_text="The budget that decided.")
    warnings = serializers.ListField(child=serializers.UUIDField(), help_text="Budgets that run low.")
    grants = serializers.ListField(child=serializers.UUIDField(), help_text="Approvals that let it through.")
    approval_id = serializers.UUIDField(allow_null=True, help_text="The request for approval that it made.")
    retry_after_ms = serializers.IntegerField(allow_null=True)
    possible_labels = serializers.ListField(child=serializers.CharField())
    findings = serializers.ListField(
        child=serializers.CharField(), help_text="Kinds of what detectors found in its text."
    )
    redact = serializers.ListField(
        child=serializers.CharField(), help_text="Kinds of findings taken out of its text; * for all."
    )
    glass_id = serializers.UUIDField(allow_null=True, help_text="The break-glass that was in force.")
    unbroken_outcome = serializers.ChoiceField(
        choices=[*get_args(Outcome), ""], help_text="Without break-glass, where that is something else."
    )
    unbroken_rule = serializers.CharField(allow_blank=True)
    shadow_hash = serializers.CharField(allow_blank=True, help_text="The set in shadow.")
    shadow_outcome = serializers.ChoiceField(
        choices=[*get_args(Outcome), ""], help_text="What it would have decided."
    )
    shadow_rule = serializers.CharField(allow_blank=True)
    decided_at = serializers.DateTimeField()
    trace_id = serializers.CharField(allow_blank=True)
    act_outcome = serializers.ChoiceField(choices=[*get_args(ActOutcome), ""])
    act_cost_micros = serializers.IntegerField(allow_null=True)
    act_currency = serializers.CharField(allow_blank=True)
    act_tokens = serializers.IntegerField(allow_null=True)
    act_estimated = serializers.BooleanField()
    labels_added = serializers.ListField(child=serializers.CharField())
    settled_at = serializers.DateTimeField(allow_null=True)


class DecisionDetail(DecisionEntry):
    """A decision with its exact request: null where it is erased, or not for the caller."""

    request = serializers.DictField(allow_null=True)


class DecisionPage(serializers.Serializer[Any]):
    """Decisions, newest first."""

    items = DecisionEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class DecidedVerdict(serializers.Serializer[Any]):
    """A verdict. `rules` says of each rule: matched, not_matched or error."""

    outcome = serializers.ChoiceField(choices=get_args(Outcome))
    rule = serializers.CharField()
    reason = serializers.CharField()
    review = serializers.BooleanField()
    left_out = serializers.ListField(child=serializers.CharField())
    redact = serializers.ListField(child=serializers.CharField())
    grants = serializers.ListField(child=serializers.UUIDField())
    retry_after_ms = serializers.IntegerField(allow_null=True)
    unbroken = serializers.ListField(
        child=serializers.CharField(), help_text="Outcome and rule without break-glass, where they differ."
    )
    unbroken_redact = serializers.ListField(
        child=serializers.CharField(), help_text="What would have been taken out besides, without it."
    )
    unbroken_left_out = serializers.ListField(
        child=serializers.CharField(), help_text="Labels that would have been left out besides, without it."
    )
    rules = serializers.DictField(child=serializers.CharField())


class DecidedAgain(serializers.Serializer[Any]):
    """A decision as it was recorded, and as its own policy decides it now."""

    decision_id = serializers.UUIDField()
    policy_hash = serializers.CharField()
    same = serializers.BooleanField()
    recorded = DecidedVerdict()
    now = DecidedVerdict()


_SORTS = (
    OpenApiParameter("session_id", OpenApiTypes.UUID),
    OpenApiParameter("outcome", {"type": "string", "enum": list(get_args(Outcome))}),
    OpenApiParameter("subject_kind", {"type": "string", "enum": list(get_args(SubjectKind))}),
    OpenApiParameter("rule", OpenApiTypes.STR, description="The rule that decided."),
    OpenApiParameter("tool", OpenApiTypes.STR),
    OpenApiParameter("review", OpenApiTypes.BOOL, description="Those marked for review, or not."),
)


class Decisions(ApiView):
    """The decisions that the caller may see."""

    @extend_schema(
        operation_id="decisions_list",
        parameters=[
            *_SORTS,
            *PAGE_PARAMETERS,
        ],
        responses=DecisionPage,
    )
    def get(self, request: Request) -> Response:
        """List decisions, newest first."""
        cursor, limit = page_parameters(request)
        page = decision_log.decisions(caller(request), **_sorts(request), cursor=cursor, limit=limit)
        return Response({"items": page.items, "next_cursor": page.next_cursor})


class DecisionOne(ApiView):
    """One decision."""

    @extend_schema(operation_id="decisions_get", responses=DecisionDetail)
    def get(self, request: Request, decision_id: UUID) -> Response:
        """Return a decision with its exact request."""
        return Response(decision_log.decision(decision_id, caller(request)))


class DecisionCapsule(ApiView):
    """A decision with what proves it."""

    roles = CONSOLE_ROLES

    @extend_schema(
        operation_id="decisions_capsule", responses={(200, "application/json"): OpenApiTypes.OBJECT}
    )
    def get(self, request: Request, decision_id: UUID) -> HttpResponse:
        """Return the decision's capsule, for `cartrita-verify`; the log says who took it along."""
        asked = caller(request)
        decision_log.visible_decision(decision_id, asked)
        content = decision_capsule(decision_id)
        record_export(actor=asked.actor, what="decision capsules", workspaces=[asked.workspace_id])
        return capsule_answer(decision_id, content)


class DecisionAgain(ApiView):
    """A decision, made once more."""

    roles = CONSOLE_ROLES

    @extend_schema(operation_id="decisions_again", responses=DecidedAgain)
    def get(self, request: Request, decision_id: UUID) -> Response:
        """Decide the stored request again under the policy of that time. Nothing is recorded."""
        row = decision_log.visible_decision(decision_id, caller(request))
        recorded = decision_made(row.id)
        made = recorded.event
        assert isinstance(made, DecisionMade)  # noqa: S101 # what decision_made returns
        before, now = verdict_of(made), redecide(recorded)
        return Response(
            {
                "decision_id": row.id,
                "policy_hash": made.policy_hash,
                "same": in_order(before) == in_order(now),
                "recorded": verdict_as_json(before),
                "now": verdict_as_json(now),
            }
        )


class DecisionExport(ApiView):
    """Decisions as a file."""

    @extend_schema(
        operation_id="decisions_export",
        parameters=[
            OpenApiParameter("since", OpenApiTypes.DATETIME),
            OpenApiParameter("until", OpenApiTypes.DATETIME, description="Excluded."),
            *_SORTS,
        ],
        responses={(200, "text/csv"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> HttpResponse:
        """Return at most 10,000 decisions as CSV, without requests; the log says who took them along."""
        asked = caller(request)
        rows = decision_log.export(
            asked,
            since=time_parameter(request, "since"),
            until=time_parameter(request, "until"),
            **_sorts(request),
        )
        columns = decision_log.EXPORTED_COLUMNS
        content = as_csv(columns, ([getattr(row, column) for column in columns] for row in rows))
        record_export(actor=asked.actor, what="decisions", workspaces=[row.workspace_id for row in rows])
        return csv_answer(content, "decisions")


def verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    """Return what a verdict says, but for what may quote the request."""
    return {
        "outcome": verdict.outcome,
        "rule": verdict.rule,
        "reason": verdict.reason,
        "review": verdict.review,
        "left_out": list(verdict.left_out),
        "redact": list(verdict.redact),
        "grants": list(verdict.grants),
        "retry_after_ms": verdict.retry_after_ms,
        "unbroken": list(verdict.unbroken or ()),
        "unbroken_redact": list(verdict.unbroken_redact),
        "unbroken_left_out": list(verdict.unbroken_left_out),
        "rules": {one.rule: one.result for one in verdict.evaluated},
    }


def _sorts(request: Request) -> dict[str, Any]:
    wanted = request.query_params
    return {
        "session_id": uuid_parameter(request, "session_id"),
        "outcome": wanted.get("outcome", ""),
        "subject_kind": wanted.get("subject_kind", ""),
        "rule": _name(request, "rule"),
        "tool": _name(request, "tool"),
        "review": _truth(request, "review"),
    }


def _name(request: Request, name: str) -> str:
    text = request.query_params.get(name, "")
    if "\0" in text or len(text) > 200:
        raise BadInput(f"{name} is a name of at most 200 characters.", field=name)
    return text


def _truth(request: Request, name: str) -> bool | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if text.lower() not in {"true", "false"}:
        raise BadInput(f"{name} is true or false.", field=name)
    return text.lower() == "true"
