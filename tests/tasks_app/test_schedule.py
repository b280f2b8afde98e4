"""What a plan does next: what to start, what follows from the end of an attempt, and how far it is."""

import sys
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any

import pytest

from cartrita.eventstore import Event
from tasks_app.plan import (
    EdgeAdded,
    Plan,
    PlanAccepted,
    PlanCompleted,
    PlanCriticised,
    PlanEnded,
    PlanProposed,
    TaskAborted,
    TaskCompleted,
    TaskFailed,
    TaskPruned,
    TaskRetried,
    TaskStarted,
    extend,
    fold,
)
from tasks_app.schedule import (
    PARTS_FAILED,
    TOO_MANY_ATTEMPTS,
    AttemptOver,
    Limits,
    Retries,
    Running,
    consequences,
    progress,
    ready,
    settle,
    unattended,
    wakes_at,
)
from tests.tasks_app.trees import (
    DECISION,
    MESSAGE,
    NOON,
    SESSION,
    added,
    broken,
    completed,
    done,
    failed,
    following,
    laid_out,
    parts,
    run_id,
    started,
    statuses,
    task_id,
)

WIDE = Limits(per_session=99, per_agent=99, per_tool=99, total=99)


def to_start(
    plan: Plan, *, limits: Limits = WIDE, running: tuple[Running, ...] = (), after: float = 0
) -> list[int]:
    now = NOON + timedelta(seconds=after)
    found = ready(plan, session_id=SESSION, now=now, running=running, limits=limits)
    return [task.task_id.int - 1 for task in found]


def busy(number: int, *, agent: str = "writer", tool: str = "", session: int = 0) -> Running:
    session_id = task_id(500 + session) if session else SESSION
    return Running(task_id=task_id(number), session_id=session_id, agent=agent, tool=tool)


class TestReady:
    def test_starts_nothing_before_the_plan_is_accepted(self) -> None:
        proposed = fold(
            [
                PlanProposed(
                    message_id=MESSAGE, root_task_id=task_id(0), goal="g", planner="p", estimated_tokens=0
                ),
                added(0, parent=None),
            ]
        )
        assert to_start(proposed) == []

    def test_starts_what_waits_for_nothing(self) -> None:
        assert to_start(parts(3, (1, "depends_on", 2))) == [1, 3]

    def test_starts_the_most_urgent_first_and_then_the_oldest(self) -> None:
        plan = laid_out(
            added(0, parent=None, kind="goal"),
            *(added(number, priority=priority) for number, priority in ((1, 5), (2, 9), (3, 5), (4, 9))),
        )
        assert to_start(plan) == [2, 4, 1, 3]

    @pytest.mark.parametrize("relation", ["depends_on", "blocks", "enables", "refines"])
    def test_starts_the_second_of_an_edge_when_the_first_is_complete(self, relation: Any) -> None:
        plan = parts(2, (1, relation, 2))
        assert to_start(plan) == [1]
        assert to_start(started(plan, 1)) == []
        assert to_start(done(plan, 1)) == [2]

    def test_starts_what_was_blocked_by_a_task_that_failed(self) -> None:
        assert to_start(broken(parts(2, (1, "blocks", 2)), 1)) == [2]

    def test_starts_a_synthesis_after_its_parts(self) -> None:
        plan = parts(2)
        assert to_start(done(plan, 1)) == [2]
        assert to_start(broken(done(plan, 1), 2)) == [0]

    def test_starts_a_task_that_is_tried_again_only_when_its_time_has_come(self) -> None:
        plan = started(parts(1), 1)
        plan = extend(plan, following(plan, failed(plan, 1, code="timed_out"), jitter=1.0))
        assert to_start(plan) == []
        assert to_start(plan, after=0.5) == [1]
        assert wakes_at(plan) == NOON + timedelta(seconds=0.5)

    def test_starts_nothing_that_somebody_runs(self) -> None:
        assert to_start(parts(2), running=(busy(1),)) == [2]

    def test_keeps_to_what_may_run_in_a_session_and_altogether(self) -> None:
        plan = parts(5)
        assert to_start(plan, limits=Limits(per_session=2)) == [1, 2]
        assert to_start(plan, limits=Limits(per_session=2), running=(busy(1), busy(40, session=1))) == [2]
        assert to_start(plan, limits=Limits(total=3), running=(busy(40, session=1),)) == [1, 2]

    def test_keeps_to_what_may_run_of_an_agent_and_with_a_tool(self) -> None:
        plan = laid_out(
            added(0, parent=None, kind="goal"),
            added(1, agent="coder"),
            added(2, agent="coder"),
            added(3, agent="calculator", tool="calculate"),
            added(4, agent="writer", tool="calculate"),
        )
        assert to_start(plan, limits=Limits(per_agent=1)) == [1, 3, 4]
        assert to_start(plan, limits=Limits(per_tool=1)) == [1, 2, 3]
        taken = (busy(40, session=1, agent="coder", tool="calculate"),)
        assert to_start(plan, limits=Limits(per_agent=2, per_tool=1), running=taken) == [1]


class TestUnattended:
    def test_are_tasks_that_have_begun_and_that_nobody_runs(self) -> None:
        plan = started(started(parts(3), 1), 2)
        assert [task.task_id for task in unattended(plan, running=[busy(1)])] == [task_id(2)]


class TestConsequences:
    def test_of_a_failure_leave_out_what_depends_on_it_transitively(self) -> None:
        plan = broken(parts(4, (1, "depends_on", 2), (2, "refines", 3), (3, "blocks", 4)), 1)
        assert statuses(plan) == {0: "pending", 1: "failed", 2: "pruned", 3: "pruned", 4: "pending"}
        second, third = plan.tasks[task_id(2)], plan.tasks[task_id(3)]
        assert (second.code, third.code) == ("dependency_failed", "dependency_failed")
        assert second.error == "It builds on a task that failed."
        assert third.error == "It builds on a task that was left out."

    def test_name_the_task_because_of_which_one_is_left_out(self) -> None:
        plan = started(parts(2, (1, "depends_on", 2)), 1)
        pruned = [one for one in following(plan, failed(plan, 1)) if isinstance(one, TaskPruned)]
        assert [(one.task_id, one.because_of) for one in pruned] == [
            (task_id(2), task_id(1)),
            (task_id(0), task_id(1)),
        ]

    def test_of_what_was_not_enabled_do_not_fail_the_goal(self) -> None:
        dropped = PlanCriticised(task_id=task_id(1), checks=(), details={}, verdict="prune")
        plan = done(parts(3, (1, "enables", 2), root="goal"), 1)
        plan = done(extend(plan, following(plan, dropped)), 3)
        assert plan.tasks[task_id(2)].code == "not_enabled"
        assert plan.status == "complete"

    def test_end_a_goal_with_its_parts(self) -> None:
        plan = started(parts(1, root="goal"), 1)
        assert following(plan, completed(plan, 1)) == [
            completed(plan, 1),
            TaskCompleted(task_id=task_id(0), run_id=None, tokens=0),
            PlanCompleted(status="complete", tokens=7),
        ]
        [_, goal, end] = following(plan, failed(plan, 1))
        assert isinstance(goal, TaskFailed)
        assert goal.code == PARTS_FAILED
        assert end == PlanCompleted(status="failed", tokens=3)

    def test_complete_a_goal_whose_refinement_failed(self) -> None:
        assert broken(done(parts(2, (1, "refines", 2), root="goal"), 1), 2).status == "complete"

    def test_leave_out_a_synthesis_without_a_single_result(self) -> None:
        plan = broken(broken(parts(2), 1), 2)
        assert plan.tasks[task_id(0)].code == "dependency_failed"
        assert plan.status == "failed"

    def test_run_a_synthesis_on_what_there_is(self) -> None:
        plan = done(broken(done(parts(2), 1), 2), 0)
        assert plan.status == "complete"

    def test_of_a_stopped_root_stop_what_has_not_begun_and_wait_for_what_runs(self) -> None:
        plan = started(parts(2), 1)
        plan = extend(plan, following(plan, TaskAborted(task_id=task_id(0), reason="Stop, said Ann.")))
        assert statuses(plan) == {0: "aborted", 1: "running", 2: "aborted"}
        assert plan.tasks[task_id(2)].error == "Stop, said Ann."
        last = TaskAborted(task_id=task_id(1), reason="Stop, said Ann.", tokens=2)
        assert following(plan, last) == [last, PlanCompleted(status="stopped", tokens=2)]

    def test_of_acceptance_end_what_has_nothing_to_do(self) -> None:
        plan = laid_out(added(0, parent=None, kind="goal"))
        pruned, ended = settle(plan)
        assert isinstance(pruned, TaskPruned)
        assert pruned.code == "no_part_complete"
        assert ended == PlanCompleted(status="failed", tokens=0)

    def test_refuse_reports_on_attempts_that_are_over(self) -> None:
        plan = done(parts(2), 1)
        for late in (completed(plan, 1), failed(plan, 1), TaskAborted(task_id=task_id(1), reason="x")):
            with pytest.raises(AttemptOver, match="too late"):
                following(plan, late)
        again = started(plan, 2)
        again = started(extend(again, following(again, failed(again, 2, code="timed_out"))), 2)
        stale = TaskCompleted(task_id=task_id(2), run_id=run_id(2, attempt=1), tokens=1)
        with pytest.raises(AttemptOver):
            following(again, stale)
        assert extend(again, [stale]).tasks == again.tasks

    def test_refuse_a_plan_that_has_ended(self) -> None:
        plan = done(parts(1), 1, 0)
        with pytest.raises(PlanEnded, match="ended as complete"):
            following(plan, failed(plan, 1))

    def test_of_one_task_are_what_they_were(self) -> None:
        plan = started(laid_out(added(0, parent=None)), 0)
        assert following(plan, completed(plan, 0)) == [
            completed(plan, 0),
            PlanCompleted(status="complete", tokens=7),
        ]


class TestRetries:
    @pytest.mark.parametrize(
        ("attempt", "jitter", "seconds"), [(1, 0, 0.25), (1, 1, 0.5), (3, 0.5, 1.5), (6, 1, 8), (99, 0, 4)]
    )
    def test_wait_longer_each_time_up_to_a_bound(self, attempt: int, jitter: float, seconds: float) -> None:
        assert Retries().delay(attempt, jitter) == timedelta(seconds=seconds)

    def test_take_the_place_of_a_failure_that_may_pass(self) -> None:
        plan = started(parts(1), 1)
        assert following(plan, failed(plan, 1, code="rate_limited"), jitter=1.0) == [
            TaskRetried(
                task_id=task_id(1),
                run_id=run_id(1),
                attempt=1,
                not_before=NOON + timedelta(seconds=0.5),
                code="rate_limited",
                tokens=3,
            )
        ]

    def test_are_not_for_failures_of_the_work_itself(self) -> None:
        plan = started(parts(1), 1)
        assert following(plan, failed(plan, 1))[0] == failed(plan, 1)

    def test_end_after_the_last_attempt_with_a_reason_of_its_own(self) -> None:
        plan = parts(1)
        for _ in range(3):
            plan = started(plan, 1)
            plan = extend(plan, following(plan, failed(plan, 1, code="timed_out")))
        task = plan.tasks[task_id(1)]
        assert (task.status, task.code, task.tokens) == ("failed", TOO_MANY_ATTEMPTS, 9)
        assert task.error == "Tried 3 times, which is the limit; the last time: It broke. (timed_out)"

    def test_keep_the_reason_of_a_task_that_may_be_tried_once(self) -> None:
        plan = started(parts(1), 1)
        failure = failed(plan, 1, code="timed_out")
        once = Retries(attempts=1)
        assert consequences(plan, failure, now=NOON, jitter=0.0, retries=once)[0] == failure


class TestProgress:
    def test_counts_what_somebody_works_on(self) -> None:
        plan = started(done(parts(4, (2, "depends_on", 3), root="goal"), 1), 2)
        told = progress(plan)
        assert told.tasks == 4
        assert told.by_status == {"complete": 1, "running": 1, "blocked": 1, "pending": 1}
        assert (told.ended, told.tokens, told.estimated_tokens) == (1, 7, 40)


def chain(length: int) -> list[Event]:
    """Return the events of a plan of one task after the other, up to the end of the first."""
    numbers = range(1, length + 1)
    return [
        PlanProposed(message_id=MESSAGE, root_task_id=task_id(0), goal="g", planner="p", estimated_tokens=0),
        added(0, parent=None, kind="synthesis"),
        *(added(number) for number in numbers),
        *(
            EdgeAdded(from_task=task_id(number), to_task=task_id(number + 1), relation="depends_on")
            for number in numbers[:-1]
        ),
        PlanAccepted(decision_id=DECISION, outcome="allow"),
    ]


def ran_through(length: int) -> list[Event]:
    events = chain(length)
    for number in range(1, length + 1):
        id_, run = task_id(number), run_id(number)
        events.append(TaskStarted(task_id=id_, run_id=run, attempt=1))
        events.append(TaskCompleted(task_id=id_, run_id=run, tokens=1))
    return events


def lines_run(work: Callable[[], object]) -> int:
    """Count the lines of the app that the work runs through."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if "/tasks_app/" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


class TestCost:
    @pytest.mark.parametrize("what", ["fold", "prune", "ready", "progress"])
    def test_grows_with_the_length_of_a_chain_and_no_faster(self, what: str) -> None:
        def work(length: int) -> Callable[[], object]:
            plan = started(fold(chain(length)), 1)
            events = ran_through(length)
            return {
                "fold": lambda: fold(events),
                "prune": lambda: following(plan, failed(plan, 1)),
                "ready": lambda: to_start(plan),
                "progress": lambda: progress(plan),
            }[what]

        short, long = (lines_run(work(length)) for length in (100, 200))
        assert long < 2.1 * short

    def test_of_a_chain_is_paid_for_every_task(self) -> None:
        plan = fold(ran_through(200))
        assert plan.tokens == 200
        assert to_start(plan) == [0]
