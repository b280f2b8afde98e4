"""manage.py erase_person: erase a person's account and everything personal that they wrote."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.accounts.commands import erase_person
from cartrita.accounts.models import User


class Command(BaseCommand):
    help = (
        "Erase the account of a person and destroy the keys of all that they wrote. "
        "Types, outcomes, amounts and hashes stay, and the log still verifies."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *_args: Any, **options: Any) -> None:
        email: str = options["email"].strip().lower()
        user = User.objects.filter(email=email).first()
        if user is None:
            raise CommandError(f"Nobody has the address {email}", returncode=2)
        if not options["yes"]:
            try:
                answer = input(f"Erase {email} for ever? This cannot be undone. Type the address again: ")
            except EOFError:
                raise CommandError("Nothing was erased: nobody answered; --yes does not ask") from None
            if answer.strip().lower() != email:
                raise CommandError("Nothing was erased: the addresses differ")
        self.stdout.write(f"{erase_person(user_id=user.pk, actor='system')} keys destroyed")
