"""How the streams of memberships and tokens fold."""

from cartrita.accounts import api_token, workspace
from cartrita.eventstore.aggregates import aggregate

MEMBERSHIP = aggregate(
    "accounts.membership",
    workspace.MemberAdded,
    fold=lambda recorded: workspace.fold(each.event for each in recorded),
)
API_TOKEN = aggregate(
    "accounts.api_token",
    api_token.ApiTokenIssued,
    fold=lambda recorded: api_token.fold(each.event for each in recorded),
)
