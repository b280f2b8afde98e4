"""`manage.py evaluate_retrieval FOLDER`: how well and how fast retrieval finds what is judged relevant."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from cartrita.errors import CartritaError
from retrieval.evaluation import evaluate


class Command(BaseCommand):
    help = (
        "Index the judged collection in FOLDER (corpus.jsonl, queries.jsonl, qrels.tsv) apart from others,"
        " run its queries, print nDCG@10, recall@100, MRR@10, latencies and speed, and erase it again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path)
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument("--keep", action="store_true", help="leave the documents in their own workspace")

    def handle(self, *_args: Any, folder: Path, **options: Any) -> None:
        try:
            figures = evaluate(folder, keep=options["keep"], progress=self._tell).as_dict()
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from error
        if options["json"]:
            self.stdout.write(json.dumps(figures))
            return
        for name, value in figures.items():
            self.stdout.write(f"{name:20} {value}")

    def _tell(self, text: str) -> None:
        self.stderr.write(text)
