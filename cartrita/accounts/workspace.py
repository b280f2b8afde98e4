"""Workspaces and who belongs to them with which roles. Pure: events, their fold, and what may happen next."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args
from uuid import UUID

from cartrita.accounts.region import require_currency, zone
from cartrita.errors import BadInput, Conflict, NotFound
from cartrita.eventstore.ids import derived_id
from cartrita.eventstore.types import Event

Role = Literal["member", "reviewer", "operator", "admin", "policy_author", "auditor"]
ROLES: frozenset[str] = frozenset(get_args(Role))
NAME_LIMIT = 150


class WorkspaceCreated(Event):
    """A workspace began: the wall between teams. Its name is no personal text."""

    type_name: ClassVar[str] = "accounts.WorkspaceCreated"

    name: str


class WorkspaceSettingsChanged(Event):
    """The workspace keeps its books so: new budgets take this time zone and currency.

    Those that stand keep theirs.
    """

    type_name: ClassVar[str] = "accounts.WorkspaceSettingsChanged"

    time_zone: str
    currency: str


class MemberAdded(Event):
    """A person joined the workspace with these roles."""

    type_name: ClassVar[str] = "accounts.MemberAdded"

    user_id: UUID
    roles: tuple[Role, ...]


class MemberRolesChanged(Event):
    """A member has these roles now, and no other."""

    type_name: ClassVar[str] = "accounts.MemberRolesChanged"

    user_id: UUID
    roles: tuple[Role, ...]


class MemberRemoved(Event):
    """The person belongs to the workspace no longer; open sockets end."""

    type_name: ClassVar[str] = "accounts.MemberRemoved"

    user_id: UUID


class WorkspaceNotFound(NotFound):
    """No workspace with that id exists for this caller."""

    code = "workspace_not_found"


class MemberNotFound(NotFound):
    """The person is no member of this workspace."""

    code = "member_not_found"


class AlreadyMember(Conflict):
    """The person belongs to the workspace already."""

    code = "already_member"


class LastAdmin(Conflict):
    """Nobody would administer the workspace any more."""

    code = "last_admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What new budgets of a workspace take: the time zone where periods begin, the currency of money."""

    time_zone: str = "UTC"
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class Membership:
    """One person's place in one workspace. No roles: no member."""

    roles: frozenset[str] = frozenset()


def membership_id(workspace_id: UUID, user_id: UUID) -> UUID:
    """Return the stream of one person's membership in one workspace."""
    return derived_id(workspace_id, f"member:{user_id}")


def evolve(membership: Membership, event: Event) -> Membership:
    """Return the membership after `event`."""
    match event:
        case MemberAdded() | MemberRolesChanged():
            return replace(membership, roles=frozenset(event.roles))
        case MemberRemoved():
            return replace(membership, roles=frozenset())
        case _:
            return membership


def fold(events: Iterable[Event]) -> Membership:
    """Return the membership that these events make."""
    membership = Membership()
    for event in events:
        membership = evolve(membership, event)
    return membership


def create(*, name: str) -> list[Event]:
    """Begin a workspace. Raises BadInput for a name that is empty or above 150 characters."""
    name = name.strip()
    if not name or len(name) > NAME_LIMIT:
        raise BadInput(f"A workspace needs a name of 1 to {NAME_LIMIT} characters.", field="name")
    return [WorkspaceCreated(name=name)]


def settings_of(events: Iterable[Event]) -> Settings:
    """Return the settings that the events of a workspace's stream make."""
    settings = Settings()
    for event in events:
        if isinstance(event, WorkspaceSettingsChanged):
            settings = Settings(time_zone=event.time_zone, currency=event.currency)
    return settings


def change_settings(settings: Settings, *, time_zone: str | None, currency: str | None) -> list[Event]:
    """Set time zone, currency or both; None leaves one as it is, and nothing changes where it is so already.

    Raises BadInput for what is no time zone or currency.
    """
    wanted = Settings(time_zone=time_zone or settings.time_zone, currency=currency or settings.currency)
    zone(wanted.time_zone)
    require_currency(wanted.currency)
    if wanted == settings:
        return []
    return [WorkspaceSettingsChanged(time_zone=wanted.time_zone, currency=wanted.currency)]


def set_roles(
    membership: Membership, *, user_id: UUID, roles: Iterable[str], others_administer: bool = True
) -> list[Event]:
    """Give a person exactly these roles; nothing when it has them.

    `others_administer` tells whether the workspace has an administrator besides this person. Raises BadInput
    for an unknown role, LastAdmin.
    """
    wanted = frozenset(roles)
    if unknown := wanted - ROLES:
        raise BadInput(
            f"There is no role {' or '.join(sorted(unknown))}; the roles are {', '.join(get_args(Role))}.",
            field="roles",
        )
    if not wanted:
        raise BadInput(f"Name one or more roles of {', '.join(get_args(Role))}.", field="roles")
    if wanted == membership.roles:
        return []
    _keep_an_admin(membership, wanted, others_administer=others_administer)
    ordered: tuple[Role, ...] = tuple(role for role in get_args(Role) if role in wanted)
    if membership.roles:
        return [MemberRolesChanged(user_id=user_id, roles=ordered)]
    return [MemberAdded(user_id=user_id, roles=ordered)]


def remove(membership: Membership, *, user_id: UUID, others_administer: bool = True) -> list[Event]:
    """Take a person out of the workspace; `others_administer` as in `set_roles`.

    Raises MemberNotFound, LastAdmin.
    """
    if not membership.roles:
        raise MemberNotFound("This person is no member of the workspace.", field="user_id")
    _keep_an_admin(membership, frozenset(), others_administer=others_administer)
    return [MemberRemoved(user_id=user_id)]


def _keep_an_admin(membership: Membership, wanted: frozenset[str], *, others_administer: bool) -> None:
    if not others_administer and "admin" in membership.roles - wanted:
        raise LastAdmin(
            "This person is the workspace's only administrator; make somebody else one first.", field="roles"
        )
