"""A plan as its page shows it: its tasks numbered, in the order in which they are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.utils.translation import gettext as _

from governance.visible_text import shown
from tasks_app.plan_view import PlanView, TaskView, sums_of
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
    expected: int | None
    parts: "list[Item]"


@dataclass(frozen=True, slots=True)
class BillRow:
    """What was expected of one thing, and what was used of it."""

    name: str
    expected: str
    range: str
    used: str


@dataclass(frozen=True, slots=True)
class Bill:
    """A bill as the page shows it."""

    samples: int
    estimated: int
    rows: list[BillRow]


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
            "reason": words_of(task) if task.waits_for else headline(task.error or ""),
            "run_id": str(task.run_id) if task.run_id else None,
        }
        for task in view.all_tasks()
    ]
    return {"id": str(view.id), "tasks": tasks, "bill": view.bill and sums_of(view.bill)}


def items(view: PlanView) -> list[Item]:
    """Return the plan's tasks as a tree of items."""
    numbers = {task.id: number for number, task in enumerate(view.all_tasks(), 1)}
    lines = view.bill.lines if view.bill is not None else ()
    expected = {line.task_id: line.tokens.p50 for line in lines if line.tokens.p90}
    return [_item(task, numbers, expected) for task in view.tasks]


def bill(view: PlanView) -> Bill | None:
    """Return a plan's bill beside what was used, None for a plan without one."""
    if view.bill is None:
        return None
    tokens, costs = view.bill.tokens, {cost.currency: cost for cost in view.bill.costs}
    rows = [
        BillRow(
            name=_("Tokens"),
            expected=f"{tokens.p50:,}",
            range=_("{least} to {most}").format(least=f"{tokens.p10:,}", most=f"{tokens.p90:,}"),
            used=f"{view.actual_tokens:,}",
        )
    ]
    for currency in dict.fromkeys((*costs, *view.costs)):
        cost = costs.get(currency)
        between = {"least": micros(cost.p10), "most": micros(cost.p90)} if cost is not None else {}
        rows.append(
            BillRow(
                name=currency,
                expected=micros(cost.p50) if cost is not None else "0",
                range=_("{least} to {most}").format(**between) if cost is not None else "0",
                used=micros(view.costs.get(currency, 0)),
            )
        )
    counts = (
        (_("Acts to be approved"), view.bill.approvals, view.asked_count),
        (_("Acts to be slowed down"), view.bill.throttles, view.throttled_count),
        (_("Acts to be denied"), view.bill.denials, view.denied_count),
    )
    rows += [
        BillRow(name, str(foreseen), "", str(used)) for name, foreseen, used in counts if foreseen or used
    ]
    return Bill(samples=view.bill.samples, estimated=view.bill.estimated, rows=rows)


def words_of(task: TaskView) -> str:
    """Return what a task is doing, or came to, in words."""
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


def micros(amount: int) -> str:
    """Return micro-units as units, with no more digits than they need."""
    return f"{amount / 1_000_000:.6f}".rstrip("0").rstrip(".")


def money(costs: Mapping[str, int]) -> str:
    """Return costs in words, empty where there are none."""
    return ", ".join(f"{micros / 1_000_000:.6f} {currency}" for currency, micros in costs.items())


def visible(text: str) -> str:
    """Return the beginning of a text with hidden characters made visible."""
    return shown(text[:TEXT_LENGTH]) + ("…" if len(text) > TEXT_LENGTH else "")


def _item(task: TaskView, numbers: Mapping[UUID, int], expected: Mapping[UUID, int]) -> Item:
    return Item(
        number=numbers[task.id],
        task=task,
        intent=visible(task.intent),
        error=visible(task.error or ""),
        words=words_of(task),
        after=[(numbers[edge.task_id], edge.relation) for edge in task.depends_on],
        blocked_by=[numbers[one] for one in task.blocked_by],
        cost=money(task.costs),
        expected=expected.get(task.id),
        parts=[_item(part, numbers, expected) for part in task.parts],
    )
