"""manage.py export_range: write a part of the log with its proof, for archives and for others to verify."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cartrita.errors import BadInput
from cartrita.eventstore.command_line import a_position, told_plainly
from cartrita.eventstore.exports import Exported, export_next, export_range
from cartrita.wording import counted


class Command(BaseCommand):
    help = (
        "Write the events of positions FIRST to LAST, with what proves them, into one file; it is verified "
        "before it gets its name. Sealed fields stay sealed. `cartrita-verify FILE` checks it anywhere. With "
        "`next` for FIRST, --out is a folder: the range after those in it is written, if there is a new one."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "first", type=_position_or("next"), metavar="FIRST", help="the first position, or `next`"
        )
        parser.add_argument(
            "last",
            type=_position_or("head"),
            metavar="LAST",
            help="the last one, or `head`: the newest signed",
        )
        parser.add_argument(
            "--out", type=Path, required=True, metavar="FILE", help="is not there yet; with `next`, a folder"
        )
        parser.add_argument("--json", action="store_true", help="one JSON object on standard output")

    def handle(self, *_args: Any, **options: Any) -> None:
        out: Path = options["out"]
        with told_plainly():
            try:
                exported = (
                    export_next(out, options["last"])
                    if options["first"] is None
                    else export_range(options["first"], options["last"], out)
                )
            except OSError as error:
                raise BadInput(
                    f"{out} cannot be written: {error.strerror or error}", field="--out"
                ) from error
            self._say(exported, as_json=options["json"])

    def _say(self, exported: Exported | None, *, as_json: bool) -> None:
        if as_json:
            said = None if exported is None else {**asdict(exported), "file": str(exported.file)}
            self.stdout.write(json.dumps(said))
        elif exported is None:
            self.stdout.write("Nothing new: the folder holds the log up to there")
        else:
            self.stdout.write(
                f"Positions {exported.first} to {exported.last} are in {exported.file} ({exported.bytes:,} "
                f"bytes), verified to the signed head of {counted(exported.head, 'event')}, "
                f"root {exported.root}"
            )


def _position_or(word: str) -> Any:
    def position(text: str) -> int | None:
        return None if text == word else a_position(text)

    return position
