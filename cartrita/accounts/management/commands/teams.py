"""manage.py teams: see the teams of a workspace, create, rename and close them, and say who is in them."""

from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.accounts import team_commands as commands
from cartrita.accounts import team_queries as queries
from cartrita.accounts.models import User
from cartrita.accounts.queries import Caller, caller_of_email, member_by_address
from cartrita.accounts.team_queries import TeamEntry
from cartrita.errors import CartritaError
from cartrita.http.pagination import LARGEST_LIMIT


class Command(BaseCommand):
    """`teams list`, `create NAME [EMAIL …]`, `add`, `remove`, `rename` and `close`."""

    help = "See the teams of a workspace; create, rename and close them; let people join and leave."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--user", metavar="EMAIL", help="who asks; else the administrator who joined first"
        )
        acts = parser.add_subparsers(dest="act")
        listed = acts.add_parser("list", help="Show the teams and who is in them.")
        listed.add_argument("--closed", action="store_true", help="also the closed ones")
        create = acts.add_parser("create", help="Create a team, with these people in it.")
        for each, meaning in (("add", "Let people join a team."), ("remove", "Let people leave a team.")):
            change = acts.add_parser(each, help=meaning)
            change.add_argument("name", metavar="TEAM")
            change.add_argument("emails", metavar="EMAIL", nargs="+")
        create.add_argument("name", metavar="TEAM")
        create.add_argument("emails", metavar="EMAIL", nargs="*")
        rename = acts.add_parser("rename", help="Give a team another name.")
        rename.add_argument("name", metavar="TEAM")
        rename.add_argument("new_name", metavar="NAME")
        close = acts.add_parser("close", help="End a team; its budgets limit nobody any more.")
        close.add_argument("name", metavar="TEAM")

    def handle(self, *_: Any, act: str | None, user: str | None, **options: Any) -> None:
        if act is None:
            raise CommandError("Say list, create, add, remove, rename or close.", returncode=2)
        try:
            caller = caller_of_email(user)
            if act == "list":
                self._list(caller, closed=options["closed"])
            else:
                self._write(queries.team(self._change(caller, act, options), caller.workspace_id))
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from None

    def _change(self, caller: Caller, act: str, options: dict[str, Any]) -> UUID:
        people = [
            member_by_address(caller.workspace_id, email)["user_id"] for email in options.get("emails", ())
        ]
        if act == "create":
            return commands.create_team(caller=caller, name=options["name"], members=people)
        team_id = queries.team_named(options["name"], caller.workspace_id).id
        match act:
            case "add":
                commands.change_team(team_id=team_id, caller=caller, joining=people)
            case "remove":
                commands.change_team(team_id=team_id, caller=caller, leaving=people)
            case "rename":
                commands.change_team(team_id=team_id, caller=caller, name=options["new_name"])
            case _:
                commands.close_team(team_id=team_id, caller=caller)
        return team_id

    def _list(self, caller: Caller, *, closed: bool) -> None:
        cursor = None
        while True:
            page = queries.teams_of(caller.workspace_id, closed=closed, cursor=cursor, limit=LARGEST_LIMIT)
            for each in page.items:
                self._write(each)
            cursor = page.next_cursor
            if cursor is None:
                return

    def _write(self, team: TeamEntry) -> None:
        people = User.objects.in_bulk([mate.user_id for mate in team.members])
        emails = [
            people[mate.user_id].email if mate.user_id in people else str(mate.user_id)
            for mate in team.members
        ]
        said = "closed" if team.closed else ", ".join(emails) or "nobody"
        self.stdout.write(f"{team.id}  {team.name}: {said}")
