"""manage.py export_heads: append to a witness file the signed tree heads that it lacks."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.errors import CartritaError
from cartrita.eventstore.witness import export_heads


class Command(BaseCommand):
    help = (
        "Append every signed tree head that a witness file lacks, by default that of CARTRITA_WITNESS_FILE, "
        "with a proof that each continues the one before."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", nargs="?", type=Path, metavar="FILE")

    def handle(self, *_args: Any, **options: Any) -> None:
        path = options["file"] or (Path(settings.WITNESS_FILE) if settings.WITNESS_FILE else None)
        if path is None:
            raise CommandError("FILE: name the witness file, or set CARTRITA_WITNESS_FILE")
        try:
            count = export_heads(path)
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from error
        self.stdout.write(f"{count} signed tree heads appended to {path}")
