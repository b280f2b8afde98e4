"""Who may read the plans of a session.

The app that owns sessions knows; whoever knows both apps registers it here.
"""

from collections.abc import Callable
from uuid import UUID

from cartrita.accounts.queries import Caller

Right = Callable[[Caller, UUID], bool]

_registered: list[Right] = []


def register_reader(may_read: Right) -> None:
    """Register who may read a session, and so its plans; an unknown session gives nobody any right."""
    _registered[:] = [may_read]


def may_read(caller: Caller, session_id: UUID) -> bool:
    """Tell whether the caller may read the plans of a session."""
    return bool(_registered) and _registered[0](caller, session_id)
