"""Plans written into the log, as the machinery would write them, for tests of what people see of them."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from cartrita.eventstore import (
    Append,
    Context,
    Event,
    Sequencer,
    append,
    close_async,
    load,
    new_id,
    run_following,
    wake_sequencer,
)
from cartrita.tools.events import ToolReturned
from sessions_app.commands import create_session, post_message, post_reply
from sessions_app.queries import key_of
from tasks_app.bill import Known, Past, billed, reckon
from tasks_app.growth import add_edge
from tasks_app.plan import (
    Check,
    Foreseen,
    Plan,
    PlanAccepted,
    PlanBilled,
    PlanCriticised,
    PlanProposed,
    Relation,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskKind,
    TaskStarted,
    extend,
)
from tasks_app.run import ActDecided, RunFinished, RunStarted
from tasks_app.schedule import consequences
from tests.accounts.people import Person
from tests.tasks_app.trees import NOON


class Written:
    """A plan in a session of its own; tasks are numbered, the root is 0."""

    def __init__(
        self, person: Person, *, session_id: UUID | None = None, question: str = "All of it"
    ) -> None:
        actor = f"user:{person.id}"
        self.session_id = session_id or create_session(
            user_id=person.id, workspace_id=person.workspace_id, actor=actor
        )
        self.message_id = uuid4()
        post_message(session_id=self.session_id, message_id=self.message_id, content=question, actor=actor)
        self.question = question
        self.plan_id = new_id()
        self.plan = Plan()
        self.tasks: list[UUID] = []
        self.context = Context(
            workspace_id=person.workspace_id,
            session_id=self.session_id,
            actor="agent:assistant",
            key_id=key_of(self.session_id),
        )

    def record(self, *events: Event) -> None:
        append(Append(self.plan_id, self.plan.version, events, self.context))
        self.plan = extend(self.plan, events)
        wake_sequencer()

    def on_run(self, run_id: UUID, *events: Event) -> None:
        append(Append(run_id, len(load(run_id)), events, self.context))
        wake_sequencer()

    def propose(
        self,
        intents: Sequence[str],
        *edges: tuple[int, Relation, int],
        agents: Sequence[str] = (),
        root: TaskKind = "synthesis",
        accept: bool = True,
    ) -> "Written":
        """Lay out a root with a part for each intent; without intents the root is the work itself."""
        count = len(intents)
        self.tasks = [new_id() for _ in range(count + 1)]
        names = list(agents) or ["assistant"] * count
        added = [self._added(0, None, self.question, "assistant", root if count else "work")]
        added += [
            self._added(number, 0, intent, agent, "work")
            for number, (intent, agent) in enumerate(zip(intents, names, strict=True), 1)
        ]
        proposed = PlanProposed(
            message_id=self.message_id,
            root_task_id=self.tasks[0],
            goal=self.question,
            planner="rules",
            estimated_tokens=100 * len(added),
        )
        laid_out = extend(Plan(), [proposed, *added])
        events: list[Event] = [proposed, *added]
        for first, relation, second in edges:
            made = add_edge(
                laid_out, from_task=self.tasks[first], to_task=self.tasks[second], relation=relation
            )
            laid_out = extend(laid_out, made)
            events += made
        if accept:
            events.append(PlanAccepted(decision_id=new_id(), outcome="allow"))
        self.record(*events)
        return self

    def _added(self, number: int, parent: int | None, intent: str, agent: str, kind: TaskKind) -> TaskAdded:
        return TaskAdded(
            task_id=self.tasks[number],
            parent_id=None if parent is None else self.tasks[parent],
            intent=intent,
            spec={"attachments": []},
            agent=agent,
            estimated_tokens=100,
            kind=kind,
        )

    def bill(self, *, past: int = 0, foreseen: Sequence[Foreseen] = ()) -> PlanBilled:
        """Record a bill: each part needs some 90 tokens, as `past` tasks did; `foreseen` are of the first."""
        known = Known(prompt_tokens=80, output_tokens=20)
        used = [Past(known, prompt_tokens=80, completion_tokens=10, cost_micros=1000)] * past
        event = billed(
            [
                reckon(
                    task_id=task.task_id,
                    agent=task.agent,
                    tool="",
                    model="scripted",
                    known=known if task.kind == "work" else Known(0, 0),
                    past=used if task.kind == "work" else (),
                    price=lambda prompt, completion: 10 * prompt + 20 * completion,
                    foreseen=tuple(foreseen) if number == 1 else (),
                )
                for number, task in enumerate(self.plan.tasks.values())
            ]
        )
        self.record(event)
        return event

    def start(self, number: int) -> UUID:
        """Begin an attempt at a task and return its run."""
        task = self.plan.tasks[self.tasks[number]]
        run_id = new_id()
        self.record(TaskStarted(task_id=task.task_id, run_id=run_id, attempt=task.attempts + 1))
        started = RunStarted(
            plan_id=self.plan_id,
            task_id=task.task_id,
            attempt=task.attempts + 1,
            agent=task.agent,
            loop_version=3,
        )
        self.on_run(run_id, started)
        return run_id

    def decide(self, run_id: UUID, **more: Any) -> UUID:
        """Record the decision on a next act and return its id."""
        decision_id = new_id()
        values: dict[str, Any] = {
            "step": 1,
            "attempt": 1,
            "act": "tool_call",
            "subject": "current_time",
            "outcome": "allow",
            "rule": "everything-else",
            "permitted": True,
            **more,
        }
        self.on_run(run_id, ActDecided(decision_id=decision_id, **values))
        return decision_id

    def returned(self, run_id: UUID, decision_id: UUID, result: dict[str, Any]) -> None:
        event = ToolReturned(
            tool="current_time",
            definition_hash="d" * 64,
            idempotency_key="k",
            decision_id=decision_id,
            result=result,
            cost_tokens=0,
            latency_ms=12,
        )
        self.on_run(run_id, event)

    def finish(self, run_id: UUID, status: str = "answered", *, answer: str = "It is so.") -> None:
        values: dict[str, Any] = {
            "status": status,
            "answer": answer,
            "citations": [],
            "model": "scripted",
            "supported": None,
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "cost_micros": 1500,
            "currency": "USD",
        }
        self.on_run(run_id, RunFinished(**values))

    def end(self, number: int, event: Event) -> None:
        self.record(*consequences(self.plan, event, now=NOON, jitter=0.5))

    def complete(self, number: int, run_id: UUID | None = None) -> UUID:
        """Bring a task to its result, from the beginning unless a run is given."""
        if run_id is None:
            run_id = self.start(number)
            self.returned(run_id, self.decide(run_id), {"secret": f"result of {number}"})
        self.finish(run_id)
        self.end(number, TaskCompleted(task_id=self.tasks[number], run_id=run_id, tokens=25))
        return run_id

    def fail(self, number: int, run_id: UUID | None = None, *, code: str = "broken") -> UUID:
        run_id = run_id or self.start(number)
        self.finish(run_id, "failed", answer="")
        failed = TaskFailed(
            task_id=self.tasks[number], run_id=run_id, tokens=3, code=code, reason="The table has no rows."
        )
        self.end(number, failed)
        return run_id

    def criticise(self, number: int, *names: str, passed: bool = True, verdict: str = "accept") -> None:
        values: dict[str, Any] = {
            "task_id": self.tasks[number],
            "checks": [Check(name=name, passed=passed) for name in names],
            "details": dict.fromkeys(names, "the number 41 is nowhere"),
            "verdict": verdict,
        }
        self.record(PlanCriticised(**values))

    def reply(self, content: str = "All of it is so.") -> UUID:
        """Post the reply and return its id."""
        reply_id = uuid4()
        post_reply(
            session_id=self.session_id,
            message_id=reply_id,
            parent=self.message_id,
            plan_id=self.plan_id,
            run_id=self.plan.tasks[self.tasks[0]].run_id or uuid4(),
            content=content,
            model="scripted",
            actor="agent:assistant",
        )
        return reply_id


def ordered() -> None:
    """Order the log and bring the read models up to it, as a server's services do."""

    async def order() -> None:
        await Sequencer().order()
        await close_async()

    asyncio.run(order())
    run_following()
