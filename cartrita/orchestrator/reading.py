"""Who may read what a session came to: whoever may read the session."""

from uuid import UUID

from cartrita.accounts.queries import Caller
from cartrita.errors import NotFound
from sessions_app import queries


def may_read(caller: Caller, session_id: UUID) -> bool:
    """Tell whether the caller may read the session, also an expired one: its history stays readable."""
    try:
        queries.require_visible(session_id, caller)
    except NotFound:
        return False
    return True
