"""manage.py rebuild_projections: replace read models by what the events say, or compare them."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.eventstore.rebuild import Difference, differences, rebuild
from cartrita.wording import counted


class Command(BaseCommand):
    help = "Rebuild read models from the events and swap them in; with --check only compare them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help="projections; all without")
        parser.add_argument("--check", action="store_true", help="compare and change nothing")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["check"]:
            self._check(options["names"])
            return
        report = rebuild(options["names"])
        for table, rows in report.rows.items():
            self.stdout.write(f"{table}: {counted(rows, 'row')}")
        self.stdout.write(
            f"{counted(report.events, 'event')} applied; swapped in {report.swap_seconds * 1000:.0f} ms"
        )

    def _check(self, names: list[str]) -> None:
        found = differences(names)
        for difference in found:
            self._show(difference)
        if found:
            differ = "differs from its events" if len(found) == 1 else "differ from their events"
            raise CommandError(f"{counted(len(found), 'read model')} {differ}", returncode=1)
        self.stdout.write("Every read model equals its rebuild")

    def _show(self, difference: Difference) -> None:
        self.stdout.write(
            f"{difference.table}: {counted(difference.surplus, 'row')} that no event explains, "
            f"{counted(difference.missing, 'row')} missing or different"
        )
        for row in difference.surplus_rows:
            self.stdout.write(f"  in the table:   {row}")
        for row in difference.missing_rows:
            self.stdout.write(f"  in the rebuild: {row}")
