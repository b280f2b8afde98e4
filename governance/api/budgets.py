"""REST: budgets."""

from dataclasses import asdict
from typing import Any, get_args
from uuid import UUID

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
from governance.api.shared import validated
from governance.budget import LARGEST_LIMIT, Period, ScopeKind
from governance.commands import budgets as commands
from governance.queries import budgets as queries


class BudgetEntry(serializers.Serializer[Any]):
    """A budget in its present period. Money is in micro-units of `currency`; null: no limit of that sort."""

    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    version = serializers.IntegerField()
    name = serializers.CharField()
    scope_kind = serializers.ChoiceField(choices=get_args(ScopeKind))
    scope = serializers.CharField()
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
    closed = serializers.BooleanField()
    updated_at = serializers.DateTimeField()


class BudgetNode(BudgetEntry):
    """A budget with its parts."""

    children = serializers.SerializerMethodField()

    @extend_schema_field({"type": "array", "items": {"$ref": "#/components/schemas/BudgetNode"}})
    def get_children(self, node: Any) -> list[dict[str, Any]]:
        """Return the parts in the same form."""
        return [dict(BudgetNode(one).data) for one in node.children]


class BudgetTree(serializers.Serializer[Any]):
    """The workspace's budgets by name, each with its parts; `at` is the time of their balances."""

    at = serializers.DateTimeField()
    items = BudgetNode(many=True)
    next_cursor = serializers.CharField(allow_null=True)


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
    time_zone = Text(default="UTC", max_length=64)
    limit_tokens = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=LARGEST_LIMIT
    )
    limit_micros = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=LARGEST_LIMIT
    )
    currency = Text(default="USD", max_length=3)
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
        closed = request.query_params.get("closed", "false").lower()
        if closed not in {"true", "false"}:
            raise BadInput("closed is true or false.", field="closed")
        cursor, limit = page_parameters(request)
        now = timezone.now()
        roots = queries.tree(asked.workspace_id, now, closed=closed == "true")
        page = page_of_all(roots, key=lambda one: f"{one.name} {one.id}", cursor=cursor, limit=limit)
        return Response(BudgetTree({"at": now, "items": page.items, "next_cursor": page.next_cursor}).data)

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


def _answer(request: Request, budget_id: UUID, *, status: int = 200) -> Response:
    found = asdict(queries.budget(budget_id, caller(request), at=timezone.now()))
    del found["children"]
    return Response(found, status=status, headers=entity_tag(found["version"]))
