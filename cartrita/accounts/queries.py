"""Who somebody is and what they may do."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet

from cartrita.accounts.api_token import SCOPES
from cartrita.accounts.models import ApiToken, Membership, RoleEnded, User, Workspace
from cartrita.accounts.secrets import TOKEN_PREFIX, secret_hash
from cartrita.accounts.workspace import MemberNotFound
from cartrita.errors import NotAllowed, NotFound
from cartrita.eventstore import unseal_or_empty
from cartrita.http.pagination import DEFAULT_LIMIT, Page, page_of

# What a person in a browser may do; acting as others and importing belong to programs.
BROWSER_SCOPES: frozenset[str] = SCOPES - {"act_as", "import"}


class NoWorkspace(NotAllowed):
    """The person belongs to no workspace."""

    code = "no_workspace"

    def __init__(self) -> None:
        super().__init__("You belong to no workspace; ask an administrator to add you.")


class UnknownPerson(NotFound):
    """Nobody with that address may act here."""

    code = "unknown_person"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a person, in one workspace, with roles there; `scopes` bound what this way of asking allows.

    `actor` is what events call the caller: `user:<uuid>`, or `token:<uuid>` for a program.
    """

    user_id: UUID
    workspace_id: UUID
    roles: frozenset[str]
    scopes: frozenset[str]
    actor: str
    token_id: UUID | None = None


def roles_of(user_id: UUID, workspace_id: UUID) -> frozenset[str]:
    """Return a person's roles in a workspace; none for somebody who does not belong to it."""
    found = Membership.objects.filter(user_id=user_id, workspace_id=workspace_id).values_list(
        "roles", flat=True
    )
    return frozenset(found[0]) if found else frozenset()


def people_with_roles(workspace_id: UUID, roles: Collection[str]) -> frozenset[UUID]:
    """Return the active people who hold at least one of these roles in a workspace."""
    wanted = set(roles)
    holders = {
        user_id
        for user_id, held in Membership.objects.filter(workspace_id=workspace_id).values_list(
            "user_id", "roles"
        )
        if wanted & set(held)
    }
    return frozenset(User.objects.filter(pk__in=holders, is_active=True).values_list("pk", flat=True))


def holders_since(
    workspace_id: UUID, roles: Collection[str], *, since: datetime, now: datetime
) -> dict[UUID, datetime | None]:
    """Return who held at least one of these roles at any time since then, each with when that ended.

    That is None for active people who hold one now. Who may not sign in held theirs until that began, and
    whose account is deleted until now, for nobody knows.
    """
    wanted = set(roles)
    lately = RoleEnded.objects.filter(workspace_id=workspace_id, ended_at__gte=since)
    ended: dict[UUID, datetime | None] = {
        user_id: at
        for user_id, held, at in lately.order_by("ended_at").values_list("user_id", "roles", "ended_at")
        if wanted & set(held)
    }
    members = Membership.objects.filter(workspace_id=workspace_id).values_list("user_id", "roles")
    present = {user_id for user_id, held in members if wanted & set(held)}
    people = User.objects.filter(pk__in=present | ended.keys()).values_list("pk", "is_active", "suspended_at")
    accounts = {user_id: (is_active, suspended_at) for user_id, is_active, suspended_at in people}
    for user_id, at in list(ended.items()):
        _, suspended_at = accounts.get(user_id, (False, None))
        # Who tidies up after somebody who left long ago takes away what that one could use no more.
        if at is not None and suspended_at is not None and suspended_at < at:
            ended[user_id] = suspended_at
            if suspended_at < since:
                del ended[user_id]
    for user_id in present:
        is_active, suspended_at = accounts.get(user_id, (False, None))
        if is_active:
            ended[user_id] = None
            continue
        until = suspended_at or now
        if until >= since:
            ended[user_id] = max(until, ended.get(user_id) or until)
    return ended


def workspace_of(user: User) -> UUID:
    """Return the workspace in which a person acts: the one joined first. Raises NoWorkspace."""
    joined = (
        Membership.objects.filter(user_id=user.pk)
        .order_by("since", "id")
        .values_list("workspace_id", flat=True)
    )
    workspace_id = joined.first()
    if workspace_id is None:
        raise NoWorkspace
    return workspace_id


def caller_of_user(user: User) -> Caller:
    """Return a signed-in person as a caller. Raises NoWorkspace."""
    caller = callers_of_people([user.pk]).get(user.pk)
    if caller is None:
        raise NoWorkspace
    return caller


def callers_of_people(user_ids: Collection[UUID]) -> dict[UUID, Caller]:
    """Return people in browsers as callers where they act: one statement for all.

    Who belongs to no workspace is left out.
    """
    found: dict[UUID, Caller] = {}
    rows = Membership.objects.filter(user_id__in=user_ids).order_by("since", "id")
    for user_id, workspace_id, roles in rows.values_list("user_id", "workspace_id", "roles"):
        found.setdefault(user_id, _in_browser(user_id, workspace_id, roles))
    return found


def caller_again(caller: Caller, *, now: datetime) -> Caller | None:
    """Return the caller with the rights of now; None for whom they have ended."""
    return callers_again([caller], now=now).get(caller)


def callers_again(callers: Collection[Caller], *, now: datetime) -> dict[Caller, Caller]:
    """Return these callers with the rights of now: two statements for all, one where nobody has a token.

    For whom they have ended is left out.
    """
    token_ids = {caller.token_id for caller in callers if caller.token_id is not None}
    tokens = {row.id: row for row in _valid_tokens(token_ids, now)} if token_ids else {}
    roles = _roles_of_active({caller.user_id for caller in callers})
    found: dict[Caller, Caller] = {}
    for caller in callers:
        if caller.token_id is None:
            held = roles.get((caller.user_id, caller.workspace_id))
            if held:
                found[caller] = _in_browser(caller.user_id, caller.workspace_id, held)
        elif (row := tokens.get(caller.token_id)) and (held := roles.get((row.user_id, row.workspace_id))):
            found[caller] = _by_token(row.id, row.user_id, row.workspace_id, row.scopes, held)
    return found


def caller_in_workspace(user_id: UUID, workspace_id: UUID) -> Caller | None:
    """Return a person in a browser as a caller in that workspace, None for whom it is closed."""
    held = _roles_of_active([user_id]).get((user_id, workspace_id))
    return _in_browser(user_id, workspace_id, held) if held else None


def caller_of_email(email: str | None) -> Caller:
    """Return the person with that address as a caller; None: the administrator who joined first.

    Raises UnknownPerson, NoWorkspace.
    """
    people = User.objects.filter(is_active=True)
    people = people.filter(is_superuser=True) if email is None else people.filter(email=email.strip().lower())
    user = people.order_by("joined_at", "id").first()
    if user is None:
        raise UnknownPerson(
            "There is no administrator yet; run `manage.py starter_content` or `make up` first."
            if email is None
            else f"Nobody with the address {email} may sign in here.",
            field="user",
        )
    return caller_of_user(user)


def caller_of_secret(secret: str, *, now: datetime) -> tuple[User, Caller] | None:
    """Return whom a token's secret names; None where token or membership is unknown or has ended."""
    if not secret.startswith(TOKEN_PREFIX):
        return None
    return _account("secret_sha256", secret_hash(secret), now)


def account_of_token(token_id: UUID, *, now: datetime) -> tuple[User, Caller] | None:
    """Return whom a token's id names, None as in `caller_of_secret`."""
    return _account("id", token_id, now)


def tokens_of(
    user_id: UUID, workspace_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page:
    """Return a person's tokens in a workspace, newest first, without secrets."""
    rows = ApiToken.objects.filter(user_id=user_id, workspace_id=workspace_id)
    page = page_of(rows, order=("-created_at", "-id"), cursor=cursor, limit=limit)
    return Page([_token(row) for row in page.items], page.next_cursor)


def members_of(workspace_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT) -> Page:
    """Return the people of a workspace with their roles, those who joined first before the others."""
    rows = Membership.objects.filter(workspace_id=workspace_id)
    page = page_of(rows, order=("since", "id"), cursor=cursor, limit=limit)
    people = User.objects.in_bulk([row.user_id for row in page.items])
    return Page([_member(row, people.get(row.user_id)) for row in page.items], page.next_cursor)


def member(workspace_id: UUID, user_id: UUID) -> dict[str, Any]:
    """Return one member of a workspace. Raises MemberNotFound."""
    row = Membership.objects.filter(workspace_id=workspace_id, user_id=user_id).first()
    if row is None:
        raise MemberNotFound("This person is no member of the workspace.", field="user_id")
    return _member(row, User.objects.filter(id=user_id).first())


def member_by_address(workspace_id: UUID, email: str) -> dict[str, Any]:
    """Return the member of a workspace who has this address now. Raises MemberNotFound."""
    user = User.objects.filter(email=email.strip().lower()).first()
    if user is None:
        raise MemberNotFound("Nobody in the workspace has this address.", field="email")
    return member(workspace_id, user.pk)


def workspace(workspace_id: UUID) -> Workspace:
    """Return a workspace that somebody acts in."""
    return Workspace.objects.get(id=workspace_id)


def person(user_id: UUID) -> User:
    """Return a person who acts."""
    return User.objects.get(id=user_id)


def _token(row: ApiToken) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": unseal_or_empty(row.key_id, row.name),
        "scopes": row.scopes,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
    }


def _member(row: Membership, user: User | None) -> dict[str, Any]:
    return {
        "user_id": row.user_id,
        "name": str(user) if user else "",
        "email": user.email if user else "",
        "roles": row.roles,
        "since": row.since,
        "version": row.version,
        "active": user is not None and user.is_active,
    }


def _roles_of_active(user_ids: Collection[UUID]) -> dict[tuple[UUID, UUID], list[str]]:
    """Return the roles of people by person and workspace, without those who may not sign in."""
    active = User.objects.filter(pk__in=user_ids, is_active=True).values("pk")
    rows = Membership.objects.filter(user_id__in=active).values_list("user_id", "workspace_id", "roles")
    return {(user_id, workspace_id): roles for user_id, workspace_id, roles in rows}


def _valid_tokens(token_ids: Collection[UUID], now: datetime) -> QuerySet[ApiToken]:
    return ApiToken.objects.filter(id__in=token_ids, revoked_at=None, expires_at__gt=now)


def _in_browser(user_id: UUID, workspace_id: UUID, roles: Collection[str]) -> Caller:
    return Caller(
        user_id=user_id,
        workspace_id=workspace_id,
        roles=frozenset(roles),
        scopes=BROWSER_SCOPES,
        actor=f"user:{user_id}",
    )


def _by_token(
    token_id: UUID, user_id: UUID, workspace_id: UUID, scopes: Collection[str], roles: Collection[str]
) -> Caller:
    return Caller(
        user_id=user_id,
        workspace_id=workspace_id,
        roles=frozenset(roles),
        scopes=frozenset(scopes),
        actor=f"token:{token_id}",
        token_id=token_id,
    )


def _account(
    column: Literal["id", "secret_sha256"], value: UUID | str, now: datetime
) -> tuple[User, Caller] | None:
    """Return whom a token names: one statement, for it is asked with every request."""
    fields = [field.attname for field in User._meta.concrete_fields]  # noqa: SLF001 - public by its documentation
    columns = ", ".join(f'u."{field}"' for field in fields)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            select t.id, t.workspace_id, t.scopes, m.roles, {columns}
            from accounts_api_token t
            join accounts_user u on u.id = t.user_id and u.is_active
            join accounts_membership m on m.user_id = t.user_id and m.workspace_id = t.workspace_id
            where t.{column} = %s and t.revoked_at is null and t.expires_at > %s
            """,  # noqa: S608 - names of columns alone
            [value, now],
        )
        found = cursor.fetchone()
    if found is None:
        return None
    token_id, workspace_id, scopes, roles, *values = found
    user = User.from_db(connection.alias, fields, values)
    caller = _by_token(token_id, user.pk, workspace_id, json.loads(scopes), json.loads(roles))
    return (user, caller) if caller.roles else None
