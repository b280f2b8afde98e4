"""Which teams there are, and who is in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cartrita.accounts.models import Team, TeamMember, User
from cartrita.accounts.team import TeamNotFound
from cartrita.http.pagination import DEFAULT_LIMIT, Page, page_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamMate:
    """Somebody in a team, since when."""

    user_id: UUID
    name: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamEntry:
    """A team with its members, those who joined first before the others."""

    id: UUID
    workspace_id: UUID
    name: str
    closed: bool
    created_at: datetime
    version: int
    members: tuple[TeamMate, ...]


def teams_of(
    workspace_id: UUID, *, closed: bool = False, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page:
    """Return the teams of a workspace by name, the closed ones too if wanted."""
    rows = Team.objects.filter(workspace_id=workspace_id)
    if not closed:
        rows = rows.filter(closed=False)
    page = page_of(rows, order=("name", "id"), cursor=cursor, limit=limit)
    return Page(_entries(page.items), page.next_cursor)


def team(team_id: UUID, workspace_id: UUID) -> TeamEntry:
    """Return a team of the workspace. Raises TeamNotFound."""
    row = Team.objects.filter(id=team_id, workspace_id=workspace_id).first()
    if row is None:
        raise TeamNotFound("There is no such team.", field="team_id")
    return _entries([row])[0]


def team_named(name: str, workspace_id: UUID) -> TeamEntry:
    """Return the open team of that name, whatever its case. Raises TeamNotFound, which names the others."""
    known = list(Team.objects.filter(workspace_id=workspace_id, closed=False).order_by("name"))
    for row in known:
        if row.name.casefold() == name.strip().casefold():
            return _entries([row])[0]
    listed = f"; there are {', '.join(row.name for row in known)}" if known else ""
    raise TeamNotFound(f"There is no team {name!r}{listed}.", field="team")


def team_names(user_id: UUID, workspace_id: UUID) -> frozenset[str]:
    """Return the names of the open teams that a person is in."""
    of_person = TeamMember.objects.filter(workspace_id=workspace_id, user_id=user_id)
    rows = Team.objects.filter(id__in=of_person.values("team_id"), closed=False)
    return frozenset(rows.values_list("name", flat=True))


def names_of_teams(team_ids: list[UUID]) -> Mapping[UUID, str]:
    """Return the names of teams, closed ones too."""
    return dict(Team.objects.filter(id__in=team_ids).values_list("id", "name"))


def _entries(rows: list[Team]) -> list[TeamEntry]:
    mates: dict[UUID, list[TeamMate]] = {row.id: [] for row in rows}
    members = list(TeamMember.objects.filter(team_id__in=mates).order_by("since", "user_id"))
    people = User.objects.in_bulk([member.user_id for member in members])
    for member in members:
        person = people.get(member.user_id)
        mates[member.team_id].append(
            TeamMate(user_id=member.user_id, name=str(person) if person else "", since=member.since)
        )
    return [
        TeamEntry(
            id=row.id,
            workspace_id=row.workspace_id,
            name=row.name,
            closed=row.closed,
            created_at=row.created_at,
            version=row.version,
            members=tuple(mates[row.id]),
        )
        for row in rows
    ]
