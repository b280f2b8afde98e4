"""How plans grow, and what keeps them from it."""

import pytest

from tasks_app.growth import (
    Bounds,
    EdgeMakesCycle,
    EdgeNotAdded,
    TaskBegun,
    TaskNotAdded,
    UnknownTask,
    add_edge,
    add_task,
    prune,
    revise,
)
from tasks_app.plan import EdgeAdded, GrowthRefused, PlanEnded, PlanRevised, Relation, TaskPruned, extend
from tests.tasks_app.trees import added, done, laid_out, parts, started, statuses, task_id


def edge(first: int, second: int, relation: Relation = "depends_on") -> EdgeAdded:
    return EdgeAdded(from_task=task_id(first), to_task=task_id(second), relation=relation)


class TestAddEdge:
    def test_makes_one_task_come_after_another(self) -> None:
        made = add_edge(parts(2), from_task=task_id(1), to_task=task_id(2), relation="enables", weight=250)
        assert made == [EdgeAdded(from_task=task_id(1), to_task=task_id(2), relation="enables", weight=250)]

    def test_refuses_a_cycle_and_names_it(self) -> None:
        plan = parts(3, (1, "depends_on", 2), (2, "blocks", 3))
        with pytest.raises(EdgeMakesCycle) as refused:
            add_edge(plan, from_task=task_id(3), to_task=task_id(1), relation="refines")
        cycle = [str(task_id(number)) for number in (3, 1, 2, 3)]
        assert refused.value.details["cycle"] == cycle
        assert " -> ".join(cycle) in refused.value.message

    @pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)])
    def test_refuses_an_edge_between_a_task_and_its_part(self, first: int, second: int) -> None:
        with pytest.raises(EdgeMakesCycle):
            add_edge(parts(1), from_task=task_id(first), to_task=task_id(second), relation="blocks")

    def test_refuses_a_cycle_through_the_parts_of_a_task(self) -> None:
        plan = laid_out(
            added(0, parent=None, kind="goal"),
            added(1, kind="goal"),
            added(2, parent=1),
            added(3),
            edges=((3, "depends_on", 1),),
        )
        with pytest.raises(EdgeMakesCycle):
            add_edge(plan, from_task=task_id(2), to_task=task_id(3), relation="blocks")

    def test_refuses_a_task_before_itself(self) -> None:
        with pytest.raises(EdgeNotAdded, match="after itself"):
            add_edge(parts(1), from_task=task_id(1), to_task=task_id(1), relation="blocks")

    def test_refuses_the_same_edge_twice_and_lets_another_relation_be(self) -> None:
        plan = parts(2, (1, "blocks", 2))
        with pytest.raises(EdgeNotAdded, match="already"):
            add_edge(plan, from_task=task_id(1), to_task=task_id(2), relation="blocks")
        assert add_edge(plan, from_task=task_id(1), to_task=task_id(2), relation="refines")

    @pytest.mark.parametrize(("first", "second", "field"), [(7, 1, "from_task"), (1, 7, "to_task")])
    def test_refuses_unknown_tasks(self, first: int, second: int, field: str) -> None:
        with pytest.raises(UnknownTask) as refused:
            add_edge(parts(1), from_task=task_id(first), to_task=task_id(second), relation="blocks")
        assert refused.value.field == field

    @pytest.mark.parametrize("weight", [-1, 1000])
    def test_refuses_weights_out_of_range(self, weight: int) -> None:
        with pytest.raises(EdgeNotAdded, match="from 0 to 999"):
            add_edge(parts(2), from_task=task_id(1), to_task=task_id(2), relation="blocks", weight=weight)

    def test_refuses_what_would_come_before_a_task_that_has_begun(self) -> None:
        with pytest.raises(TaskBegun):
            add_edge(started(parts(2), 2), from_task=task_id(1), to_task=task_id(2), relation="blocks")


class TestAddTask:
    def test_adds_a_part(self) -> None:
        task = added(3)
        assert add_task(parts(2), task) == [task]

    def test_refuses_an_id_that_is_there(self) -> None:
        with pytest.raises(TaskNotAdded, match="already"):
            add_task(parts(2), added(2))

    def test_refuses_unknown_and_missing_parents(self) -> None:
        with pytest.raises(UnknownTask):
            add_task(parts(2), added(3, parent=8))
        with pytest.raises(TaskNotAdded, match="name its parent"):
            add_task(parts(2), added(3, parent=None))

    def test_refuses_parts_of_a_task_that_is_work(self) -> None:
        with pytest.raises(TaskNotAdded, match="goal or a synthesis"):
            add_task(parts(2), added(3, parent=2))

    def test_refuses_parts_of_a_synthesis_that_has_begun(self) -> None:
        with pytest.raises(TaskBegun):
            add_task(started(done(parts(1), 1), 0), added(2))

    def test_says_which_bound_keeps_a_task_out(self) -> None:
        [refused] = add_task(parts(2), added(3), bounds=Bounds(tasks=3))
        assert isinstance(refused, GrowthRefused)
        assert (refused.bound, refused.most) == ("tasks", 3)
        deep = laid_out(added(0, parent=None, kind="goal"), added(1, kind="goal"))
        [refused] = add_task(deep, added(2, parent=1), bounds=Bounds(depth=2))
        assert isinstance(refused, GrowthRefused)
        assert (refused.bound, refused.most) == ("depth", 2)

    def test_refuses_a_plan_that_has_ended(self) -> None:
        with pytest.raises(PlanEnded):
            add_task(done(parts(1), 1, 0), added(2))


class TestPrune:
    def test_leaves_a_task_out(self) -> None:
        assert prune(parts(2), task_id(2), code="criticised", reason="not asked for") == [
            TaskPruned(task_id=task_id(2), code="criticised", reason="not asked for")
        ]

    def test_refuses_a_task_that_runs_or_whose_part_does(self) -> None:
        plan = started(parts(2), 2)
        for number in (0, 2):
            with pytest.raises(TaskBegun, match="stop it instead"):
                prune(plan, task_id(number), code="revised", reason="x")


class TestRevise:
    def test_adds_and_leaves_out_in_one_go_with_what_follows(self) -> None:
        plan = parts(3, (2, "depends_on", 3))
        events = revise(
            plan,
            reason="the table was meant",
            tasks=[added(4)],
            edges=[edge(1, 4)],
            pruned={task_id(2): "not needed"},
        )
        assert events[0] == PlanRevised(
            reason="the table was meant", added=(task_id(4),), pruned=(task_id(2),)
        )
        revised = extend(plan, events)
        assert statuses(revised) == {0: "pending", 1: "pending", 2: "pruned", 3: "pruned", 4: "pending"}
        assert revised.tasks[task_id(3)].code == "revised"
        assert revised.revisions == 1

    def test_is_bounded(self) -> None:
        plan = parts(1)
        for number in (2, 3):
            plan = extend(
                plan, revise(plan, reason="more", tasks=[added(number)], bounds=Bounds(revisions=2))
            )
        [refused] = revise(plan, reason="more", tasks=[added(4)], bounds=Bounds(revisions=2))
        assert isinstance(refused, GrowthRefused)
        assert (refused.bound, refused.most) == ("revisions", 2)
        assert extend(plan, [refused]).tasks == plan.tasks

    def test_adds_nothing_where_one_task_passes_a_bound(self) -> None:
        tasks = [added(2), added(3)]
        [refused] = revise(parts(1), reason="more", tasks=tasks, bounds=Bounds(tasks=3))
        assert isinstance(refused, GrowthRefused)
