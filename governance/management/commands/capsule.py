"""manage.py capsule: give out an event or a decision with what proves it, and decide a capsule's again."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.errors import BadInput
from cartrita.eventstore.command_line import told_plainly
from cartrita.eventstore.exports import make_capsule
from cartrita.eventstore.proving import position_of, whole_number
from cartrita.verify import MOST_FILE_BYTES
from governance.capsules import DecidedAgain, decision_capsule, is_decision, redecide_capsule
from governance.decision import NotRedecidable

DIFFERS, NOT_REDECIDABLE = 1, 3


class Command(BaseCommand):
    help = (
        "Write a capsule of a decision (with its policy, its outcome and the blobs of its input) or of one "
        "event, for `cartrita-verify`. Sealed text stays sealed. With --redecide verify one and decide it "
        "again. Exit code 1: not done, or the verdict differs; 3: the input cannot be opened here."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "id", nargs="?", metavar="ID", help="a decision's id, an event's id, or a position"
        )
        parser.add_argument("--out", type=Path, metavar="FILE", help="is not there yet; else standard output")
        parser.add_argument("--without-blobs", action="store_true", help="leave out the blobs of the input")
        parser.add_argument("--redecide", type=Path, metavar="FILE", help="a capsule of a decision")
        parser.add_argument(
            "--key",
            action="append",
            default=[],
            metavar="KEY",
            help="for --redecide: a verifier key, or a file of them, in the place of this installation's",
        )
        parser.add_argument("--json", action="store_true", help="for --redecide: one JSON object")

    def handle(self, *_args: Any, **options: Any) -> None:
        if (options["id"] is None) == (options["redecide"] is None):
            raise CommandError(
                "Give either the ID of what the capsule is to hold, or --redecide FILE", returncode=2
            )
        with told_plainly():
            if options["redecide"] is not None:
                self._redecide(options["redecide"], options["key"], as_json=options["json"])
            else:
                self._make(options["id"], options["out"], with_blobs=not options["without_blobs"])

    def _make(self, given: str, out: Path | None, *, with_blobs: bool) -> None:
        stream_id = _uuid(given)
        if stream_id is None and not given.isdecimal():
            raise BadInput(f"{given!r} is neither an id (a UUID) nor a position (a number)", field="ID")
        if stream_id is None:
            content = make_capsule([whole_number("ID", given)])
        elif is_decision(stream_id):
            content = decision_capsule(stream_id, with_blobs=with_blobs)
        else:
            content = make_capsule([position_of(stream_id)])
        if out is None:
            self.stdout.write(content.decode(), ending="")
            return
        try:
            with out.open("xb") as file:
                file.write(content)
        except OSError as error:
            raise BadInput(f"{out} cannot be written: {error.strerror or error}", field="--out") from error
        self.stderr.write(f"{out}: {len(content):,} bytes")

    def _redecide(self, path: Path, keys: list[str], *, as_json: bool) -> None:
        try:
            with path.open("rb") as file:
                content = file.read(MOST_FILE_BYTES + 1)
            again = redecide_capsule(content, keys)
        except NotRedecidable as error:
            raise CommandError(error.message, returncode=NOT_REDECIDABLE) from error
        except OSError as error:
            name = error.filename or path
            raise BadInput(f"{name} cannot be read: {error.strerror or error}", field="--redecide") from error
        if as_json:
            self.stdout.write(json.dumps(_shown(again)))
        elif again.same:
            self.stdout.write(
                f"Verified, and decided again: {again.now.outcome} by {again.now.rule}, as recorded"
            )
        if not again.same:
            raise CommandError(
                f"Verified, but decided otherwise: {again.now.outcome} by {again.now.rule}; recorded is "
                f"{again.recorded.outcome} by {again.recorded.rule}",
                returncode=DIFFERS,
            )


def _shown(again: DecidedAgain) -> dict[str, Any]:
    return {
        "decision_id": str(again.decision_id),
        "same": again.same,
        "recorded": {"outcome": again.recorded.outcome, "rule": again.recorded.rule},
        "now": {"outcome": again.now.outcome, "rule": again.now.rule},
        "policy_hash": again.now.policy_hash,
        "head": again.report.size,
    }


def _uuid(given: str) -> UUID | None:
    try:
        return UUID(given)
    except ValueError:
        return None
