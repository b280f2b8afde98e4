"""manage.py verify_log: prove that no event was altered, removed or moved since it was ordered."""

import json
import sys
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.eventstore.integrity import verify_log


class Command(BaseCommand):
    help = (
        "Recompute every leaf from its event, every Merkle root and the chain of ticks. "
        "Exits with 1 and the first bad position when anything differs."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object on standard output")

    def handle(self, *_args: Any, **options: Any) -> None:
        started = time.monotonic()
        report = verify_log()
        seconds = time.monotonic() - started
        if options["json"]:
            self.stdout.write(json.dumps({**report.as_dict(), "seconds": round(seconds, 3)}))
            if not report.verified:
                sys.exit(1)
        elif not report.verified:
            raise CommandError(
                f"The log was altered at position {report.first_bad_position}: {report.problem}. "
                f"The {report.positions} positions before it are as they were ordered."
            )
        else:
            self.stdout.write(
                f"{report.positions} positions in {report.ticks} ticks are as they were ordered "
                f"({seconds:.1f} s); root {report.root}"
            )
