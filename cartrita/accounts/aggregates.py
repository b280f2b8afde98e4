"""How the streams of workspaces, memberships, teams and tokens fold."""

from cartrita.accounts import api_token, team, workspace
from cartrita.eventstore.aggregates import aggregate

WORKSPACE = aggregate(
    "accounts.workspace",
    workspace.WorkspaceCreated,
    fold=lambda recorded: workspace.settings_of(each.event for each in recorded),
)
MEMBERSHIP = aggregate(
    "accounts.membership",
    workspace.MemberAdded,
    fold=lambda recorded: workspace.fold(each.event for each in recorded),
)
TEAM = aggregate(
    "accounts.team",
    team.TeamCreated,
    fold=lambda recorded: team.fold(each.event for each in recorded),
)
API_TOKEN = aggregate(
    "accounts.api_token",
    api_token.ApiTokenIssued,
    fold=lambda recorded: api_token.fold(each.event for each in recorded),
)
