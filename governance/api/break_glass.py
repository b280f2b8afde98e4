"""REST: break-glass, and the acts that it let pass."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any, get_args
from uuid import UUID

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.errors import BadInput
from cartrita.http.conditional import IF_MATCH, entity_tag, expected_version
from cartrita.http.fields import Text
from cartrita.http.pagination import PAGE_PARAMETERS, page_parameters
from cartrita.http.parameters import uuid_parameter
from cartrita.http.views import ApiView
from governance.api.shared import validated
from governance.break_glass import LONGEST, LONGEST_REASON, MOST_REVIEWED_AT_ONCE, SHORTEST_REASON, GlassScope
from governance.commands import break_glass as commands
from governance.decision import ActOutcome
from governance.policy import Outcome, SubjectKind
from governance.queries import break_glass as queries

LONGEST_MINUTES = LONGEST // timedelta(minutes=1)
_REVIEWED = ("false", "true", "all")


class BreakGlassEntry(serializers.Serializer[Any]):
    """An opening of break-glass, with how many decisions were made under it and what waits for a look."""

    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    version = serializers.IntegerField()
    scope_kind = serializers.ChoiceField(choices=get_args(GlassScope))
    scope = serializers.CharField(allow_blank=True, help_text="A session's or person's id.")
    reason = serializers.CharField()
    by = serializers.CharField()
    alone = serializers.BooleanField(help_text="Nobody else could be told of it.")
    opened_at = serializers.DateTimeField()
    until = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    ended_by = serializers.CharField(allow_blank=True)
    ended_note = serializers.CharField(allow_blank=True)
    state = serializers.ChoiceField(choices=get_args(queries.State))
    decisions = serializers.IntegerField(help_text="Decisions that were made under it.")
    changed = serializers.IntegerField(help_text="Those of them that would have come out otherwise.")
    passed = serializers.IntegerField(help_text="Acts that it let pass.")
    to_review = serializers.IntegerField(help_text="Those of them that nobody has looked at yet.")


class BreakGlassPage(serializers.Serializer[Any]):
    """Openings, newest first."""

    items = BreakGlassEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class NewBreakGlass(serializers.Serializer[Any]):
    """For how long, for what, and why. The reason is kept in clear for ever: no personal text."""

    reason = Text(min_length=SHORTEST_REASON, max_length=LONGEST_REASON)
    minutes = serializers.IntegerField(min_value=1, max_value=LONGEST_MINUTES)
    scope_kind = serializers.ChoiceField(choices=get_args(GlassScope), default="workspace")
    scope = Text(
        required=False,
        allow_blank=True,
        default="",
        max_length=64,
        help_text="The id of a session or person; the workspace needs none.",
    )


class BreakGlassEnd(serializers.Serializer[Any]):
    """A remark about its end, in clear."""

    note = Text(required=False, allow_blank=True, default="", max_length=LONGEST_REASON)


class BreakGlassReview(serializers.Serializer[Any]):
    """The acts that the caller has looked at: without `decisions` the oldest 500 that wait."""

    decisions = serializers.ListField(
        child=serializers.UUIDField(), required=False, min_length=1, max_length=MOST_REVIEWED_AT_ONCE
    )
    note = Text(required=False, allow_blank=True, default="", max_length=LONGEST_REASON)


class BreakGlassAct(serializers.Serializer[Any]):
    """An act under break-glass, what it would have come to without it, and who has looked at it."""

    decision_id = serializers.UUIDField()
    glass_id = serializers.UUIDField()
    created_at = serializers.DateTimeField()
    session_id = serializers.UUIDField(allow_null=True)
    requester_id = serializers.UUIDField(allow_null=True)
    subject_kind = serializers.ChoiceField(choices=get_args(SubjectKind))
    tool = serializers.CharField(allow_blank=True)
    model = serializers.CharField(allow_blank=True)
    agent = serializers.CharField(allow_blank=True)
    outcome = serializers.ChoiceField(choices=get_args(Outcome))
    rule = serializers.CharField()
    unbroken_outcome = serializers.ChoiceField(
        choices=[*get_args(Outcome), ""],
        help_text="Without it, where that is something else; the same where only more is taken or left out.",
    )
    unbroken_rule = serializers.CharField(allow_blank=True)
    changed = serializers.BooleanField(help_text="It would have come out otherwise without it.")
    passed = serializers.BooleanField(help_text="So it would, and it went ahead.")
    act_outcome = serializers.ChoiceField(choices=[*get_args(ActOutcome), ""])
    reviewed_by = serializers.CharField(allow_blank=True)
    reviewed_at = serializers.DateTimeField(allow_null=True)
    own = serializers.BooleanField(help_text="Whoever looked at it had a part in it.")
    note = serializers.CharField(allow_blank=True)


class BreakGlassActs(serializers.Serializer[Any]):
    """Acts under break-glass, newest first."""

    items = BreakGlassAct(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class BreakGlasses(ApiView):
    """The workspace's openings of break-glass."""

    @extend_schema(
        operation_id="break_glass_list",
        parameters=[
            OpenApiParameter("in_force", OpenApiTypes.BOOL, description="Those in force alone."),
            *PAGE_PARAMETERS,
        ],
        responses=BreakGlassPage,
    )
    def get(self, request: Request) -> Response:
        """List openings, newest first."""
        asked = caller(request)
        queries.require_reader(asked)
        in_force = request.query_params.get("in_force", "false").lower()
        if in_force not in {"true", "false"}:
            raise BadInput("in_force is true or false.", field="in_force")
        cursor, limit = page_parameters(request)
        page = queries.openings(
            asked.workspace_id, at=timezone.now(), in_force=in_force == "true", cursor=cursor, limit=limit
        )
        return Response(BreakGlassPage(page).data)

    @extend_schema(operation_id="break_glass_open", request=NewBreakGlass, responses={201: BreakGlassEntry})
    def post(self, request: Request) -> Response:
        """Open break-glass: for its time, breakable rules count as audit."""
        asked = caller(request)
        glass_id, _ = commands.open_break_glass(caller=asked, **validated(NewBreakGlass, request))
        answer = _answer(request, glass_id, status=201)
        answer["Location"] = f"/api/v2/break-glass/{glass_id}"
        return answer


class BreakGlassOne(ApiView):
    """One opening."""

    @extend_schema(operation_id="break_glass_get", responses=BreakGlassEntry)
    def get(self, request: Request, glass_id: UUID) -> Response:
        """Return an opening as it stands."""
        return _answer(request, glass_id)


class BreakGlassEnding(ApiView):
    """Ending an opening before its time."""

    @extend_schema(
        operation_id="break_glass_end",
        parameters=[IF_MATCH],
        request=BreakGlassEnd,
        responses=BreakGlassEntry,
    )
    def post(self, request: Request, glass_id: UUID) -> Response:
        """End it; from now on every rule counts in full."""
        commands.end_break_glass(
            glass_id=glass_id,
            caller=caller(request),
            expected_version=expected_version(request),
            **validated(BreakGlassEnd, request),
        )
        return _answer(request, glass_id)


class BreakGlassReviewing(ApiView):
    """Looking at what an opening let pass."""

    @extend_schema(
        operation_id="break_glass_review",
        parameters=[IF_MATCH],
        request=BreakGlassReview,
        responses=BreakGlassEntry,
    )
    def post(self, request: Request, glass_id: UUID) -> Response:
        """Say that the caller has looked at acts that it let pass."""
        commands.review_acts(
            glass_id=glass_id,
            caller=caller(request),
            expected_version=expected_version(request),
            **validated(BreakGlassReview, request),
        )
        return _answer(request, glass_id)


class BreakGlassPassed(ApiView):
    """The acts that break-glass let pass."""

    @extend_schema(
        operation_id="break_glass_acts",
        parameters=[
            OpenApiParameter("glass_id", OpenApiTypes.UUID, description="Those of one opening."),
            OpenApiParameter(
                "reviewed",
                {"type": "string", "enum": list(_REVIEWED)},
                description="Those that nobody has looked at (false, the default for what it let pass), the "
                "others, or all.",
            ),
            OpenApiParameter(
                "which",
                {"type": "string", "enum": list(get_args(queries.Which)), "default": "passed"},
                description="Acts that it let pass, decisions that would have come out otherwise, or all.",
            ),
            *PAGE_PARAMETERS,
        ],
        responses=BreakGlassActs,
    )
    def get(self, request: Request) -> Response:
        """List acts under break-glass, newest first: by default those it let pass that wait for a look."""
        asked = caller(request)
        queries.require_reader(asked)
        which = request.query_params.get("which", "passed").lower()
        if which not in queries.ACTS:
            raise BadInput(f"which is one of {', '.join(queries.ACTS)}.", field="which")
        reviewed = request.query_params.get("reviewed", "false" if which == "passed" else "all").lower()
        if reviewed not in _REVIEWED:
            raise BadInput(f"reviewed is one of {', '.join(_REVIEWED)}.", field="reviewed")
        cursor, limit = page_parameters(request)
        page = queries.acts(
            asked.workspace_id,
            glass_id=uuid_parameter(request, "glass_id"),
            which=queries.ACTS[which],
            reviewed=None if reviewed == "all" else reviewed == "true",
            cursor=cursor,
            limit=limit,
        )
        return Response(BreakGlassActs(page).data)


def _answer(request: Request, glass_id: UUID, *, status: int = 200) -> Response:
    found = asdict(queries.opening(glass_id, caller(request), at=timezone.now()))
    return Response(found, status=status, headers=entity_tag(found["version"]))
