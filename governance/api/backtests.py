"""REST: back-tests."""

from typing import Any, get_args
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.errors import BadInput
from cartrita.http.conditional import entity_tag
from cartrita.http.fields import Text
from cartrita.http.pagination import PAGE_PARAMETERS, page_parameters
from cartrita.http.views import ApiView
from governance.api.shared import validated
from governance.backtest.back_test import Source, Status
from governance.commands import backtests as commands
from governance.policy import LARGEST_TEXT
from governance.queries import backtests as queries

STATUSES = [status for status in get_args(Status) if status != "none"]
PHASES = ["", "queued", "counting", "buckets", "deciding"]


class BackTestEntry(serializers.Serializer[Any]):
    """A back-test as it stands; counts are null until it is completed.

    While it is requested, `progress_decisions` of `progress_total` are dealt with, in this phase of it.
    """

    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    version = serializers.IntegerField()
    policy = serializers.CharField()
    policy_hash = serializers.CharField()
    origin = serializers.ChoiceField(
        choices=get_args(Source), source="source", help_text="Where the set came from."
    )
    by = serializers.CharField()
    since = serializers.DateTimeField(allow_null=True)
    until = serializers.DateTimeField(allow_null=True)
    session_id = serializers.UUIDField(allow_null=True, source="only_session")
    status = serializers.ChoiceField(choices=STATUSES)
    phase = serializers.ChoiceField(choices=PHASES)
    progress_decisions = serializers.IntegerField()
    progress_total = serializers.IntegerField()
    percent = serializers.IntegerField()
    requested_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    ended_by = serializers.CharField(allow_blank=True)
    code = serializers.CharField(allow_blank=True, help_text="Why it failed.")
    message = serializers.CharField(allow_blank=True)
    decisions = serializers.IntegerField(allow_null=True, help_text="Decided again.")
    not_redecidable = serializers.IntegerField(allow_null=True, help_text="Erased, or not readable.")
    differences = serializers.IntegerField(
        allow_null=True, help_text="Under their own set; unless it is 0, the report is not to be trusted."
    )
    changed = serializers.IntegerField(allow_null=True)
    sessions_changed = serializers.IntegerField(allow_null=True)
    milliseconds = serializers.IntegerField(allow_null=True)


class BackTestPage(serializers.Serializer[Any]):
    """Back-tests, newest first."""

    items = BackTestEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class NewBackTest(serializers.Serializer[Any]):
    """Which set, over which decisions: without a hash or text the draft, without times all decisions."""

    policy_hash = Text(required=False, max_length=64, help_text="The draft's, or that of a known set.")
    text = Text(required=False, max_length=LARGEST_TEXT, trim_whitespace=False, help_text="A policy file.")
    since = serializers.DateTimeField(required=False, allow_null=True)
    until = serializers.DateTimeField(required=False, allow_null=True)
    session_id = serializers.UUIDField(required=False, allow_null=True)


class BackTestReport(serializers.Serializer[Any]):
    """What was found; docs/how-to/backtest.md says what stands in it."""

    trustworthy = serializers.BooleanField()
    self_check = serializers.DictField()
    decisions = serializers.DictField(child=serializers.IntegerField())
    changed = serializers.IntegerField()
    by_another_rule = serializers.IntegerField()
    other_content = serializers.IntegerField()
    sessions = serializers.DictField(child=serializers.IntegerField())
    matrix = serializers.DictField(child=serializers.DictField(child=serializers.IntegerField()))
    by_rule = serializers.ListField(child=serializers.DictField())
    by_tool = serializers.ListField(child=serializers.DictField())
    by_agent = serializers.ListField(child=serializers.DictField())
    by_model = serializers.ListField(child=serializers.DictField())
    by_subject_kind = serializers.ListField(child=serializers.DictField())
    by_workspace = serializers.ListField(child=serializers.DictField())
    approvals = serializers.DictField(child=serializers.FloatField())
    by_day = serializers.ListField(child=serializers.DictField())
    spend = serializers.DictField(child=serializers.DictField())
    first_changes = serializers.ListField(child=serializers.DictField())
    examples = serializers.ListField(child=serializers.DictField())
    throttles = serializers.DictField()


class BackTests(ApiView):
    """The workspace's back-tests."""

    @extend_schema(
        operation_id="back_tests_list",
        parameters=[
            OpenApiParameter("policy_hash", OpenApiTypes.STR, description="Those of one set."),
            OpenApiParameter("status", {"type": "string", "enum": STATUSES}, description="In that state."),
            *PAGE_PARAMETERS,
        ],
        responses=BackTestPage,
    )
    def get(self, request: Request) -> Response:
        """List back-tests, newest first."""
        status = request.query_params.get("status", "")
        if status and status not in STATUSES:
            raise BadInput(f"status is one of {', '.join(STATUSES)}.", field="status")
        cursor, limit = page_parameters(request)
        page = queries.back_tests(
            caller(request),
            policy_hash=request.query_params.get("policy_hash", "").replace("\0", ""),
            status=status,
            cursor=cursor,
            limit=limit,
        )
        items = [_entry(each) for each in page.items]
        return Response(BackTestPage({"items": items, "next_cursor": page.next_cursor}).data)

    @extend_schema(
        operation_id="back_tests_request",
        request=NewBackTest,
        responses={200: BackTestEntry, 201: BackTestEntry},
    )
    def post(self, request: Request) -> Response:
        """Ask for a back-test. One of the same set and decisions that has not ended is returned with 200."""
        asked = caller(request)
        wanted = validated(NewBackTest, request)
        if "text" in wanted and "policy_hash" in wanted:
            raise BadInput("Send policy_hash or text, not both.", field="policy_hash")
        back_test_id, new = commands.request_back_test(
            workspace_id=asked.workspace_id, caller=asked, **wanted
        )
        answer = _answer(request, back_test_id, status=201 if new else 200)
        answer["Location"] = f"/api/v2/backtests/{back_test_id}"
        return answer


class BackTestOne(ApiView):
    """One back-test."""

    @extend_schema(operation_id="back_tests_get", responses=BackTestEntry)
    def get(self, request: Request, back_test_id: UUID) -> Response:
        """Return a back-test as it stands; ask again to see how far it is."""
        return _answer(request, back_test_id)


class BackTestReported(ApiView):
    """What a back-test found."""

    @extend_schema(
        operation_id="back_tests_report",
        responses={
            200: BackTestReport,
            409: OpenApiResponse(description="There is no report yet, or it ended without one."),
        },
    )
    def get(self, request: Request, back_test_id: UUID) -> Response:
        """Return the report, as it was saved; a conflict while there is none."""
        return Response(queries.report(queries.back_test(back_test_id, caller(request)).row))


class BackTestCancel(ApiView):
    """Stopping a back-test."""

    @extend_schema(operation_id="back_tests_cancel", request=None, responses=BackTestEntry)
    def post(self, request: Request, back_test_id: UUID) -> Response:
        """Stop it, within a second and without a report."""
        commands.cancel_back_test(back_test_id=back_test_id, caller=caller(request))
        return _answer(request, back_test_id)


def _answer(request: Request, back_test_id: UUID, *, status: int = 200) -> Response:
    found = queries.back_test(back_test_id, caller(request))
    return Response(BackTestEntry(_entry(found)).data, status=status, headers=entity_tag(found.row.version))


def _entry(standing: queries.Standing) -> dict[str, Any]:
    row = standing.row
    return {
        **{field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields},  # noqa: SLF001 - Django's own name
        "phase": standing.phase,
        "progress_decisions": standing.decisions,
        "progress_total": standing.total,
        "percent": standing.percent,
    }
