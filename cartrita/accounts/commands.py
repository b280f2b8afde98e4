"""What people and programs may ask of accounts: load, decide, append."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from cartrita.accounts import api_token, sign_in, workspace
from cartrita.accounts.models import FailedSignIn, Membership, SignInLink, SocketTicket, User
from cartrita.accounts.queries import (
    Caller,
    account_of_token,
    caller_in_workspace,
    people_with_roles,
    roles_of,
)
from cartrita.accounts.secrets import TOKEN_PREFIX, new_secret, secret_hash
from cartrita.accounts.sign_in import LinkEnded, TicketEnded, TooManyAttempts, WrongCredentials
from cartrita.accounts.team_commands import leave_teams, lock_workspace, require_admin
from cartrita.errors import BadInput
from cartrita.eventstore import (
    Append,
    Context,
    StreamMoved,
    append,
    create_data_key,
    derived_id,
    erase_subject,
    load,
    new_id,
)

TICKET_LIFETIME = timedelta(seconds=30)
LINK_LIFETIME = timedelta(minutes=15)
ATTEMPT_WINDOW = timedelta(minutes=15)
# Per address and person together, then per person and per address alone: one person's wrong guesses elsewhere
# must not lock out the owner at once, and one address must not try everybody.
ATTEMPTS_PER_PAIR = 10
ATTEMPTS_PER_PERSON = 100
ATTEMPTS_PER_ADDRESS = 50


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token at the one time when its secret is known."""

    token_id: UUID
    secret: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class IssuedTicket:
    """A socket ticket at the one time when its secret is known."""

    secret: str
    expires_at: datetime


def ensure_user(
    *, email: str, display_name: str = "", is_staff: bool = False, is_superuser: bool = False
) -> User:
    """Return the person with that address, made where there is none (without a password).

    An existing person is left as it is. Raises BadInput for what is no email address.
    """
    email = email.strip().lower()
    try:
        validate_email(email)
    except ValidationError:
        raise BadInput("Send an email address such as ann@example.org.", field="email") from None
    found = User.objects.filter(email=email).first()
    if found is not None:
        return found
    return User.objects.create_user(
        email, display_name=display_name, is_staff=is_staff, is_superuser=is_superuser
    )


def create_workspace(*, name: str, owner_id: UUID, actor: str, workspace_id: UUID | None = None) -> UUID:
    """Begin a workspace whose owner is its administrator; nothing when that id began before.

    Raises BadInput for a wrong name.
    """
    workspace_id = workspace_id or new_id()
    context = Context(workspace_id=workspace_id, actor=actor)
    with transaction.atomic():
        if load(workspace_id):
            return workspace_id
        append(
            Append(workspace_id, 0, workspace.create(name=name), context),
            Append(
                workspace.membership_id(workspace_id, owner_id),
                0,
                workspace.set_roles(workspace.Membership(), user_id=owner_id, roles=["member", "admin"]),
                context,
            ),
        )
    return workspace_id


def change_workspace_settings(
    *,
    caller: Caller,
    time_zone: str | None = None,
    currency: str | None = None,
    expected_version: int | None = None,
) -> None:
    """Set what new budgets of the caller's workspace take; None leaves one as it is.

    Raises RoleMissing, BadInput, and StreamMoved when the workspace is not at `expected_version`.
    """
    require_admin(caller)
    workspace_id = caller.workspace_id
    with transaction.atomic():
        lock_workspace(workspace_id)
        history = load(workspace_id)
        _require_version(workspace_id, len(history), expected_version)
        events = workspace.change_settings(
            workspace.settings_of(recorded.event for recorded in history),
            time_zone=time_zone,
            currency=currency,
        )
        if events:
            context = Context(workspace_id=workspace_id, actor=caller.actor)
            append(Append(workspace_id, len(history), events, context))


def set_roles(
    *,
    workspace_id: UUID,
    user_id: UUID,
    roles: Iterable[str],
    actor: str,
    expected_version: int | None = None,
) -> None:
    """Give a person exactly these roles in a workspace.

    Raises BadInput for an unknown role, LastAdmin, and StreamMoved when the membership is not at
    `expected_version`.
    """
    with transaction.atomic():
        others_administer = _others_administer(workspace_id, user_id)
        stream_id = workspace.membership_id(workspace_id, user_id)
        history = load(stream_id)
        _require_version(stream_id, len(history), expected_version)
        events = workspace.set_roles(
            workspace.fold(recorded.event for recorded in history),
            user_id=user_id,
            roles=roles,
            others_administer=others_administer,
        )
        if events:
            append(Append(stream_id, len(history), events, Context(workspace_id=workspace_id, actor=actor)))


def add_member(
    *, workspace_id: UUID, email: str, roles: Iterable[str], actor: str, display_name: str = ""
) -> UUID:
    """Let a person, made where nobody has that address, join a workspace; return who it is.

    Raises BadInput for a wrong address or role, AlreadyMember.
    """
    with transaction.atomic():
        user = ensure_user(email=email, display_name=display_name)
        if roles_of(user.pk, workspace_id):
            raise workspace.AlreadyMember(
                "This person is a member already; change their roles instead.",
                field="email",
                user_id=str(user.pk),
            )
        set_roles(workspace_id=workspace_id, user_id=user.pk, roles=roles, actor=actor)
    return user.pk


def remove_member(
    *, workspace_id: UUID, user_id: UUID, actor: str, expected_version: int | None = None
) -> None:
    """Take a person out of a workspace. Raises MemberNotFound, LastAdmin, StreamMoved as `set_roles`."""
    with transaction.atomic():
        stream_id = workspace.membership_id(workspace_id, user_id)
        if expected_version is not None:
            _require_version(stream_id, len(load(stream_id)), expected_version)
        others_administer = _others_administer(workspace_id, user_id)
        _remove(workspace_id, user_id, actor=actor, others_administer=others_administer)


class EraseAlso(Protocol):
    """Erases what another app keeps of a person."""

    def __call__(self, *, user_id: UUID, actor: str) -> object:
        """Erase it, in the caller's transaction."""


_erased_too: list[EraseAlso] = []


def register_erasure(also: EraseAlso) -> None:
    """Register what else goes when a person is erased (sessions, documents), in the same transaction."""
    if also not in _erased_too:
        _erased_too.append(also)


def erase_person(*, user_id: UUID, actor: str) -> int:
    """Erase a person: name, address, sign-ins, sessions, documents, and the keys of all that they wrote.

    Return how many keys that were, beside those of sessions and documents. The row stays under its id, so
    that events keep naming somebody. Succeeds when it was erased before.
    """
    with transaction.atomic():
        user = User.objects.select_for_update().filter(id=user_id).first()
        if user is not None:
            user.email = f"{user.pk}@erased.invalid"
            user.display_name = ""
            user.is_active = user.is_staff = user.is_superuser = False
            # Also ends every sign-in: Django ties them to the password.
            user.set_unusable_password()
            user.save()
        for erase_also in _erased_too:
            erase_also(user_id=user_id, actor=actor)
        # In one order, so that two erasures never wait for one another.
        for membership in Membership.objects.filter(user_id=user_id).order_by("workspace_id"):
            lock_workspace(membership.workspace_id)
            # Whoever wants to be forgotten is, though a workspace be left without an administrator.
            _remove(membership.workspace_id, user_id, actor=actor, others_administer=True)
        SignInLink.objects.filter(user_id=user_id).delete()
        SocketTicket.objects.filter(user_id=user_id).delete()
        # Django's admin writes down whom it changed by name.
        LogEntry.objects.filter(
            content_type=ContentType.objects.get_for_model(User), object_id=str(user_id)
        ).update(object_repr="", change_message="")
        return erase_subject(user_id, actor=actor)


def issue_token(
    *,
    user_id: UUID,
    workspace_id: UUID,
    name: str,
    scopes: Iterable[str],
    actor: str,
    now: datetime,
    expires_at: datetime | None = None,
    held_scopes: frozenset[str] = api_token.SCOPES,
) -> IssuedToken:
    """Issue a token for a program of this person; its secret is returned here and kept nowhere.

    `held_scopes` are those of whoever asks: a token hands on no more than it has. Raises BadInput naming the
    field, ScopeNotGrantable.
    """
    token_id = new_id()
    secret = new_secret(TOKEN_PREFIX)
    events = api_token.issue(
        user_id=user_id,
        name=name,
        scopes=scopes,
        grantable=api_token.grantable_scopes(roles=roles_of(user_id, workspace_id), held=held_scopes),
        secret_sha256=secret_hash(secret),
        now=now,
        expires_at=expires_at,
    )
    with transaction.atomic():
        key_id = create_data_key(subject_id=user_id, scope="token")
        context = Context(workspace_id=workspace_id, actor=actor, key_id=key_id)
        [issued] = append(Append(token_id, 0, events, context), recorded_at=now)
    assert isinstance(issued.event, api_token.ApiTokenIssued)  # noqa: S101 # what api_token.issue returns
    return IssuedToken(token_id, secret, issued.event.expires_at)


def revoke_token(*, token_id: UUID, user_id: UUID, actor: str) -> None:
    """End a token of this person; nothing when it has ended. Raises TokenNotFound."""
    history = load(token_id)
    token = api_token.fold(recorded.event for recorded in history)
    events = api_token.revoke(token, user_id=user_id)
    if events:
        context = Context(workspace_id=history[0].workspace_id, actor=actor)
        append(Append(token_id, len(history), events, context))


def issue_ticket(
    *, user_id: UUID, workspace_id: UUID, now: datetime, token_id: UUID | None = None
) -> IssuedTicket:
    """Issue a ticket that opens one socket within 30 seconds; `token_id` is the API token that asks."""
    secret = new_secret()
    expires_at = now + TICKET_LIFETIME
    SocketTicket.objects.create(
        secret_sha256=secret_hash(secret),
        user_id=user_id,
        workspace_id=workspace_id,
        token_id=token_id,
        expires_at=expires_at,
    )
    return IssuedTicket(secret, expires_at)


def redeem_ticket(secret: str, *, now: datetime) -> Caller:
    """Use a ticket up and return whose it is. Raises TicketEnded, also when its API token ended meanwhile."""
    with transaction.atomic():
        ticket = (
            SocketTicket.objects.select_for_update()
            .filter(secret_sha256=secret_hash(secret), expires_at__gt=now)
            .first()
        )
        if ticket is None:
            raise TicketEnded("The ticket was used or is older than 30 seconds; ask for a new one.")
        ticket.delete()
    if ticket.token_id is None:
        caller = caller_in_workspace(ticket.user_id, ticket.workspace_id)
    else:
        found = account_of_token(ticket.token_id, now=now)
        caller = found[1] if found else None
    if caller is None:
        raise TicketEnded("Who asked for this ticket may no longer sign in.")
    return caller


def issue_sign_in_link(*, user_id: UUID, now: datetime, lifetime: timedelta = LINK_LIFETIME) -> str:
    """Return the secret of a link that signs this person in once (path: the route `sign-in-link`)."""
    secret = new_secret()
    SignInLink.objects.create(secret_sha256=secret_hash(secret), user_id=user_id, expires_at=now + lifetime)
    return secret


def redeem_sign_in_link(secret: str, *, now: datetime) -> User:
    """Use a sign-in link up and return whose it is. Raises LinkEnded."""
    with transaction.atomic():
        link = (
            SignInLink.objects.select_for_update()
            .filter(secret_sha256=secret_hash(secret), expires_at__gt=now)
            .first()
        )
        user = User.objects.filter(id=link.user_id, is_active=True).first() if link else None
        if link is None or user is None:
            raise LinkEnded("This link was used or has expired; ask for a new one.")
        link.delete()
    return user


def check_credentials(*, email: str, password: str, address: str, now: datetime) -> User:
    """Return the person whom address and password name. Failures are counted for a quarter of an hour.

    `address` is the network address that asks. Raises WrongCredentials, TooManyAttempts.
    """
    email = email.strip().lower()
    limits = {
        _subject(f"pair:{email}|{address}"): ATTEMPTS_PER_PAIR,
        _subject(f"person:{email}"): ATTEMPTS_PER_PERSON,
        _subject(f"address:{address}"): ATTEMPTS_PER_ADDRESS,
    }
    recent = FailedSignIn.objects.filter(at__gt=now - ATTEMPT_WINDOW)
    if any(recent.filter(subject=subject).count() >= limit for subject, limit in limits.items()):
        raise TooManyAttempts(
            "Too many sign-ins failed; try again in 15 minutes, or ask for a sign-in link.",
            retry_after=int(ATTEMPT_WINDOW.total_seconds()),
        )
    user = User.objects.filter(email=email, is_active=True).first()
    if user is None:
        # Checking against an unusable password costs a hash too: time does not tell which addresses exist.
        check_password(password, make_password(None))
    elif user.check_password(password):
        return user
    FailedSignIn.objects.bulk_create(FailedSignIn(subject=subject, at=now) for subject in limits)
    raise WrongCredentials("Address and password do not fit; check both.")


def record_sign_in(*, user_id: UUID, workspace_id: UUID, by: sign_in.By) -> UUID:
    """Record that a person signed in and return the id of this sign-in."""
    sign_in_id = new_id()
    context = Context(workspace_id=workspace_id, actor=f"user:{user_id}")
    append(Append(sign_in_id, 0, [sign_in.SignedIn(user_id=user_id, by=by)], context))
    return sign_in_id


def record_sign_out(*, sign_in_id: UUID) -> None:
    """Record that a sign-in ended; nothing when it had ended."""
    history = load(sign_in_id)
    match [recorded.event for recorded in history]:
        case [sign_in.SignedIn(user_id=user_id)]:
            context = Context(workspace_id=history[0].workspace_id, actor=f"user:{user_id}")
            ended = Append(
                sign_in_id,
                1,
                [sign_in.SignedOut(user_id=user_id)],
                context,
                [derived_id(sign_in_id, "signed-out")],
            )
            append(ended)
        case _:
            return


def delete_what_ended(*, now: datetime) -> int:
    """Delete ended tickets, links and counted failures; return how many rows that were."""
    deleted = (
        SocketTicket.objects.filter(expires_at__lte=now).delete(),
        SignInLink.objects.filter(expires_at__lte=now).delete(),
        FailedSignIn.objects.filter(at__lte=now - ATTEMPT_WINDOW).delete(),
    )
    return sum(count for count, _ in deleted)


def _remove(workspace_id: UUID, user_id: UUID, *, actor: str, others_administer: bool) -> None:
    stream_id = workspace.membership_id(workspace_id, user_id)
    history = load(stream_id)
    membership = workspace.fold(recorded.event for recorded in history)
    events = workspace.remove(membership, user_id=user_id, others_administer=others_administer)
    append(Append(stream_id, len(history), events, Context(workspace_id=workspace_id, actor=actor)))
    leave_teams(workspace_id=workspace_id, user_id=user_id, actor=actor)


def _require_version(stream_id: UUID, version: int, expected: int | None) -> None:
    if expected is not None and expected != version:
        raise StreamMoved(stream_id=stream_id, expected_version=expected, actual_version=version)


def _others_administer(workspace_id: UUID, user_id: UUID) -> bool:
    """Tell whether somebody else administers the workspace, and keep that so in this transaction."""
    # Else two administrators who remove one another at once would both succeed.
    lock_workspace(workspace_id)
    return bool(people_with_roles(workspace_id, ["admin"]) - {user_id})


def _subject(text: str) -> str:
    return hmac.new(settings.SECRET_KEY.encode(), text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
