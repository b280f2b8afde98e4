"""Teams: who of a workspace works together. Pure: events, their fold, and what may happen next.

The stream is the team's id. A person may be in several teams; rules read their names, budgets limit them.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar
from uuid import UUID

from cartrita.errors import BadInput, Conflict, NotFound
from cartrita.eventstore.types import Event

NAME_LIMIT = 100
# Each team of a person adds its budgets to every decision on their acts.
MOST_TEAMS_OF_A_PERSON = 20
MOST_MEMBERS = 1000


class TeamCreated(Event):
    """A team began, without members. Its name is no personal text."""

    type_name: ClassVar[str] = "accounts.TeamCreated"

    name: str


class TeamRenamed(Event):
    """The team has another name; rules that go by names see that one from now on."""

    type_name: ClassVar[str] = "accounts.TeamRenamed"

    name: str


class TeamMembersChanged(Event):
    """These people joined the team, and these left it."""

    type_name: ClassVar[str] = "accounts.TeamMembersChanged"

    joined: tuple[UUID, ...] = ()
    left: tuple[UUID, ...] = ()


class TeamClosed(Event):
    """The team is no more: its name is free, and its budgets limit nobody."""

    type_name: ClassVar[str] = "accounts.TeamClosed"


class TeamNotFound(NotFound):
    """No team with that id exists for this caller."""

    code = "team_not_found"


class TeamIsClosed(Conflict):
    """The team is no more."""

    code = "team_closed"


class TeamNameTaken(Conflict):
    """Another team of the workspace has that name."""

    code = "team_name_taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A team; `version` 0 before it was created."""

    name: str = ""
    members: frozenset[UUID] = frozenset()
    closed: bool = False
    version: int = 0


def fold(events: Iterable[Event]) -> Team:
    """Return the team that these events make."""
    team = Team()
    for event in events:
        team = evolve(team, event)
    return team


def evolve(team: Team, event: Event) -> Team:
    """Return the team after one more event."""
    team = replace(team, version=team.version + 1)
    match event:
        case TeamCreated() | TeamRenamed():
            return replace(team, name=event.name)
        case TeamMembersChanged():
            return replace(team, members=(team.members | {*event.joined}) - {*event.left})
        case TeamClosed():
            return replace(team, closed=True)
        case _:
            return team


def create(*, name: str, taken: Collection[str]) -> list[Event]:
    """Begin a team; `taken` are the names of the workspace's open teams. Raises BadInput, TeamNameTaken."""
    return [TeamCreated(name=_checked_name(name, taken))]


def rename(team: Team, *, name: str, taken: Collection[str]) -> list[Event]:
    """Give it another name; nothing when it has that one. `taken` are the names of the other open teams.

    Raises TeamNotFound, TeamIsClosed, BadInput, TeamNameTaken.
    """
    _require_open(team)
    name = _checked_name(name, taken)
    return [] if name == team.name else [TeamRenamed(name=name)]


def change_members(team: Team, *, joining: Collection[UUID], leaving: Collection[UUID]) -> list[Event]:
    """Let people join and leave; nothing where they are in or out already.

    That those who join belong to the workspace, and to few enough teams, is for the caller to check. Raises
    TeamNotFound, TeamIsClosed, BadInput for more members than a team may have.
    """
    _require_open(team)
    joined = frozenset(joining) - team.members
    left = frozenset(leaving) & team.members
    if both := frozenset(joining) & frozenset(leaving):
        raise BadInput(f"{min(both)} cannot join and leave at once.", field="members")
    if len(team.members | joined) - len(left) > MOST_MEMBERS or len(joined) > MOST_MEMBERS:
        raise BadInput(f"A team has at most {MOST_MEMBERS} members.", field="members")
    if not (joined or left):
        return []
    return [TeamMembersChanged(joined=tuple(sorted(joined)), left=tuple(sorted(left)))]


def close(team: Team) -> list[Event]:
    """End the team; nothing when it has ended. Raises TeamNotFound."""
    if team.version == 0:
        raise TeamNotFound("There is no such team.", field="team_id")
    return [] if team.closed else [TeamClosed()]


def _checked_name(name: str, taken: Collection[str]) -> str:
    name = " ".join(name.split())
    if not 0 < len(name) <= NAME_LIMIT or not name.isprintable():
        raise BadInput(f"A team needs a name of 1 to {NAME_LIMIT} characters.", field="name")
    if name.casefold() in {each.casefold() for each in taken}:
        raise TeamNameTaken(f"There is a team {name!r} already; choose another name.", field="name")
    return name


def _require_open(team: Team) -> None:
    if team.version == 0:
        raise TeamNotFound("There is no such team.", field="team_id")
    if team.closed:
        raise TeamIsClosed("This team is closed; create another one.", field="team_id")
