"""manage.py runs: the attempts at the tasks of a plan, or the newest of the workspace."""

import json
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rest_framework.utils.encoders import JSONEncoder

from cartrita.accounts.queries import caller_of_email
from cartrita.errors import CartritaError
from cartrita.http.pagination import LARGEST_LIMIT
from tasks_app import queries


class Command(BaseCommand):
    """`runs [PLAN]`."""

    help = "List the attempts at a plan's tasks in order, or the newest ones that you may read."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("plan_id", nargs="?", type=UUID, metavar="PLAN")
        parser.add_argument(
            "--user", metavar="EMAIL", help="who looks; else the administrator who joined first"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON array")

    def handle(self, *_: Any, **options: Any) -> None:
        plan_id: UUID | None = options["plan_id"]
        try:
            caller = caller_of_email(options["user"])
            if plan_id is None:
                entries = queries.newest_runs(caller)
            else:
                entries = queries.runs_of(plan_id, caller, limit=LARGEST_LIMIT).items
        except CartritaError as error:
            raise CommandError(f"{error.message} ({error.code})", returncode=2) from None
        if options["json"]:
            self.stdout.write(json.dumps(entries, cls=JSONEncoder, ensure_ascii=False))
            return
        for entry in entries:
            tokens = entry["prompt_tokens"] + entry["completion_tokens"]
            self.stdout.write(
                f"{entry['id']}  {entry['created_at']:%Y-%m-%d %H:%M:%S}  {entry['status']:9}"
                f"{entry['agent']}, attempt {entry['attempt']}, {entry['steps']} steps, {tokens} tokens, "
                f"{entry['cost_micros'] / 1_000_000:.6f} {entry['currency']}  {entry['code']}"
            )
        if not entries:
            self.stdout.write("No runs yet.")
