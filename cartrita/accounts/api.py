"""REST: who asks, the workspace and its members, API tokens and socket tickets."""

from typing import Any, ClassVar, get_args
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts import commands, queries
from cartrita.accounts.api_token import NAME_LIMIT, Scope
from cartrita.accounts.authentication import caller
from cartrita.accounts.team_queries import team_names
from cartrita.accounts.workspace import Role
from cartrita.http.conditional import IF_MATCH, entity_tag, expected_version
from cartrita.http.fields import Text
from cartrita.http.pagination import PAGE_PARAMETERS, page_parameters
from cartrita.http.views import ApiView

ROLES = list(get_args(Role))


class TokenRequest(serializers.Serializer[Any]):
    """What a new token is for."""

    name = Text(max_length=NAME_LIMIT)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=get_args(Scope)),
        min_length=1,
        max_length=len(get_args(Scope)),
    )
    expires_at = serializers.DateTimeField(
        required=False, help_text="90 days from now where it is left out, at most 366."
    )


class IssuedToken(serializers.Serializer[Any]):
    """A token; `secret` is shown this once."""

    id = serializers.UUIDField()
    secret = serializers.CharField()
    expires_at = serializers.DateTimeField()


class TokenEntry(serializers.Serializer[Any]):
    """A token without its secret."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=get_args(Scope)))
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    revoked_at = serializers.DateTimeField(allow_null=True)


class TokenList(serializers.Serializer[Any]):
    """The caller's tokens, newest first."""

    items = TokenEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class IssuedTicket(serializers.Serializer[Any]):
    """A ticket for one socket, sent as the subprotocol `ticket.<ticket>`."""

    ticket = serializers.CharField()
    expires_at = serializers.DateTimeField()


class WorkspaceEntry(serializers.Serializer[Any]):
    """The workspace that the caller acts in."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    created_at = serializers.DateTimeField()
    time_zone = serializers.CharField(help_text="Where the periods of new budgets begin.")
    currency = serializers.CharField(help_text="What new budgets count money in.")
    version = serializers.IntegerField()


class WorkspaceSettings(serializers.Serializer[Any]):
    """What new budgets take; what is left out stays."""

    time_zone = Text(required=False, max_length=64)
    currency = Text(required=False, max_length=3)


class MeEntry(serializers.Serializer[Any]):
    """Who asks, where, and what that allows."""

    user_id = serializers.UUIDField()
    name = serializers.CharField()
    email = serializers.CharField()
    workspace = WorkspaceEntry()
    roles = serializers.ListField(child=serializers.ChoiceField(choices=ROLES))
    teams = serializers.ListField(child=serializers.CharField(), help_text="Names of the teams you are in.")
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=get_args(Scope)))
    token_id = serializers.UUIDField(allow_null=True, help_text="The API token that asks.")


class MemberEntry(serializers.Serializer[Any]):
    """Somebody who belongs to the workspace; `active` tells whether they may sign in at all."""

    user_id = serializers.UUIDField()
    name = serializers.CharField(allow_blank=True)
    email = serializers.CharField(allow_blank=True)
    roles = serializers.ListField(child=serializers.ChoiceField(choices=ROLES))
    since = serializers.DateTimeField()
    version = serializers.IntegerField()
    active = serializers.BooleanField()


class MemberPage(serializers.Serializer[Any]):
    """Members, those who joined first before the others."""

    items = MemberEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class MemberRoles(serializers.Serializer[Any]):
    """The roles that somebody shall have, and no other."""

    roles = serializers.ListField(
        child=serializers.ChoiceField(choices=ROLES), min_length=1, max_length=len(ROLES)
    )


class NewMember(MemberRoles):
    """Who joins the workspace."""

    email = serializers.EmailField(max_length=254)
    name = Text(
        required=False, default="", allow_blank=True, max_length=150, help_text="Of somebody new here."
    )


class Me(ApiView):
    """Who asks."""

    @extend_schema(operation_id="me_get", responses=MeEntry)
    def get(self, request: Request) -> Response:
        """Return who asks, in which workspace, with which roles and scopes."""
        asked = caller(request)
        person = queries.person(asked.user_id)
        return Response(
            {
                "user_id": asked.user_id,
                "name": str(person),
                "email": person.email,
                "workspace": _workspace(asked.workspace_id),
                "roles": [role for role in ROLES if role in asked.roles],
                "teams": sorted(team_names(asked.user_id, asked.workspace_id)),
                "scopes": [scope for scope in get_args(Scope) if scope in asked.scopes],
                "token_id": asked.token_id,
            }
        )


class WorkspaceOne(ApiView):
    """The workspace that the caller acts in."""

    @extend_schema(operation_id="workspace_get", responses=WorkspaceEntry)
    def get(self, request: Request) -> Response:
        """Return the workspace that the caller acts in."""
        return _workspace_answer(caller(request).workspace_id)

    @extend_schema(
        operation_id="workspace_change",
        parameters=[IF_MATCH],
        request=WorkspaceSettings,
        responses=WorkspaceEntry,
    )
    def patch(self, request: Request) -> Response:
        """Set time zone and currency of new budgets; for administrators."""
        asked = caller(request)
        wanted = WorkspaceSettings(data=request.data)
        wanted.is_valid(raise_exception=True)
        commands.change_workspace_settings(
            caller=asked, expected_version=expected_version(request), **wanted.validated_data
        )
        return _workspace_answer(asked.workspace_id)


class Members(ApiView):
    """Who belongs to the workspace; for its administrators."""

    roles = frozenset({"admin"})

    @extend_schema(operation_id="members_list", parameters=PAGE_PARAMETERS, responses=MemberPage)
    def get(self, request: Request) -> Response:
        """List the members, those who joined first before the others."""
        cursor, limit = page_parameters(request)
        page = queries.members_of(caller(request).workspace_id, cursor=cursor, limit=limit)
        return Response({"items": page.items, "next_cursor": page.next_cursor})

    @extend_schema(operation_id="members_add", request=NewMember, responses={201: MemberEntry})
    def post(self, request: Request) -> Response:
        """Let somebody join with these roles; 409 for who is a member already."""
        asked = caller(request)
        wanted = NewMember(data=request.data)
        wanted.is_valid(raise_exception=True)
        values = wanted.validated_data
        user_id = commands.add_member(
            workspace_id=asked.workspace_id,
            email=values["email"],
            display_name=values["name"],
            roles=values["roles"],
            actor=asked.actor,
        )
        return _joined(queries.member(asked.workspace_id, user_id))

    def again(self, request: Request) -> Response:
        """Return the member as they are now: name and address are not kept, as they may be erased."""
        wanted = NewMember(data=request.data)
        wanted.is_valid(raise_exception=True)
        return _joined(
            queries.member_by_address(caller(request).workspace_id, wanted.validated_data["email"])
        )


class MemberDetail(ApiView):
    """One member of the workspace; for its administrators."""

    roles = frozenset({"admin"})

    @extend_schema(operation_id="members_get", responses=MemberEntry)
    def get(self, request: Request, user_id: UUID) -> Response:
        """Return a member with their roles."""
        return _member(caller(request).workspace_id, user_id)

    @extend_schema(
        operation_id="members_change", parameters=[IF_MATCH], request=MemberRoles, responses=MemberEntry
    )
    def patch(self, request: Request, user_id: UUID) -> Response:
        """Give a member exactly these roles; their sockets and streams are checked again at once."""
        asked = caller(request)
        queries.member(asked.workspace_id, user_id)
        wanted = MemberRoles(data=request.data)
        wanted.is_valid(raise_exception=True)
        commands.set_roles(
            workspace_id=asked.workspace_id,
            user_id=user_id,
            roles=wanted.validated_data["roles"],
            actor=asked.actor,
            expected_version=expected_version(request),
        )
        return _member(asked.workspace_id, user_id)

    @extend_schema(operation_id="members_remove", parameters=[IF_MATCH], responses={204: None})
    def delete(self, request: Request, user_id: UUID) -> Response:
        """Take somebody out of the workspace; what they wrote stays."""
        asked = caller(request)
        commands.remove_member(
            workspace_id=asked.workspace_id,
            user_id=user_id,
            actor=asked.actor,
            expected_version=expected_version(request),
        )
        return Response(status=204)


class Tokens(ApiView):
    """The caller's API tokens."""

    scopes: ClassVar = {"GET": "tokens", "POST": "tokens"}

    @extend_schema(operation_id="tokens_list", parameters=PAGE_PARAMETERS, responses=TokenList)
    def get(self, request: Request) -> Response:
        """List the caller's tokens in this workspace, newest first."""
        asked = caller(request)
        cursor, limit = page_parameters(request)
        page = queries.tokens_of(asked.user_id, asked.workspace_id, cursor=cursor, limit=limit)
        return Response({"items": page.items, "next_cursor": page.next_cursor})

    @extend_schema(operation_id="tokens_create", request=TokenRequest, responses={201: IssuedToken})
    def post(self, request: Request) -> Response:
        """Create a token; its secret is in this answer and nowhere else."""
        asked = caller(request)
        wanted = TokenRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        issued = commands.issue_token(
            user_id=asked.user_id,
            workspace_id=asked.workspace_id,
            name=wanted.validated_data["name"],
            scopes=wanted.validated_data["scopes"],
            expires_at=wanted.validated_data.get("expires_at"),
            # A browser grants every scope that the person's roles allow, a token only what it holds itself.
            **({"held_scopes": asked.scopes} if asked.token_id else {}),
            actor=asked.actor,
            now=timezone.now(),
        )
        answer = {"id": issued.token_id, "secret": issued.secret, "expires_at": issued.expires_at}
        return Response(answer, status=201)


class TokenDetail(ApiView):
    """One of the caller's API tokens."""

    scopes: ClassVar = {"DELETE": "tokens"}

    @extend_schema(operation_id="tokens_revoke", responses={204: None})
    def delete(self, request: Request, token_id: UUID) -> Response:
        """Revoke the token; it opens nothing from now on, and its sockets end."""
        asked = caller(request)
        commands.revoke_token(token_id=token_id, user_id=asked.user_id, actor=asked.actor)
        return Response(status=204)


class Tickets(ApiView):
    """Tickets for sockets."""

    scopes: ClassVar = {"POST": "read"}

    @extend_schema(operation_id="tickets_create", request=None, responses={201: IssuedTicket})
    def post(self, request: Request) -> Response:
        """Create a ticket that opens one socket within 30 seconds."""
        asked = caller(request)
        ticket = commands.issue_ticket(
            user_id=asked.user_id,
            workspace_id=asked.workspace_id,
            token_id=asked.token_id,
            now=timezone.now(),
        )
        return Response({"ticket": ticket.secret, "expires_at": ticket.expires_at}, status=201)


def _workspace(workspace_id: UUID) -> dict[str, Any]:
    found = queries.workspace(workspace_id)
    return {
        "id": found.id,
        "name": found.name,
        "created_at": found.created_at,
        "time_zone": found.time_zone,
        "currency": found.currency,
        "version": found.version,
    }


def _workspace_answer(workspace_id: UUID) -> Response:
    found = _workspace(workspace_id)
    return Response(found, headers=entity_tag(found["version"]))


def _joined(found: dict[str, Any]) -> Response:
    headers = {"Location": f"/api/v2/members/{found['user_id']}", **entity_tag(found["version"])}
    return Response(found, status=201, headers=headers)


def _member(workspace_id: UUID, user_id: UUID) -> Response:
    found = queries.member(workspace_id, user_id)
    return Response(found, headers=entity_tag(found["version"]))
