"""manage.py members: see who belongs to a workspace, add and remove people, give them roles."""

from typing import Any, get_args
from uuid import UUID

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from cartrita.accounts.commands import (
    LINK_LIFETIME,
    ensure_user,
    issue_sign_in_link,
    remove_member,
    set_roles,
)
from cartrita.accounts.models import Membership, User, Workspace
from cartrita.accounts.queries import workspace_of
from cartrita.accounts.workspace import Role
from cartrita.errors import CartritaError


class Command(BaseCommand):
    """`members list`, `set EMAIL --roles ROLES` and `remove EMAIL`."""

    help = "See who belongs to a workspace with which roles, add people and change their roles, remove them."

    def add_arguments(self, parser: CommandParser) -> None:
        acts = parser.add_subparsers(dest="act")
        show = acts.add_parser("list", help="Show the members and their roles.")
        put = acts.add_parser("set", help="Give a person exactly these roles, and a link to sign in once.")
        put.add_argument("email", metavar="EMAIL")
        put.add_argument(
            "--roles", required=True, metavar="ROLE,...", help=f"one or more of {', '.join(get_args(Role))}"
        )
        put.add_argument("--name", default="", help="what to call somebody who is new here")
        put.add_argument(
            "--console",
            action="store_true",
            help="let the person into the governance console, where reviewers, operators and others work",
        )
        remove = acts.add_parser("remove", help="Take a person out; what was written stays.")
        remove.add_argument("email", metavar="EMAIL")
        for each in (show, put, remove):
            each.add_argument(
                "--workspace", type=UUID, metavar="ID", help="which workspace, where there are several"
            )

    def handle(self, *_: Any, act: str | None, **options: Any) -> None:
        if act is None:
            raise CommandError("Say list, set or remove.", returncode=2)
        try:
            workspace = _workspace(options["workspace"])
            if act == "set":
                self._set(
                    workspace, **{name: options[name] for name in ("email", "roles", "name", "console")}
                )
            elif act == "remove":
                self._remove(workspace, options["email"])
            else:
                self._list(workspace)
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from None

    def _list(self, workspace: Workspace) -> None:
        self.stdout.write(f"{workspace.name} {workspace.pk}")
        rows = Membership.objects.filter(workspace_id=workspace.pk).order_by("since", "id")
        people = User.objects.in_bulk([row.user_id for row in rows])
        for row in rows:
            user = people.get(row.user_id)
            notes = [] if user is None or user.is_active else ["may not sign in"]
            notes += ["console"] if user is not None and user.is_staff else []
            email = user.email if user is not None else str(row.user_id)
            self.stdout.write(
                f"  {email}: {', '.join(row.roles)}" + (f" ({', '.join(notes)})" if notes else "")
            )

    def _set(self, workspace: Workspace, *, email: str, roles: str, name: str, console: bool) -> None:
        wanted = [role.strip() for role in roles.split(",") if role.strip()]
        # Roles that do not exist leave no new person behind.
        with transaction.atomic():
            user = ensure_user(email=email, display_name=name)
            if not user.is_active:
                raise CommandError(f"{user.email} may not sign in; change that under Users first.")
            if console and not user.is_staff:
                user.is_staff = True
                user.save(update_fields=["is_staff"])
            set_roles(workspace_id=workspace.pk, user_id=user.pk, roles=wanted, actor="system")
        held = Membership.objects.get(workspace_id=workspace.pk, user_id=user.pk).roles
        self.stdout.write(f"{user.email} is {', '.join(held)} in {workspace.name}.")
        if workspace_of(user) != workspace.pk:
            self.stdout.write("Signed in, this person acts in the workspace joined earlier, not in this one.")
        secret = issue_sign_in_link(user_id=user.pk, now=timezone.now())
        minutes = int(LINK_LIFETIME.total_seconds() // 60)
        address = settings.PUBLIC_URL.rstrip("/")
        where = "" if address else ", at this server's address"
        self.stdout.write(f"This link signs in once, within {minutes} minutes{where}:")
        self.stdout.write(address + reverse("sign-in-link", args=[secret]))

    def _remove(self, workspace: Workspace, email: str) -> None:
        user = User.objects.filter(email=email.strip().lower()).first()
        if user is None:
            raise CommandError(f"Nobody has the address {email}.")
        remove_member(workspace_id=workspace.pk, user_id=user.pk, actor="system")
        self.stdout.write(f"{user.email} belongs to {workspace.name} no longer.")


def _workspace(workspace_id: UUID | None) -> Workspace:
    """Return the workspace of that id, or the only one."""
    known = list(Workspace.objects.order_by("name", "id"))
    fitting = [each for each in known if workspace_id in (None, each.pk)]
    if len(fitting) == 1:
        return fitting[0]
    if not known:
        raise CommandError("There is no workspace yet; run `manage.py starter_content` or `make up` first.")
    listed = "\n".join(f"  {each.pk} {each.name}" for each in known)
    wrong = (
        "Say which with --workspace ID" if workspace_id is None else f"There is no workspace {workspace_id}"
    )
    raise CommandError(f"{wrong}:\n{listed}", returncode=2)
