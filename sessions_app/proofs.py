"""REST: signed tree heads of the log, and proofs of what stands in it."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.accounts.queries import Caller
from cartrita.errors import BadInput
from cartrita.eventstore.models import Log
from cartrita.eventstore.proving import (
    LARGEST_POSITION,
    EventMissing,
    prove_growth,
    prove_position,
    signed_head,
    whole_number,
)
from cartrita.eventstore.signing import known_keys
from cartrita.http.views import ApiView
from sessions_app import queries
from sessions_app.session import SessionIsErased, SessionNotFound

_SIZE = {"type": "integer", "minimum": 1, "maximum": LARGEST_POSITION}


class TreeHeadEntry(serializers.Serializer[Any]):
    """A signed tree head: the note in the format of C2SP checkpoints, and what verifies it."""

    size = serializers.IntegerField()
    signed_at = serializers.DateTimeField()
    checkpoint = serializers.CharField()
    verifier_keys = serializers.ListField(child=serializers.CharField())


class InclusionProofEntry(serializers.Serializer[Any]):
    """The proof that a leaf is in the tree of `size` positions (RFC 6962, section 2.1.1), in hexadecimal."""

    format = serializers.CharField()
    position = serializers.IntegerField()
    leaf = serializers.CharField()
    size = serializers.IntegerField()
    path = serializers.ListField(child=serializers.CharField())


class ConsistencyProofEntry(serializers.Serializer[Any]):
    """The proof that one tree continues another (RFC 6962, section 2.1.2), in hexadecimal."""

    format = serializers.CharField()
    first = serializers.IntegerField()
    second = serializers.IntegerField()
    path = serializers.ListField(child=serializers.CharField())


class TreeHeadOne(ApiView):
    """The newest signed tree head."""

    @extend_schema(operation_id="log_head", responses=TreeHeadEntry)
    def get(self, request: Request) -> Response:
        """Return the newest signed tree head with the keys that verify it.

        Keep those keys: whoever could alter the log could alter this answer.
        """
        del request
        head = signed_head()
        return Response(
            {
                "size": head.size,
                "signed_at": head.signed_at,
                "checkpoint": head.note,
                "verifier_keys": [str(key) for key in known_keys()],
            }
        )


class Inclusion(ApiView):
    """The proof that an event is in the log."""

    @extend_schema(
        operation_id="log_inclusion",
        parameters=[
            OpenApiParameter("position", _SIZE, OpenApiParameter.PATH),
            OpenApiParameter(
                "size", _SIZE, description="Of so many positions; of the newest head without it."
            ),
        ],
        responses=InclusionProofEntry,
    )
    def get(self, request: Request, position: int) -> Response:
        """Prove that an event which the caller may read stands at its position."""
        _require_visible(position, caller(request))
        return Response(prove_position(position, _number(request, "size")).as_dict())


class Consistency(ApiView):
    """The proof that the log only grew."""

    @extend_schema(
        operation_id="log_consistency",
        parameters=[
            OpenApiParameter("first", _SIZE, required=True, description="The size of an earlier head."),
            OpenApiParameter(
                "second", _SIZE, description="A later size; that of the newest head without it."
            ),
        ],
        responses=ConsistencyProofEntry,
    )
    def get(self, request: Request) -> Response:
        """Prove that the log of a later size continues that of an earlier one."""
        first = _number(request, "first")
        if first is None:
            raise BadInput("first is missing: name the size of an earlier head", field="first")
        return Response(prove_growth(first, _number(request, "second")).as_dict())


def _require_visible(position: int, asked: Caller) -> None:
    """Raise EventMissing unless the caller may read the event, which `/events` shows under the same terms."""
    placed = None
    if 0 < position <= LARGEST_POSITION:
        placed = Log.objects.filter(position=position, workspace_id=asked.workspace_id).first()
    missing = EventMissing(f"No event that you may read stands at position {position}", field="position")
    if placed is None:
        raise missing
    if asked.roles & queries.READERS:
        return
    if placed.session_id is None:
        raise missing
    try:
        queries.require_visible(placed.session_id, asked)
    except (SessionNotFound, SessionIsErased):
        raise missing from None


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    return None if text is None else whole_number(name, text)
