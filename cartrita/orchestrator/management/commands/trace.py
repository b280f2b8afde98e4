"""manage.py trace: how an answer came about, decision by decision."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rest_framework.utils.encoders import JSONEncoder

from cartrita.accounts.queries import caller_of_email
from cartrita.errors import CartritaError
from cartrita.orchestrator.trace import Entry, Trace, trace


class Command(BaseCommand):
    """`trace ID`: of a message, a reply, a plan, a run, a decision, an approval or a whole session."""

    help = (
        "Show how an answer came about, in the order of the log: the plan and its bill, each act with its "
        "decision, rule and the hash of its inputs, what came of it, how long it took and what it cost, "
        "approvals, verdicts, and the reply. Entries of the run or decision that is asked for are marked "
        "with *."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "id", type=UUID, metavar="ID", help="a message, session, plan, run, decision or approval"
        )
        parser.add_argument(
            "--user", metavar="EMAIL", help="who looks; else the administrator who joined first"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            found = trace(options["id"], caller_of_email(options["user"]))
        except CartritaError as error:
            raise CommandError(f"{error.message} ({error.code})", returncode=2) from None
        if options["json"]:
            self.stdout.write(json.dumps(asdict(found), cls=JSONEncoder, ensure_ascii=False))
            return
        for line in _lines(found):
            self.stdout.write(line)


def _lines(found: Trace) -> Iterator[str]:
    yield f"session {found.session_id}"
    trace_id = ""
    for entry in found.entries:
        if entry.trace_id != trace_id:
            trace_id = entry.trace_id
            yield f"trace {trace_id}"
        at = f"{entry.at:%H:%M:%S}.{entry.at.microsecond // 1000:03}"
        yield f"{'*' if entry.named else ' '} {at}  {_told(entry)}"


def _told(entry: Entry) -> str:
    words = entry.words if entry.inputs_hash is None else f"{entry.words}; inputs {entry.inputs_hash[:12]}"
    return f"task {entry.task}: {words}" if entry.task is not None else words
