"""manage.py read_range: look into an exported range without bringing it into the database."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cartrita.errors import BadInput
from cartrita.eventstore.command_line import an_id, check_reader, told_plainly
from cartrita.eventstore.exports import read_range


class Command(BaseCommand):
    help = (
        "Verify an exported range and print its events as `list_events --json` prints those of the log. "
        "Sealed text is shown as <sealed>, and as <erased> where its key does not stand here."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="what export_range wrote")
        parser.add_argument(
            "--key",
            action="append",
            default=[],
            metavar="KEY",
            help="a verifier key, or a file of them, to trust in the place of this installation's",
        )
        parser.add_argument("--session", type=an_id, metavar="ID", help="events of this session only")
        parser.add_argument("--type", metavar="TYPE", help="events of this type only")
        parser.add_argument("--unseal", action="store_true", help="show text whose key stands here")

    def handle(self, *_args: Any, **options: Any) -> None:
        with told_plainly():
            try:
                self._print(**options)
            except BrokenPipeError:
                raise
            except OSError as error:
                name = error.filename or options["file"]
                raise BadInput(f"{name} cannot be read: {error.strerror or error}", field="FILE") from error

    def _print(self, **options: Any) -> None:
        for entry in read_range(options["file"], options["key"], unseal=options["unseal"]):
            if options["session"] not in {None, entry.session_id} or options["type"] not in {
                None,
                entry.type,
            }:
                continue
            self.stdout.write(entry.as_json().decode())
            check_reader()
