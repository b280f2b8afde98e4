"""Read models of workspaces, memberships and tokens."""

from typing import cast
from uuid import UUID

from cartrita.accounts.api_token import ApiTokenIssued, ApiTokenRevoked
from cartrita.accounts.models import ApiToken, Membership, RoleEnded, Team, TeamMember, Workspace
from cartrita.accounts.team import TeamClosed, TeamCreated, TeamMembersChanged, TeamRenamed
from cartrita.accounts.workspace import (
    MemberAdded,
    MemberRemoved,
    MemberRolesChanged,
    WorkspaceCreated,
    WorkspaceSettingsChanged,
)
from cartrita.eventstore import RecordedEvent, derived_id, inline


@inline(WorkspaceCreated, WorkspaceSettingsChanged, tables=[Workspace])
def project_workspaces(recorded: RecordedEvent) -> None:
    """Show the workspaces and their settings."""
    match recorded.event:
        case WorkspaceCreated() as event:
            Workspace.objects.create(
                id=recorded.stream_id,
                name=event.name,
                created_at=recorded.recorded_at,
                version=recorded.version,
            )
        case WorkspaceSettingsChanged() as event:
            Workspace.objects.filter(id=recorded.stream_id).update(
                time_zone=event.time_zone, currency=event.currency, version=recorded.version
            )
        case _:
            pass


@inline(MemberAdded, MemberRolesChanged, MemberRemoved, tables=[Membership, RoleEnded])
def project_memberships(recorded: RecordedEvent) -> None:
    """Show who belongs to which workspace, with which roles, and which roles ended when."""
    _end_roles(recorded)
    match recorded.event:
        case MemberAdded() as event:
            Membership.objects.create(
                id=recorded.stream_id,
                workspace_id=recorded.workspace_id,
                user_id=event.user_id,
                roles=list(event.roles),
                since=recorded.recorded_at,
                version=recorded.version,
            )
        case MemberRolesChanged() as event:
            Membership.objects.filter(id=recorded.stream_id).update(
                roles=list(event.roles), version=recorded.version
            )
        case MemberRemoved():
            Membership.objects.filter(id=recorded.stream_id).delete()
        case _:
            pass


def _end_roles(recorded: RecordedEvent) -> None:
    if isinstance(recorded.event, MemberAdded):
        return
    former = Membership.objects.get(id=recorded.stream_id)
    kept = recorded.event.roles if isinstance(recorded.event, MemberRolesChanged) else ()
    ended = [role for role in former.roles if role not in kept]
    if ended:
        RoleEnded.objects.create(
            id=derived_id(recorded.stream_id, f"ended:{recorded.version}"),
            workspace_id=recorded.workspace_id,
            user_id=former.user_id,
            roles=ended,
            ended_at=recorded.recorded_at,
        )


@inline(TeamCreated, TeamRenamed, TeamMembersChanged, TeamClosed, tables=[Team, TeamMember])
def project_teams(recorded: RecordedEvent) -> None:
    """Show the teams, and who is in those that are open."""
    row = Team.objects.filter(id=recorded.stream_id)
    members = TeamMember.objects.filter(team_id=recorded.stream_id)
    match recorded.event:
        case TeamCreated() as event:
            Team.objects.create(
                id=recorded.stream_id,
                workspace_id=recorded.workspace_id,
                name=event.name,
                created_at=recorded.recorded_at,
                version=recorded.version,
            )
        case TeamRenamed() as event:
            row.update(name=event.name, version=recorded.version)
        case TeamMembersChanged() as event:
            members.filter(user_id__in=event.left).delete()
            TeamMember.objects.bulk_create(
                TeamMember(
                    id=derived_id(recorded.stream_id, f"member:{user_id}"),
                    team_id=recorded.stream_id,
                    workspace_id=recorded.workspace_id,
                    user_id=user_id,
                    since=recorded.recorded_at,
                )
                for user_id in event.joined
            )
            row.update(version=recorded.version)
        case TeamClosed():
            members.delete()
            row.update(closed=True, version=recorded.version)
        case _:
            pass


@inline(ApiTokenIssued, ApiTokenRevoked, tables=[ApiToken])
def project_api_tokens(recorded: RecordedEvent) -> None:
    """Show which tokens exist, until when, and which were revoked."""
    match recorded.event:
        case ApiTokenIssued() as event:
            ApiToken.objects.create(
                id=recorded.stream_id,
                workspace_id=recorded.workspace_id,
                user_id=event.user_id,
                # The store takes no event with sealed fields without a key.
                key_id=cast("UUID", recorded.key_id),
                name=recorded.sealed["name"],
                scopes=list(event.scopes),
                secret_sha256=event.secret_sha256,
                created_at=recorded.recorded_at,
                expires_at=event.expires_at,
            )
        case ApiTokenRevoked():
            ApiToken.objects.filter(id=recorded.stream_id).update(revoked_at=recorded.recorded_at)
        case _:
            pass
