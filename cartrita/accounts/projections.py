"""Read models of workspaces, memberships and tokens."""

from typing import cast
from uuid import UUID

from cartrita.accounts.api_token import ApiTokenIssued, ApiTokenRevoked
from cartrita.accounts.models import ApiToken, Membership, Workspace
from cartrita.accounts.workspace import MemberAdded, MemberRemoved, MemberRolesChanged, WorkspaceCreated
from cartrita.eventstore import RecordedEvent, inline


@inline(WorkspaceCreated, tables=[Workspace])
def project_workspaces(recorded: RecordedEvent) -> None:
    """Show the workspaces."""
    match recorded.event:
        case WorkspaceCreated() as event:
            Workspace.objects.create(id=recorded.stream_id, name=event.name, created_at=recorded.recorded_at)
        case _:
            pass


@inline(MemberAdded, MemberRolesChanged, MemberRemoved, tables=[Membership])
def project_memberships(recorded: RecordedEvent) -> None:
    """Show who belongs to which workspace, with which roles."""
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
