"""How a request says who asks: `Authorization: Bearer <API token>`, or the browser's session."""

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.models import Session
from django.http import HttpRequest
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.request import Request

from cartrita.accounts.models import User
from cartrita.accounts.queries import Caller, caller_of_secret, caller_of_user
from cartrita.errors import NotSignedIn

_KEPT = "_cartrita_caller"


class TokenNotValid(NotSignedIn):
    """The API token is unknown, has ended or was revoked."""

    code = "token_not_valid"


class TokenAuthentication(BaseAuthentication):
    """Know a program by its API token."""

    def authenticate(self, request: Request) -> tuple[User, Caller] | None:
        """Return person and caller; None where no Bearer token is sent. Raises TokenNotValid."""
        scheme, _, secret = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        found = caller_of_secret(secret.strip().decode("latin-1"), now=timezone.now())
        if found is None:
            raise TokenNotValid("The API token is unknown, has ended or was revoked; create a new one.")
        return found

    def authenticate_header(self, request: Request) -> str:
        """Return what a 401 answer says in WWW-Authenticate (RFC 6750)."""
        del request
        return 'Bearer realm="cartrita"'


class BrowserAuthentication(SessionAuthentication):
    """Know a person by the browser's session, with Django's CSRF check."""


def people_of_sessions(session_keys: Collection[str]) -> dict[str, UUID]:
    """Return who is signed in by each of these browser sessions: two statements for all.

    What `django.contrib.auth.get_user` answers for one, without changing the session: it has not expired, the
    person may sign in, and neither the password nor the way of signing in has changed since. Others are left
    out.
    """
    # Django's keys are letters and digits; anything may be in a cookie.
    known = [key for key in session_keys if key.isascii() and key.isalnum()]
    rows = Session.objects.filter(session_key__in=known, expire_date__gt=timezone.now())
    held: dict[str, dict[str, Any]] = {row.session_key: row.get_decoded() for row in rows}
    claimed = {key: user_id for key, kept in held.items() if (user_id := _claimed(kept)) is not None}
    active = User.objects.filter(is_active=True).in_bulk(set(claimed.values()))
    return {
        key: user_id
        for key, user_id in claimed.items()
        if (user := active.get(user_id)) is not None and _is_of_password(held[key], user)
    }


def caller(request: Request | HttpRequest) -> Caller:
    """Return who asks, for REST requests and for pages alike. Raises NotSignedIn, NoWorkspace."""
    known = getattr(request, "auth", None)
    if isinstance(known, Caller):
        return known
    # DRF wraps Django's request; the answer is kept on the latter for the time of the request.
    plain = request._request if isinstance(request, Request) else request  # noqa: SLF001
    kept = plain.__dict__.get(_KEPT)
    if isinstance(kept, Caller):
        return kept
    user = request.user
    if isinstance(user, AnonymousUser) or not isinstance(user, User):
        raise NotSignedIn("Sign in, or send an API token as `Authorization: Bearer <token>`.")
    found = caller_of_user(user)
    plain.__dict__[_KEPT] = found
    return found


def _claimed(kept: Mapping[str, Any]) -> UUID | None:
    """Return whose session it says it is."""
    if kept.get(BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS:
        return None
    try:
        return UUID(kept[SESSION_KEY])
    except (KeyError, ValueError):
        return None


def _is_of_password(kept: Mapping[str, Any], user: User) -> bool:
    """Tell whether the session began with the password of now, also under an earlier SECRET_KEY."""
    begun_with = kept.get(HASH_SESSION_KEY, "")
    return bool(begun_with) and any(
        constant_time_compare(begun_with, hashed)
        for hashed in (user.get_session_auth_hash(), *user.get_session_auth_fallback_hash())
    )
