"""`manage.py run_orchestrator`: the services of a server in a process of their own."""

import argparse
import asyncio
import signal
from collections.abc import Sequence
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.eventstore import in_database_thread
from cartrita.eventstore.aio import connect
from cartrita.eventstore.schema import check_up_to_date
from cartrita.orchestrator.service import (
    ALL_SERVICES,
    Services,
    UnknownService,
    check_services,
    ending_process,
)


class Command(BaseCommand):
    help = (
        "Run the services of a server process without its pages: sequencer, projector, ingest, orchestrator. "
        "Any number of processes may run them on one database. SIGTERM and SIGINT end it in order; what was "
        "under way is gone on with by another process, or at the next start."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--services",
            type=_services,
            default=ALL_SERVICES,
            metavar="NAMES",
            help=f"which of {','.join(ALL_SERVICES)} to run (default: all)",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            asyncio.run(self._serve(options["services"]))
        except psycopg.OperationalError as error:
            raise CommandError(f"The database does not answer: {error}", returncode=1) from None
        except psycopg.errors.UndefinedTable:
            raise CommandError(
                "The database has no tables yet: run `manage.py migrate`.", returncode=1
            ) from None

    async def _serve(self, parts: Sequence[str]) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        services = Services(parts=parts)
        try:
            # Without a database the services would try again for ever: right later on, not at a start.
            async with await connect("cartrita start") as connection:
                await connection.execute("select from log limit 1")
            await in_database_thread(check_up_to_date)
            await services.start()
            self.stdout.write(f"Running: {', '.join(parts)}.")
            self.stdout.flush()
            await stop.wait()
        finally:
            async with ending_process():
                await services.stop()


def _services(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"name at least one of {', '.join(ALL_SERVICES)}")
    try:
        check_services(names, field="--services")
    except UnknownService as error:
        raise argparse.ArgumentTypeError(error.message) from None
    return names
