"""Who may do what: users, workspaces, memberships, API tokens, tickets, sign-in links."""
