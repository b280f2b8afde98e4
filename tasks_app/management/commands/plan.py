"""manage.py plan: a plan as a tree, with what each task came to."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rest_framework.utils.encoders import JSONEncoder

from cartrita.accounts.queries import caller_of_email
from cartrita.errors import CartritaError
from tasks_app import queries
from tasks_app.plan_view import PlanView, TaskView, bill_in_words, money_in_words


class Command(BaseCommand):
    """`plan ID`: of a plan, or the newest plan of a session or a message."""

    help = (
        "Show a plan: its tasks as a tree with status, agent, tokens, cost, verdict and what they wait for."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", type=UUID, metavar="ID", help="a plan, a session or a message")
        parser.add_argument(
            "--user", metavar="EMAIL", help="who looks; else the administrator who joined first"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            view = queries.plan_by_any_id(options["id"], caller_of_email(options["user"]))
        except CartritaError as error:
            raise CommandError(f"{error.message} ({error.code})", returncode=2) from None
        if options["json"]:
            self.stdout.write(json.dumps(asdict(view), cls=JSONEncoder, ensure_ascii=False))
            return
        for line in _lines(view):
            self.stdout.write(line)


def _lines(view: PlanView) -> Iterator[str]:
    yield f"plan {view.id}: {view.status}, {view.ended_count} of {view.task_count} tasks ended"
    yield f"  {queries.headline(view.goal) or '(erased)'}"
    yield f"  tokens: {view.actual_tokens} of about {view.estimated_tokens}; cost: {_money(view.costs)}"
    if view.bill is not None:
        yield f"  bill: {bill_in_words(view.bill)}"
    if view.refusal:
        yield f"  refused: {view.refusal}"
    if view.approval_id:
        yield f"  waits for approval {view.approval_id}"
    numbers = {task.id: number for number, task in enumerate(view.all_tasks(), 1)}
    for task in view.tasks:
        yield from _task_lines(task, numbers, "")


def _task_lines(task: TaskView, numbers: dict[UUID, int], indent: str) -> Iterator[str]:
    yield f"{indent}{numbers[task.id]}. [{task.status}] {task.agent}: {queries.headline(task.intent)}"
    facts = [f"{task.actual_tokens} tokens", _money(task.costs)]
    if task.verdict is not None:
        facts.append(f"{task.verdict.outcome} by {task.verdict.rule} ({task.verdict.decision_id})")
    if task.attempts > 1:
        facts.append(f"{task.attempts} attempts")
    if task.blocked_by:
        facts.append("blocked by " + ", ".join(str(numbers[one]) for one in task.blocked_by))
    if task.approval_id is not None:
        facts.append(f"waits for approval {task.approval_id}")
    if task.next_try_at is not None:
        facts.append(f"not before {task.next_try_at:%H:%M:%S} UTC")
    yield f"{indent}   {'; '.join(facts)}"
    for check in task.checks:
        yield f"{indent}   {'ok' if check.passed else 'NOT OK'}: {queries.headline(check.name)}"
    if task.error:
        yield f"{indent}   {queries.headline(task.error)}"
    for part in task.parts:
        yield from _task_lines(part, numbers, f"{indent}   ")


def _money(costs: dict[str, int]) -> str:
    return money_in_words(costs) or "no cost"
