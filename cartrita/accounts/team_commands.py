"""What administrators may do with teams: load, decide, append."""

from collections.abc import Callable, Collection
from uuid import UUID

from django.db import transaction

from cartrita.accounts import team as teams
from cartrita.accounts.console import TEAM_ROLES
from cartrita.accounts.models import Membership, Team, TeamMember, Workspace
from cartrita.accounts.permissions import RoleMissing
from cartrita.accounts.queries import Caller
from cartrita.accounts.team import MOST_TEAMS_OF_A_PERSON
from cartrita.accounts.workspace import MemberNotFound
from cartrita.errors import BadInput
from cartrita.eventstore import Append, Context, Event, StreamMoved, append, load, new_id


def create_team(
    *, caller: Caller, name: str, members: Collection[UUID] = (), team_id: UUID | None = None
) -> UUID:
    """Begin a team of the caller's workspace with these members; return its id.

    Raises RoleMissing, BadInput, TeamNameTaken, MemberNotFound.
    """
    require_admin(caller)
    team_id = team_id or new_id()
    with transaction.atomic():
        lock_workspace(caller.workspace_id)
        events = teams.create(name=name, taken=_names(caller.workspace_id, but=team_id))
        _require_joinable(caller.workspace_id, members)
        events += teams.change_members(teams.fold(events), joining=members, leaving=())
        append(Append(team_id, 0, events, Context(workspace_id=caller.workspace_id, actor=caller.actor)))
    return team_id


def change_team(
    *,
    team_id: UUID,
    caller: Caller,
    name: str | None = None,
    joining: Collection[UUID] = (),
    leaving: Collection[UUID] = (),
    members: Collection[UUID] | None = None,
    expected_version: int | None = None,
) -> None:
    """Rename a team, let people join and leave, or say exactly who is in it (`members`), all at once.

    Acts that were decided before go on and are booked where they were reserved. Raises RoleMissing,
    TeamNotFound, TeamIsClosed, TeamNameTaken, MemberNotFound, BadInput, StreamMoved.
    """

    def decide(team: teams.Team) -> list[Event]:
        come, go = set(joining), set(leaving)
        if members is not None:
            come |= set(members) - team.members
            go |= team.members - set(members)
        events: list[Event] = []
        if name is not None:
            events += teams.rename(team, name=name, taken=_names(caller.workspace_id, but=team_id))
        changed = teams.change_members(team, joining=come, leaving=go)
        _require_joinable(caller.workspace_id, come - team.members)
        return events + changed

    _change(caller, team_id, decide, expected_version)


def close_team(*, team_id: UUID, caller: Caller, expected_version: int | None = None) -> None:
    """End a team; its budgets limit nobody from now on. Raises RoleMissing, TeamNotFound, StreamMoved."""
    _change(caller, team_id, teams.close, expected_version)


def leave_teams(*, workspace_id: UUID, user_id: UUID, actor: str) -> None:
    """Take somebody who leaves the workspace out of its teams, in the caller's transaction."""
    of_person = TeamMember.objects.filter(workspace_id=workspace_id, user_id=user_id)
    for team_id in of_person.order_by("team_id").values_list("team_id", flat=True):
        history = load(team_id)
        team = teams.fold(recorded.event for recorded in history)
        events = teams.change_members(team, joining=(), leaving=[user_id])
        append(Append(team_id, team.version, events, Context(workspace_id=workspace_id, actor=actor)))


def lock_workspace(workspace_id: UUID) -> None:
    """Let changes of who belongs to a workspace and its teams follow one another in this transaction."""
    Workspace.objects.select_for_update().filter(id=workspace_id).first()


def require_admin(caller: Caller) -> None:
    """Raise RoleMissing unless the caller administers the workspace."""
    if not caller.roles & TEAM_ROLES:
        raise RoleMissing(
            f"This needs one of the roles {', '.join(sorted(TEAM_ROLES))}.", roles=sorted(TEAM_ROLES)
        )


def _change(
    caller: Caller,
    team_id: UUID,
    decide: Callable[[teams.Team], list[Event]],
    expected_version: int | None,
) -> None:
    require_admin(caller)
    with transaction.atomic():
        lock_workspace(caller.workspace_id)
        history = load(team_id)
        if history and history[0].workspace_id != caller.workspace_id:
            history = []
        team = teams.fold(recorded.event for recorded in history)
        events = decide(team)
        if expected_version is not None and team.version != expected_version:
            raise StreamMoved(
                stream_id=team_id, expected_version=expected_version, actual_version=team.version
            )
        if events:
            context = Context(workspace_id=caller.workspace_id, actor=caller.actor)
            append(Append(team_id, team.version, events, context))


def _names(workspace_id: UUID, *, but: UUID) -> list[str]:
    rows = Team.objects.filter(workspace_id=workspace_id, closed=False).exclude(id=but)
    return list(rows.values_list("name", flat=True))


def _require_joinable(workspace_id: UUID, joining: Collection[UUID]) -> None:
    """Raise MemberNotFound for who does not belong to the workspace, BadInput for who is in many teams."""
    wanted = set(joining)
    known = set(
        Membership.objects.filter(workspace_id=workspace_id, user_id__in=wanted).values_list(
            "user_id", flat=True
        )
    )
    if missing := sorted(wanted - known):
        raise MemberNotFound(
            f"Nobody with the id {missing[0]} belongs to the workspace; add them as a member first.",
            field="members",
        )
    for user_id in sorted(wanted):
        if TeamMember.objects.filter(workspace_id=workspace_id, user_id=user_id).count() >= (
            MOST_TEAMS_OF_A_PERSON
        ):
            raise BadInput(
                f"{user_id} is in {MOST_TEAMS_OF_A_PERSON} teams, and nobody is in more; let them leave one.",
                field="members",
            )
