"""Who may see, and who may add to, the attachments of a session.

The app that owns sessions knows; whoever knows both apps registers it here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from cartrita.accounts.queries import Caller

Right = Callable[[Caller, UUID], bool]


@dataclass(frozen=True, slots=True)
class SessionRights:
    """Answers for a caller and a session's id; an unknown session gives nobody any right."""

    may_read: Right
    may_write: Right


_registered: list[SessionRights] = []


def register_session_rights(*, may_read: Right, may_write: Right) -> None:
    """Register who may read a session's attachments and who may add some."""
    _registered[:] = [SessionRights(may_read, may_write)]


def may_read(caller: Caller, session_id: UUID) -> bool:
    """Tell whether the caller may see the session's attachments."""
    return bool(_registered) and _registered[0].may_read(caller, session_id)


def may_write(caller: Caller, session_id: UUID) -> bool:
    """Tell whether the caller may attach documents to the session."""
    return bool(_registered) and _registered[0].may_write(caller, session_id)
