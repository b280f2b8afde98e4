"""`manage.py label_documents`: look for secrets, personal data and orders in documents of before."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand

from retrieval import ingest


class Command(BaseCommand):
    help = "Look at the kept text of documents at which these detectors have not looked, and label them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--collection",
            action="append",
            type=UUID,
            help="id of a collection, again for more (default: all)",
        )

    def handle(self, *_args: Any, collection: list[UUID] | None, **_options: Any) -> None:
        done = ingest.label_documents(collection)
        self.stdout.write(
            f"{done.looked_at} documents looked at, {done.labelled} of them have new labels; "
            f"{done.unreadable} cannot be read any more."
        )
