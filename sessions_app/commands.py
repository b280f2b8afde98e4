"""What people, programs and runs may ask of a session: load, decide, append."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from cartrita.errors import BadInput
from cartrita.eventstore import (
    Append,
    Context,
    Event,
    RecordedEvent,
    StreamMoved,
    append,
    create_data_key,
    derived_id,
    erase_key,
    new_id,
)
from cartrita.eventstore.snapshots import load_state
from cartrita.streaming.deltas import erase_texts
from cartrita.telemetry import current_traceparent
from sessions_app import session as sessions
from sessions_app.activity import last_sign, last_signs
from sessions_app.aggregates import SESSION
from sessions_app.models import ChatSession
from sessions_app.session import MessagePosted, ReplyOutcome, ReplyPosted, Session, SessionNotFound

TRIES = 5
EXPIRED_AT_ONCE = 200

Decide = Callable[[Session], list[Event]]


class EraseAlso(Protocol):
    """Erases what another app keeps for a session."""

    def __call__(self, *, session_id: UUID, workspace_id: UUID, actor: str) -> object:
        """Erase it, in the caller's transaction."""


# Text on its way to the screen stands in clear until it is finished.
_erased_too: list[EraseAlso] = [erase_texts]


def register_erasure(also: EraseAlso) -> None:
    """Register what else goes when a session is erased (its attachments), in the same transaction."""
    if also not in _erased_too:
        _erased_too.append(also)


class UnknownAttachments(Protocol):
    """Tells which ids are no documents within a session's reach."""

    def __call__(
        self, *, session_id: UUID, workspace_id: UUID, attachments: Collection[UUID]
    ) -> Collection[UUID]:
        """Return the unknown ones."""


_unknown_attachments: list[UnknownAttachments] = []


def register_attachments(unknown: UnknownAttachments) -> None:
    """Register what knows the documents that a message may name."""
    _unknown_attachments[:] = [unknown]


@dataclass(frozen=True, slots=True)
class _Loaded:
    session: Session
    version: int
    workspace_id: UUID
    key_id: UUID | None


@dataclass(frozen=True, slots=True)
class FirstMessage:
    """What a person says first in a session that is made for it."""

    message_id: UUID
    content: str
    metadata: Mapping[str, Any]


def create_session(
    *,
    user_id: UUID,
    workspace_id: UUID,
    actor: str,
    kind: str = "chat",
    metadata: Mapping[str, Any] | None = None,
    session_id: UUID | None = None,
    turn_policy: str = "queue",
    first: Callable[[UUID], FirstMessage] | None = None,
) -> UUID:
    """Open a session with a data key of its own; nothing when this person opened it before.

    `first` returns what is posted in it at once, from the id of its key.

    Raises BadInput, SessionNotFound where the id is somebody else's, SessionIsErased, and for a message what
    `post_message` raises.
    """
    session_id = session_id or new_id()
    with transaction.atomic():
        loaded = _load(session_id)
        events = sessions.create(
            loaded.session, user_id=user_id, kind=kind, metadata=metadata or {}, turn_policy=turn_policy
        )
        if events:
            key_id = create_data_key(subject_id=user_id, scope="session", key_id=_key_of(session_id))
            context = Context(workspace_id=workspace_id, session_id=session_id, actor=actor, key_id=key_id)
            event_ids = [derived_id(session_id, "created")]
            if first is not None:
                posted = _first_posted(events, first(key_id), actor=actor)
                event_ids += _event_ids(session_id, len(events), posted)
                events += posted
            append(Append(session_id, 0, events, context, event_ids))
    return session_id


def _first_posted(created: Sequence[Event], message: FirstMessage, *, actor: str) -> list[Event]:
    now = timezone.now()
    return sessions.post_message(
        sessions.fold((event, now) for event in created),
        message_id=message.message_id,
        role="user",
        content=message.content,
        parent=None,
        author=actor,
        now=now,
        metadata=message.metadata,
        traceparent=current_traceparent(),
    )


def post_message(
    *,
    session_id: UUID,
    message_id: UUID,
    content: str,
    actor: str,
    role: str = "user",
    parent: UUID | None = None,
    attachments: Sequence[UUID] = (),
    metadata: Mapping[str, Any] | None = None,
    expected_version: int | None = None,
    reopen: bool = False,
    now: datetime | None = None,
) -> list[RecordedEvent]:
    """Add a message and return what was recorded: nothing when it was added before under its id.

    `reopen` is for the owner in the web, whose message opens an expired session again. Raises
    SessionNotFound, SessionIsErased, SessionHasExpired, TurnUnderWay, MessageIdReused, MessageTooLarge,
    BadInput, and StreamMoved when the session is not at `expected_version`.
    """
    moment = now or timezone.now()
    if attachments:
        _check_attachments(session_id, attachments)

    def decide(session: Session) -> list[Event]:
        return sessions.post_message(
            session,
            message_id=message_id,
            role=role,
            content=content,
            parent=parent,
            author=actor,
            now=moment,
            attachments=attachments,
            metadata=metadata,
            active_at=_active_at(session_id, session, moment),
            reopen=reopen,
            traceparent=current_traceparent(),
        )

    return _change(session_id, decide, actor=actor, expected_version=expected_version)


def add_context(*, session_id: UUID, said: Sequence[tuple[str, str]], actor: str) -> UUID | None:
    """Let a session know what was said elsewhere, as (role, text), and return what the next message follows.

    What the session holds already is not added again; nothing of it starts a turn. Raises SessionNotFound,
    SessionIsErased, MessageTooLarge, BadInput.
    """
    newest: list[UUID | None] = [None]

    def name(follows: UUID | None, words: str) -> UUID:
        return derived_id(follows or session_id, f"context:{hashlib.sha256(words.encode()).hexdigest()}")

    def decide(session: Session) -> list[Event]:
        events, newest[0] = sessions.add_context(session, said=said, author=actor, name=name)
        return events

    _change(session_id, decide, actor=actor)
    return newest[0]


def post_reply(
    *,
    session_id: UUID,
    message_id: UUID,
    parent: UUID,
    plan_id: UUID,
    run_id: UUID,
    content: str,
    model: str,
    actor: str,
    citations: Sequence[Mapping[str, Any]] = (),
    outcome: ReplyOutcome = "answered",
    causation_id: UUID | None = None,
) -> list[RecordedEvent]:
    """Add the answer to a message and return what was recorded: nothing when it was added before.

    Raises SessionNotFound, SessionIsErased, MessageNotFound, MessageIdReused.
    """

    def decide(session: Session) -> list[Event]:
        return sessions.post_reply(
            session,
            message_id=message_id,
            parent=parent,
            plan_id=plan_id,
            run_id=run_id,
            content=content,
            model=model,
            citations=citations,
            outcome=outcome,
        )

    return _change(session_id, decide, actor=actor, causation_id=causation_id)


def cancel_turn(
    *, session_id: UUID, actor: str, message_id: UUID | None = None, expected_version: int | None = None
) -> list[RecordedEvent]:
    """Ask to stop the answer to a message (None: the newest unanswered one); nothing when none is awaited.

    Raises SessionNotFound, SessionIsErased, MessageNotFound, StreamMoved.
    """

    def decide(session: Session) -> list[Event]:
        return sessions.cancel_turn(session, message_id=message_id)

    return _change(session_id, decide, actor=actor, expected_version=expected_version)


def set_turn_policy(
    *, session_id: UUID, turn_policy: str, actor: str, expected_version: int | None = None
) -> list[RecordedEvent]:
    """Choose what becomes of a message while another is being answered: queue, reject or interrupt.

    Returns what was recorded: nothing when it is so already. Raises SessionNotFound, SessionIsErased,
    BadInput, StreamMoved.
    """

    def decide(session: Session) -> list[Event]:
        return sessions.set_turn_policy(session, turn_policy=turn_policy)

    return _change(session_id, decide, actor=actor, expected_version=expected_version)


def reopen_session(*, session_id: UUID, actor: str) -> list[RecordedEvent]:
    """Open an expired session again; nothing when it is open. Raises SessionNotFound, SessionIsErased."""
    return _change(session_id, sessions.reopen, actor=actor)


def expire_idle_sessions(*, now: datetime, limit: int = EXPIRED_AT_ONCE) -> list[UUID]:
    """Expire the sessions that were idle for an hour, the longest idle first; return their ids."""
    idle = ChatSession.objects.filter(status="active", last_activity_at__lte=now - sessions.IDLE_LIFETIME)
    expired: list[UUID] = []
    ids = idle.order_by("last_activity_at", "id").values_list("id", flat=True).iterator(chunk_size=limit)
    for some in _batches(list(ids), limit):
        signs = last_signs(some, now=now)
        for session_id in some:
            active_at = signs.get(session_id)

            def decide(session: Session, active_at: datetime | None = active_at) -> list[Event]:
                return sessions.expire(session, now=now, active_at=active_at)

            if _change(session_id, decide, actor="system"):
                expired.append(session_id)
        if len(expired) >= limit:
            break
    return expired


def erase_session(*, session_id: UUID, actor: str) -> list[RecordedEvent]:
    """Destroy the session's key, erase its attachments and record it; nothing when it was erased before.

    Raises SessionNotFound.
    """
    with transaction.atomic():
        recorded = _change(session_id, sessions.erase, actor=actor)
        if recorded:
            for erase_also in _erased_too:
                erase_also(session_id=session_id, workspace_id=recorded[0].workspace_id, actor=actor)
            erase_key(_key_of(session_id))
    return recorded


def erase_sessions_of(*, user_id: UUID, actor: str) -> int:
    """Erase every session of a person, in the caller's transaction; return how many there were."""
    rows = ChatSession.objects.filter(user_id=user_id).exclude(status="erased")
    ids = list(rows.order_by("id").values_list("id", flat=True))
    for session_id in ids:
        erase_session(session_id=session_id, actor=actor)
    return len(ids)


def _change(
    session_id: UUID,
    decide: Decide,
    *,
    actor: str,
    expected_version: int | None = None,
    causation_id: UUID | None = None,
) -> list[RecordedEvent]:
    """Decide on the session as it is and append; decide anew when somebody else was quicker."""
    for attempt in range(1, TRIES + 1):
        loaded = _load(session_id)
        events = decide(loaded.session)
        if not events:
            return []
        if expected_version is not None and loaded.version != expected_version:
            raise StreamMoved(
                stream_id=session_id, expected_version=expected_version, actual_version=loaded.version
            )
        context = Context(
            workspace_id=loaded.workspace_id,
            session_id=session_id,
            causation_id=causation_id,
            actor=actor,
            key_id=loaded.key_id,
        )
        wanted = Append(
            session_id, loaded.version, events, context, _event_ids(session_id, loaded.version, events)
        )
        try:
            # A savepoint, so that a conflict leaves the caller's transaction usable.
            with transaction.atomic():
                return append(wanted)
        except StreamMoved:
            if attempt == TRIES:
                raise
    raise AssertionError("unreachable")


def _load(session_id: UUID) -> _Loaded:
    loaded = load_state(SESSION, session_id)
    if loaded.last is not None and not loaded.last.type_name.startswith("sessions_app."):
        raise SessionNotFound("No session with this id exists.", field="session_id")
    return _Loaded(
        session=loaded.state,
        version=loaded.version,
        workspace_id=loaded.last.workspace_id if loaded.last else UUID(int=0),
        key_id=loaded.last.key_id if loaded.last else None,
    )


def _active_at(session_id: UUID, session: Session, now: datetime) -> datetime | None:
    """Return the last sign of life, which is asked for only where the session's own events are too old."""
    if session.status != "active" or not sessions.is_expired(session, now=now):
        return None
    return last_sign(session_id, now=now)


def _check_attachments(session_id: UUID, attachments: Sequence[UUID]) -> None:
    workspace_id = ChatSession.objects.filter(id=session_id).values_list("workspace_id", flat=True).first()
    if workspace_id is None:
        return
    for knows in _unknown_attachments:
        unknown = knows(session_id=session_id, workspace_id=workspace_id, attachments=attachments)
        if unknown:
            names = ", ".join(sorted(map(str, unknown)))
            raise BadInput(
                f"No document of this session has the id {names}; attach it first.", field="attachments"
            )


def _key_of(session_id: UUID) -> UUID:
    """Return the id of a session's data key."""
    return derived_id(session_id, "key")


def _event_ids(session_id: UUID, version: int, events: Sequence[Event]) -> list[UUID]:
    """Name a message's event by the message, any other by its place: a repeated append is recognised."""
    return [
        message_event_id(session_id, event.message_id)
        if isinstance(event, MessagePosted | ReplyPosted)
        else derived_id(session_id, f"{event.type_name}:{version + offset}")
        for offset, event in enumerate(events, start=1)
    ]


def message_event_id(session_id: UUID, message_id: UUID) -> UUID:
    """Return the id of the event that posts a message."""
    return derived_id(session_id, f"message:{message_id}")


def _batches(ids: list[UUID], size: int) -> list[list[UUID]]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]
