"""REST: budgets."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, get_args
from uuid import UUID

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.errors import BadInput
from cartrita.http.conditional import IF_MATCH, entity_tag, expected_version
from cartrita.http.fields import Text
from cartrita.http.pagination import PAGE_PARAMETERS, page_of_all, page_parameters
from cartrita.http.views import ApiView
from governance.api.shared import time_parameter, validated
from governance.budget import LARGEST_LIMIT, Period, ScopeKind
from governance.commands import budgets as commands
from governance.commands.exports import record_export
from governance.queries import budget_history as history
from governance.queries import budgets as queries
from governance.queries.budget_table import COLUMNS, table_of
from governance.rule import SubjectKind
from governance.spreadsheet import as_csv, csv_answer

MOST_SPENDERS = 100


class BudgetEntry(serializers.Serializer[Any]):
    """A budget in its present period. Money is in micro-units of `currency`; null: no limit of that sort."""

    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    version = serializers.IntegerField()
    name = serializers.CharField()
    scope_kind = serializers.ChoiceField(choices=get_args(ScopeKind))
    scope = serializers.CharField()
    scope_name = serializers.CharField(
        allow_blank=True, help_text="What the team or person is called; empty for others."
    )
    parent_id = serializers.UUIDField(allow_null=True)
    period = serializers.ChoiceField(choices=get_args(Period))
    time_zone = serializers.CharField()
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField(allow_null=True)
    limit_tokens = serializers.IntegerField(allow_null=True)
    used_tokens = serializers.IntegerField()
    reserved_tokens = serializers.IntegerField()
    left_tokens = serializers.IntegerField(allow_null=True)
    limit_micros = serializers.IntegerField(allow_null=True)
    used_micros = serializers.IntegerField()
    reserved_micros = serializers.IntegerField()
    left_micros = serializers.IntegerField(allow_null=True)
    currency = serializers.CharField()
    percent = serializers.IntegerField(help_text="Used and held back, of the tighter limit.")
    warn_percent = serializers.IntegerField()
    warning = serializers.BooleanField()
    runs_out_at = serializers.DateTimeField(
        allow_null=True, help_text="When it is used up before its period ends, if it goes on like this."
    )
    closed = serializers.BooleanField()
    updated_at = serializers.DateTimeField()


class BudgetNode(BudgetEntry):
    """A budget with its parts."""

    children = serializers.SerializerMethodField()

    @extend_schema_field({"type": "array", "items": {"$ref": "#/components/schemas/BudgetNode"}})
    def get_children(self, node: Any) -> list[dict[str, Any]]:
        """Return the parts in the same form."""
        return [dict(BudgetNode(one).data) for one in node["children"]]


class BudgetTree(serializers.Serializer[Any]):
    """The workspace's budgets by name, each with its parts; `at` is the time of their balances."""

    at = serializers.DateTimeField()
    items = BudgetNode(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class PeriodEntry(serializers.Serializer[Any]):
    """What was used and is held back of a budget in one period, beside the limits at its end."""

    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField(allow_null=True)
    limit_tokens = serializers.IntegerField(allow_null=True)
    used_tokens = serializers.IntegerField()
    reserved_tokens = serializers.IntegerField()
    limit_micros = serializers.IntegerField(allow_null=True)
    used_micros = serializers.IntegerField()
    reserved_micros = serializers.IntegerField()
    currency = serializers.CharField()
    percent = serializers.IntegerField()


class PeriodPage(serializers.Serializer[Any]):
    """Periods, the newest first."""

    items = PeriodEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class SpenderEntry(serializers.Serializer[Any]):
    """A decision that the budget paid for; `open` while its act has not ended and holds this back."""

    decision_id = serializers.UUIDField()
    created_at = serializers.DateTimeField()
    subject_kind = serializers.ChoiceField(choices=get_args(SubjectKind))
    subject = serializers.CharField(allow_blank=True, help_text="The tool or model.")
    agent = serializers.CharField(allow_blank=True)
    session_id = serializers.UUIDField(allow_null=True)
    requester_id = serializers.UUIDField(allow_null=True)
    tokens = serializers.IntegerField()
    micros = serializers.IntegerField()
    open = serializers.BooleanField()
    estimated = serializers.BooleanField()


class SpendingEntry(serializers.Serializer[Any]):
    """What used most of a budget in a period, among the decisions since `since`."""

    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField(allow_null=True)
    since = serializers.DateTimeField(help_text="Of long periods the last 31 days are looked through.")
    spenders = SpenderEntry(many=True)
    refused = serializers.IntegerField(help_text="How many acts this budget refused since then.")


class NewBudget(serializers.Serializer[Any]):
    """What to limit. A scope has one budget for each period; sent again, its terms are written anew."""

    name = Text(max_length=150)
    scope_kind = serializers.ChoiceField(choices=get_args(ScopeKind))
    scope = Text(
        required=False,
        allow_blank=True,
        default="",
        max_length=200,
        help_text="An id, or an agent's or model's name; the workspace needs none.",
    )
    parent_id = serializers.UUIDField(required=False, allow_null=True)
    period = serializers.ChoiceField(choices=get_args(Period), default="month")
    time_zone = Text(required=False, max_length=64, help_text="The workspace's where it is left out.")
    limit_tokens = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=LARGEST_LIMIT
    )
    limit_micros = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=LARGEST_LIMIT
    )
    currency = Text(required=False, max_length=3, help_text="The workspace's where it is left out.")
    warn_percent = serializers.IntegerField(default=80, min_value=1, max_value=100)


class Raise(serializers.Serializer[Any]):
    """Higher limits; what is left out stays."""

    limit_tokens = serializers.IntegerField(required=False, min_value=0, max_value=LARGEST_LIMIT)
    limit_micros = serializers.IntegerField(required=False, min_value=0, max_value=LARGEST_LIMIT)
    reason = Text(max_length=500)


class Budgets(ApiView):
    """The workspace's budgets."""

    @extend_schema(
        operation_id="budgets_tree",
        parameters=[
            OpenApiParameter("closed", OpenApiTypes.BOOL, description="Also the closed ones."),
            *PAGE_PARAMETERS,
        ],
        responses=BudgetTree,
    )
    def get(self, request: Request) -> Response:
        """Return the workspace's budgets as a tree, with their balances of now.

        A page counts those at the top.
        """
        asked = caller(request)
        queries.require_reader(asked)
        closed = _flag(request, "closed")
        cursor, limit = page_parameters(request)
        now = timezone.now()
        roots = queries.tree(asked.workspace_id, now, closed=closed)
        page = page_of_all(roots, key=lambda one: f"{one.name} {one.id}", cursor=cursor, limit=limit)
        names = queries.scope_names(page.items)
        items = [_entry(one, names) for one in page.items]
        return Response(BudgetTree({"at": now, "items": items, "next_cursor": page.next_cursor}).data)

    @extend_schema(
        operation_id="budgets_set", parameters=[IF_MATCH], request=NewBudget, responses={201: BudgetEntry}
    )
    def post(self, request: Request) -> Response:
        """Begin a budget, or write its terms anew."""
        asked = caller(request)
        wanted = validated(NewBudget, request)
        budget_id, _ = commands.set_budget(caller=asked, expected_version=expected_version(request), **wanted)
        answer = _answer(request, budget_id, status=201)
        answer["Location"] = f"/api/v2/budgets/{budget_id}"
        return answer


class BudgetOne(ApiView):
    """One budget."""

    @extend_schema(operation_id="budgets_get", responses=BudgetEntry)
    def get(self, request: Request, budget_id: UUID) -> Response:
        """Return a budget with its balance of now."""
        return _answer(request, budget_id)


class BudgetRaise(ApiView):
    """Giving more."""

    @extend_schema(operation_id="budgets_raise", parameters=[IF_MATCH], request=Raise, responses=BudgetEntry)
    def post(self, request: Request, budget_id: UUID) -> Response:
        """Raise the limits and say why."""
        commands.raise_budget(
            budget_id=budget_id,
            caller=caller(request),
            expected_version=expected_version(request),
            **validated(Raise, request),
        )
        return _answer(request, budget_id)


class BudgetClose(ApiView):
    """Ending a budget."""

    @extend_schema(operation_id="budgets_close", parameters=[IF_MATCH], request=None, responses=BudgetEntry)
    def post(self, request: Request, budget_id: UUID) -> Response:
        """Close the budget; it limits nothing any more."""
        commands.close_budget(
            budget_id=budget_id, caller=caller(request), expected_version=expected_version(request)
        )
        return _answer(request, budget_id)


class BudgetPeriods(ApiView):
    """What a budget had in each of its periods."""

    @extend_schema(operation_id="budgets_periods", parameters=PAGE_PARAMETERS, responses=PeriodPage)
    def get(self, request: Request, budget_id: UUID) -> Response:
        """List the periods in which something was booked, the newest first, with the limits at their end."""
        cursor, limit = page_parameters(request)
        standing = queries.budget(budget_id, caller(request), at=timezone.now())
        page = history.periods(standing, cursor=cursor, limit=limit)
        items = [asdict(each) for each in page.items]
        return Response(PeriodPage({"items": items, "next_cursor": page.next_cursor}).data)


class BudgetSpending(ApiView):
    """Where a budget went."""

    @extend_schema(
        operation_id="budgets_spending",
        parameters=[
            OpenApiParameter(
                "period_start", OpenApiTypes.DATETIME, description="Of which period; else of the present one."
            ),
            OpenApiParameter(
                "limit", {"type": "integer", "minimum": 1, "maximum": MOST_SPENDERS, "default": 10}
            ),
        ],
        responses=SpendingEntry,
    )
    def get(self, request: Request, budget_id: UUID) -> Response:
        """Return the decisions that used most of the budget in a period, and how many it refused."""
        period_start = time_parameter(request, "period_start")
        limit = request.query_params.get("limit", "10")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MOST_SPENDERS):
            raise BadInput(f"limit is a number from 1 to {MOST_SPENDERS}.", field="limit")
        now = timezone.now()
        standing = queries.budget(budget_id, caller(request), at=now)
        found = history.spending(standing, at=now, period_start=period_start, limit=int(limit))
        return Response(SpendingEntry(asdict(found)).data)


class BudgetExport(ApiView):
    """The budgets as a file."""

    @extend_schema(
        operation_id="budgets_export",
        parameters=[OpenApiParameter("closed", OpenApiTypes.BOOL, description="Also the closed ones.")],
        responses={(200, "text/csv"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> HttpResponse:
        """Return the budgets with their balances of now as CSV; the log says who took them along."""
        asked = caller(request)
        queries.require_reader(asked)
        closed = _flag(request, "closed")
        now = timezone.now()
        roots = queries.tree(asked.workspace_id, now, closed=closed)
        rows = table_of(roots)
        record_export(actor=asked.actor, what="budgets", workspaces=[asked.workspace_id] * len(rows))
        return csv_answer(as_csv(COLUMNS, rows), "budgets")


def _flag(request: Request, name: str) -> bool:
    written = request.query_params.get(name, "false").lower()
    if written not in {"true", "false"}:
        raise BadInput(f"{name} is true or false.", field=name)
    return written == "true"


def _entry(one: queries.BudgetStanding, names: Mapping[queries.Scope, str]) -> dict[str, Any]:
    found = {field.name: getattr(one, field.name) for field in fields(one)}
    found["scope_name"] = names.get((one.scope_kind, one.scope), "")
    found["children"] = [_entry(part, names) for part in one.children]
    return found


def _answer(request: Request, budget_id: UUID, *, status: int = 200) -> Response:
    one = queries.budget(budget_id, caller(request), at=timezone.now())
    found = _entry(one, queries.scope_names([one]))
    return Response(BudgetEntry(found).data, status=status, headers=entity_tag(one.version))
