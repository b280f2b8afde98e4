"""How a socket's user is known: the browser's session cookie, or a ticket."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from cartrita.accounts.api_token import ApiTokenRevoked
from cartrita.accounts.authentication import people_of_sessions
from cartrita.accounts.commands import redeem_ticket
from cartrita.accounts.queries import Caller, NoWorkspace, callers_again, callers_of_people
from cartrita.accounts.sign_in import SignedOut
from cartrita.accounts.workspace import MemberRemoved, MemberRolesChanged
from cartrita.errors import NotSignedIn
from cartrita.eventstore import RecordedEvent, in_database_thread
from cartrita.streaming.registry import Person, register_authentication, register_recheck
from cartrita.streaming.together import Together

OPENED_BY_TICKET = "cartrita.opened_by_ticket"

# Whose browser session it is, and as whom that person acts, who may belong to no workspace.
SignedIn = tuple[UUID | None, Caller | None]


@dataclass(frozen=True, slots=True)
class SocketUser:
    """Who a socket belongs to; `pk` is the person's id."""

    pk: UUID
    caller: Caller


async def authenticate(scope: dict[str, Any], ticket: str | None) -> SocketUser:
    """Return who opens the socket. Raises NotSignedIn, TicketEnded, NoWorkspace."""
    if ticket is None:
        caller = await _caller_of_cookie(scope)
        if caller is None:
            raise NotSignedIn("Sign in, or bring a ticket as the subprotocol `ticket.<ticket>`.")
    else:
        caller = await in_database_thread(redeem_ticket, ticket, now=timezone.now())
        scope[OPENED_BY_TICKET] = True
    return SocketUser(pk=caller.user_id, caller=caller)


async def still_valid(user: Person, scope: dict[str, Any]) -> bool:
    """Tell whether who opened the socket may still use it."""
    if not isinstance(user, SocketUser):
        return False
    if scope.get(OPENED_BY_TICKET):
        return await _still_has_rights(user.caller)
    try:
        caller = await _caller_of_cookie(scope)
    except NoWorkspace:
        return False
    return caller is not None and caller.user_id == user.pk


def ends_access(recorded: RecordedEvent) -> UUID | None:
    """Return whose access an event ends or narrows."""
    match recorded.event:
        case SignedOut(user_id=user_id) | ApiTokenRevoked(user_id=user_id):
            return user_id
        case MemberRemoved(user_id=user_id) | MemberRolesChanged(user_id=user_id):
            return user_id
        case _:
            return None


async def _caller_of_cookie(scope: dict[str, Any]) -> Caller | None:
    """Return who is signed in by the session's cookie. Raises NoWorkspace."""
    session_key = scope.get("cookies", {}).get(settings.SESSION_COOKIE_NAME)
    if not session_key:
        return None
    user_id, caller = await _signed_in(session_key)
    if user_id is not None and caller is None:
        raise NoWorkspace
    return caller


async def _read_sessions(session_keys: Sequence[str]) -> Mapping[str, SignedIn]:
    return await in_database_thread(_callers_of_sessions, session_keys)


def _callers_of_sessions(session_keys: Sequence[str]) -> Mapping[str, SignedIn]:
    people = people_of_sessions(session_keys)
    callers = callers_of_people(set(people.values())) if people else {}
    return {
        key: (user_id, callers.get(user_id)) if (user_id := people.get(key)) else (None, None)
        for key in session_keys
    }


async def _read_rights(callers: Sequence[Caller]) -> Mapping[Caller, bool]:
    found = await in_database_thread(callers_again, callers, now=timezone.now())
    return {caller: caller in found for caller in callers}


# After a restart everybody comes at once, and everybody is asked again every minute.
_signed_in = Together(_read_sessions)
_still_has_rights = Together(_read_rights)

register_authentication(authenticate, still_valid=still_valid)
register_recheck(ends_access)
