"""API tokens of programs. Pure: events, their fold, and what may happen next."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar, Literal, get_args
from uuid import UUID

from cartrita.errors import BadInput, NotAllowed, NotFound
from cartrita.eventstore.types import Event, Sealed

Scope = Literal["read", "write", "tokens", "import", "act_as"]
SCOPES: frozenset[str] = frozenset(get_args(Scope))
ADMIN_SCOPES: frozenset[str] = frozenset({"act_as", "import"})
DEFAULT_LIFETIME = timedelta(days=90)
LONGEST_LIFETIME = timedelta(days=366)
NAME_LIMIT = 100


class ApiTokenIssued(Event):
    """A person issued a token for a program.

    `secret_sha256` (hexadecimal) is the hash of a 256-bit random secret, which nobody but its holder knows.
    """

    type_name: ClassVar[str] = "accounts.ApiTokenIssued"

    user_id: UUID
    name: Sealed[str]
    scopes: tuple[Scope, ...]
    secret_sha256: str
    expires_at: datetime


class ApiTokenRevoked(Event):
    """The token opens nothing any more; open sockets end."""

    type_name: ClassVar[str] = "accounts.ApiTokenRevoked"

    user_id: UUID


class TokenNotFound(NotFound):
    """The caller has no token with that id."""

    code = "token_not_found"


class ScopeNotGrantable(NotAllowed):
    """The caller may not hand on that scope."""

    code = "scope_not_grantable"


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token as its events tell it."""

    user_id: UUID | None = None
    revoked: bool = False


def evolve(token: ApiToken, event: Event) -> ApiToken:
    """Return the token after `event`."""
    match event:
        case ApiTokenIssued():
            return replace(token, user_id=event.user_id)
        case ApiTokenRevoked():
            return replace(token, revoked=True)
        case _:
            return token


def fold(events: Iterable[Event]) -> ApiToken:
    """Return the token that these events make."""
    token = ApiToken()
    for event in events:
        token = evolve(token, event)
    return token


def issue(
    *,
    user_id: UUID,
    name: str,
    scopes: Iterable[str],
    grantable: frozenset[str],
    secret_sha256: str,
    now: datetime,
    expires_at: datetime | None,
) -> list[Event]:
    """Issue a token with scopes out of `grantable`, for 90 days where `expires_at` is None.

    Raises BadInput naming the field, ScopeNotGrantable.
    """
    name = name.strip()
    if not name or len(name) > NAME_LIMIT:
        raise BadInput(f"A token needs a name of 1 to {NAME_LIMIT} characters.", field="name")
    wanted = frozenset(scopes)
    if not wanted or wanted - SCOPES:
        raise BadInput(f"Name one or more scopes of {', '.join(get_args(Scope))}.", field="scopes")
    if wanted - grantable:
        raise ScopeNotGrantable(
            f"You may not grant {', '.join(sorted(wanted - grantable))}; ask an administrator.",
            field="scopes",
        )
    expires_at = expires_at or now + DEFAULT_LIFETIME
    if not now < expires_at <= now + LONGEST_LIFETIME:
        raise BadInput(
            f"A token ends in the future and within {LONGEST_LIFETIME.days} days.", field="expires_at"
        )
    return [
        ApiTokenIssued(
            user_id=user_id,
            name=name,
            scopes=tuple(scope for scope in get_args(Scope) if scope in wanted),
            secret_sha256=secret_sha256,
            expires_at=expires_at,
        )
    ]


def grantable_scopes(*, roles: frozenset[str], held: frozenset[str]) -> frozenset[str]:
    """Return what somebody with these roles, who acts with the scopes `held`, may grant to a token."""
    allowed = SCOPES if "admin" in roles else SCOPES - ADMIN_SCOPES
    return allowed & held


def revoke(token: ApiToken, *, user_id: UUID) -> list[Event]:
    """End a token; nothing when it has ended. Raises TokenNotFound, also for somebody else's token."""
    if token.user_id != user_id:
        raise TokenNotFound("You have no token with this id.", field="token_id")
    return [] if token.revoked else [ApiTokenRevoked(user_id=user_id)]
