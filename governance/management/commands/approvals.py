"""manage.py approvals: see and decide what waits for people."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from cartrita.accounts.queries import Caller, caller_of_email
from cartrita.errors import CartritaError
from cartrita.eventstore import RecordedEvent
from governance.commands import approvals as commands
from governance.queries import approvals as queries


class Command(BaseCommand):
    """`approvals list`, `show ID`, `approve ID`, `deny ID`, `comment ID TEXT` and `expire`."""

    help = "See and decide what waits for people."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--user", metavar="EMAIL", help="who decides; else the administrator who joined first"
        )
        acts = parser.add_subparsers(dest="act", required=True)
        listed = acts.add_parser("list", help="List the newest requests.")
        listed.add_argument("--status", default="waiting", help="waiting (default), granted, … or all")
        for act, meaning in (
            ("show", "Show a request with its exact arguments."),
            ("approve", "Approve this act alone."),
            ("deny", "Deny it."),
        ):
            one = acts.add_parser(act, help=meaning)
            one.add_argument("approval_id", type=UUID, metavar="ID")
            if act != "show":
                one.add_argument("--text", default="", help="a remark")
        comment = acts.add_parser("comment", help="Comment a request.")
        comment.add_argument("approval_id", type=UUID, metavar="ID")
        comment.add_argument("text")
        acts.add_parser("expire", help="End the requests whose time is over.")

    def handle(self, *_: Any, act: str, user: str | None, **options: Any) -> None:
        if act == "expire":
            self.stdout.write(f"{commands.expire_due(timezone.now())} ended")
            return
        try:
            caller = caller_of_email(user)
            if act == "list":
                self._list(caller, options["status"])
            elif act == "show":
                self._show(options["approval_id"], caller)
            else:
                change: Callable[..., list[RecordedEvent]] = getattr(commands, act)
                change(approval_id=options["approval_id"], caller=caller, text=options["text"])
                self.stdout.write(queries.approval(options["approval_id"], caller)["status"])
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from None

    def _list(self, caller: Caller, status: str) -> None:
        for entry in queries.inbox(caller, status=None if status == "all" else status).items:
            what = queries.shown(entry["tool"] or entry["model"] or entry["subject_kind"])
            self.stdout.write(
                f"{entry['id']}  {entry['status']:9}{entry['requested_at']:%Y-%m-%d %H:%M}  {what}  "
                f"{entry['rule']}"
            )

    def _show(self, approval_id: UUID, caller: Caller) -> None:
        entry = queries.approval(approval_id, caller)
        for name in ("status", "rule", "reason", "tool", "safety_level", "requester_id", "expires_at"):
            self.stdout.write(f"{name}: {queries.shown(str(entry[name]))}")
        for argument in entry["arguments_shown"]:
            text = f"{argument.bytes} bytes, SHA-256 {argument.sha256}" if argument.cut else argument.text
            self.stdout.write(f"argument {argument.name}:\n{text}")
        if entry["erased"]:
            self.stdout.write("The arguments are erased.")
        for note in entry["notes"]:
            self.stdout.write(f"{note['kind']} by {note['by']}: {queries.shown(note['text'])}")
