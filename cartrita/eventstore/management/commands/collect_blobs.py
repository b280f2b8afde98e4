"""manage.py collect_blobs: remove stored bodies that nothing needs, or tell which needed ones are missing."""

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.eventstore.collection import GRACE, collect_blobs, note_all_references
from cartrita.eventstore.references import missing_blobs
from cartrita.wording import counted


class Command(BaseCommand):
    help = (
        "Remove blobs that no event names and those whose key was erased; beat does it daily. "
        "With --check remove nothing, read every blob that an event names, and exit with 1 where one is lost "
        "or altered."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="look for lost and altered ones instead")
        parser.add_argument("--dry-run", action="store_true", help="only count what would be removed")
        parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
        parser.add_argument(
            "--grace",
            type=float,
            default=GRACE.total_seconds(),
            metavar="SECONDS",
            help="keep what was stored so lately though nothing names it yet (default: a day)",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["check"]:
            self._check(as_json=options["json"])
            return
        if options["grace"] < 0:
            raise CommandError("--grace takes a number of seconds, 0 or more.")
        dry_run = options["dry_run"]
        collected = collect_blobs(grace=timedelta(seconds=options["grace"]), dry_run=dry_run)
        if options["json"]:
            self.stdout.write(json.dumps({**collected.as_dict(), "dry_run": dry_run}))
            return
        self.stdout.write(
            f"{'Would remove' if dry_run else 'Removed'} {counted(collected.unnamed, 'blob')} that no event "
            f"names ({collected.unnamed_bytes} bytes) and {collected.erased} of erased keys "
            f"({collected.erased_bytes} bytes); {collected.standing} stand."
        )

    def _check(self, *, as_json: bool) -> None:
        note_all_references()
        missing = list(missing_blobs(read_all=True))
        if as_json:
            found = [one.as_dict() for one in missing]
            self.stdout.write(json.dumps({"whole": not missing, "missing": found}))
        else:
            for one in missing:
                self.stdout.write(
                    f"{one.sha256} is {one.problem}: event {one.position} needs it ({one.type_name}, "
                    f"version {one.version} of stream {one.stream_id})"
                )
        if missing:
            raise CommandError(
                f"{len(missing)} blobs that events name are lost or altered: restore them from a backup."
            )
        if not as_json:
            self.stdout.write("Every blob that an event names is there, as it was stored.")
