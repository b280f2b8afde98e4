"""The plan of a turn as its stream tells it, and what the tasks of one process record on it.

Tasks of a plan run side by side and end in any order; what they record on the plan's stream goes through
here, one record after the other, so that none is lost and each sees what the others left.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from django.db import InterfaceError, OperationalError

from cartrita import telemetry
from cartrita.errors import Conflict
from cartrita.eventstore import Append, Context, Event, aload, derived_id
from cartrita.orchestrator import loop
from cartrita.orchestrator.assignment import Assignment
from governance.decide import DecisionRequest
from governance.decision import ActOutcome
from governance.step import Act, Decided, Settlement, atake_step
from tasks_app import plan as plans
from tasks_app.growth import revise
from tasks_app.plan import (
    EdgeAdded,
    Plan,
    PlanAccepted,
    PlanCompleted,
    Task,
    TaskAborted,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
)
from tasks_app.relations import Graph
from tasks_app.run import RunFinished, RunStarted
from tasks_app.schedule import Limits, Retries, Running, consequences, ready

logger = logging.getLogger(__name__)

# What an act left is worth waiting for the database; longer than a restart takes.
RECORD_SECONDS = 120.0
_AGAIN_SECONDS = 0.25
STOPPED = "A person asked to stop."

_PLAN_OUTCOMES: dict[str, ActOutcome] = {
    "complete": "succeeded",
    "failed": "failed",
    "stopped": "cancelled",
}


def nothing(_: Sequence[Decided]) -> list[Append]:
    """Append nothing."""
    return []


async def record(
    *,
    context: Context,
    acts: Sequence[Act] = (),
    settlements: Sequence[Settlement] = (),
    then: Callable[[Sequence[Decided]], Sequence[Append]] = nothing,
) -> list[Decided]:
    """Take a step, again and again while the database cannot be reached.

    What an act gave is not lost to a restart of the database: where the first try was recorded although its
    connection broke, the next one meets StreamMoved, and whoever folds finds it. Raises what take_step
    raises, database errors after two minutes.
    """
    until = time.monotonic() + RECORD_SECONDS
    while True:
        try:
            if not acts:
                return await atake_step(context=context, settlements=settlements, then=then)
            with telemetry.span(
                f"{telemetry.SPAN_DECISION} {acts[0].request.subject_kind}",
                {
                    telemetry.OPENINFERENCE_SPAN_KIND: "GUARDRAIL",
                    telemetry.SESSION_ID: str(context.session_id or ""),
                    telemetry.DECISION_ID: [str(act.decision_id) for act in acts],
                    telemetry.DECISION_SUBJECT: [_subject(act.request) for act in acts],
                },
                expected=(Conflict,),
            ) as span:
                decided = await atake_step(context=context, acts=acts, settlements=settlements, then=then)
                span.set_attribute(telemetry.DECISION_EFFECT, [one.verdict.outcome for one in decided])
                span.set_attribute(telemetry.DECISION_RULE, [one.verdict.rule for one in decided])
                return decided
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > until:
                raise
            logger.warning("A step waits for the database: %s", error)
            await asyncio.sleep(_AGAIN_SECONDS)


def _subject(request: DecisionRequest) -> str:
    return request.tool or request.model or request.subject_kind


class Crew:
    """Who works on what in this process, of all sessions, within the limits."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._at_work: dict[UUID, Running] = {}
        self._left = asyncio.Event()

    def at_work(self, *, without: UUID | None = None) -> list[Running]:
        """Return the tasks that run now."""
        return [one for task_id, one in self._at_work.items() if task_id != without]

    def join(self, task: Task, session_id: UUID) -> None:
        """Count a task as running."""
        tool = str(task.spec.get("tool", ""))
        self._at_work[task.task_id] = Running(
            task_id=task.task_id, session_id=session_id, agent=task.agent, tool=tool
        )

    def leave(self, task_id: UUID) -> None:
        """Count a task no longer, and wake those that wait for a place."""
        if self._at_work.pop(task_id, None) is not None:
            self._left.set()

    async def place_left(self, seconds: float) -> None:
        """Wait until a task ends, at most so long."""
        self._left.clear()
        try:
            await asyncio.wait_for(self._left.wait(), seconds)
        except TimeoutError:
            return


@dataclass(frozen=True, slots=True)
class Better:
    """A task that improves on the result of another, as a critic asked; `edge` says of which."""

    reason: str
    task: TaskAdded
    edge: EdgeAdded


class Ledger:
    """The plan of one turn: `plan` is its state as far as this process knows."""

    def __init__(self, work: Assignment, crew: Crew) -> None:
        self.work = work
        self.crew = crew
        # Clients choose message ids, so one may stand in several sessions; its event's id stands in one only.
        self.plan_id = derived_id(work.causation_id, "plan")
        self.reply_id = derived_id(work.causation_id, "reply")
        self.plan = Plan()
        self._lock = asyncio.Lock()
        self._results: dict[UUID, RunFinished] = {}
        # The first events of runs that were begun here, until somebody works on them.
        self._begun: dict[UUID, RunStarted] = {}

    @property
    def root(self) -> Task:
        """The task whose result is the reply."""
        if self.plan.root_task_id is None:
            raise AssertionError("a plan that was proposed has a root")
        return self.plan.tasks[self.plan.root_task_id]

    @staticmethod
    def run_id(task_id: UUID, attempt: int) -> UUID:
        """Return the id of the run that is this attempt at a task."""
        return derived_id(task_id, f"attempt:{attempt}")

    async def fold(self) -> None:
        """Read the plan's stream anew."""
        async with self._lock:
            self.plan = plans.fold(recorded.event for recorded in await aload(self.plan_id))

    def take_begun(self, run_id: UUID) -> RunStarted | None:
        """Return the one event of a run that was begun here and not asked for before, else None.

        Who has gone on with it meanwhile has recorded that, and so the next record meets StreamMoved.
        """
        return self._begun.pop(run_id, None)

    async def result_of(self, task: Task) -> RunFinished | None:
        """Return how the last attempt at a task ended, None where it has not."""
        if task.run_id is None:
            return None
        if task.run_id not in self._results:
            for recorded in reversed(await aload(task.run_id)):
                if isinstance(recorded.event, RunFinished):
                    self._results[task.run_id] = recorded.event
                    break
        return self._results.get(task.run_id)

    async def inputs_of(self, task: Task) -> list[tuple[Task, RunFinished]]:
        """Return the results that a task gets, by its edges and parts."""
        found = [(one, await self.result_of(one)) for one in Graph.of(self.plan).inputs(task)]
        return [(one, finished) for one, finished in found if finished is not None]

    # Recording

    async def decide(
        self,
        act: Act,
        *,
        first: Sequence[Event],
        outcome: Callable[[Decided], list[Event]],
        voided: Callable[[Decided], list[Append]],
    ) -> None:
        """Have the plan decided: record `first`, the outcome, and the start of what may begin at once."""
        context = self.work.context(actor="system")
        async with self._lock:
            events: list[Event] = []
            written: list[Append] = []

            def then(decided: Sequence[Decided]) -> list[Append]:
                (one,) = decided
                after = plans.extend(self.plan, first)
                events[:] = [*first, *self._with_consequences(after, outcome(one))]
                written[:] = self._appends(events)
                return [*written, *voided(one)]

            await record(context=context, acts=[act], then=then)
            self._take(events, written)

    async def note(self, events: Sequence[Event]) -> None:
        """Record events of the plan that end or start nothing beside it."""
        await self._record(lambda _: list(events))

    async def start_ready(self) -> bool:
        """Start what is ready and has a place; tell whether anything did."""
        async with self._lock:
            events = self._starts(self.plan, without=None)
            if events:
                await self._append(events)
            return bool(events)

    def wants_a_place(self) -> bool:
        """Tell whether a task could start if others left it a place."""
        now = datetime.now(UTC)
        limits = self.crew.limits
        return bool(ready(self.plan, session_id=self.work.session_id, now=now, running=(), limits=limits))

    async def end(
        self,
        ended: TaskCompleted | TaskFailed | TaskAborted,
        *,
        judged: Sequence[Event] = (),
        better: Better | None = None,
        retries: Retries | None = None,
        settlements: Sequence[Settlement] = (),
        appends: Sequence[Append] = (),
    ) -> None:
        """Record the end of an attempt with what follows from it.

        `judged` are a critic's verdicts on it, `better` the task that shall improve on its result.

        Raises AttemptOver where somebody else ended it, and what `record` raises.
        """

        def made(plan: Plan) -> list[Event]:
            events = list(judged)
            if better is not None:
                after = plans.extend(plan, events)
                events += revise(after, reason=better.reason, tasks=[better.task], edges=[better.edge])
            root = plan.tasks[plan.root_task_id] if plan.root_task_id is not None else None
            if isinstance(ended, TaskAborted) and root is not None and root.status == "pending":
                # The whole is stopped, not this task alone: what has not begun does not begin.
                stop = TaskAborted(task_id=root.task_id, reason=ended.reason)
                events += self._consequences(plans.extend(plan, events), stop)
            after = plans.extend(plan, events)
            return events + self._consequences(after, ended, retries=retries)

        await self._record(made, settlements=settlements, appends=appends, without=ended.task_id)

    async def stop(self, *, reason: str) -> None:
        """Abort the root where nobody works on it, and with it all that has not begun."""

        def made(plan: Plan) -> list[Event]:
            root = plan.tasks[plan.root_task_id] if plan.root_task_id is not None else None
            if plan.ended or root is None or root.status != "pending":
                return []
            return self._consequences(plan, TaskAborted(task_id=root.task_id, reason=reason))

        await self._record(made)

    async def _record(
        self,
        made: Callable[[Plan], list[Event]],
        *,
        settlements: Sequence[Settlement] = (),
        appends: Sequence[Append] = (),
        without: UUID | None = None,
    ) -> None:
        async with self._lock:
            events = made(self.plan)
            if not events and not settlements and not appends:
                return
            events += self._starts(plans.extend(self.plan, events), without=without)
            await self._append(events, settlements=settlements, appends=appends)

    async def _append(
        self,
        events: Sequence[Event],
        *,
        settlements: Sequence[Settlement] = (),
        appends: Sequence[Append] = (),
    ) -> None:
        settled = [*settlements, *self._settled(events)]
        written = [*appends, *self._appends(events)]
        context = self.work.context(actor="system")
        await record(context=context, settlements=settled, then=lambda _: written)
        self._take(events, written)

    def _with_consequences(self, plan: Plan, outcome: Sequence[Event]) -> list[Event]:
        """Return what was decided of the plan, and where it may begin what starts at once."""
        events: list[Event] = []
        for event in outcome:
            after = plans.extend(plan, events)
            events += self._consequences(after, event) if isinstance(event, PlanAccepted) else [event]
        return events + self._starts(plans.extend(plan, events), without=None)

    @staticmethod
    def _consequences(plan: Plan, event: Event, *, retries: Retries | None = None) -> list[Event]:
        return consequences(plan, event, now=datetime.now(UTC), jitter=random.random(), retries=retries)

    def _starts(self, plan: Plan, *, without: UUID | None) -> list[Event]:
        chosen = ready(
            plan,
            session_id=self.work.session_id,
            now=datetime.now(UTC),
            running=self.crew.at_work(without=without),
            limits=self.crew.limits,
        )
        return [
            TaskStarted(
                task_id=task.task_id,
                run_id=self.run_id(task.task_id, task.attempts + 1),
                attempt=task.attempts + 1,
            )
            for task in chosen
        ]

    def _settled(self, events: Collection[Event]) -> list[Settlement]:
        """Settle the decision on the plan with the plan's end."""
        ends = [event for event in events if isinstance(event, PlanCompleted)]
        if not ends or self.plan.decision_id is None:
            return []
        return [Settlement(decision_id=self.plan.decision_id, outcome=_PLAN_OUTCOMES[ends[0].status])]

    def _appends(self, events: Sequence[Event]) -> list[Append]:
        """Return the appends of the plan's events, and the begin of a run for each task that starts."""
        if not events:
            return []
        after = plans.extend(self.plan, events)
        context = self.work.context(actor="system")
        appends = [Append(self.plan_id, self.plan.version, list(events), context)]
        for event in events:
            if isinstance(event, TaskStarted):
                agent = after.tasks[event.task_id].agent
                begun = RunStarted(
                    plan_id=self.plan_id,
                    task_id=event.task_id,
                    attempt=event.attempt,
                    agent=agent,
                    loop_version=loop.LOOP_VERSION,
                )
                actor = self.work.context(actor=f"agent:{agent}")
                appends.append(Append(event.run_id, 0, [begun], actor))
        return appends

    def _take(self, events: Sequence[Event], written: Sequence[Append]) -> None:
        self.plan = plans.extend(self.plan, events)
        for append in written:
            for event in append.events:
                if isinstance(event, RunStarted):
                    self._begun[append.stream_id] = event
                elif isinstance(event, RunFinished):
                    self._results[append.stream_id] = event
        for event in events:
            if isinstance(event, TaskStarted):
                self.crew.join(self.plan.tasks[event.task_id], self.work.session_id)
