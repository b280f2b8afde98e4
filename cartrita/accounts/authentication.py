"""How a REST request says who asks: `Authorization: Bearer <API token>`, or the browser's session."""

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.utils import timezone
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
