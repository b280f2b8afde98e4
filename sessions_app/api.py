"""REST: sessions and messages. The routes of the documented contract keep their camelCase names."""

from typing import Any, get_args
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.accounts.permissions import require_scope
from cartrita.accounts.queries import Caller, roles_of
from cartrita.errors import BadInput, NotAllowed
from cartrita.eventstore import new_id
from cartrita.http.conditional import IF_MATCH, entity_tag, expected_version, require_version
from cartrita.http.fields import Text
from cartrita.http.pagination import PAGE_PARAMETERS, page_parameters
from cartrita.http.views import ApiView
from sessions_app import commands, queries
from sessions_app.queries import TITLE_LENGTH
from sessions_app.session import (
    ATTACHMENT_LIMIT,
    CONTENT_LIMIT,
    ReplyOutcome,
    Role,
    SessionStatus,
    TurnPolicy,
)

TURN_POLICY = (
    "What becomes of a message while another one is being answered: it waits (queue), is refused with 409 "
    "turn_under_way (reject), or stops the other one (interrupt)."
)


class NotThisUser(NotAllowed):
    """The caller may not open sessions for that person."""

    code = "not_this_user"


class NewSession(serializers.Serializer[Any]):
    """What a session begins with."""

    userId = serializers.UUIDField(  # noqa: N815 # the documented name
        required=False, help_text="The caller; somebody else only for a token with the scope act_as."
    )
    metadata = serializers.DictField(required=False, help_text="At most 8 KiB of JSON.")
    turnPolicy = serializers.ChoiceField(  # noqa: N815
        choices=get_args(TurnPolicy), default="queue", help_text=TURN_POLICY
    )


class ChangedSession(serializers.Serializer[Any]):
    """What of a session its owner may change."""

    turnPolicy = serializers.ChoiceField(choices=get_args(TurnPolicy), help_text=TURN_POLICY)  # noqa: N815


class OpenedSession(serializers.Serializer[Any]):
    """A new session and where its socket is."""

    sessionId = serializers.UUIDField()  # noqa: N815
    websocketUrl = serializers.CharField()  # noqa: N815
    expiresAt = serializers.DateTimeField()  # noqa: N815


class NewMessage(serializers.Serializer[Any]):
    """A message."""

    content = Text(trim_whitespace=False, help_text=f"At most {CONTENT_LIMIT:,} bytes of UTF-8.")
    role = serializers.ChoiceField(
        choices=get_args(Role), default="user", help_text="Others than user need the scope import."
    )
    metadata = serializers.DictField(required=False, help_text="At most 8 KiB of JSON.")
    messageId = serializers.UUIDField(  # noqa: N815
        required=False, help_text="Chosen by the client, so that a repeated request adds nothing."
    )
    parent = serializers.UUIDField(  # type: ignore[assignment] # DRF takes fields out of the class
        required=False, allow_null=True, help_text="The message that this one follows; the newest by default."
    )
    attachments = serializers.ListField(
        child=serializers.UUIDField(), required=False, max_length=ATTACHMENT_LIMIT, help_text="Documents."
    )


class QueuedMessage(serializers.Serializer[Any]):
    """The message is recorded and waits for its turn."""

    messageId = serializers.UUIDField()  # noqa: N815
    status = serializers.ChoiceField(choices=["queued"])


class SessionState(serializers.Serializer[Any]):
    """How a session is."""

    sessionId = serializers.UUIDField()  # noqa: N815
    status = serializers.ChoiceField(choices=["active"])
    lastActivity = serializers.DateTimeField()  # noqa: N815
    hasWebSocket = serializers.BooleanField()  # noqa: N815


class SessionEntry(serializers.Serializer[Any]):
    """A session."""

    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    user_id = serializers.UUIDField()
    kind = serializers.CharField()
    status = serializers.ChoiceField(choices=[one for one in get_args(SessionStatus) if one != "new"])
    turn_policy = serializers.ChoiceField(choices=get_args(TurnPolicy))
    title = serializers.CharField(help_text="The beginning of its first message.")
    metadata = serializers.DictField()
    message_count = serializers.IntegerField()
    version = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    last_activity_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()


class SessionPage(serializers.Serializer[Any]):
    """Sessions, newest first."""

    items = SessionEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class MessageEntry(serializers.Serializer[Any]):
    """A message of a session."""

    message_id = serializers.UUIDField()
    session_id = serializers.UUIDField()
    version = serializers.IntegerField()
    parent = serializers.UUIDField(allow_null=True)  # type: ignore[assignment]
    role = serializers.ChoiceField(choices=get_args(Role))
    author = serializers.CharField()
    content = serializers.CharField()
    metadata = serializers.DictField()
    attachments = serializers.ListField(child=serializers.UUIDField())
    citations = serializers.ListField(child=serializers.DictField())
    plan_id = serializers.UUIDField(allow_null=True)
    run_id = serializers.UUIDField(allow_null=True)
    model = serializers.CharField(allow_blank=True)
    outcome = serializers.ChoiceField(choices=[*get_args(ReplyOutcome), ""])
    cancel_requested_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


class MessagePage(serializers.Serializer[Any]):
    """Messages in order."""

    items = MessageEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class TurnToCancel(serializers.Serializer[Any]):
    """Which answer to stop."""

    message_id = serializers.UUIDField(required=False, help_text="The newest unanswered message by default.")


class Cancelled(serializers.Serializer[Any]):
    """Whether there was something to stop."""

    cancel_requested = serializers.BooleanField()


class Sessions(ApiView):
    """The caller's sessions."""

    @extend_schema(
        operation_id="sessions_list",
        parameters=[
            OpenApiParameter(
                "q",
                {"type": "string", "maxLength": TITLE_LENGTH},
                description="Only those whose title holds these words, in any order and case. A page looks "
                f"through {queries.SEARCHED} sessions, so that it may be empty and yet have a next one.",
            ),
            OpenApiParameter("status", {"type": "string", "enum": ["active", "expired"]}),
            OpenApiParameter("kind", {"type": "string", "enum": ["chat", "api"]}),
            *PAGE_PARAMETERS,
        ],
        responses=SessionPage,
    )
    def get(self, request: Request) -> Response:
        """List the caller's sessions, newest first."""
        asked = caller(request)
        cursor, limit = page_parameters(request)
        page = queries.sessions_of(
            asked.user_id,
            asked.workspace_id,
            words=_words(request),
            status=_one_of(request, "status", ("active", "expired")),
            kind=_one_of(request, "kind", ("chat", "api")),
            cursor=cursor,
            limit=limit,
        )
        return Response({"items": page.items, "next_cursor": page.next_cursor})

    @extend_schema(operation_id="sessions_create", request=NewSession, responses={201: OpenedSession})
    def post(self, request: Request) -> Response:
        """Open a session."""
        asked = caller(request)
        wanted = _validated(NewSession, request)
        session_id = commands.create_session(
            user_id=_owner(asked, wanted.get("userId")),
            workspace_id=asked.workspace_id,
            kind="api" if asked.token_id else "chat",
            metadata=wanted.get("metadata"),
            turn_policy=wanted["turnPolicy"],
            actor=asked.actor,
        )
        opened = queries.session(session_id)
        answer = {
            "sessionId": session_id,
            "websocketUrl": _socket_url(request, session_id),
            "expiresAt": opened["expires_at"],
        }
        return Response(answer, status=201, headers={"Location": f"/api/v2/sessions/{session_id}"})


class SessionDetail(ApiView):
    """One session."""

    @extend_schema(operation_id="sessions_get", responses=SessionEntry)
    def get(self, request: Request, session_id: UUID) -> Response:
        """Return a session, also an expired one."""
        return _answer(queries.visible_session(session_id, caller(request)))

    @extend_schema(
        operation_id="sessions_change", parameters=[IF_MATCH], request=ChangedSession, responses=SessionEntry
    )
    def patch(self, request: Request, session_id: UUID) -> Response:
        """Change a session's turn policy; turns that are open go on as they are."""
        asked = caller(request)
        queries.require_open(session_id, asked, own=True, now=timezone.now())
        wanted = _validated(ChangedSession, request)
        commands.set_turn_policy(
            session_id=session_id,
            turn_policy=wanted["turnPolicy"],
            actor=asked.actor,
            expected_version=expected_version(request),
        )
        return _answer(queries.visible_session(session_id, asked, own=True))

    @extend_schema(operation_id="sessions_erase", parameters=[IF_MATCH], responses={204: None})
    def delete(self, request: Request, session_id: UUID) -> Response:
        """Erase a session for ever: its key is destroyed, its text is unreadable in every copy."""
        asked = caller(request)
        require_version(request, queries.visible_session(session_id, asked, own=True)["version"])
        commands.erase_session(session_id=session_id, actor=asked.actor)
        return Response(status=204)


class Messages(ApiView):
    """The messages of a session."""

    @extend_schema(operation_id="messages_list", parameters=PAGE_PARAMETERS, responses=MessagePage)
    def get(self, request: Request, session_id: UUID) -> Response:
        """List the messages of a session in order, also of an expired one."""
        queries.require_visible(session_id, caller(request))
        cursor, limit = page_parameters(request)
        page = queries.messages_page(session_id, cursor=cursor, limit=limit)
        return Response({"items": page.items, "next_cursor": page.next_cursor})

    @extend_schema(
        operation_id="messages_post",
        parameters=[IF_MATCH],
        request=NewMessage,
        responses={202: QueuedMessage},
    )
    def post(self, request: Request, session_id: UUID) -> Response:
        """Post a message; the answer streams over the socket and is listed when it is complete."""
        asked = caller(request)
        queries.require_open(session_id, asked, own=True, now=timezone.now())
        wanted = _validated(NewMessage, request)
        if wanted["role"] != "user":
            require_scope(request, "import")
        message_id = wanted.get("messageId") or new_id()
        commands.post_message(
            session_id=session_id,
            message_id=message_id,
            role=wanted["role"],
            content=wanted["content"],
            parent=wanted.get("parent"),
            attachments=wanted.get("attachments", ()),
            metadata=wanted.get("metadata"),
            actor=asked.actor,
            expected_version=expected_version(request),
        )
        return Response({"messageId": message_id, "status": "queued"}, status=202)


class Status(ApiView):
    """How a session is."""

    @extend_schema(operation_id="sessions_status", responses=SessionState)
    def get(self, request: Request, session_id: UUID) -> Response:
        """Return status, last activity and whether a socket is open; 404 once the session has expired."""
        now = timezone.now()
        found = queries.open_session(session_id, caller(request), now=now)
        return Response(
            {
                "sessionId": session_id,
                "status": found["status"],
                "lastActivity": found["last_activity_at"],
                "hasWebSocket": queries.has_web_socket(session_id, now=now),
            }
        )


class Cancel(ApiView):
    """Stopping an answer."""

    @extend_schema(
        operation_id="sessions_cancel",
        parameters=[IF_MATCH],
        request=TurnToCancel,
        responses={202: Cancelled},
    )
    def post(self, request: Request, session_id: UUID) -> Response:
        """Ask to stop an answer; what was written of it is kept."""
        asked = caller(request)
        queries.require_open(session_id, asked, own=True, now=timezone.now())
        wanted = _validated(TurnToCancel, request)
        recorded = commands.cancel_turn(
            session_id=session_id,
            message_id=wanted.get("message_id"),
            actor=asked.actor,
            expected_version=expected_version(request),
        )
        return Response({"cancel_requested": bool(recorded)}, status=202)


def _answer(found: dict[str, Any]) -> Response:
    return Response(found, headers=entity_tag(found["version"]))


def _words(request: Request) -> str:
    text = request.query_params.get("q", "")
    if "\0" in text or len(text) > TITLE_LENGTH:
        raise BadInput(f"q is a text of at most {TITLE_LENGTH} characters.", field="q")
    return text


def _one_of(request: Request, name: str, values: tuple[str, ...]) -> str:
    text = request.query_params.get(name, "")
    if text and text not in values:
        raise BadInput(f"{name} is {' or '.join(values)}.", field=name)
    return text


def _validated(serializer: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    wanted = serializer(data=request.data)
    wanted.is_valid(raise_exception=True)
    found: dict[str, Any] = wanted.validated_data
    return found


def _owner(asked: Caller, user_id: UUID | None) -> UUID:
    if user_id is None or user_id == asked.user_id:
        return asked.user_id
    if "act_as" not in asked.scopes or not roles_of(user_id, asked.workspace_id):
        raise NotThisUser(
            "userId must be the caller, or a member of the workspace where the token has the scope act_as.",
            field="userId",
        )
    return user_id


def _socket_url(request: Request, session_id: UUID) -> str:
    address = urlsplit(settings.PUBLIC_URL or request.build_absolute_uri("/"))
    scheme = "wss" if address.scheme == "https" else "ws"
    return f"{scheme}://{address.netloc}/ws/{session_id}"
