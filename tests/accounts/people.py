"""People, workspaces and tokens for tests of REST and sockets."""

from dataclasses import dataclass
from uuid import UUID

from django.test import Client
from django.utils import timezone

from cartrita.accounts import commands
from cartrita.accounts.models import User
from cartrita.accounts.workspace import create
from cartrita.eventstore import Append, Context, append, new_id

PASSWORD = "correct horse battery"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in a workspace."""

    user: User
    workspace_id: UUID

    @property
    def id(self) -> UUID:
        return self.user.pk

    def token(self, *scopes: str) -> str:
        """Return the secret of a new token."""
        return commands.issue_token(
            user_id=self.id,
            workspace_id=self.workspace_id,
            name="test",
            scopes=scopes or ("read", "write", "tokens"),
            actor=f"user:{self.id}",
            now=timezone.now(),
        ).secret

    def program(self, *scopes: str) -> Client:
        """Return a client that sends a new token."""
        return Client(headers={"Authorization": f"Bearer {self.token(*scopes)}"})


def someone(
    email: str = "ann@example.org", *, workspace_id: UUID | None = None, roles: tuple[str, ...] = ("member",)
) -> Person:
    """Return a new person: of that workspace, or of one of their own."""
    user = User.objects.create_user(email, PASSWORD, display_name=email.partition("@")[0].title())
    if workspace_id is None:
        workspace_id = new_id()
        # Begun without an owner, so that this person may have any roles.
        context = Context(workspace_id=workspace_id, actor="system")
        append(Append(workspace_id, 0, create(name="Team"), context))
    commands.set_roles(workspace_id=workspace_id, user_id=user.pk, roles=roles, actor="system")
    return Person(user, workspace_id)
