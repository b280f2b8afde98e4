"""What sessions hold and who may see it. Answers are plain dicts with text opened; erased text is empty."""

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Min, QuerySet
from django.utils import timezone

from cartrita.accounts.queries import Caller
from cartrita.eventstore import unseal_or_empty
from cartrita.http.pagination import DEFAULT_LIMIT, LARGEST_LIMIT, Page, cursor_of, page_of
from sessions_app.activity import has_open_socket, last_sign, last_signs
from sessions_app.models import ChatSession, Message
from sessions_app.session import IDLE_LIFETIME, SessionHasExpired, SessionIsErased, SessionNotFound

# Who may read sessions of others in their workspace.
READERS: frozenset[str] = frozenset({"admin", "auditor"})
TITLE_LENGTH = 80
NEWEST_FIRST = ("-created_at", "-id")
# How many sessions one page of a search for titles looks through: each is deciphered.
SEARCHED = 1000


def session(session_id: UUID) -> dict[str, Any]:
    """Return a session. Raises SessionNotFound, SessionIsErased."""
    return _sessions([_row(session_id)])[0]


def visible_session(session_id: UUID, caller: Caller, *, own: bool = False) -> dict[str, Any]:
    """Return a session that the caller may read: an own one, or in the same workspace as admin or auditor.

    `own` leaves only the first. Raises SessionNotFound for every other one, SessionIsErased.
    """
    return _sessions([_visible(session_id, caller, own=own)])[0]


def require_visible(session_id: UUID, caller: Caller, *, own: bool = False) -> None:
    """Raise what `visible_session` raises; quicker where nothing of the session is shown."""
    _visible(session_id, caller, own=own)


def open_session(session_id: UUID, caller: Caller, *, own: bool = False, now: datetime) -> dict[str, Any]:
    """Return a session that the caller may read and that has not expired.

    Raises as `visible_session`, and SessionHasExpired after an hour without activity, recorded or not yet.
    """
    row = _visible(session_id, caller, own=own)
    _require_unexpired(row, now)
    return _sessions([row])[0]


def require_open(session_id: UUID, caller: Caller, *, own: bool = False, now: datetime) -> None:
    """Raise what `open_session` raises; quicker where nothing of the session is shown."""
    _require_unexpired(_visible(session_id, caller, own=own), now)


def readable(asked: Collection[tuple[UUID, Caller]], *, now: datetime) -> dict[tuple[UUID, Caller], bool]:
    """Return which of these sessions these callers may read, and whether each is open (it has not expired).

    As `visible_session` has it, but one statement for all, and what signs of life cost where one may have
    expired; others are left out.
    """
    rows = ChatSession.objects.exclude(status="erased").in_bulk({session_id for session_id, _ in asked})
    doubtful = [
        row.id
        for row in rows.values()
        if row.status == "active" and now >= row.last_activity_at + IDLE_LIFETIME
    ]
    signs = last_signs(doubtful, now=now) if doubtful else {}
    found: dict[tuple[UUID, Caller], bool] = {}
    for session_id, caller in asked:
        row = rows.get(session_id)
        if row is not None and _may_see(row, caller):
            last = max(row.last_activity_at, signs.get(row.id, row.last_activity_at))
            found[session_id, caller] = row.status == "active" and now < last + IDLE_LIFETIME
    return found


def may_read(session_id: UUID, user_id: UUID, *, roles_by_workspace: dict[UUID, frozenset[str]]) -> bool:
    """Tell whether a person with these memberships may read a session that has not expired."""
    row = ChatSession.objects.filter(id=session_id, status="active").first()
    if row is None:
        return False
    roles = roles_by_workspace.get(row.workspace_id, frozenset())
    return bool(roles) and (row.user_id == user_id or bool(roles & READERS))


def sessions_of(
    user_id: UUID,
    workspace_id: UUID,
    *,
    words: str = "",
    status: str = "",
    kind: str = "",
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page:
    """Return a person's sessions in a workspace, newest first, without the erased ones.

    `words` must all be in the title. Titles are sealed: one page looks through so many sessions, and tells
    where the next one goes on.
    """
    rows = ChatSession.objects.filter(user_id=user_id, workspace_id=workspace_id).exclude(status="erased")
    if status:
        rows = rows.filter(status=status)
    if kind:
        rows = rows.filter(kind=kind)
    wanted = words.casefold().split()
    if not wanted:
        page = page_of(rows, order=NEWEST_FIRST, cursor=cursor, limit=limit)
        return Page(_sessions(page.items), page.next_cursor)
    found: list[dict[str, Any]] = []
    for _ in range(SEARCHED // LARGEST_LIMIT):
        page = page_of(rows, order=NEWEST_FIRST, cursor=cursor, limit=LARGEST_LIMIT)
        for one, row in zip(_sessions(page.items), page.items, strict=True):
            if all(word in one["title"].casefold() for word in wanted):
                found.append(one)
            if len(found) == limit:
                more = row is not page.items[-1] or page.next_cursor is not None
                return Page(found, cursor_of(row, NEWEST_FIRST) if more else None)
        cursor = page.next_cursor
        if cursor is None:
            break
    return Page(found, cursor)


def messages(session_id: UUID) -> list[dict[str, Any]]:
    """Return all messages of a session in order, none for an unknown session."""
    return [_message(row) for row in Message.objects.filter(session_id=session_id).order_by("version")]


def messages_page(session_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT) -> Page:
    """Return a page of a session's messages in order."""
    rows = Message.objects.filter(session_id=session_id)
    page = page_of(rows, order=("version",), cursor=cursor, limit=limit)
    return Page([_message(row) for row in page.items], page.next_cursor)


def newest_messages(session_id: UUID, count: int) -> list[dict[str, Any]]:
    """Return the newest `count` messages of a session, in order."""
    rows = Message.objects.filter(session_id=session_id).order_by("-version")[:count]
    return [_message(row) for row in reversed(rows)]


def message(session_id: UUID, message_id: UUID) -> dict[str, Any] | None:
    """Return one message of a session, None where there is none."""
    row = Message.objects.filter(session_id=session_id, message_id=message_id).first()
    return _message(row) if row else None


def sessions_with_open_turns(
    *, halted: Collection[UUID] | QuerySet[Any, Any] = (), limit: int = 1000
) -> list[UUID]:
    """Return the sessions that hold a message of a person without a reply, the longest waiting first.

    Those that are `halted` (ids, or a query of them) wait for something else and are left out, unless the
    person asked to stop.
    """
    erased = ChatSession.objects.filter(status="erased").values("id")
    waiting = Message.objects.filter(role="user", answered_at=None).exclude(session_id__in=erased)
    waiting = waiting.exclude(session_id__in=halted, cancel_requested_at=None)
    rows = waiting.values("session_id").annotate(since=Min("created_at")).order_by("since")
    return [row["session_id"] for row in rows[:limit]]


def which_have_open_turns(session_ids: Collection[UUID]) -> frozenset[UUID]:
    """Return those of these sessions that hold a message of a person without a reply."""
    waiting = Message.objects.filter(session_id__in=session_ids, role="user", answered_at=None)
    return frozenset(waiting.values_list("session_id", flat=True).distinct())


def key_of(session_id: UUID) -> UUID:
    """Return the data key of a session. Raises SessionNotFound, SessionIsErased."""
    return _row(session_id).key_id


def has_web_socket(session_id: UUID, *, now: datetime) -> bool:
    """Tell whether a socket shows the session (seen within the last two minutes)."""
    return has_open_socket(session_id, now=now)


def open_session_count() -> int:
    """Return how many sessions are open."""
    return ChatSession.objects.filter(status="active").count()


def is_session(workspace_id: UUID, session_id: UUID) -> bool:
    """Tell whether a workspace has a session of that id."""
    return ChatSession.objects.filter(id=session_id, workspace_id=workspace_id).exists()


def _visible(session_id: UUID, caller: Caller, *, own: bool) -> ChatSession:
    row = ChatSession.objects.filter(id=session_id, workspace_id=caller.workspace_id).first()
    if row is None or not _may_see(row, caller, own=own):
        raise SessionNotFound("No session with this id exists.", field="session_id")
    return _unless_erased(row)


def _may_see(row: ChatSession, caller: Caller, *, own: bool = False) -> bool:
    return row.workspace_id == caller.workspace_id and (
        row.user_id == caller.user_id or (not own and bool(caller.roles & READERS))
    )


def _require_unexpired(row: ChatSession, now: datetime) -> None:
    expired = row.status == "expired"
    if not expired and now >= row.last_activity_at + IDLE_LIFETIME:
        # Its own events are too old: what else goes on in it counts, too.
        sign = last_sign(row.id, now=now)
        expired = sign is None or now >= sign + IDLE_LIFETIME
    if expired:
        raise SessionHasExpired(
            "This session expired after an hour without activity; open a new one, or go on in the web.",
            field="session_id",
        )


def _row(session_id: UUID) -> ChatSession:
    row = ChatSession.objects.filter(id=session_id).first()
    if row is None:
        raise SessionNotFound("No session with this id exists.", field="session_id")
    return _unless_erased(row)


def _unless_erased(row: ChatSession) -> ChatSession:
    if row.status == "erased":
        raise SessionIsErased("This session was erased; open a new one.", field="session_id")
    return row


def _sessions(rows: Sequence[ChatSession]) -> list[dict[str, Any]]:
    signs = last_signs([row.id for row in rows], now=timezone.now())
    return [_session(row, signs.get(row.id, row.last_activity_at)) for row in rows]


def _session(row: ChatSession, active_at: datetime) -> dict[str, Any]:
    last_activity_at = max(active_at, row.last_activity_at)
    return {
        "id": row.id,
        "workspace_id": row.workspace_id,
        "user_id": row.user_id,
        "kind": row.kind,
        "status": row.status,
        "turn_policy": row.turn_policy,
        "title": _title(unseal_or_empty(row.key_id, row.opening)),
        "metadata": _opened(row.key_id, row.metadata) or {},
        "message_count": row.message_count,
        "version": row.version,
        "created_at": row.created_at,
        "last_activity_at": last_activity_at,
        "expires_at": last_activity_at + IDLE_LIFETIME,
    }


def _message(row: Message) -> dict[str, Any]:
    return {
        "message_id": row.message_id,
        "session_id": row.session_id,
        "version": row.version,
        "parent": row.parent_id,
        "role": row.role,
        "author": row.author,
        "content": unseal_or_empty(row.key_id, row.content),
        "metadata": _opened(row.key_id, row.metadata) or {},
        "attachments": row.attachments,
        "citations": _opened(row.key_id, row.citations) or [],
        "plan_id": row.plan_id,
        "run_id": row.run_id,
        "model": row.model,
        "outcome": row.outcome,
        "cancel_requested_at": row.cancel_requested_at,
        "created_at": row.created_at,
    }


def _opened(key_id: UUID, token: str) -> Any:
    """Return the JSON value of a sealed field, None where there is none or it was erased."""
    text = unseal_or_empty(key_id, token)
    return json.loads(text) if text else None


def _title(opening: str) -> str:
    line = " ".join(opening.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"
