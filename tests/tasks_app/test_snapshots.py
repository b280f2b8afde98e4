"""The nodes that a plan passes, as rows and as states folded from the log."""

import json
from uuid import UUID

import pytest
from django.core.management import call_command

from cartrita.eventstore import erase_subject, new_id
from tasks_app.models import SnapshotRow
from tasks_app.plan import Check, PlanCriticised
from tasks_app.snapshots import UnknownSnapshot, snapshot_of
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.tasks_app.test_projections import Recorded, edge, follow
from tests.tasks_app.trees import task_id


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


def rebuilt(database: Database, name: str) -> None:
    with database.as_owner():
        call_command("rebuild_projections", name, check=True)


def rows(plan_id: UUID) -> list[SnapshotRow]:
    follow()
    return list(SnapshotRow.objects.filter(plan_id=plan_id).order_by("version"))


class TestSnapshots:
    def test_are_taken_at_each_node(self, ann: Person, database: Database) -> None:
        plan = Recorded(ann)
        plan.propose(edge(1, 2))
        planned = plan.plan.version - 1
        # Each `rows` ends a batch, so that the projection begins in the middle of the plan's story.
        assert [(row.node_name, row.version) for row in rows(plan.plan_id)] == [("planned", planned)]
        plan.complete(1)
        criticised = PlanCriticised(
            task_id=task_id(1), checks=(Check(name="cited", passed=True),), details={}, verdict="accept"
        )
        plan.record(criticised)
        assert [row.node_name for row in rows(plan.plan_id)] == ["planned", "task_complete", "criticised"]
        plan.fail(2)
        plan.complete(3)
        plan.complete(0)
        found = rows(plan.plan_id)
        assert [row.node_name for row in found] == [
            "planned",
            "task_complete",
            "criticised",
            "task_failed",
            "task_complete",
            *(["task_pruned"] if plan.plan.tasks[task_id(0)].status == "pruned" else ["task_complete"]),
            "finished",
        ]
        assert [row.task_id for row in found[:3]] == [None, task_id(1), task_id(1)]
        last = found[-1]
        assert last.version == plan.plan.version
        assert last.cost_summary["actual_tokens"] == plan.plan.tokens
        assert set(last.performance_metrics) == {"since_planned_ms", "since_previous_ms"}
        assert set(found[1].performance_metrics) == {"since_planned_ms", "since_previous_ms", "task_ms"}
        rebuilt(database, "snapshots")

    def test_hold_nothing_that_people_wrote(self, ann: Person, database: Database) -> None:
        plan = Recorded(ann)
        plan.propose()
        plan.complete(1)
        (row, *_) = rows(plan.plan_id)
        kept = json.dumps([row.snapshot_json, row.agent_state, row.cost_summary])
        assert "do 1" not in kept
        assert {task["status"] for task in row.snapshot_json["tasks"]} == {"pending", "blocked"}
        erase_subject(ann.id)
        rebuilt(database, "snapshots")


class TestSnapshotOf:
    def test_has_the_whole_state_at_a_version(self, ann: Person) -> None:
        plan = Recorded(ann)
        plan.propose()
        early = plan.plan.version
        plan.complete(1)
        before, now = snapshot_of(plan.plan_id, early), snapshot_of(plan.plan_id)
        assert [task["intent"] for task in before["tasks"]] == ["do 0", "do 1", "do 2", "do 3"]
        assert (before["tasks"][1]["status"], now["tasks"][1]["status"]) == ("pending", "complete")
        assert now["version"] == plan.plan.version

    def test_refuses_what_never_was(self, ann: Person) -> None:
        plan = Recorded(ann)
        plan.propose()
        for plan_id, version in ((new_id(), None), (plan.plan_id, 99), (plan.plan_id, 0)):
            with pytest.raises(UnknownSnapshot):
                snapshot_of(plan_id, version)
