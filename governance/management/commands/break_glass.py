"""manage.py break_glass: open and end break-glass, and look at what it let pass."""

from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from cartrita.accounts.console import names_of
from cartrita.accounts.queries import Caller, caller_of_email
from cartrita.errors import CartritaError
from governance.break_glass import GlassScope
from governance.commands import break_glass as commands
from governance.queries import break_glass as queries
from governance.visible_text import shown


class Command(BaseCommand):
    """`break_glass list`, `open`, `end ID`, `acts` and `review ID`."""

    help = "Let breakable rules count as audit for a time, and look at what passed because of it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--user", metavar="EMAIL", help="who asks; else the administrator who joined first"
        )
        acts = parser.add_subparsers(dest="act", required=True)
        listed = acts.add_parser("list", help="List the newest openings.")
        listed.add_argument("--in-force", action="store_true", help="those in force alone")
        begin = acts.add_parser("open", help="Open it: breakable rules count as audit from now on.")
        begin.add_argument("--minutes", type=int, required=True, help="for how long, at most 480")
        begin.add_argument("--reason", required=True, help="why, without personal text")
        scope = begin.add_mutually_exclusive_group()
        scope.add_argument("--session", type=UUID, metavar="ID", help="for one session alone")
        scope.add_argument("--person", metavar="EMAIL", help="for what happens in one person's sessions")
        end = acts.add_parser("end", help="End it before its time.")
        end.add_argument("glass_id", type=UUID, metavar="ID")
        end.add_argument("--note", default="")
        passed = acts.add_parser("acts", help="List the acts that it let pass and nobody has looked at.")
        passed.add_argument("--all", action="store_true", help="also those that somebody has looked at")
        passed.add_argument(
            "--under",
            type=UUID,
            metavar="ID",
            help="every decision under that opening, what it changed or not",
        )
        review = acts.add_parser("review", help="Say that you have looked at acts that it let pass.")
        review.add_argument("glass_id", type=UUID, metavar="ID")
        review.add_argument("decisions", type=UUID, nargs="*", metavar="DECISION", help="else all that wait")
        review.add_argument("--note", default="")

    def handle(self, *_: Any, act: str, user: str | None, **options: Any) -> None:
        try:
            caller = caller_of_email(user)
            if act == "list":
                self._list(caller, in_force=options["in_force"])
            elif act == "open":
                self._open(caller, **options)
            elif act == "end":
                commands.end_break_glass(glass_id=options["glass_id"], caller=caller, note=options["note"])
                self.stdout.write("ended")
            elif act == "acts":
                self._acts(caller, everything=options["all"], under=options["under"])
            else:
                self._review(caller, **options)
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from None

    def _open(
        self, caller: Caller, *, minutes: int, reason: str, session: UUID | None, person: str | None, **_: Any
    ) -> None:
        kind: GlassScope = "session" if session else "user" if person else "workspace"
        scope = str(session or "")
        if person:
            scope = str(caller_of_email(person).user_id)
        glass_id, _recorded = commands.open_break_glass(
            caller=caller, reason=reason, minutes=minutes, scope_kind=kind, scope=scope
        )
        found = queries.opening(glass_id, caller, at=timezone.now())
        self.stdout.write(f"{glass_id}  open until {found.until:%Y-%m-%d %H:%M} UTC")
        if found.alone:
            self.stdout.write("Nobody else in this workspace holds a role that is told of it.")

    def _list(self, caller: Caller, *, in_force: bool) -> None:
        queries.require_reader(caller)
        found = queries.openings(caller.workspace_id, at=timezone.now(), in_force=in_force).items
        people = names_of([*(one.by for one in found), *(f"user:{one.scope}" for one in found)])
        for one in found:
            end = one.ended_at or one.until
            scope = "workspace" if one.scope_kind == "workspace" else f"{one.scope_kind} {one.scope}"
            if one.scope_kind == "user":
                scope = people[f"user:{one.scope}"]
            self.stdout.write(
                f"{one.id}  {one.state:5}  {one.opened_at:%Y-%m-%d %H:%M} to {end:%H:%M}  {scope}, "
                f"by {people[one.by]}: {shown(one.reason)} ({one.passed} let pass, {one.to_review} to review)"
            )

    def _acts(self, caller: Caller, *, everything: bool, under: UUID | None) -> None:
        queries.require_reader(caller)
        found = (
            queries.acts(caller.workspace_id, reviewed=None if everything else False)
            if under is None
            else queries.acts(caller.workspace_id, glass_id=under, which="all", reviewed=None)
        )
        for one in found.items:
            what = shown(one.tool or one.model or one.subject_kind)
            said = f"{one.created_at:%Y-%m-%d %H:%M}  {what}: {one.outcome} by {one.rule}"
            if not one.changed:
                self.stdout.write(f"{one.decision_id}  {said}, and the same without it")
                continue
            looked = names_of([one.reviewed_by])[one.reviewed_by] if one.reviewed_by else "nobody"
            more = (one.unbroken_outcome, one.unbroken_rule) == (one.outcome, one.rule)
            whole = f"{one.unbroken_outcome} by {one.unbroken_rule}"
            self.stdout.write(
                f"{one.decision_id}  {said}, else {'more is taken or left out' if more else whole} "
                f"(glass {one.glass_id}, seen by {looked})"
            )

    def _review(self, caller: Caller, *, glass_id: UUID, decisions: list[UUID], note: str, **_: Any) -> None:
        commands.review_acts(glass_id=glass_id, caller=caller, decisions=decisions or None, note=note)
        found = queries.opening(glass_id, caller, at=timezone.now())
        self.stdout.write(f"{found.to_review} of {found.passed} acts still to review")
