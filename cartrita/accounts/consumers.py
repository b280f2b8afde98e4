"""How a socket's user is known: the browser's session cookie, or a ticket."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest
from django.utils import timezone

from cartrita.accounts.api_token import ApiTokenRevoked
from cartrita.accounts.commands import redeem_ticket
from cartrita.accounts.models import User
from cartrita.accounts.queries import Caller, caller_again, caller_of_user
from cartrita.accounts.sign_in import SignedOut
from cartrita.accounts.workspace import MemberRemoved, MemberRolesChanged
from cartrita.errors import NotSignedIn
from cartrita.eventstore import RecordedEvent, in_database_thread
from cartrita.streaming.registry import Person, register_authentication, register_recheck

OPENED_BY_TICKET = "cartrita.opened_by_ticket"


@dataclass(frozen=True, slots=True)
class SocketUser:
    """Who a socket belongs to; `pk` is the person's id."""

    pk: UUID
    caller: Caller


async def authenticate(scope: dict[str, Any], ticket: str | None) -> SocketUser:
    """Return who opens the socket. Raises NotSignedIn, TicketEnded, NoWorkspace."""
    if ticket is None:
        caller = await in_database_thread(_caller_of_cookie, scope)
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
        return await in_database_thread(caller_again, user.caller, now=timezone.now()) is not None
    caller = await in_database_thread(_caller_of_cookie, scope)
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


def _caller_of_cookie(scope: dict[str, Any]) -> Caller | None:
    session_key = scope.get("cookies", {}).get(settings.SESSION_COOKIE_NAME)
    if not session_key:
        return None
    # Django checks the session's hash against the user's password on a request only.
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = get_user(request)
    return caller_of_user(user) if isinstance(user, User) and user.is_active else None


register_authentication(authenticate, still_valid=still_valid)
register_recheck(ends_access)
