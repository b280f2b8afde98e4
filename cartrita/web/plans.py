"""A plan as its page shows it: its tasks numbered, in the order in which they are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from django.utils.translation import gettext as _

from governance.visible_text import shown
from tasks_app.plan_view import PlanView, TaskView

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
