"""REST: decisions."""

from typing import Any, get_args
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.errors import BadInput
from cartrita.http.pagination import PAGE_PARAMETERS, page_parameters
from cartrita.http.parameters import uuid_parameter
from cartrita.http.views import ApiView
from governance.decision import ActOutcome
from governance.policy import Outcome, SubjectKind
from governance.queries import decision_log


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
    redact = serializers.ListField(
        child=serializers.CharField(), help_text="Kinds of findings taken out of its text; * for all."
    )
    glass_id = serializers.UUIDField(allow_null=True, help_text="The break-glass that was in force.")
    unbroken_outcome = serializers.ChoiceField(
        choices=[*get_args(Outcome), ""], help_text="Without break-glass, where that is something else."
    )
    unbroken_rule = serializers.CharField(allow_blank=True)
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


class Decisions(ApiView):
    """The decisions that the caller may see."""

    @extend_schema(
        operation_id="decisions_list",
        parameters=[
            OpenApiParameter("session_id", OpenApiTypes.UUID),
            OpenApiParameter("outcome", {"type": "string", "enum": list(get_args(Outcome))}),
            OpenApiParameter("subject_kind", {"type": "string", "enum": list(get_args(SubjectKind))}),
            OpenApiParameter("rule", OpenApiTypes.STR, description="The rule that decided."),
            OpenApiParameter("tool", OpenApiTypes.STR),
            OpenApiParameter("review", OpenApiTypes.BOOL, description="Those marked for review, or not."),
            *PAGE_PARAMETERS,
        ],
        responses=DecisionPage,
    )
    def get(self, request: Request) -> Response:
        """List decisions, newest first."""
        cursor, limit = page_parameters(request)
        wanted = request.query_params
        page = decision_log.decisions(
            caller(request),
            session_id=uuid_parameter(request, "session_id"),
            outcome=wanted.get("outcome", ""),
            subject_kind=wanted.get("subject_kind", ""),
            rule=_name(request, "rule"),
            tool=_name(request, "tool"),
            review=_truth(request, "review"),
            cursor=cursor,
            limit=limit,
        )
        return Response({"items": page.items, "next_cursor": page.next_cursor})


class DecisionOne(ApiView):
    """One decision."""

    @extend_schema(operation_id="decisions_get", responses=DecisionDetail)
    def get(self, request: Request, decision_id: UUID) -> Response:
        """Return a decision with its exact request."""
        return Response(decision_log.decision(decision_id, caller(request)))


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
