"""manage.py workspace: see and set the time zone and currency that new budgets take."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.accounts.commands import change_workspace_settings
from cartrita.accounts.queries import caller_of_email, workspace
from cartrita.errors import CartritaError


class Command(BaseCommand):
    """`workspace show` and `workspace set [--time-zone ZONE] [--currency CODE]`."""

    help = "See and set the time zone and currency that new budgets of a workspace take."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--user", metavar="EMAIL", help="who asks; else the administrator who joined first"
        )
        acts = parser.add_subparsers(dest="act")
        acts.add_parser("show", help="Show them.")
        change = acts.add_parser("set", help="Set one or both; budgets that stand keep theirs.")
        change.add_argument("--time-zone", metavar="ZONE", help="such as Europe/Berlin")
        change.add_argument("--currency", metavar="CODE", help="of ISO 4217, such as EUR")

    def handle(self, *_: Any, act: str | None, user: str | None, **options: Any) -> None:
        if act is None:
            raise CommandError("Say show or set.", returncode=2)
        try:
            caller = caller_of_email(user)
            if act == "set":
                change_workspace_settings(
                    caller=caller, time_zone=options["time_zone"], currency=options["currency"]
                )
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from None
        found = workspace(caller.workspace_id)
        self.stdout.write(f"{found.name}: time zone {found.time_zone}, currency {found.currency}")
