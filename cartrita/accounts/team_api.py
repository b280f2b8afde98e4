"""REST: the teams of the workspace."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts import team_commands as commands
from cartrita.accounts import team_queries as queries
from cartrita.accounts.authentication import caller
from cartrita.accounts.console import CONSOLE_ROLES
from cartrita.accounts.team import MOST_MEMBERS, NAME_LIMIT
from cartrita.errors import BadInput
from cartrita.http.conditional import IF_MATCH, entity_tag, expected_version
from cartrita.http.fields import Text
from cartrita.http.pagination import PAGE_PARAMETERS, page_parameters
from cartrita.http.views import ApiView


class TeamMateEntry(serializers.Serializer[Any]):
    """Somebody in a team."""

    user_id = serializers.UUIDField()
    name = serializers.CharField(allow_blank=True)
    since = serializers.DateTimeField()


class TeamEntry(serializers.Serializer[Any]):
    """A team; a closed one has no members."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    closed = serializers.BooleanField()
    created_at = serializers.DateTimeField()
    version = serializers.IntegerField()
    members = TeamMateEntry(many=True)


class TeamPage(serializers.Serializer[Any]):
    """Teams by name."""

    items = TeamEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class NewTeam(serializers.Serializer[Any]):
    """A team, and who is in it from the beginning: members of the workspace."""

    name = Text(max_length=NAME_LIMIT)
    members = serializers.ListField(
        child=serializers.UUIDField(), required=False, default=list, max_length=MOST_MEMBERS
    )


class TeamChange(serializers.Serializer[Any]):
    """Another name, exactly these members, or both; what is left out stays."""

    name = Text(required=False, max_length=NAME_LIMIT)
    members = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=MOST_MEMBERS)


class Teams(ApiView):
    """The teams of the workspace: looked at by who looks after it, made by its administrators."""

    roles = CONSOLE_ROLES

    @extend_schema(
        operation_id="teams_list",
        parameters=[
            OpenApiParameter("closed", OpenApiTypes.BOOL, description="Also the closed ones."),
            *PAGE_PARAMETERS,
        ],
        responses=TeamPage,
    )
    def get(self, request: Request) -> Response:
        """List the teams by name, with who is in them."""
        closed = request.query_params.get("closed", "false").lower()
        if closed not in {"true", "false"}:
            raise BadInput("closed is true or false.", field="closed")
        cursor, limit = page_parameters(request)
        page = queries.teams_of(
            caller(request).workspace_id, closed=closed == "true", cursor=cursor, limit=limit
        )
        items = [asdict(each) for each in page.items]
        return Response(TeamPage({"items": items, "next_cursor": page.next_cursor}).data)

    @extend_schema(operation_id="teams_create", request=NewTeam, responses={201: TeamEntry})
    def post(self, request: Request) -> Response:
        """Create a team; 409 for a name that another one has."""
        asked = caller(request)
        wanted = NewTeam(data=request.data)
        wanted.is_valid(raise_exception=True)
        team_id = commands.create_team(caller=asked, **wanted.validated_data)
        answer = _answer(request, team_id, status=201)
        answer["Location"] = f"/api/v2/teams/{team_id}"
        return answer


class TeamDetail(ApiView):
    """One team."""

    roles = CONSOLE_ROLES

    @extend_schema(operation_id="teams_get", responses=TeamEntry)
    def get(self, request: Request, team_id: UUID) -> Response:
        """Return a team with who is in it."""
        return _answer(request, team_id)

    @extend_schema(
        operation_id="teams_change", parameters=[IF_MATCH], request=TeamChange, responses=TeamEntry
    )
    def patch(self, request: Request, team_id: UUID) -> Response:
        """Rename the team, or say exactly who is in it; acts under way stay booked where they were."""
        wanted = TeamChange(data=request.data)
        wanted.is_valid(raise_exception=True)
        commands.change_team(
            team_id=team_id,
            caller=caller(request),
            expected_version=expected_version(request),
            **wanted.validated_data,
        )
        return _answer(request, team_id)

    @extend_schema(operation_id="teams_close", parameters=[IF_MATCH], responses={204: None})
    def delete(self, request: Request, team_id: UUID) -> Response:
        """Close the team: its name is free, its budgets limit nobody."""
        commands.close_team(
            team_id=team_id, caller=caller(request), expected_version=expected_version(request)
        )
        return Response(status=204)


class TeamMember(ApiView):
    """One person's place in a team."""

    roles = CONSOLE_ROLES

    @extend_schema(operation_id="teams_join", parameters=[IF_MATCH], request=None, responses=TeamEntry)
    def put(self, request: Request, team_id: UUID, user_id: UUID) -> Response:
        """Let a member of the workspace join the team; nothing where they are in it."""
        commands.change_team(
            team_id=team_id,
            caller=caller(request),
            joining=[user_id],
            expected_version=expected_version(request),
        )
        return _answer(request, team_id)

    @extend_schema(operation_id="teams_leave", parameters=[IF_MATCH], responses={204: None})
    def delete(self, request: Request, team_id: UUID, user_id: UUID) -> Response:
        """Let somebody leave the team; nothing where they are not in it."""
        commands.change_team(
            team_id=team_id,
            caller=caller(request),
            leaving=[user_id],
            expected_version=expected_version(request),
        )
        return Response(status=204)


def _answer(request: Request, team_id: UUID, *, status: int = 200) -> Response:
    found = queries.team(team_id, caller(request).workspace_id)
    return Response(TeamEntry(asdict(found)).data, status=status, headers=entity_tag(found.version))
