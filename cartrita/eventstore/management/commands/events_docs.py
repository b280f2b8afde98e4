"""manage.py events_docs: write docs/events.md from the event classes."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.eventstore.documentation import events_page, page_path


class Command(BaseCommand):
    help = "Write docs/events.md from the event classes; with --check only tell whether it is up to date."
    requires_system_checks: list[str] = []  # noqa: RUF012 # Django's own class attribute

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--check", action="store_true", help="write nothing; exit 1 when the page is stale"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        page, path = events_page(), page_path()
        if options["check"]:
            if not path.exists() or path.read_text() != page:
                raise CommandError(
                    "docs/events.md is not what the event classes say: run manage.py events_docs"
                )
            return
        path.write_text(page)
        self.stdout.write(f"{path} written")
