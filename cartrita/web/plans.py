"""A plan as its page shows it: its tasks numbered, in the order in which they are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.utils.translation import gettext as _

from governance.visible_text import shown
from tasks_app.plan_view import PlanView, TaskView
from tasks_app.queries import headline

TEXT_LENGTH = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A task with what its page says of it; texts have hidden characters made visible."""

    number: int
    task: TaskView
    intent: str
    error: str
    words: str
    after: list[tuple[int, str]]
    blocked_by: list[int]
    cost: str
    parts: "list[Item]"


# What the chat calls the statuses; it keeps the words of them beside its other texts.
CHAT_STATUSES = {
    "pending": "waiting",
    "blocked": "waiting",
    "running": "running",
    "complete": "done",
    "failed": "failed",
    "pruned": "skipped",
    "aborted": "stopped",
}


def in_chat(view: PlanView) -> dict[str, Any]:
    """Return what the chat's script keeps of a plan under way."""
    tasks = [
        {
            "id": str(task.id),
            "kind": task.kind,
            "intent": headline(task.intent),
            "agent": task.agent,
            "status": "held" if task.waits_for == "approval" and task.run_id else CHAT_STATUSES[task.status],
            "reason": _words(task) if task.waits_for else headline(task.error or ""),
            "run_id": str(task.run_id) if task.run_id else None,
        }
        for task in view.all_tasks()
    ]
    return {"id": str(view.id), "tasks": tasks}


def items(view: PlanView) -> list[Item]:
    """Return the plan's tasks as a tree of items."""
    numbers = {task.id: number for number, task in enumerate(view.all_tasks(), 1)}
    return [_item(task, numbers) for task in view.tasks]


def money(costs: Mapping[str, int]) -> str:
    """Return costs in words, empty where there are none."""
    return ", ".join(f"{micros / 1_000_000:.6f} {currency}" for currency, micros in costs.items())


def visible(text: str) -> str:
    """Return the beginning of a text with hidden characters made visible."""
    return shown(text[:TEXT_LENGTH]) + ("…" if len(text) > TEXT_LENGTH else "")


def _item(task: TaskView, numbers: Mapping[UUID, int]) -> Item:
    return Item(
        number=numbers[task.id],
        task=task,
        intent=visible(task.intent),
        error=visible(task.error or ""),
        words=_words(task),
        after=[(numbers[edge.task_id], edge.relation) for edge in task.depends_on],
        blocked_by=[numbers[one] for one in task.blocked_by],
        cost=money(task.costs),
        parts=[_item(part, numbers) for part in task.parts],
    )


def _words(task: TaskView) -> str:
    waits = {
        "approval": _("Waiting for approval"),
        "time": _("Waiting to be tried"),
        "tasks": _("Waiting for others"),
    }
    statuses = {
        "pending": _("Waiting to start"),
        "blocked": _("Waiting for others"),
        "running": _("Running"),
        "complete": _("Done"),
        "failed": _("Failed"),
        "pruned": _("Skipped"),
        "aborted": _("Stopped"),
    }
    return waits.get(task.waits_for) or statuses[task.status]
