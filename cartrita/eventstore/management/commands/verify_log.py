"""manage.py verify_log: prove that no event was altered, removed or moved since it was ordered."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.errors import CartritaError
from cartrita.eventstore.integrity import LogReport, verify_log
from cartrita.eventstore.signed_note import VerifierKey
from cartrita.eventstore.witness import read_witness


class Command(BaseCommand):
    help = (
        "Recompute every leaf from its event, every Merkle root and the chain of ticks, and check the signed "
        "tree heads. Exits with 1 and the first bad position when anything differs, with 2 where a witness "
        "or a key is none."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
        parser.add_argument(
            "--witness",
            type=Path,
            metavar="FILE",
            help="check that the log continues every tree head in a file that export_heads wrote",
        )
        parser.add_argument(
            "--verifier-key",
            action="append",
            default=[],
            metavar="KEY",
            help="believe this key, as signing_keys printed it, and those it vouches for; may be repeated",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        started = time.monotonic()
        try:
            keys = [VerifierKey.parse(text) for text in options["verifier_key"]]
            witness = None if options["witness"] is None else read_witness(options["witness"])
            report = verify_log(witness=witness, verifier_keys=keys)
        except CartritaError as error:
            field = "" if error.field is None else f"--{error.field.replace('_', '-')}: "
            raise CommandError(f"{field}{error.message}", returncode=2) from error
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
            self._tell(report, seconds, with_witness=options["witness"] is not None)

    def _tell(self, report: LogReport, seconds: float, *, with_witness: bool) -> None:
        self.stdout.write(
            f"{report.positions} positions in {report.ticks} ticks are as they were ordered "
            f"({seconds:.1f} s); root {report.root}"
        )
        self.stdout.write(f"{report.heads} signed tree heads are good")
        if with_witness:
            self.stdout.write(f"The log continues the {report.witnessed} tree heads of the witness")
        for epoch in report.epochs[1:]:
            why = "a restore" if epoch.restored else "another cluster, and no restore is recorded"
            lost = ""
            if epoch.lost_up_to is not None:
                lost = f"; what was at positions {epoch.after + 1} to {epoch.lost_up_to} before is gone"
            self.stdout.write(f"Epoch {epoch.name} began after position {epoch.after}: {why}{lost}")
