"""Plans and their scheduler beside a model of a few lines: any plan, run in any order, ends as it should."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cartrita.errors import CartritaError
from cartrita.eventstore import Event
from tasks_app.growth import Bounds, EdgeMakesCycle, EdgeNotAdded, add_edge, revise
from tasks_app.plan import (
    EdgeAdded,
    Plan,
    PlanAccepted,
    PlanCompleted,
    PlanCriticised,
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
    AttemptOver,
    Limits,
    Retries,
    Running,
    consequences,
    progress,
    ready,
    unattended,
    wakes_at,
)
from tests.tasks_app.trees import DECISION, MESSAGE, NOON, SESSION, added, run_id, task_id

RELATIONS = st.sampled_from(["depends_on", "blocks", "enables", "refines"])
CODES = st.sampled_from(["timed_out", "broken"])
WHICH = st.integers(0, 9)
WIDE = Limits(per_session=99, per_agent=99, per_tool=99, total=99)
RETRIES = Retries(attempts=2)
BOUNDS = Bounds(depth=9, tasks=99, revisions=99)
ENDS = {"complete", "failed", "pruned", "aborted"}
HARMFUL = {"dependency_failed", "dependency_aborted"}


@dataclass
class Known:
    """What the model knows of a task."""

    kind: str
    parent: int | None
    priority: int
    status: str = "pending"
    attempts: int = 0
    dropped: bool = False
    harmed: bool = False

    @property
    def ended(self) -> bool:
        return self.status in ENDS

    @property
    def good(self) -> bool:
        return self.status == "complete" and not self.dropped


class Model:
    """Tasks by their numbers; `settle` looks at all of them until nothing changes any more.

    What is left out for several reasons at once is so for any of them: which one comes first is the
    scheduler's affair, so that the model takes over what it said and asks whether that is a reason.
    """

    def __init__(self) -> None:
        self.tasks: dict[int, Known] = {}
        self.edges: list[tuple[int, str, int]] = []

    def parts(self, number: int) -> list[int]:
        return [part for part, task in self.tasks.items() if task.parent == number]

    def line(self, number: int) -> list[int]:
        """Return the task and all that it is a part of."""
        parent = self.tasks[number].parent
        return [number] if parent is None else [number, *self.line(parent)]

    def waits(self, number: int) -> bool:
        line = self.line(number)
        firsts = [first for first, _, second in self.edges if second in line] + self.parts(number)
        return any(not self.tasks[first].ended for first in firsts)

    def harm_of_unmet(self, number: int) -> bool | None:
        """Return whether the first edge that cannot be met does harm; None where all can."""
        for first, relation, second in self.edges:
            task = self.tasks[first]
            if second != number or relation == "blocks" or not task.ended or task.good:
                continue
            return relation != "enables" and (task.status in {"failed", "aborted"} or task.harmed)
        return None

    def results(self, number: int) -> set[int]:
        found: set[int] = set()
        for part in self.parts(number):
            task = self.tasks[part]
            if task.kind == "goal":
                found |= set() if task.dropped else self.results(part)
            elif task.good:
                found.add(part)
        return {
            one
            for one in found
            if not any(
                first == one and relation == "refines" and self.tasks[second].good
                for first, relation, second in self.edges
            )
        }

    def broken(self, number: int) -> bool:
        for part in self.parts(number):
            task = self.tasks[part]
            stands = any(
                second == part and relation == "refines" and self.tasks[first].good
                for first, relation, second in self.edges
            )
            if not stands and (task.status in {"failed", "aborted"} or task.harmed):
                return True
        return False

    def may_start(self, number: int) -> bool:
        task = self.tasks[number]
        unmet = any(self.harm_of_unmet(one) is not None for one in self.line(number))
        return task.status == "pending" and task.kind != "goal" and not self.waits(number) and not unmet

    def settle(self, plan: Plan) -> None:
        for number, task in self.tasks.items():
            if not task.ended and (told := plan.tasks[task_id(number)]).status == "pruned":
                task.harmed = told.code in HARMFUL
        before = {number for number, task in self.tasks.items() if task.ended}
        while any(self.look_at(number) for number in self.tasks):
            pass
        for number, task in self.tasks.items():
            if number not in before and task.status == "pruned":
                assert task.harmed in self.harms(number), number

    def harms(self, number: int) -> set[bool]:
        """Return whether the reasons for which a task is left out do harm."""
        task, found = self.tasks[number], set[bool]()
        if task.parent is not None and self.tasks[task.parent].status == "pruned":
            found.add(self.tasks[task.parent].harmed)
        for first, relation, second in self.edges:
            before = self.tasks[first]
            if second == number and relation != "blocks" and before.ended and not before.good:
                failed = before.status in {"failed", "aborted"} or before.harmed
                found.add(relation != "enables" and failed)
        if task.kind != "work" and not self.results(number):
            found.add(self.broken(number))
        return found

    def look_at(self, number: int) -> bool:
        task = self.tasks[number]
        if task.status != "pending":
            return False
        parent = self.tasks[task.parent] if task.parent is not None else None
        harm = self.harm_of_unmet(number)
        if parent is not None and parent.status == "aborted":
            task.status = "aborted"
        elif (parent is not None and parent.status == "pruned") or harm is not None:
            task.status = "pruned"
        elif task.kind == "work" or any(not self.tasks[part].ended for part in self.parts(number)):
            return False
        elif task.kind == "goal" and self.broken(number):
            task.status = "failed"
        elif task.kind == "goal" and self.results(number):
            task.status = "complete"
        elif not self.results(number) and (task.kind == "goal" or self.parts(number)):
            task.status = "pruned"
        else:
            return False
        return True

    def makes_cycle(self, edge: tuple[int, str, int]) -> bool:
        """Tell whether begins and ends can no longer be put in an order."""
        after: dict[tuple[int, str], set[tuple[int, str]]] = {}

        def comes(first: tuple[int, str], second: tuple[int, str]) -> None:
            after.setdefault(second, set()).add(first)
            after.setdefault(first, set())

        for number, task in self.tasks.items():
            comes((number, "begin"), (number, "end"))
            if task.parent is not None:
                comes((task.parent, "begin"), (number, "begin"))
                comes((number, "end"), (task.parent, "end"))
        for first, _, second in [*self.edges, edge]:
            comes((first, "end"), (second, "begin"))
        while free := {moment for moment, firsts in after.items() if not firsts}:
            after = {moment: firsts - free for moment, firsts in after.items() if moment not in free}
        return bool(after)


@st.composite
def shapes(draw: st.DrawFn) -> list[tuple[str, int | None, int, str, str]]:
    """Draw tasks: kind, parent, priority, agent, tool."""
    kinds = ["synthesis", "goal"]
    root = draw(st.sampled_from([*kinds, *kinds, *kinds, "work"]))
    count = 0 if root == "work" else draw(st.integers(2, 8))
    tasks: list[tuple[str, int | None, int, str, str]] = [(root, None, 5, "assistant", "")]
    for _ in range(count):
        groups = [number for number, task in enumerate(tasks) if task[0] != "work"]
        tasks.append(
            (
                draw(st.sampled_from(["work", "work", *kinds])),
                draw(st.sampled_from(groups)),
                draw(st.integers(1, 3)),
                draw(st.sampled_from(["writer", "coder"])),
                draw(st.sampled_from(["", "calculate"])),
            )
        )
    return tasks


class PlanMachine(RuleBasedStateMachine):
    """One plan that a scheduler drives: starts, ends, retries, stops, criticism, revisions, late reports."""

    @initialize(tasks=shapes(), edges=st.lists(st.tuples(WHICH, RELATIONS, WHICH), max_size=16))
    def propose(self, tasks: Any, edges: Any) -> None:
        self.model = Model()
        self.now = NOON
        self.running: set[int] = set()
        self.ends: dict[int, str] = {}
        self.history: list[Event] = [
            PlanProposed(
                message_id=MESSAGE,
                root_task_id=task_id(0),
                goal="all of it",
                planner="rules",
                estimated_tokens=0,
            )
        ]
        for number, (kind, parent, priority, agent, tool) in enumerate(tasks):
            self.history.append(
                added(number, parent=parent, kind=kind, priority=priority, agent=agent, tool=tool)
            )
            self.model.tasks[number] = Known(kind, parent, priority)
        self.plan = fold(self.history)
        for first, relation, second in edges:
            edge = (first % len(tasks), relation, second % len(tasks))
            self.add_edge(edge)
        self.came(PlanAccepted(decision_id=DECISION, outcome="allow"))

    def add_edge(self, edge: tuple[int, Any, int]) -> None:
        first, relation, second = edge
        known = first == second or edge in self.model.edges
        try:
            made = add_edge(self.plan, from_task=task_id(first), to_task=task_id(second), relation=relation)
        except EdgeMakesCycle as refused:
            assert self.model.makes_cycle(edge)
            named = refused.details["cycle"]
            assert named[0] == named[-1] == str(task_id(first))
            assert named[1] == str(task_id(second))
        except EdgeNotAdded:
            assert known
        else:
            assert not known
            assert not self.model.makes_cycle(edge)
            self.model.edges.append(edge)
            self.record(made)

    def record(self, events: list[Event]) -> None:
        self.history += events
        self.plan = extend(self.plan, events)

    def came(self, event: Event, jitter: float = 0.5) -> list[Event]:
        """Record what follows from an event, and settle the model."""
        events = consequences(self.plan, event, now=self.now, jitter=jitter, retries=RETRIES)
        self.record(events)
        self.model.settle(self.plan)
        return events

    def as_running(self) -> list[Running]:
        return [
            Running(
                task_id=task_id(number),
                session_id=SESSION,
                agent=(task := self.plan.tasks[task_id(number)]).agent,
                tool=task.spec.get("tool", ""),
            )
            for number in sorted(self.running)
        ]

    def ready(self, limits: Limits) -> list[int]:
        found = ready(self.plan, session_id=SESSION, now=self.now, running=self.as_running(), limits=limits)
        return [task.task_id.int - 1 for task in found]

    def one_running(self, which: int) -> int:
        return sorted(self.running)[which % len(self.running)]

    @rule(
        limits=st.builds(
            Limits,
            per_session=st.integers(1, 3),
            per_agent=st.integers(1, 2),
            per_tool=st.integers(1, 2),
            total=st.integers(1, 4),
        ),
        most=st.integers(1, 4),
    )
    def start(self, limits: Limits, most: int) -> None:
        before = self.as_running()
        chosen = self.ready(limits)
        assert set(chosen) <= set(self.ready(WIDE))
        tasks = [self.plan.tasks[task_id(number)] for number in chosen]
        agents = [one.agent for one in before] + [task.agent for task in tasks]
        tools = [one.tool for one in before] + [task.spec.get("tool", "") for task in tasks]
        if chosen:
            assert len(before) + len(chosen) <= min(limits.total, limits.per_session)
        for task in tasks:
            assert agents.count(task.agent) <= limits.per_agent
            tool = task.spec.get("tool", "")
            assert not tool or tools.count(tool) <= limits.per_tool
        for number in chosen[:most]:
            self.start_one(number)

    def start_one(self, number: int) -> None:
        known = self.model.tasks[number]
        assert self.model.may_start(number)
        assert number not in self.running
        known.attempts += 1
        known.status = "running"
        self.running.add(number)
        attempt = self.plan.tasks[task_id(number)].attempts + 1
        assert attempt == known.attempts
        self.record([TaskStarted(task_id=task_id(number), run_id=run_id(number, attempt), attempt=attempt)])

    @precondition(lambda self: self.running)
    @rule(which=WHICH)
    def succeed(self, which: int) -> None:
        number = self.one_running(which)
        self.running.discard(number)
        self.model.tasks[number].status = "complete"
        run = self.plan.tasks[task_id(number)].run_id
        self.came(TaskCompleted(task_id=task_id(number), run_id=run, tokens=2))

    @precondition(lambda self: self.running)
    @rule(which=WHICH, code=CODES, jitter=st.floats(0, 1))
    def fail(self, which: int, code: str, jitter: float) -> None:
        number = self.one_running(which)
        self.running.discard(number)
        known = self.model.tasks[number]
        again = code != "broken" and known.attempts < RETRIES.attempts
        known.status = "pending" if again else "failed"
        run = self.plan.tasks[task_id(number)].run_id
        failure = TaskFailed(task_id=task_id(number), run_id=run, tokens=1, code=code, reason="no")
        first = self.came(failure, jitter)[0]
        assert isinstance(first, TaskRetried) == again
        assert known.attempts <= RETRIES.attempts

    @precondition(lambda self: not self.plan.ended)
    @rule(which=WHICH, seldom=st.integers(0, 5))
    def stop(self, which: int, seldom: int) -> None:
        # Else most plans would end by it before anything came of them.
        if seldom < 5:
            return
        open_ones = [number for number, task in self.model.tasks.items() if not task.ended]
        number = open_ones[which % len(open_ones)]
        self.running.discard(number)
        self.model.tasks[number].status = "aborted"
        self.came(TaskAborted(task_id=task_id(number), reason="A person asked to stop."))

    @precondition(lambda self: not self.plan.ended)
    @rule(which=WHICH, verdict=st.sampled_from(["accept", "revise", "prune"]))
    def criticise(self, which: int, verdict: Any) -> None:
        complete = [number for number, task in self.model.tasks.items() if task.status == "complete"]
        if not complete:
            return
        number = complete[which % len(complete)]
        event = PlanCriticised(task_id=task_id(number), checks=(), details={}, verdict=verdict)
        if self.model.tasks[number].dropped:
            with pytest.raises(AttemptOver):
                self.came(event)
            return
        self.model.tasks[number].dropped = verdict == "prune"
        self.came(event)

    @precondition(lambda self: not self.plan.ended and len(self.plan.tasks) < 12)
    @rule(parent=WHICH, first=WHICH, relation=RELATIONS, pruned=WHICH)
    def revise(self, parent: int, first: int, relation: Any, pruned: int) -> None:
        count = len(self.model.tasks)
        edge = (first % count, relation, count)
        left_out = pruned if pruned in self.model.tasks else None
        known = Known("work", parent % count, 5)
        try:
            events = revise(
                self.plan,
                reason="better so",
                tasks=[added(count, parent=parent % count)],
                edges=[EdgeAdded(from_task=task_id(edge[0]), to_task=task_id(count), relation=relation)],
                pruned={task_id(left_out): "not needed"} if left_out is not None else {},
                bounds=BOUNDS,
            )
        except CartritaError:
            return
        self.model.tasks[count] = known
        self.model.edges.append(edge)
        if left_out is not None:
            self.model.tasks[left_out].status = "pruned"
        self.record(events)
        self.model.settle(self.plan)

    @precondition(lambda self: wakes_at(self.plan) is not None)
    @rule(seconds=st.integers(0, 10))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(which=WHICH, end=st.sampled_from(["complete", "failed", "pruned", "aborted", "retried", "started"]))
    def report_late(self, which: int, end: str) -> None:
        """A process that was thought dead reports on an attempt that is over."""
        over = [number for number, task in self.model.tasks.items() if task.ended]
        if not over:
            return
        number = over[which % len(over)]
        id_, run = task_id(number), self.plan.tasks[task_id(number)].run_id
        event: Event = {
            "complete": TaskCompleted(task_id=id_, run_id=run, tokens=9),
            "failed": TaskFailed(task_id=id_, run_id=run, tokens=9, code="lost", reason="lost"),
            "pruned": TaskPruned(task_id=id_, code="revised", reason="lost"),
            "aborted": TaskAborted(task_id=id_, reason="lost", tokens=9),
            "retried": TaskRetried(
                task_id=id_, run_id=run or run_id(number), attempt=1, not_before=self.now, code="lost"
            ),
            "started": TaskStarted(task_id=id_, run_id=run_id(number, 99), attempt=99),
        }[end]
        with pytest.raises(CartritaError, match=r"too late|has ended"):
            consequences(self.plan, event, now=self.now, jitter=0.0)
        before = self.plan
        self.record([event])
        assert self.plan.tasks == before.tasks
        assert self.plan.status == before.status

    @invariant()
    def says_what_the_model_says(self) -> None:
        if not hasattr(self, "plan"):
            return
        told = {id_.int - 1: task.status for id_, task in self.plan.tasks.items()}
        assert told == {number: task.status for number, task in self.model.tasks.items()}
        for number, task in self.model.tasks.items():
            if task.status == "pruned":
                assert (self.plan.tasks[task_id(number)].code in HARMFUL) == task.harmed

    @invariant()
    def never_changes_an_end(self) -> None:
        if not hasattr(self, "plan"):
            return
        now = {number: task.status for number, task in self.model.tasks.items() if task.ended}
        told = {number: self.plan.tasks[task_id(number)].status for number in self.ends}
        assert told == self.ends
        self.ends = now

    @invariant()
    def starts_all_that_may_start_and_in_one_order(self) -> None:
        if not hasattr(self, "plan"):
            return
        chosen = self.ready(WIDE)
        tasks = self.plan.tasks
        may = [
            number
            for number in self.model.tasks
            if self.model.may_start(number)
            and ((at := tasks[task_id(number)].not_before) is None or at <= self.now)
        ]
        assert chosen == sorted(may, key=lambda number: -self.model.tasks[number].priority)
        again = fold(self.history)
        assert again == self.plan
        assert unattended(self.plan, running=self.as_running()) == []
        assert progress(self.plan).tasks == sum(
            1 for task in self.model.tasks.values() if task.kind != "goal"
        )

    @invariant()
    def ends_with_its_last_task(self) -> None:
        if not hasattr(self, "plan"):
            return
        ended = all(task.ended for task in self.model.tasks.values())
        assert self.plan.ended == ended
        if ended:
            root = self.model.tasks[0].status
            wanted = {"complete": "complete", "aborted": "stopped"}.get(root, "failed")
            assert self.plan.status == wanted
            assert sum(isinstance(event, PlanCompleted) for event in self.history) == 1

    def teardown(self) -> None:
        """Whatever has happened: what is left runs to the plan's end."""
        if not hasattr(self, "plan"):
            return
        for _ in range(200):
            if self.plan.ended:
                break
            self.now = max(self.now, wakes_at(self.plan) or self.now)
            for number in self.ready(WIDE):
                self.start_one(number)
            assert self.running, "a plan that has not ended runs something"
            self.succeed(0)
        self.says_what_the_model_says()
        self.never_changes_an_end()
        self.ends_with_its_last_task()
        assert self.plan.ended


PlanMachine.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=25,
    deadline=None,
    # Telling why a sequence fails takes minutes; it is short after shrinking.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
TestAnyPlan = PlanMachine.TestCase
