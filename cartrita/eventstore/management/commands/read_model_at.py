"""manage.py read_model_at: a read model's rows as they were."""

import argparse
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from django.core.management.base import BaseCommand, CommandParser

from cartrita.eventstore.as_of import position_at
from cartrita.eventstore.canonical import rfc3339
from cartrita.eventstore.command_line import a_position, a_time, told_plainly
from cartrita.eventstore.rebuild import rows_as_of
from cartrita.wording import counted


class Command(BaseCommand):
    help = (
        "Show the rows of a read model (a table, or its model) as the events up to a position make them: it "
        "is rebuilt up to there in temporary tables, and nothing is changed. Sealed text is shown as "
        "<sealed> or <erased>."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", metavar="MODEL", help="such as chat_session or ChatSession")
        when = parser.add_mutually_exclusive_group(required=True)
        when.add_argument("--position", type=a_position, metavar="N")
        when.add_argument("--at", type=a_time, metavar="TIME", help="such as 2026-01-31T09:00:00Z")
        parser.add_argument(
            "--filter", action="append", default=[], type=_filter, metavar="FIELD=VALUE",
            help="only rows with this value (null: without one); may be given again",
        )  # fmt: skip
        parser.add_argument("--json", action="store_true", help="one JSON object for each row, one a line")
        parser.add_argument("--unseal", action="store_true", help="show text that is not erased")

    def handle(self, *_args: Any, **options: Any) -> None:
        with told_plainly():
            position = options["position"] if options["at"] is None else position_at(options["at"])
            rows = rows_as_of(
                options["model"],
                position=position,
                filters=dict(options["filter"]),
                unseal=options["unseal"],
            )
            for row in rows:
                self.stdout.write(_json(row) if options["json"] else _line(row))
            if not options["json"]:
                self.stdout.write(f"{counted(len(rows), 'row')} as of position {position}")


def _filter(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no filter: give one such as status=active")
    return name, value


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z).decode()


def _line(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={_text(value)}" for name, value in row.items() if value not in _NOTHING)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return rfc3339(value)
    return str(value) if isinstance(value, str | UUID) else _json(value)


# Not worth a place on a line.
_NOTHING: tuple[Any, ...] = (None, "", [], {})
