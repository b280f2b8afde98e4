"""manage.py proof: print a signed tree head, or a proof of what stands in the log."""

import json
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.errors import CartritaError
from cartrita.eventstore.proving import position_of, prove_growth, prove_position, signed_head, whole_number


class Command(BaseCommand):
    help = (
        "Print the newest signed tree head, the proof that an event is in the log, or the proof that the log "
        "of one size continues that of another (RFC 6962). cartrita-verify checks them anywhere."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_subparsers(dest="what", required=True, metavar="head | inclusion | consistency")
        head = what.add_parser("head", help="a signed tree head, as a C2SP checkpoint")
        head.add_argument("--size", help="of so many positions; the newest without it")
        inclusion = what.add_parser("inclusion", help="that an event is in the log")
        inclusion.add_argument("event", metavar="POSITION|EVENT_ID", help="an id is looked for in all events")
        inclusion.add_argument("--size", help="of so many positions; those of the newest head without it")
        consistency = what.add_parser("consistency", help="that a log continues an earlier one")
        consistency.add_argument("first", metavar="SIZE")
        consistency.add_argument(
            "second", metavar="LATER_SIZE", nargs="?", help="that of the newest head without"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            self.stdout.write(_asked(options), ending="")
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from error


def _asked(options: dict[str, Any]) -> str:
    size = None if options.get("size") is None else whole_number("--size", options["size"])
    match options["what"]:
        case "head":
            return signed_head(size).note
        case "inclusion":
            proof = prove_position(_position(options["event"]), size).as_dict()
        case _:
            second = None if options["second"] is None else whole_number("LATER_SIZE", options["second"])
            proof = prove_growth(whole_number("SIZE", options["first"]), second).as_dict()
    return json.dumps(proof) + "\n"


def _position(text: str) -> int:
    try:
        event_id = UUID(text)
    except ValueError:
        return whole_number("POSITION (or an event's id)", text)
    return position_of(event_id)
