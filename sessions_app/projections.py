"""Read models of sessions and messages, as functions of each session's stream."""

from typing import cast
from uuid import UUID

from django.db.models import Case, F, Value, When

from cartrita.eventstore import RecordedEvent, inline
from cartrita.eventstore.fields import SealedTextField
from sessions_app.models import ChatSession, Message
from sessions_app.session import (
    MessagePosted,
    ReplyPosted,
    SessionCreated,
    SessionErased,
    SessionExpired,
    SessionReopened,
    TurnCancelRequested,
    TurnPolicySet,
)


@inline(
    SessionCreated,
    MessagePosted,
    ReplyPosted,
    TurnCancelRequested,
    TurnPolicySet,
    SessionExpired,
    SessionReopened,
    SessionErased,
    tables=[ChatSession],
)
def project_chat_sessions(recorded: RecordedEvent) -> None:
    """Show the sessions, their owners, and when they were last active."""
    at = recorded.recorded_at
    row = ChatSession.objects.filter(id=recorded.stream_id)
    match recorded.event:
        case SessionCreated() as event:
            ChatSession.objects.create(
                id=recorded.stream_id,
                workspace_id=recorded.workspace_id,
                user_id=event.user_id,
                key_id=_key_of(recorded),
                kind=event.kind,
                status="active",
                turn_policy=event.turn_policy,
                metadata=recorded.sealed["metadata"],
                version=recorded.version,
                created_at=at,
                last_activity_at=at,
            )
        case MessagePosted() as event:
            opening = {}
            if event.role == "user":
                said = Value(recorded.sealed["content"], output_field=SealedTextField())
                opening = {"opening": Case(When(opening="", then=said), default=F("opening"))}
            row.update(
                message_count=F("message_count") + 1,
                last_activity_at=at,
                version=recorded.version,
                **opening,
            )
        case ReplyPosted():
            row.update(message_count=F("message_count") + 1, last_activity_at=at, version=recorded.version)
        case TurnCancelRequested():
            row.update(last_activity_at=at, version=recorded.version)
        case TurnPolicySet() as event:
            row.update(turn_policy=event.turn_policy, version=recorded.version)
        case SessionExpired():
            row.update(status="expired", version=recorded.version)
        case SessionReopened():
            row.update(status="active", last_activity_at=at, version=recorded.version)
        case SessionErased():
            row.update(status="erased", metadata="", opening="", version=recorded.version)
        case _:
            pass


@inline(MessagePosted, ReplyPosted, TurnCancelRequested, SessionErased, tables=[Message])
def project_messages(recorded: RecordedEvent) -> None:
    """Show the messages of each session in the order of its stream."""
    match recorded.event:
        case MessagePosted() as event:
            Message.objects.create(
                id=recorded.event_id,
                session_id=recorded.stream_id,
                workspace_id=recorded.workspace_id,
                message_id=event.message_id,
                version=recorded.version,
                parent_id=event.parent,
                role=event.role,
                author=event.author,
                key_id=_key_of(recorded),
                content=recorded.sealed["content"],
                metadata=recorded.sealed["metadata"],
                attachments=[str(attachment) for attachment in event.attachments],
                # Nothing answers what was said elsewhere: it awaits no reply.
                answered_at=recorded.recorded_at if event.context else None,
                created_at=recorded.recorded_at,
            )
        case ReplyPosted() as event:
            Message.objects.create(
                id=recorded.event_id,
                session_id=recorded.stream_id,
                workspace_id=recorded.workspace_id,
                message_id=event.message_id,
                version=recorded.version,
                parent_id=event.parent,
                role="assistant",
                author=recorded.actor,
                key_id=_key_of(recorded),
                content=recorded.sealed["content"],
                citations=recorded.sealed["citations"],
                plan_id=event.plan_id,
                run_id=event.run_id,
                model=event.model,
                outcome=event.outcome,
                created_at=recorded.recorded_at,
            )
            asked = Message.objects.filter(session_id=recorded.stream_id, message_id=event.parent)
            asked.update(answered_at=recorded.recorded_at)
        case TurnCancelRequested() as event:
            asked = Message.objects.filter(session_id=recorded.stream_id, message_id=event.message_id)
            asked.update(cancel_requested_at=recorded.recorded_at)
        case SessionErased():
            Message.objects.filter(session_id=recorded.stream_id).update(
                content="", metadata="", citations=""
            )
        case _:
            pass


def _key_of(recorded: RecordedEvent) -> UUID:
    """Return the key of an event with sealed fields: the store takes none without."""
    return cast("UUID", recorded.key_id)
