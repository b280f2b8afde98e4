"""Sign-ins of people in a browser, one stream each. Pure."""

from typing import ClassVar, Literal
from uuid import UUID

from cartrita.errors import CartritaError, NotSignedIn
from cartrita.eventstore.types import Event

By = Literal["password", "link"]


class SignedIn(Event):
    """A person signed in, by password or by a single-use link."""

    type_name: ClassVar[str] = "accounts.SignedIn"

    user_id: UUID
    by: By


class SignedOut(Event):
    """The person ended this sign-in; its sockets end."""

    type_name: ClassVar[str] = "accounts.SignedOut"

    user_id: UUID


class WrongCredentials(NotSignedIn):
    """Address and password do not name a person who may sign in."""

    code = "wrong_credentials"


class LinkEnded(NotSignedIn):
    """The sign-in link was used, has expired, or never was."""

    code = "sign_in_link_ended"


class TicketEnded(NotSignedIn):
    """The ticket was used, has expired, or never was."""

    code = "ticket_ended"


class TooManyAttempts(CartritaError):
    """Too many sign-ins failed from there; waiting helps. `retry_after` is in seconds."""

    code = "too_many_attempts"
    status = 429
