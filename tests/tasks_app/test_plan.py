"""The fold of a plan and how it ends."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from tasks_app.plan import (
    Plan,
    PlanAccepted,
    PlanCompleted,
    PlanEnded,
    PlanProposed,
    PlanRefused,
    TaskAborted,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskRetried,
    TaskStarted,
    completion,
    evolve,
    fold,
)

ROOT, OTHER, RUN, MESSAGE, DECISION = (UUID(int=number) for number in range(1, 6))

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def proposed() -> PlanProposed:
    return PlanProposed(
        message_id=MESSAGE, root_task_id=ROOT, goal="why?", planner="single", estimated_tokens=10
    )


def added(task_id: UUID = ROOT, *, priority: int = 5, parent_id: UUID | None = None) -> TaskAdded:
    return TaskAdded(
        task_id=task_id, parent_id=parent_id, intent="why?", spec={}, agent="assistant", priority=priority
    )


STARTED = [
    proposed(),
    added(),
    PlanAccepted(decision_id=DECISION, outcome="allow"),
    TaskStarted(task_id=ROOT, run_id=RUN, attempt=1),
]


class TestFold:
    def test_counts_every_event_as_a_version(self) -> None:
        assert fold(STARTED).version == len(STARTED)

    def test_begins_as_a_plan_that_is_not_there(self) -> None:
        assert fold([]) == Plan()

    def test_tells_a_task_that_runs(self) -> None:
        task = fold(STARTED).tasks[ROOT]
        assert (task.status, task.run_id, task.attempts) == ("running", RUN, 1)

    def test_adds_up_what_attempts_used(self) -> None:
        retried = TaskRetried(
            task_id=ROOT, run_id=RUN, attempt=1, not_before=NOON, code="timed_out", tokens=7
        )
        again = [*STARTED, retried, TaskStarted(task_id=ROOT, run_id=OTHER, attempt=2)]
        plan = fold([*again, TaskCompleted(task_id=ROOT, run_id=OTHER, tokens=5)])
        assert plan.tokens == 12
        assert plan.tasks[ROOT].status == "complete"

    def test_keeps_the_reason_of_a_refusal(self) -> None:
        plan = fold([proposed(), added(), PlanRefused(decision_id=DECISION, rule="no", reason="not here")])
        assert plan.ended
        assert plan.refusal == "not here"

    def test_leaves_the_earlier_state_as_it_was(self) -> None:
        before = fold(STARTED)
        evolve(before, TaskCompleted(task_id=ROOT, run_id=RUN, tokens=5))
        assert before.tasks[ROOT].status == "running"


class TestOpenTasks:
    def test_puts_the_most_urgent_first_and_then_the_oldest(self) -> None:
        ids = [UUID(int=number) for number in range(10, 14)]
        plan = fold(
            [
                proposed(),
                *(added(id_, priority=priority) for id_, priority in zip(ids, (5, 9, 5, 9), strict=True)),
            ]
        )
        assert [task.task_id for task in plan.open_tasks()] == [ids[1], ids[3], ids[0], ids[2]]


class TestCompletion:
    def test_waits_for_open_tasks(self) -> None:
        assert completion(fold(STARTED)) == []

    def test_is_complete_when_the_root_task_is(self) -> None:
        plan = fold([*STARTED, TaskCompleted(task_id=ROOT, run_id=RUN, tokens=5)])
        assert completion(plan) == [PlanCompleted(status="complete", tokens=5)]

    def test_is_stopped_when_a_person_aborted_the_root_task(self) -> None:
        plan = fold([*STARTED, TaskAborted(task_id=ROOT, reason="A person asked to stop.")])
        assert completion(plan) == [PlanCompleted(status="stopped", tokens=0)]

    def test_is_failed_when_the_root_task_failed(self) -> None:
        plan = fold([*STARTED, TaskFailed(task_id=ROOT, run_id=RUN, tokens=3, code="x", reason="y")])
        assert completion(plan) == [PlanCompleted(status="failed", tokens=3)]

    def test_refuses_to_end_a_plan_twice(self) -> None:
        ended = [
            *STARTED,
            TaskCompleted(task_id=ROOT, run_id=RUN, tokens=5),
            PlanCompleted(status="complete", tokens=5),
        ]
        with pytest.raises(PlanEnded, match="ended as complete"):
            completion(fold(ended))
