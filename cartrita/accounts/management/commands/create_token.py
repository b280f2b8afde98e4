"""manage.py create_token: an API token of a person, on a server without a browser."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from cartrita.accounts.api_token import DEFAULT_LIFETIME, LONGEST_LIFETIME, SCOPES
from cartrita.accounts.commands import issue_token
from cartrita.accounts.models import Membership, User
from cartrita.accounts.queries import workspace_of
from cartrita.errors import BadInput, CartritaError

USUAL_SCOPES = "read,write"


class Command(BaseCommand):
    """`create_token EMAIL --name NAME`: the secret alone on standard output, all else on standard error."""

    help = (
        "Create an API token in a person's name and print its secret, this once: the server keeps its hash "
        "alone. The token may do what the person may, within its scopes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL", help="whose token it is, a member of a workspace")
        parser.add_argument("--name", required=True, help="what it is for, such as the program's name")
        parser.add_argument(
            "--scopes",
            default=USUAL_SCOPES,
            metavar="SCOPE,...",
            help=f"one or more of {', '.join(sorted(SCOPES))}; {USUAL_SCOPES} unless told otherwise",
        )
        parser.add_argument(
            "--days",
            type=int,
            default=DEFAULT_LIFETIME.days,
            help=f"it ends after so many, {DEFAULT_LIFETIME.days} unless told otherwise, at most "
            f"{LONGEST_LIFETIME.days}",
        )
        parser.add_argument(
            "--workspace", type=UUID, metavar="ID", help="where it acts; else where the person does"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            self._create(**{name: options[name] for name in ("email", "name", "scopes", "days", "workspace")})
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from None

    def _create(self, *, email: str, name: str, scopes: str, days: int, workspace: UUID | None) -> None:
        user = User.objects.filter(email=email.strip().lower()).first()
        if user is None:
            raise CommandError(f"Nobody has the address {email}.")
        if not user.is_active:
            raise CommandError(f"{user.email} may not sign in, and no token of theirs would count.")
        workspace_id = workspace or workspace_of(user)
        if not Membership.objects.filter(workspace_id=workspace_id, user_id=user.pk).exists():
            raise CommandError(f"{user.email} does not belong to the workspace {workspace_id}.")
        if not 1 <= days <= LONGEST_LIFETIME.days:
            raise BadInput(f"--days is a number from 1 to {LONGEST_LIFETIME.days}.", field="days")
        now = timezone.now()
        issued = issue_token(
            user_id=user.pk,
            workspace_id=workspace_id,
            name=name,
            scopes=[each.strip() for each in scopes.split(",") if each.strip()],
            expires_at=now + timedelta(days=days),
            # Whoever runs commands here may do anything; the log says that it was not the person.
            actor="system",
            now=now,
        )
        self.stderr.write(
            f"A token of {user.email}, until {issued.expires_at:%Y-%m-%d}; it is shown this once:"
        )
        self.stdout.write(issued.secret)
