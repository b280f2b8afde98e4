"""manage.py erase_subject: destroy a person's keys, and with them everything personal that they sealed."""

from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.eventstore.erasure import erase_subject, repeat_erasures


class Command(BaseCommand):
    help = (
        "Destroy the keys of a subject (a user's or workspace's id): the sealed text is unreadable for ever. "
        "Types, outcomes, amounts and hashes stay, and the log still verifies."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("subject", nargs="?", type=UUID, metavar="SUBJECT_ID")
        which.add_argument(
            "--repeat", action="store_true", help="erase again what was erased, after a restore of keys"
        )
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["repeat"]:
            self.stdout.write(f"{repeat_erasures()} keys destroyed again")
            return
        subject: UUID = options["subject"]
        if not options["yes"]:
            try:
                answer = input(
                    f"Erase everything personal of {subject}? This cannot be undone. Type the id again: "
                )
            except EOFError:
                raise CommandError("Nothing was erased: nobody answered; --yes does not ask") from None
            if answer.strip() != str(subject):
                raise CommandError("Nothing was erased: the ids differ")
        self.stdout.write(f"{erase_subject(subject)} keys destroyed")
