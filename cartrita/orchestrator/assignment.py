"""What a turn works on: the message, what was said before it, and in whose name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cartrita.eventstore import Context, RecordedEvent
from cartrita.llm.providers import ChatMessage
from cartrita.orchestrator.labels import CALLER_SYSTEM
from sessions_app.session import (
    MessagePosted,
    ReplyPosted,
    SessionCreated,
    SessionErased,
    TurnCancelRequested,
)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One message to answer.

    `history` is the branch of the conversation above it, oldest first, without replies that are no answers:
    refusals, failures, and turns that were stopped before they said anything. `attachments` are those of the
    whole branch, `labels` those of what programs said in it.
    """

    workspace_id: UUID
    session_id: UUID
    user_id: UUID
    key_id: UUID
    message_id: UUID
    question: str
    attachments: tuple[UUID, ...]
    metadata: Mapping[str, Any]
    history: tuple[ChatMessage, ...]
    labels: frozenset[str]
    cancel_requested: bool
    causation_id: UUID
    trace_id: str
    traceparent: str

    def context(self, *, actor: str) -> Context:
        """Return what surrounds the events that are recorded for this turn."""
        return Context(
            workspace_id=self.workspace_id,
            session_id=self.session_id,
            causation_id=self.causation_id,
            actor=actor,
            trace_id=self.trace_id,
            key_id=self.key_id,
        )


def read_assignment(events: Sequence[RecordedEvent], message_id: UUID) -> Assignment | None:
    """Return the work that a session's events hold for a message.

    None where the message is answered, erased or unknown.
    """
    user_id: UUID | None = None
    said: dict[UUID, tuple[str, str, UUID | None]] = {}
    attachments: dict[UUID, tuple[UUID, ...]] = {}
    no_answers: set[UUID] = set()
    callers_system: set[UUID] = set()
    asked: RecordedEvent | None = None
    cancel_requested = False
    for recorded in events:
        match recorded.event:
            case SessionCreated(user_id=owner):
                user_id = owner
            case SessionErased():
                return None
            case MessagePosted() as message:
                # What a caller calls its system's words is the caller's, and as weak as all that it says.
                role: str = message.role
                if message.context and role == "system":
                    callers_system.add(message.message_id)
                    role = "user"
                said[message.message_id] = (role, message.content, message.parent)
                attachments[message.message_id] = message.attachments
                if message.message_id == message_id:
                    asked = recorded
            case ReplyPosted() as reply:
                if reply.parent == message_id:
                    return None
                said[reply.message_id] = ("assistant", reply.content, reply.parent)
                # A model takes what stands there as its own words, and says them again.
                if reply.outcome in ("denied", "failed") or not reply.content:
                    no_answers.add(reply.message_id)
            case TurnCancelRequested() as cancel:
                cancel_requested = cancel_requested or cancel.message_id == message_id
    if asked is None or user_id is None or asked.key_id is None:
        return None
    posted = asked.event
    if not isinstance(posted, MessagePosted) or posted.role != "user":
        return None
    branch = _branch(said, posted.parent)
    return Assignment(
        workspace_id=asked.workspace_id,
        session_id=asked.stream_id,
        user_id=user_id,
        key_id=asked.key_id,
        message_id=message_id,
        question=posted.content,
        attachments=tuple(
            document
            for message in [*(identifier for identifier, _, _ in branch), message_id]
            for document in attachments.get(message, ())
        ),
        metadata=posted.metadata,
        history=tuple(
            ChatMessage(role=role, content=content)
            for identifier, role, content in branch
            if identifier not in no_answers
        ),
        labels=frozenset(
            {CALLER_SYSTEM} if any(identifier in callers_system for identifier, _, _ in branch) else ()
        ),
        cancel_requested=cancel_requested,
        causation_id=asked.event_id,
        trace_id=asked.trace_id,
        traceparent=posted.traceparent,
    )


def open_messages(events: Sequence[RecordedEvent]) -> list[UUID]:
    """Return the messages of people that have no reply yet, oldest first; none of an erased session."""
    waiting: dict[UUID, None] = {}
    for recorded in events:
        match recorded.event:
            case MessagePosted(role="user", message_id=message_id, context=False):
                waiting[message_id] = None
            case ReplyPosted(parent=message_id):
                waiting.pop(message_id, None)
            case SessionErased():
                return []
    return list(waiting)


def _branch(
    said: Mapping[UUID, tuple[str, str, UUID | None]], newest: UUID | None
) -> list[tuple[UUID, str, str]]:
    """Return the messages from the beginning of the conversation down to `newest`."""
    branch: list[tuple[UUID, str, str]] = []
    while newest is not None and newest in said:
        role, content, parent = said[newest]
        branch.append((newest, role, content))
        newest = parent
    branch.reverse()
    return branch
