"""The read models of plans as their events make them, and the page that shows them."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.management import call_command
from django.test import Client

from cartrita.eventstore import (
    Append,
    Context,
    Event,
    Sequencer,
    append,
    close_async,
    create_data_key,
    new_id,
    run_following,
)
from tasks_app.growth import revise
from tasks_app.models import PlanRow, TaskEdgeRow, TaskRow
from tasks_app.plan import EdgeAdded, Plan, PlanAccepted, PlanProposed, TaskStarted, extend
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.tasks_app.trees import (
    DECISION,
    MESSAGE,
    NOON,
    SESSION,
    added,
    completed,
    failed,
    following,
    run_id,
    task_id,
)


class Recorded:
    """A plan whose events are stored as they come."""

    def __init__(self, ann: Person) -> None:
        self.plan_id = new_id()
        self.plan = Plan()
        self.context = Context(
            workspace_id=ann.workspace_id,
            session_id=SESSION,
            key_id=create_data_key(subject_id=ann.id, scope="session"),
        )

    def record(self, *events: Event) -> None:
        append(Append(self.plan_id, self.plan.version, events, self.context))
        self.plan = extend(self.plan, events)

    def propose(self, *edges: EdgeAdded) -> None:
        self.record(
            PlanProposed(
                message_id=MESSAGE,
                root_task_id=task_id(0),
                goal="all of it",
                planner="rules",
                estimated_tokens=40,
            ),
            added(0, parent=None, kind="synthesis"),
            *(added(number) for number in (1, 2, 3)),
            *edges,
            PlanAccepted(decision_id=DECISION, outcome="allow"),
        )

    def start(self, number: int) -> None:
        attempt = self.plan.tasks[task_id(number)].attempts + 1
        self.record(TaskStarted(task_id=task_id(number), run_id=run_id(number, attempt), attempt=attempt))

    def complete(self, number: int) -> None:
        self.start(number)
        self.record(*following(self.plan, completed(self.plan, number)))

    def fail(self, number: int, code: str = "broken") -> None:
        self.start(number)
        self.record(*following(self.plan, failed(self.plan, number, code=code)))


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


@pytest.fixture
def recorded(ann: Person, database: Database) -> Iterator[Recorded]:
    """Return a plan to record; afterwards the read models equal their rebuild."""
    yield Recorded(ann)
    follow()
    with database.as_owner():
        call_command("rebuild_projections", "plans", check=True)


def follow() -> None:
    async def order() -> None:
        await Sequencer().order()
        await close_async()

    asyncio.run(order())
    run_following()


def statuses() -> list[str]:
    follow()
    return [TaskRow.objects.get(id=task_id(number)).status for number in range(TaskRow.objects.count())]


def edge(first: int, second: int, relation: str = "depends_on", weight: int = 100) -> EdgeAdded:
    return EdgeAdded.model_validate(
        {"from_task": task_id(first), "to_task": task_id(second), "relation": relation, "weight": weight}
    )


class TestEdges:
    def test_are_rows_with_their_weights(self, recorded: Recorded) -> None:
        recorded.propose(edge(1, 2, weight=250), edge(2, 3, "blocks"))
        follow()
        rows = TaskEdgeRow.objects.filter(plan_id=recorded.plan_id).values_list(
            "from_task", "to_task", "relation_type", "weight"
        )
        assert set(rows) == {
            (task_id(1), task_id(2), "depends_on", Decimal("2.50")),
            (task_id(2), task_id(3), "blocks", Decimal("1.00")),
        }


class TestTasks:
    def test_are_blocked_until_those_before_them_have_ended(self, recorded: Recorded) -> None:
        recorded.propose(edge(1, 2), edge(1, 3, "blocks"))
        assert statuses() == ["blocked", "pending", "blocked", "blocked"]
        recorded.complete(1)
        assert statuses() == ["blocked", "complete", "pending", "pending"]
        recorded.complete(2)
        recorded.complete(3)
        assert statuses() == ["pending", "complete", "complete", "complete"]
        recorded.complete(0)
        follow()
        row = PlanRow.objects.get(id=recorded.plan_id)
        assert (row.status, row.actual_cost_tokens, row.version) == ("complete", 28, recorded.plan.version)

    def test_are_pruned_with_the_reason(self, recorded: Recorded) -> None:
        recorded.propose(edge(1, 2), edge(1, 3, "blocks"))
        recorded.fail(1)
        assert statuses() == ["blocked", "failed", "pruned", "pending"]
        row = TaskRow.objects.get(id=task_id(2))
        assert row.error_message == "It builds on a task that failed."
        assert row.completed_at is not None

    def test_tell_how_often_and_when_they_are_tried_again(self, recorded: Recorded) -> None:
        recorded.propose()
        recorded.fail(1, code="timed_out")
        follow()
        row = TaskRow.objects.get(id=task_id(1))
        assert (row.status, row.retry_count, row.error_message) == ("pending", 1, "timed_out")
        assert row.not_before == NOON + timedelta(seconds=0.25)
        assert row.actual_cost_tokens == 3
        recorded.complete(1)
        follow()
        row = TaskRow.objects.get(id=task_id(1))
        assert (row.status, row.retry_count, row.error_message) == ("complete", 1, None)
        assert row.not_before is None
        assert row.actual_cost_tokens == 10

    def test_follow_a_revision(self, recorded: Recorded) -> None:
        recorded.propose(edge(2, 3))
        recorded.record(
            *revise(
                recorded.plan,
                reason="The table was meant.",
                tasks=[added(4)],
                edges=[edge(1, 4, "refines")],
                pruned={task_id(2): "Not needed."},
            )
        )
        assert statuses() == ["blocked", "pending", "pruned", "pruned", "blocked"]
        assert PlanRow.objects.get(id=recorded.plan_id).version == recorded.plan.version


class TestPlanPage:
    def page(self, client: Client, plan: Recorded) -> str:
        follow()
        return client.get(f"/admin/tasks_app/planrow/{plan.plan_id}/change/").content.decode()

    def test_shows_the_edges(self, recorded: Recorded, ann: Person) -> None:
        ann.user.is_staff = ann.user.is_superuser = True
        ann.user.save()
        client = Client()
        client.force_login(ann.user, backend="django.contrib.auth.backends.ModelBackend")
        recorded.propose()
        assert "do not wait for one another" in self.page(client, recorded)
        recorded.record(edge(1, 2, "refines", weight=250))
        page = self.page(client, recorded)
        assert "Which task comes after which" in page
        assert f"/admin/tasks_app/taskrow/{task_id(2)}/change/" in page
        for text in ("refines", "2.50", "assistant (blocked)"):
            assert text in page
