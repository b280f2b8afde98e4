"""manage.py state_at: a stream's state as it was."""

from typing import Any

import orjson
from django.core.management.base import BaseCommand, CommandParser

from cartrita.eventstore.aggregates import as_json
from cartrita.eventstore.as_of import StateThen, state_as_of
from cartrita.eventstore.command_line import a_position, a_time, an_id, told_plainly


class Command(BaseCommand):
    help = (
        "Show the state of a stream (a session, plan, run, document, approval, budget …) as of a version, a "
        "position of the log or a time; now without any. Sealed text is shown as <sealed> or <erased>."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("stream", type=an_id, metavar="STREAM", help="the stream's id")
        when = parser.add_mutually_exclusive_group()
        when.add_argument("--version", type=a_position, metavar="V", dest="stream_version")
        when.add_argument("--position", type=a_position, metavar="N")
        when.add_argument("--at", type=a_time, metavar="TIME", help="such as 2026-01-31T09:00:00Z")
        parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
        parser.add_argument("--unseal", action="store_true", help="show text that is not erased")

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django's own --version would be in the way of the stream's.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def handle(self, *_args: Any, **options: Any) -> None:
        with told_plainly():
            then = state_as_of(
                options["stream"],
                version=options["stream_version"],
                position=options["position"],
                at=options["at"],
                unseal=options["unseal"],
            )
            self.stdout.write(_whole(then).decode() if options["json"] else _lines(then))


def _whole(then: StateThen) -> bytes:
    return orjson.dumps(
        {
            "stream_id": then.last.stream_id,
            "aggregate": then.aggregate or None,
            "version": then.last.version,
            "position": then.last.position,
            "recorded_at": then.last.recorded_at,
            "erased": any(recorded.erased for recorded in then.events),
            "state": orjson.Fragment(as_json(_state(then))),
        },
        option=orjson.OPT_UTC_Z,
    )


def _lines(then: StateThen) -> str:
    last = then.last
    at = last.recorded_at.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    ordered = "not ordered yet" if last.position is None else f"position {last.position}"
    kind = then.aggregate or "no aggregate, its events:"
    head = f"{kind} {last.stream_id} after version {last.version} ({ordered}, {at})"
    state = orjson.dumps(orjson.loads(as_json(_state(then))), option=orjson.OPT_INDENT_2).decode()
    return f"{head}\n{state}"


def _state(then: StateThen) -> Any:
    """Return the state, or the events themselves of a stream that nothing folds."""
    if then.aggregate:
        return then.state
    return [{"type": recorded.type_name, **recorded.as_dict()} for recorded in then.events]
