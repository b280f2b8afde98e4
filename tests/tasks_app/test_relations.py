"""What edges and parts mean."""

from uuid import UUID

from tasks_app.plan import Plan, PlanCriticised, PlanHeldBack, Task, extend
from tasks_app.relations import Graph, status_of
from tests.tasks_app.trees import (
    DECISION,
    added,
    broken,
    done,
    following,
    laid_out,
    parts,
    started,
    task_id,
)


def numbers(tasks: list[Task]) -> list[int]:
    return [task.task_id.int - 1 for task in tasks]


def inputs(plan: Plan, number: int) -> list[int]:
    return numbers(Graph.of(plan).inputs(plan.tasks[task_id(number)]))


def blockers(plan: Plan, number: int) -> list[int]:
    return numbers(Graph.of(plan).blockers(plan.tasks[task_id(number)]))


def status(plan: Plan, number: int, *awaiting: UUID) -> str:
    return status_of(plan, plan.tasks[task_id(number)], Graph.of(plan), awaiting=awaiting)


class TestInputs:
    def test_are_the_results_of_what_a_task_depends_on_or_refines(self) -> None:
        plan = parts(5, (1, "depends_on", 5), (2, "refines", 5), (3, "enables", 5), (4, "blocks", 5))
        assert inputs(done(plan, 1, 2, 3, 4), 5) == [1, 2]

    def test_of_a_synthesis_are_those_of_its_parts_with_refined_ones_replaced(self) -> None:
        plan = done(parts(3, (1, "refines", 3)), 1, 2)
        assert inputs(plan, 0) == [1, 2]
        assert inputs(done(plan, 3), 0) == [2, 3]

    def test_keep_a_result_whose_refinement_failed(self) -> None:
        assert inputs(broken(done(parts(2, (1, "refines", 2)), 1), 2), 0) == [1]

    def test_pass_through_goals(self) -> None:
        plan = laid_out(
            added(0, parent=None, kind="synthesis"),
            added(1, kind="goal"),
            added(2, parent=1),
            added(3, parent=1),
            added(4),
            edges=((1, "depends_on", 4),),
        )
        plan = done(plan, 2, 3)
        assert inputs(plan, 4) == [2, 3]
        assert inputs(done(plan, 4), 0) == [2, 3, 4]

    def test_leave_out_what_the_critic_dropped(self) -> None:
        plan = done(parts(2), 1, 2)
        dropped = PlanCriticised(task_id=task_id(1), checks=(), details={}, verdict="prune")
        assert inputs(extend(plan, following(plan, dropped)), 0) == [2]


class TestBlockers:
    def test_are_the_open_tasks_before_it(self) -> None:
        plan = parts(3, (1, "depends_on", 3), (2, "blocks", 3))
        assert blockers(plan, 3) == [1, 2]
        assert blockers(done(plan, 1), 3) == [2]

    def test_of_a_synthesis_are_its_open_parts(self) -> None:
        assert blockers(done(parts(2), 1), 0) == [2]

    def test_hold_for_the_parts_of_what_an_edge_leads_to(self) -> None:
        plan = laid_out(
            added(0, parent=None, kind="synthesis"),
            added(1),
            added(2, kind="goal"),
            added(3, parent=2),
            edges=((1, "blocks", 2),),
        )
        assert blockers(plan, 3) == [1]
        assert blockers(done(plan, 1), 3) == []


class TestStatus:
    def test_is_blocked_while_others_come_first(self) -> None:
        plan = parts(2, (1, "depends_on", 2))
        assert (status(plan, 1), status(plan, 2), status(plan, 0)) == ("pending", "blocked", "blocked")
        assert status(done(plan, 1), 2) == "pending"

    def test_is_blocked_while_an_approval_is_awaited(self) -> None:
        plan = started(parts(1), 1)
        assert status(plan, 1) == "running"
        assert status(plan, 1, task_id(1)) == "blocked"
        held = PlanHeldBack(decision_id=DECISION, attempt=1, outcome="escalate", rule="r", reason="ask")
        assert status(extend(parts(1), [held]), 1) == "blocked"
