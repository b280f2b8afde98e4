"""manage.py list_events: look into the log, and watch it grow."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import orjson
from django.core.management.base import BaseCommand, CommandParser

from cartrita.errors import BadInput
from cartrita.eventstore.as_of import position_at
from cartrita.eventstore.catch_up import log_head
from cartrita.eventstore.command_line import (
    a_position,
    a_position_or_time,
    an_id,
    asked_to_stop,
    check_reader,
    told_plainly,
)
from cartrita.eventstore.listing import (
    PAGE,
    Entry,
    Wanted,
    follow_matching,
    read_last,
    read_matching,
    stored_types,
)

SHOWN = 50
LONGEST_VALUE = 60


class Command(BaseCommand):
    help = (
        "List events in the order of the log: the last 50 that fit, or all since a position or time. Sealed "
        "text is shown as <sealed>, and as <erased> where its key is destroyed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--type", action="append", default=[], metavar="TYPE",
            help="such as sessions_app.MessagePosted or sessions_app.*; may be given again",
        )  # fmt: skip
        parser.add_argument("--stream", type=an_id, metavar="ID", help="of this stream")
        parser.add_argument("--session", type=an_id, metavar="ID", help="of this session")
        parser.add_argument("--workspace", type=an_id, metavar="ID", help="of this workspace")
        parser.add_argument("--causation", type=an_id, metavar="ID", help="caused by this event")
        parser.add_argument("--actor", help="done by user:<id>, token:<id>, agent:<name> or system")
        parser.add_argument("--trace", metavar="ID", help="of this trace: 32 hexadecimal digits")
        parser.add_argument(
            "--since", type=a_position_or_time, metavar="WHEN", help="from this position or time on"
        )
        parser.add_argument(
            "--until", type=a_position_or_time, metavar="WHEN", help="up to this position or time"
        )
        parser.add_argument(
            "--last", type=a_position, metavar="N", help=f"the last N; {SHOWN} without --since"
        )
        parser.add_argument("--follow", action="store_true", help="go on with what comes")
        parser.add_argument("--json", action="store_true", help="one JSON object for each event, one a line")
        parser.add_argument("--unseal", action="store_true", help="show text that is not erased")

    def handle(self, *_args: Any, **options: Any) -> None:
        with told_plainly():
            if options["follow"]:
                with asked_to_stop() as stopping:
                    self._list(stopping, **options)
            else:
                self._list(lambda: False, **options)

    def _list(self, stopping: Callable[[], bool], **options: Any) -> None:
        if options["follow"] and options["until"] is not None:
            raise BadInput("With --follow there is no end: leave --until out.", field="until")
        wanted = Wanted(
            types=stored_types(options["type"]),
            stream_id=options["stream"],
            session_id=options["session"],
            workspace_id=options["workspace"],
            causation_id=options["causation"],
            actor=options["actor"],
            trace_id=options["trace"] and options["trace"].replace("-", "").lower(),
        )
        head = log_head()
        after = max(0, _position(options["since"], 1) - 1) if options["since"] is not None else 0
        until = head if options["until"] is None else min(head, _position(options["until"], 0))
        unseal: bool = options["unseal"]
        if options["last"] is None and options["since"] is not None:
            while after < until and not stopping():
                found = read_matching(wanted, after=after, until=until, unseal=unseal)
                self._show(found, as_json=options["json"])
                after = found[-1].position if len(found) == PAGE else until
        else:
            count = SHOWN if options["last"] is None else options["last"]
            found = read_last(wanted, count=count, after=after, until=until, unseal=unseal)
            self._show(found, as_json=options["json"])
        if options["follow"]:
            for found in follow_matching(wanted, after=head, unseal=unseal):
                self._show(found, as_json=options["json"])
                check_reader()
                if stopping():
                    return

    def _show(self, entries: Sequence[Entry], *, as_json: bool) -> None:
        for entry in entries:
            self.stdout.write(entry.as_json().decode() if as_json else _line(entry))
        if entries:
            self.stdout.flush()


def _position(when: int | datetime, beyond: int) -> int:
    """Return a position as it is, for a time the last one until then and `beyond`."""
    return when if isinstance(when, int) else position_at(when) + beyond


def _line(entry: Entry) -> str:
    shown = {name: value for name, value in entry.data.items() if value not in _NOTHING}
    values = " ".join(f"{name}={_short(value)}" for name, value in shown.items())
    moment = entry.recorded_at.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    where = f"{entry.stream_id} v{entry.version}"
    return f"{entry.position:>8}  {moment}  {entry.type}  {where}  {entry.actor}  {values}".rstrip()


# Not worth a place on a line.
_NOTHING: tuple[Any, ...] = (None, "", [], {})


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
