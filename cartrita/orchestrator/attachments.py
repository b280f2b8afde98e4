"""What sessions and documents must know of one another: whose attachments they are, and which there are."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from django.utils import timezone

from cartrita.accounts.queries import Caller
from cartrita.errors import NotFound
from retrieval.queries import in_scope
from sessions_app import queries


def may_read(caller: Caller, session_id: UUID) -> bool:
    """Tell whether the caller may read the session. People keep reading an expired one; programs do not."""
    return _may(caller, session_id, own=False)


def may_write(caller: Caller, session_id: UUID) -> bool:
    """Tell whether the session is the caller's own, so that nobody plants sources for another's answers."""
    return _may(caller, session_id, own=True)


def unknown_attachments(
    *, session_id: UUID, workspace_id: UUID, attachments: Collection[UUID]
) -> Collection[UUID]:
    """Return which of the ids are no documents within the session's reach."""
    known = in_scope(workspace_id=workspace_id, session_id=session_id).filter(id__in=attachments)
    return set(attachments) - set(known.values_list("id", flat=True))


def erase_attachments(*, session_id: UUID, workspace_id: UUID, actor: str) -> Any:
    """Erase the session's documents, in the caller's transaction."""
    # Loads numpy, which no process should have to that erases nothing.
    from retrieval.commands import erase_session_documents

    return erase_session_documents(session_id=session_id, workspace_id=workspace_id, actor=actor)


def _may(caller: Caller, session_id: UUID, *, own: bool) -> bool:
    try:
        if caller.token_id is None:
            queries.require_visible(session_id, caller, own=own)
        else:
            queries.require_open(session_id, caller, own=own, now=timezone.now())
    except NotFound:
        return False
    return True
