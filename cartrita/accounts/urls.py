"""Signing in and out; workspace, members and teams; tokens and tickets."""

from django.urls import path

from cartrita.accounts import api, team_api, token_pages, views

urlpatterns = [
    path("sign-in", views.SignIn.as_view(), name="sign-in"),
    path("sign-in/link/<str:secret>", views.sign_in_by_link, name="sign-in-link"),
    path("sign-out", views.sign_out, name="sign-out"),
    path("tokens/", token_pages.tokens, name="token-page"),
    path("tokens/<uuid:token_id>/revoke", token_pages.revoke_token, name="token-revoke"),
    # Ahead of the console's own, which count no failures and record nothing.
    path("admin/login/", views.console_sign_in, name="console-sign-in"),
    path("admin/logout/", views.sign_out, name="console-sign-out"),
    path("api/v2/me", api.Me.as_view(), name="me"),
    path("api/v2/workspace", api.WorkspaceOne.as_view(), name="workspace"),
    path("api/v2/members", api.Members.as_view(), name="members"),
    path("api/v2/members/<uuid:user_id>", api.MemberDetail.as_view(), name="member"),
    path("api/v2/teams", team_api.Teams.as_view(), name="teams"),
    path("api/v2/teams/<uuid:team_id>", team_api.TeamDetail.as_view(), name="team"),
    path(
        "api/v2/teams/<uuid:team_id>/members/<uuid:user_id>",
        team_api.TeamMember.as_view(),
        name="team-member",
    ),
    path("api/v2/tokens", api.Tokens.as_view(), name="tokens"),
    path("api/v2/tokens/<uuid:token_id>", api.TokenDetail.as_view(), name="token"),
    path("api/v2/tickets", api.Tickets.as_view(), name="tickets"),
]
