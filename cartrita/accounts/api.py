"""REST: API tokens and socket tickets."""

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
from cartrita.http.views import ApiView


class TokenRequest(serializers.Serializer[Any]):
    """What a new token is for."""

    name = serializers.CharField(max_length=NAME_LIMIT)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=get_args(Scope)),
        allow_empty=False,
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


class IssuedTicket(serializers.Serializer[Any]):
    """A ticket for one socket, sent as the subprotocol `ticket.<ticket>`."""

    ticket = serializers.CharField()
    expires_at = serializers.DateTimeField()


class Tokens(ApiView):
    """The caller's API tokens."""

    scopes: ClassVar = {"GET": "tokens", "POST": "tokens"}

    @extend_schema(operation_id="tokens_list", responses=TokenList)
    def get(self, request: Request) -> Response:
        """List the caller's tokens in this workspace."""
        asked = caller(request)
        return Response({"items": queries.tokens_of(asked.user_id, asked.workspace_id)})

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
