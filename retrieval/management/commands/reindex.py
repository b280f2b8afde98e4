"""`manage.py reindex`: make passages, postings and vectors anew from the kept documents."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand

from retrieval import ingest


class Command(BaseCommand):
    help = "Make the search index anew from the kept text of all documents, or of those named."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("document", nargs="*", type=UUID, help="ids of documents (default: all)")

    def handle(self, *_args: Any, document: list[UUID], **_options: Any) -> None:
        done = ingest.reindex(document or None)
        self.stdout.write(f"{done} documents indexed anew.")
