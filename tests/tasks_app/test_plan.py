"""The fold of a plan and how it ends."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from cartrita.eventstore import Event
from tasks_app.plan import (
    Check,
    Criticism,
    Plan,
    PlanAccepted,
    PlanCompleted,
    PlanCriticised,
    PlanEnded,
    PlanProposed,
    PlanRefused,
    TaskAborted,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskPruned,
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


def criticised(verdict: Criticism, task_id: UUID | None = ROOT) -> PlanCriticised:
    return PlanCriticised(
        task_id=task_id,
        checks=(Check(name="cited", passed=True),),
        details={"cited": "Two passages."},
        verdict=verdict,
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


def end(how: str, run_id: UUID = RUN) -> Event:
    """Return an event that would end the root task, or begin it anew."""
    return {
        "complete": TaskCompleted(task_id=ROOT, run_id=run_id, tokens=1),
        "failed": TaskFailed(task_id=ROOT, run_id=run_id, tokens=1, code="x", reason="y"),
        "aborted": TaskAborted(task_id=ROOT, reason="y", tokens=1),
        "pruned": TaskPruned(task_id=ROOT, code="revised", reason="y"),
        "retried": TaskRetried(task_id=ROOT, run_id=run_id, attempt=1, not_before=NOON, code="x"),
        "started": TaskStarted(task_id=ROOT, run_id=OTHER, attempt=2),
    }[how]


HOWS = ("complete", "failed", "aborted", "pruned", "retried", "started")


class TestEnds:
    @pytest.mark.parametrize("later", HOWS)
    @pytest.mark.parametrize("first", ["complete", "failed", "aborted"])
    def test_of_tasks_are_final(self, first: str, later: str) -> None:
        ended = fold([*STARTED, end(first)])
        assert ended.tasks[ROOT].status == first
        assert evolve(ended, end(later)).tasks == ended.tasks

    @pytest.mark.parametrize("later", HOWS)
    def test_of_pruned_tasks_are_final(self, later: str) -> None:
        pruned = fold([proposed(), added(), end("pruned")])
        assert pruned.tasks[ROOT].status == "pruned"
        assert evolve(pruned, end(later)).tasks == pruned.tasks

    @pytest.mark.parametrize("how", ["complete", "failed", "retried"])
    def test_come_from_the_current_attempt_alone(self, how: str) -> None:
        running = fold([*STARTED, end("retried"), end("started")])
        assert running.tasks[ROOT].run_id == OTHER
        assert evolve(running, end(how)).tasks == running.tasks
        waiting = fold([*STARTED, end("retried")])
        assert evolve(waiting, end(how)).tasks == waiting.tasks

    def test_of_plans_are_final(self) -> None:
        plan = fold([*STARTED, end("complete"), PlanCompleted(status="complete", tokens=1)])
        for event in (PlanCompleted(status="failed", tokens=1), added(OTHER), proposed()):
            assert evolve(plan, event) == replace(plan, version=plan.version + 1)

    def test_come_to_tasks_that_never_began_while_their_plan_waited(self) -> None:
        plan = fold([proposed(), added(), end("failed")])
        assert plan.tasks[ROOT].status == "failed"

    def test_leave_a_task_that_runs_in_the_plan(self) -> None:
        assert evolve(fold(STARTED), end("pruned")).tasks[ROOT].status == "running"


class TestCriticism:
    def test_keeps_the_last_verdict(self) -> None:
        plan = fold([*STARTED, end("complete"), criticised("revise"), criticised("accept")])
        assert plan.tasks[ROOT].criticism == "accept"
        assert plan.tasks[ROOT].usable

    def test_does_not_take_a_dropped_result_up_again(self) -> None:
        plan = fold([*STARTED, end("complete"), criticised("prune"), criticised("accept")])
        assert plan.tasks[ROOT].status == "complete"
        assert not plan.tasks[ROOT].usable

    def test_is_of_the_plan_where_no_task_is_named(self) -> None:
        plan = fold([*STARTED, criticised("revise", task_id=None)])
        assert (plan.criticism, plan.tasks[ROOT].criticism) == ("revise", None)


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
