"""manage.py export_range: write a part of the log with its proof, for archives and for others to verify."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cartrita.errors import BadInput
from cartrita.eventstore.command_line import a_position, told_plainly
from cartrita.eventstore.exports import export_range


class Command(BaseCommand):
    help = (
        "Write the events of positions FIRST to LAST, with what proves them, into one file; it is verified "
        "before it gets its name. Sealed fields stay sealed. `cartrita-verify FILE` checks it anywhere."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("first", type=a_position, metavar="FIRST", help="the first position")
        parser.add_argument(
            "last", type=_a_last_position, metavar="LAST", help="the last one, or `head`: the newest signed"
        )
        parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="is not there yet")
        parser.add_argument("--json", action="store_true", help="one JSON object on standard output")

    def handle(self, *_args: Any, **options: Any) -> None:
        out = options["out"]
        with told_plainly():
            try:
                exported = export_range(options["first"], options["last"], out)
            except OSError as error:
                raise BadInput(
                    f"{out} cannot be written: {error.strerror or error}", field="--out"
                ) from error
            if options["json"]:
                self.stdout.write(json.dumps({**asdict(exported), "file": str(out)}))
                return
            self.stdout.write(
                f"Positions {exported.first} to {exported.last} are in {out} ({exported.bytes:,} bytes), "
                f"verified to the signed head of {exported.head} events, root {exported.root}"
            )


def _a_last_position(text: str) -> int | None:
    return None if text == "head" else a_position(text)
