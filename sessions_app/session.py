"""A session: one conversation of one person. Pure: events, their fold, and what may happen next."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, get_args
from uuid import UUID

from pydantic import Field

from cartrita.errors import BadInput, Conflict, NotFound, TooLarge
from cartrita.eventstore.types import Event, Sealed

SessionStatus = Literal["new", "active", "expired", "erased"]
Role = Literal["user", "assistant", "system", "tool"]
ReplyOutcome = Literal["answered", "stopped", "denied", "failed"]
# What becomes of a message while another turn is open: it waits, is refused, or stops the other one.
TurnPolicy = Literal["queue", "reject", "interrupt"]

IDLE_LIFETIME = timedelta(hours=1)
CONTENT_LIMIT = 32 * 1024
METADATA_LIMIT = 8 * 1024
ATTACHMENT_LIMIT = 20


class SessionCreated(Event):
    """A person opened a session. `kind` says by which way: chat, api, ask, import.

    `turn_policy` says what becomes of a message while another one is being answered (TurnPolicySet).
    """

    type_name: ClassVar[str] = "sessions_app.SessionCreated"

    user_id: UUID
    kind: str
    metadata: Sealed[dict[str, Any]]
    turn_policy: TurnPolicy = "queue"


class MessagePosted(Event):
    """Somebody added a message to the session, as an answer to `parent` (None: it begins the conversation).

    `author` is who wrote it (`user:<uuid>`, `token:<uuid>`, `agent:<name>`, `system`); `attachments` are
    documents of the session's scope. `traceparent` (W3C Trace Context) says where the trace stood, so that
    the work on the answer goes on with it; "" where there was none. `context` marks what was said elsewhere
    before, as `author` tells it: it is read with what follows it and is not answered itself.
    """

    type_name: ClassVar[str] = "sessions_app.MessagePosted"

    message_id: UUID
    role: Role
    content: Sealed[str]
    parent: UUID | None
    author: str
    attachments: tuple[UUID, ...] = ()
    metadata: Sealed[dict[str, Any]] = Field(default_factory=dict)
    traceparent: str = ""
    context: bool = False


class ReplyPosted(Event):
    """A run answered the message `parent`; what was streamed before is healed by this text.

    `outcome` says how the turn ended: answered, stopped by a person (the partial text is kept), denied by a
    rule, or failed. `bytes` and `sha256` (hexadecimal) are those of the content in UTF-8.
    """

    type_name: ClassVar[str] = "sessions_app.ReplyPosted"

    message_id: UUID
    parent: UUID
    plan_id: UUID
    run_id: UUID
    content: Sealed[str]
    citations: Sealed[list[dict[str, Any]]]
    model: str
    outcome: ReplyOutcome = "answered"
    bytes: int = Field(ge=0)
    sha256: Sealed[str]


class TurnCancelRequested(Event):
    """The person asked to stop working on the answer to `message_id`."""

    type_name: ClassVar[str] = "sessions_app.TurnCancelRequested"

    message_id: UUID


class TurnPolicySet(Event):
    """The owner chose what becomes of a message while another one of the session is being answered.

    `queue`: it waits for its turn. `reject`: it is refused. `interrupt`: the open turns are asked to stop.
    """

    type_name: ClassVar[str] = "sessions_app.TurnPolicySet"

    turn_policy: TurnPolicy


class SessionExpired(Event):
    """The session expired: it expires after one hour without activity.

    Messages, replies, a running plan, a waiting approval and an open socket count as activity. After that its
    sockets and tickets end and its routes answer 404; the owner's next message in the web reopens it.
    `idle_since` is the time of the last activity.
    """

    type_name: ClassVar[str] = "sessions_app.SessionExpired"

    idle_since: datetime


class SessionReopened(Event):
    """The owner came back to an expired session with a new message."""

    type_name: ClassVar[str] = "sessions_app.SessionReopened"


class SessionErased(Event):
    """The session's data key was destroyed; none of its text can be read any more."""

    type_name: ClassVar[str] = "sessions_app.SessionErased"


class SessionNotFound(NotFound):
    """No session with that id exists for this caller."""

    code = "session_not_found"


class SessionHasExpired(NotFound):
    """The session had no activity for an hour; a new one, or a message in the web, goes on."""

    code = "session_expired"


class SessionIsErased(NotFound):
    """The session was erased; nothing of it can be read or added."""

    code = "session_erased"


class MessageNotFound(NotFound):
    """The session holds no message with that id."""

    code = "message_not_found"


class MessageIdReused(Conflict):
    """The id names another message of the session already; a new message needs a new id."""

    code = "message_id_reused"


class TurnUnderWay(Conflict):
    """Another message of the session is being answered, and the session takes one at a time."""

    code = "turn_under_way"


class MessageTooLarge(TooLarge):
    """The message is above its limit; a longer text goes in as a document."""

    code = "message_too_large"


@dataclass(frozen=True, slots=True)
class Message:
    """What later decisions need of a message. `run_id` is the run that wrote it, where one did.

    Its text stands for itself by `words`, a digest of it: that of a long session is not held in memory.
    """

    role: Role
    parent: UUID | None
    words: bytes
    attachments: tuple[UUID, ...] = ()
    run_id: UUID | None = None
    answered_by: UUID | None = None
    cancel_requested: bool = False
    context: bool = False

    @property
    def awaits_reply(self) -> bool:
        """Tell whether it begins a turn that has not ended."""
        return self.role == "user" and self.answered_by is None and not self.context


class Messages(Mapping[UUID, Message]):
    """The messages of a session in their order.

    Those that were kept (`as_kept`) become messages when they are looked at: a command looks at a few of
    thousands.
    """

    __slots__ = ("_kept", "_put")

    def __init__(self, kept: Mapping[str, str] | None = None) -> None:
        self._kept: Mapping[str, str] = kept or {}
        self._put: dict[UUID, Message] = {}

    @classmethod
    def of(cls, messages: Mapping[UUID, Message]) -> "Messages":
        """Return a copy."""
        copy = cls(messages._kept if isinstance(messages, Messages) else None)  # noqa: SLF001 # its own
        copy._put = dict(messages._put if isinstance(messages, Messages) else messages)  # noqa: SLF001
        return copy

    def put(self, message_id: UUID, message: Message) -> None:
        """Add a message, or change one in its place; while the session is being folded only."""
        self._put[message_id] = message

    def as_kept(self) -> dict[str, str]:
        """Return all messages as texts by id, for the constructor."""
        return {**self._kept, **{each.hex: _kept_message(message) for each, message in self._put.items()}}

    def __getitem__(self, message_id: UUID) -> Message:
        found = self._put.get(message_id)
        return found if found is not None else _message_kept(self._kept[message_id.hex])

    def __contains__(self, message_id: object) -> bool:
        if not isinstance(message_id, UUID):
            return False
        return message_id in self._put or message_id.hex in self._kept

    def __iter__(self) -> Iterator[UUID]:
        yield from map(UUID, self._kept)
        yield from (each for each in self._put if each.hex not in self._kept)

    def __len__(self) -> int:
        return len(self._kept) + sum(each.hex not in self._kept for each in self._put)


def _kept_message(message: Message) -> str:
    # One text, because reading JSON costs by the number of its values.
    ids = (message.parent, message.run_id, message.answered_by, *message.attachments)
    marks = ("cancel_requested" if message.cancel_requested else "", "context" if message.context else "")
    words = message.words.hex()
    return " ".join((message.role, words, *marks, *("" if each is None else each.hex for each in ids)))


def _message_kept(kept: str) -> Message:
    role, words, cancel_requested, context, *ids = kept.split(" ")
    parent, run_id, answered_by, *attachments = [UUID(each) if each else None for each in ids]
    return Message(
        role=_checked_role(role),
        parent=parent,
        words=bytes.fromhex(words),
        attachments=tuple(each for each in attachments if each is not None),
        run_id=run_id,
        answered_by=answered_by,
        cancel_requested=bool(cancel_requested),
        context=bool(context),
    )


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its events tell it. `newest` is the message that the next one follows by default."""

    status: SessionStatus = "new"
    user_id: UUID | None = None
    kind: str = ""
    messages: Mapping[UUID, Message] = field(default_factory=Messages)
    newest: UUID | None = None
    last_activity_at: datetime | None = None
    turn_policy: TurnPolicy = "queue"


def evolve(session: Session, event: Event, at: datetime) -> Session:
    """Return the session after `event`, which was recorded at `at`."""
    return extend(session, [(event, at)])


def fold(history: Iterable[tuple[Event, datetime]]) -> Session:
    """Return the session that these events, each with the time of its recording, make."""
    return extend(Session(), history)


def extend(session: Session, history: Iterable[tuple[Event, datetime]]) -> Session:
    """Return the session after further events."""
    # One copy for the whole history: a copy for each event would cost the square of its length.
    messages = Messages.of(session.messages)
    for event, at in history:
        session = _step(session, messages, event, at)
    return replace(session, messages=messages)


def as_kept(session: Session) -> dict[str, Any]:
    """Return a session as JSON-compatible values, for `from_kept`."""
    return {
        "status": session.status,
        "user_id": _text(session.user_id),
        "kind": session.kind,
        "messages": Messages.of(session.messages).as_kept(),
        "newest": _text(session.newest),
        "last_activity_at": session.last_activity_at and session.last_activity_at.isoformat(),
        "turn_policy": session.turn_policy,
    }


def from_kept(kept: Mapping[str, Any]) -> Session:
    """Return the session that `as_kept` was given."""
    active_at = kept["last_activity_at"]
    return Session(
        status=kept["status"],
        user_id=kept["user_id"] and UUID(kept["user_id"]),
        kind=kept["kind"],
        messages=Messages(kept["messages"]),
        newest=kept["newest"] and UUID(kept["newest"]),
        last_activity_at=active_at and datetime.fromisoformat(active_at),
        turn_policy=kept["turn_policy"],
    )


def create(
    session: Session, *, user_id: UUID, kind: str, metadata: Mapping[str, Any], turn_policy: str = "queue"
) -> list[Event]:
    """Open a session; nothing when the same person opened it before.

    Raises SessionNotFound where the id is somebody else's, BadInput for metadata above its limit and for an
    unknown turn policy.
    """
    policy = _checked_policy(turn_policy)
    if session.status == "erased":
        raise SessionIsErased("This session was erased; open a new one.", field="session_id")
    if session.status != "new":
        if session.user_id != user_id:
            raise SessionNotFound("No session with this id exists.", field="session_id")
        return []
    return [
        SessionCreated(user_id=user_id, kind=kind, metadata=_checked_metadata(metadata), turn_policy=policy)
    ]


def set_turn_policy(session: Session, *, turn_policy: str) -> list[Event]:
    """Choose what becomes of a message while another one is being answered; nothing when it is so already.

    Open turns go on as they are. Raises SessionNotFound, SessionIsErased, BadInput.
    """
    _require_exists(session)
    policy = _checked_policy(turn_policy)
    return [] if policy == session.turn_policy else [TurnPolicySet(turn_policy=policy)]


def post_message(
    session: Session,
    *,
    message_id: UUID,
    role: str,
    content: str,
    parent: UUID | None,
    author: str,
    now: datetime,
    attachments: Sequence[UUID] = (),
    metadata: Mapping[str, Any] | None = None,
    active_at: datetime | None = None,
    reopen: bool = False,
    traceparent: str = "",
) -> list[Event]:
    """Add a message; nothing when the same message was added before under its id.

    `parent` None means the newest message. `active_at` is the last sign of life outside the session's own
    events. With `reopen` an expired session opens again. While turns are open, a person's message waits, is
    refused, or stops them, as the session's turn policy says. Raises SessionNotFound, SessionIsErased,
    SessionHasExpired, TurnUnderWay, MessageIdReused, MessageTooLarge, and BadInput naming the field.
    """
    _require_exists(session)
    checked_role = _checked_role(role)
    _check_content(content)
    if len(attachments) > ATTACHMENT_LIMIT:
        raise BadInput(f"A message takes at most {ATTACHMENT_LIMIT} attachments.", field="attachments")
    known = session.messages.get(message_id)
    if parent is None:
        parent = known.parent if known else session.newest
    elif parent not in session.messages:
        raise BadInput("The parent is no message of this session; name one of its ids.", field="parent")
    event = MessagePosted(
        message_id=message_id,
        role=checked_role,
        content=content,
        parent=parent,
        author=author,
        attachments=tuple(attachments),
        metadata=_checked_metadata(metadata or {}),
        traceparent=traceparent,
    )
    if known is not None:
        return _nothing_if_same(known, event, message_id)
    expired = is_expired(session, now=now, active_at=active_at)
    if expired and not reopen:
        raise SessionHasExpired(
            "This session expired after an hour without activity; open a new one, or go on in the web.",
            field="session_id",
        )
    reopened = [SessionReopened()] if session.status == "expired" else []
    return [*reopened, *_before_turn(session, checked_role), event]


def add_context(
    session: Session,
    *,
    said: Sequence[tuple[str, str]],
    author: str,
    name: Callable[[UUID | None, str], UUID],
) -> tuple[list[Event], UUID | None]:
    """Let the session know a conversation that was held elsewhere, as (role, text), oldest first.

    Where a branch of the session begins with the same words, only what goes beyond it is added, below it;
    else a branch of its own. Returns the events and the message that the next one follows. `name` gives a
    message its id by the one that it follows and by what it says. Raises SessionNotFound, SessionIsErased,
    MessageTooLarge, BadInput.
    """
    _require_exists(session)
    known = {
        (each.parent, each.role, each.words): message_id for message_id, each in session.messages.items()
    }
    events: list[Event] = []
    newest: UUID | None = None
    for role, content in said:
        found = known.get((newest, _checked_role(role), _words(content)))
        if found is None:
            _check_content(content)
            found = name(newest, f"{role}:{content}")
            event = MessagePosted(
                message_id=found,
                role=_checked_role(role),
                content=content,
                parent=newest,
                author=author,
                context=True,
            )
            events.append(event)
        newest = found
    return events, newest


def post_reply(
    session: Session,
    *,
    message_id: UUID,
    parent: UUID,
    plan_id: UUID,
    run_id: UUID,
    content: str,
    model: str,
    citations: Sequence[Mapping[str, Any]] = (),
    outcome: ReplyOutcome = "answered",
) -> list[Event]:
    """Add the answer to a message; nothing when the same answer was added before under its id.

    An expired session takes it too: what was worked for is not lost. Raises SessionNotFound, SessionIsErased,
    MessageNotFound, MessageIdReused.
    """
    _require_exists(session)
    if parent not in session.messages:
        raise MessageNotFound("The session holds no message that this could answer.", field="parent")
    text = content.encode()
    event = ReplyPosted(
        message_id=message_id,
        parent=parent,
        plan_id=plan_id,
        run_id=run_id,
        content=content,
        citations=[dict(citation) for citation in citations],
        model=model,
        outcome=outcome,
        bytes=len(text),
        sha256=hashlib.sha256(text).hexdigest(),
    )
    known = session.messages.get(message_id)
    return [event] if known is None else _nothing_if_same(known, event, message_id)


def cancel_turn(session: Session, *, message_id: UUID | None = None) -> list[Event]:
    """Ask to stop the answer to a message (None: the newest unanswered one); nothing when none is awaited.

    Raises SessionNotFound, SessionIsErased, MessageNotFound.
    """
    _require_exists(session)
    if message_id is None:
        message_id = waiting_message(session)
        if message_id is None:
            return []
    message = session.messages.get(message_id)
    if message is None:
        raise MessageNotFound("The session holds no message with this id.", field="message_id")
    if message.answered_by is not None or message.cancel_requested or message.context:
        return []
    return [TurnCancelRequested(message_id=message_id)]


def expire(session: Session, *, now: datetime, active_at: datetime | None = None) -> list[Event]:
    """End a session that was idle for an hour; nothing when it is not open or not idle.

    `active_at` is the last sign of life outside the session's own events: `now` while a plan runs or an
    approval waits, the last time that a socket was seen open.
    """
    if session.status != "active" or now < expires_at(session, active_at=active_at):
        return []
    return [SessionExpired(idle_since=expires_at(session, active_at=active_at) - IDLE_LIFETIME)]


def reopen(session: Session) -> list[Event]:
    """Open an expired session again; nothing when it is open. Raises SessionNotFound, SessionIsErased."""
    _require_exists(session)
    return [SessionReopened()] if session.status == "expired" else []


def erase(session: Session) -> list[Event]:
    """Record that the session's text is gone; nothing when it was erased before. Raises SessionNotFound."""
    if session.status == "new":
        raise SessionNotFound("No session with this id exists.", field="session_id")
    return [] if session.status == "erased" else [SessionErased()]


def expires_at(session: Session, *, active_at: datetime | None = None) -> datetime:
    """Return when the session ends if nothing more happens. Raises SessionNotFound for one never created."""
    if session.last_activity_at is None:
        raise SessionNotFound("No session with this id exists.", field="session_id")
    return max(session.last_activity_at, active_at or session.last_activity_at) + IDLE_LIFETIME


def is_expired(session: Session, *, now: datetime, active_at: datetime | None = None) -> bool:
    """Tell whether the session has ended by idling, recorded or not yet."""
    return session.status == "expired" or now >= expires_at(session, active_at=active_at)


def waiting_message(session: Session) -> UUID | None:
    """Return the newest message of a person that has no answer and was not stopped."""
    return next(
        (
            message_id
            for message_id, message in reversed(list(session.messages.items()))
            if message.awaits_reply and not message.cancel_requested
        ),
        None,
    )


def open_turns(session: Session) -> list[UUID]:
    """Return the messages of people that have no reply yet, oldest first, those being stopped included."""
    return [message_id for message_id, message in session.messages.items() if message.awaits_reply]


def _before_turn(session: Session, role: Role) -> list[Event]:
    """Return what comes before a new message, by the turn policy. Raises TurnUnderWay."""
    turns = open_turns(session) if role == "user" and session.turn_policy != "queue" else []
    if not turns:
        return []
    if session.turn_policy == "reject":
        raise TurnUnderWay(
            "Another message of this session is being answered: wait for its reply, cancel it, or set the "
            "session's turn policy to queue.",
            field="session_id",
            message_id=str(turns[-1]),
        )
    return [
        TurnCancelRequested(message_id=message_id)
        for message_id in turns
        if not session.messages[message_id].cancel_requested
    ]


def _require_exists(session: Session) -> None:
    if session.status == "new":
        raise SessionNotFound("No session with this id exists.", field="session_id")
    if session.status == "erased":
        raise SessionIsErased("This session was erased; open a new one.", field="session_id")


def _step(session: Session, messages: Messages, event: Event, at: datetime) -> Session:
    """Return what `event` makes of the session but for its messages, which are changed in place."""
    match event:
        case SessionCreated():
            return replace(
                session,
                status="active",
                user_id=event.user_id,
                kind=event.kind,
                last_activity_at=at,
                turn_policy=event.turn_policy,
            )
        case TurnPolicySet():
            # A setting is no sign of life.
            return replace(session, turn_policy=event.turn_policy)
        case MessagePosted():
            messages.put(event.message_id, _message(event))
            return replace(session, newest=event.message_id, last_activity_at=at)
        case ReplyPosted():
            messages.put(event.message_id, _message(event))
            messages.put(event.parent, replace(messages[event.parent], answered_by=event.message_id))
            return replace(session, newest=event.message_id, last_activity_at=at)
        case TurnCancelRequested():
            messages.put(event.message_id, replace(messages[event.message_id], cancel_requested=True))
            return replace(session, last_activity_at=at)
        case SessionExpired():
            return replace(session, status="expired")
        case SessionReopened():
            return replace(session, status="active", last_activity_at=at)
        case SessionErased():
            return replace(session, status="erased")
        case _:
            return session


def _nothing_if_same(known: Message, event: MessagePosted | ReplyPosted, message_id: UUID) -> list[Event]:
    same = replace(_message(event), answered_by=known.answered_by, cancel_requested=known.cancel_requested)
    if known != replace(same, context=known.context):
        raise MessageIdReused(
            f"The id {message_id} names another message of this session; send a new id.", field="message_id"
        )
    return []


def _message(event: MessagePosted | ReplyPosted) -> Message:
    """Return the message that an event adds."""
    if isinstance(event, ReplyPosted):
        return Message(
            role="assistant", parent=event.parent, words=_words(event.content), run_id=event.run_id
        )
    return Message(
        role=event.role,
        parent=event.parent,
        words=_words(event.content),
        attachments=event.attachments,
        context=event.context,
    )


def _words(text: str) -> bytes:
    """Return what a text is known by."""
    # Also for a text that is refused after it was looked for.
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _checked_policy(turn_policy: str) -> TurnPolicy:
    for known in get_args(TurnPolicy):
        if turn_policy == known:
            return known  # type: ignore[no-any-return]  # as below
    raise BadInput(f"A turn policy is one of {', '.join(get_args(TurnPolicy))}.", field="turn_policy")


def _checked_role(role: str) -> Role:
    for known in get_args(Role):
        if role == known:
            return known  # type: ignore[no-any-return]  # get_args gives the literals as Any
    raise BadInput(f"A role is one of {', '.join(get_args(Role))}.", field="role")


def _check_content(content: str) -> None:
    if not content.strip():
        raise BadInput("A message needs some text.", field="content")
    if "\0" in content:
        raise BadInput("The text holds a NUL character; send it without.", field="content")
    try:
        size = len(content.encode())
    except UnicodeEncodeError:
        raise BadInput("The text holds half a surrogate pair; send valid Unicode.", field="content") from None
    if size > CONTENT_LIMIT:
        raise MessageTooLarge(
            f"The message has {size:,} bytes, the limit is {CONTENT_LIMIT:,}; send more as a document.",
            field="content",
            limit=CONTENT_LIMIT,
            size=size,
        )


def _checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError):
        raise BadInput(
            "The metadata must be a JSON object of valid text and numbers.", field="metadata"
        ) from None
    if size > METADATA_LIMIT:
        raise TooLarge(
            f"The metadata is {size:,} bytes long and may be {METADATA_LIMIT:,}.",
            field="metadata",
            limit=METADATA_LIMIT,
        )
    return dict(metadata)
