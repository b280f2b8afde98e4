"""`manage.py label_documents`: look for secrets, personal data and orders in documents of before."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from cartrita.wording import counted
from retrieval import ingest, models


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
        known = models.Collection.objects.filter(id__in=collection or []).values_list("id", flat=True)
        if missing := {*(collection or [])} - {*known}:
            raise CommandError(f"--collection: there is none with the id {min(missing)}", returncode=2)
        done = ingest.label_documents(collection)
        self.stdout.write(
            f"{counted(done.looked_at, 'document')} looked at, new labels: {done.labelled}; "
            f"no more to be read: {done.unreadable}."
        )
