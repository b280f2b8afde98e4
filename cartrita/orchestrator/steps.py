"""The steps of a run: what came of the last act is recorded together with the decision on the next.

Every record is one transaction: the outcome of the last act, its settlement, and the decision on the next act
with all that it reserves. A process that dies between two records leaves a prefix of this story, and whoever
folds it next goes on from there. An act that has to wait for people or for a time ends the execution: nothing
of it is held in memory, and whoever folds the run after that goes on.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

from opentelemetry.trace import Span

from cartrita import telemetry
from cartrita.errors import Conflict
from cartrita.eventstore import Append, Context, Event, aload, derived_id, in_database_thread
from cartrita.llm import gateway
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.llm.gateway import PreparedCall
from cartrita.orchestrator import loop, waiting
from cartrita.orchestrator.assignment import Assignment
from cartrita.orchestrator.ledger import Ledger, record
from cartrita.orchestrator.waiting import Awaits, Leave, Pauses, Refused
from cartrita.tools import runner
from cartrita.tools.events import ToolFailed, ToolReturned
from governance.candidates import Candidates
from governance.commands.approvals import cancel
from governance.decide import DecisionRequest, RequestFacts
from governance.decision import ActOutcome
from governance.doors import Permit
from governance.queries.policies import active_policy
from governance.step import Act, Decided, Settlement, TaskLimit
from tasks_app.run import ActDecided, ActEdited, ActKind, Delivery

T = TypeVar("T")

# A shorter pause is waited for in place; during a longer one nothing is held.
SHORT_PAUSE = timedelta(seconds=5)


_AT_THE_END: dict[str, ActOutcome] = {
    "answered": "succeeded",
    "denied": "cancelled",
    "stopped": "cancelled",
    "failed": "failed",
}


class Stopped(Exception):
    """The person asked to stop; `partial` is the text that was already shown, `outcome` what the act left."""

    def __init__(self, partial: str = "", outcome: ModelFailed | ToolFailed | None = None) -> None:
        super().__init__("stopped")
        self.partial = partial
        self.outcome = outcome


class Halted(Exception):
    """The work cannot go on now."""

    def __init__(self, until: Awaits | Pauses) -> None:
        super().__init__("halted")
        self.until = until


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An act of a step, ready to be decided."""

    act: ActKind
    subject: str
    request: DecisionRequest
    may_add: frozenset[str] = frozenset()
    candidates: Candidates = field(default_factory=Candidates)
    delivery: Delivery = "live"
    downshifted_from: str = ""
    fell_back_from: str = ""
    edited_by: str = ""


@dataclass(slots=True)
class _Unrecorded:
    """What came of the last act and is recorded with the next decision."""

    events: list[Event] = field(default_factory=list)
    appends: list[Append] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)


class RunSteps:
    """The run of an agent, as far as it is recorded, and the way to its next step.

    `stop` is set when the person asks to stop. Raises StreamMoved where another process is faster, and
    database errors; both mean: fold again.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        run_id: UUID,
        agent: str,
        roles: frozenset[str],
        stop: asyncio.Event,
        task_path: tuple[UUID, ...] = (),
    ) -> None:
        self._ledger = ledger
        self._work: Assignment = ledger.work
        self._stop = stop
        self._roles = roles
        self._task_path = task_path
        self._agent_name = agent
        self.run_id = run_id
        self._run = loop.RunState()
        self._unrecorded = _Unrecorded()
        # The approval that the next decision may use, and the reviewer's arguments for it.
        self._leave: Leave | None = None
        self._edit: ActEdited | None = None
        # The decision whose act this process performs, so that its end is known.
        self._acting: UUID | None = None

    @contextmanager
    def _traced_run(self) -> Iterator[None]:
        """Put what is done for the run below a span of its own."""
        with telemetry.span(
            f"{telemetry.SPAN_AGENT} {self._agent_name}",
            {
                telemetry.GEN_AI_OPERATION_NAME: telemetry.SPAN_AGENT,
                telemetry.GEN_AI_AGENT_NAME: self._agent_name,
                telemetry.GEN_AI_CONVERSATION_ID: str(self._work.session_id),
                telemetry.OPENINFERENCE_SPAN_KIND: "AGENT",
                telemetry.AGENT_NAME: self._agent_name,
                telemetry.SESSION_ID: str(self._work.session_id),
                telemetry.RUN_ID: str(self.run_id),
                telemetry.TASK_PATH: "/".join(map(str, self._task_path)),
            },
            expected=(Halted, Stopped, Conflict),
        ) as span:
            try:
                yield
            finally:
                if (finished := self._run.finished) is not None:
                    span.set_attribute(telemetry.OUTCOME, finished.status)
                    if finished.status == "failed":
                        telemetry.fail(span, finished.code)

    def _traced_step(self) -> AbstractContextManager[Span]:
        """Return the span of the next step."""
        return telemetry.span(
            telemetry.SPAN_STEP,
            {
                telemetry.OPENINFERENCE_SPAN_KIND: "CHAIN",
                telemetry.SESSION_ID: str(self._work.session_id),
                telemetry.STEP: self._run.next_place[0],
                telemetry.ATTEMPT: self._run.next_place[1],
            },
            expected=(Halted, Stopped, Conflict),
        )

    async def _fold(self) -> None:
        begun = self._ledger.take_begun(self.run_id)
        events = [recorded.event for recorded in await aload(self.run_id)] if begun is None else [begun]
        self._run = loop.fold(events)

    # Deciding

    def _task_limit(self) -> TaskLimit | None:
        """Return the plan's bound for what the run may use, if it has one."""
        return None

    async def _decide(
        self, step: loop.Act, *wanted: Wanted, before: Sequence[Event] = ()
    ) -> list[Permit] | None:
        """Record what came of the last act and decide on the next ones; None unless all may happen.

        They are one step: where one of them may not happen, none does.
        """
        self._settle_abandoned()
        limit = self._task_limit()
        acts = [
            Act(
                request=each.request,
                decision_id=derived_id(self.run_id, f"decision:{step.step}:{step.attempt}:{each.act}"),
                may_add=each.may_add,
                candidates=each.candidates,
                task_limit=limit,
                repeats=self._run.repeats,
                requester_id=self._work.user_id,
                edited_by=each.edited_by,
            )
            for each in wanted
        ]
        events: list[Event] = []
        left = self._unrecorded

        def then(decided: Sequence[Decided]) -> list[Append]:
            held = any(each.delivery == "held" for each in wanted) or any(
                one.delivery == "held" for one in decided
            )
            made = [
                _act_decided(step, each, one, delivery="held" if held else "live")
                for each, one in zip(wanted, decided, strict=False)
            ]
            edit = [] if self._edit is None else [self._edit]
            permitted = len(made) == len(wanted) and made[-1].permitted
            events[:] = [*left.events, *edit, *before, *(made if permitted else made[-1:])]
            requests = [each.request for each in wanted]
            return [
                *left.appends,
                *self._run_appends(events),
                *self._voided(list(zip(requests, decided, strict=False))),
            ]

        decided = await record(context=self._context(), acts=acts, settlements=left.settlements, then=then)
        self._recorded(events)
        self._leave = self._edit = None
        permits = [one.permit for one in decided if one.permit is not None]
        if len(permits) < len(wanted):
            return None
        self._acting = decided[-1].decision_id
        return permits

    async def _outlook(self, held: waiting.Waiting) -> waiting.GoesOn | Refused:
        """Return what becomes of a waiting act; wait in place where that is short. Raises Halted."""
        while True:
            leave = None
            if held.approval_id is not None:
                leave = await in_database_thread(waiting.leave_of, held.approval_id)
            look = waiting.outlook(held, leave, datetime.now(UTC))
            match look:
                case Pauses(until) if until - datetime.now(UTC) <= SHORT_PAUSE:
                    await self._pause(until)
                case Awaits() | Pauses():
                    raise Halted(look)
                case Refused():
                    return look
                case waiting.GoesOn(arguments, by):
                    self._leave = leave
                    if arguments is not None and leave is not None and isinstance(held, ActDecided):
                        self._edit = ActEdited(
                            step=held.step,
                            approval_id=leave.approval_id,
                            by=by,
                            arguments=dict(arguments),
                        )
                    return look

    async def _pause(self, until: datetime) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), (until - datetime.now(UTC)).total_seconds())
            raise Stopped

    async def _withdraw(self) -> None:
        """Take back the request for approval that nobody needs any more."""
        held = self._run.waiting
        if held is not None and held.approval_id is not None:
            await in_database_thread(cancel, approval_id=held.approval_id, actor=f"user:{self._work.user_id}")

    def _voided(self, decided: Sequence[tuple[DecisionRequest, Decided]]) -> list[Append]:
        if self._leave is None:
            return []
        return waiting.without_effect(
            self._leave,
            [(request, one.verdict) for request, one in decided],
            rule_hashes=active_policy(self._work.workspace_id).rule_hashes,
            context=self._context(),
        )

    # Acting

    async def _ask_model(
        self,
        prepared: PreparedCall,
        permit: Permit,
        attempt: int,
        *,
        on_delta: Callable[[str], Coroutine[Any, Any, None]] | None,
    ) -> ModelAnswered | ModelFailed:
        outcome = await self._until_stopped(
            gateway.perform(prepared, permit, attempt=attempt, key_id=self._work.key_id, on_delta=on_delta)
        )
        self._came_of_it(outcome)
        return outcome

    async def _until_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; when the person asks to stop, cancel it and raise Stopped."""
        task = asyncio.ensure_future(work)
        stopper = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stopper}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            task.cancel()
            try:
                await task
            except (gateway.CallCancelled, runner.CallCancelled) as cancelled:
                raise Stopped(outcome=cancelled.failed) from None
            except asyncio.CancelledError:
                raise Stopped from None
            return task.result()
        finally:
            stopper.cancel()
            task.cancel()

    # What came of it

    def _came_of_it(
        self,
        event: Event,
        *,
        outcome: ActOutcome | None = None,
        labels: frozenset[str] = frozenset(),
    ) -> None:
        """Keep what came of the act that was permitted last, to be recorded with the next decision."""
        lost = self._run.undecided_outcome
        if lost is None:
            raise AssertionError(f"{event.type_name} comes of no permitted act")
        came_to = outcome or _outcome_of(event)
        self._unrecorded.settlements.append(
            Settlement(
                decision_id=lost.decision_id,
                outcome=came_to,
                labels_added=labels if came_to == "succeeded" else frozenset(),
                **_booked(event),
            )
        )
        self._keep(event)

    def _keep(self, event: Event) -> None:
        """Go on from an event that is recorded with the next decision."""
        self._unrecorded.events.append(event)
        self._run = replace(loop.evolve(self._run, event), version=self._run.version)

    def _settle_abandoned(self) -> None:
        """Settle the act that an earlier process began and whose outcome nobody knows."""
        lost = self._run.undecided_outcome
        if lost is not None:
            self._unrecorded.settlements.append(Settlement(decision_id=lost.decision_id, outcome="unknown"))

    def _settle_the_rest(self, status: Literal["answered", "denied", "failed", "stopped"]) -> None:
        """Settle with the end of the run, which has this status, what nothing has settled yet."""
        outcome = _AT_THE_END[status]
        for decision_id in self._run.speeches:
            self._unrecorded.settlements.append(Settlement(decision_id=decision_id, outcome=outcome))
        lost = self._run.undecided_outcome
        if lost is not None:
            known: ActOutcome = outcome if lost.decision_id == self._acting else "unknown"
            self._unrecorded.settlements.append(Settlement(decision_id=lost.decision_id, outcome=known))

    async def _record(self, run: Sequence[Event] = ()) -> None:
        """Record what came of the last act, and these events; nothing is decided."""
        left = self._unrecorded
        events = [*left.events, *run]
        appends = [*left.appends, *self._run_appends(events)]
        await record(context=self._context(), settlements=left.settlements, then=lambda _: appends)
        self._recorded(events)

    def _run_appends(self, events: Sequence[Event]) -> list[Append]:
        if not events:
            return []
        return [Append(self.run_id, self._run.version, list(events), self._context())]

    def _recorded(self, run: Sequence[Event]) -> None:
        """Fold what was recorded; the events that had waited for it are folded already."""
        kept = len(self._unrecorded.events)
        self._unrecorded = _Unrecorded()
        self._run = replace(self._run, version=self._run.version + kept)
        for event in run[kept:]:
            self._run = loop.evolve(self._run, event)

    # Surroundings

    def _facts(self) -> RequestFacts:
        work = self._work
        return RequestFacts(
            workspace_id=work.workspace_id,
            session_id=work.session_id,
            actor=f"user:{work.user_id}",
            agent=self._agent_name,
            roles=self._roles,
            task_path=tuple(map(str, self._task_path)),
            labels=work.labels,
            at=datetime.now(UTC),
        )

    def _context(self) -> Context:
        return self._work.context(actor=f"agent:{self._agent_name}")


def later(at: datetime, milliseconds: int | None) -> datetime | None:
    """Return the time so many milliseconds after `at`; None for None."""
    return None if milliseconds is None else at + timedelta(milliseconds=milliseconds)


def _act_decided(step: loop.Act, wanted: Wanted, decided: Decided, *, delivery: Delivery) -> ActDecided:
    verdict = decided.verdict
    permitted = decided.permit is not None
    return ActDecided(
        step=step.step,
        attempt=step.attempt,
        act=wanted.act,
        subject=wanted.subject,
        decision_id=decided.decision_id,
        outcome=verdict.outcome,
        rule=verdict.rule,
        permitted=permitted,
        reason="" if permitted else verdict.message_for_people,
        approval_id=decided.approval_id,
        retry_after=None if permitted else later(datetime.now(UTC), verdict.retry_after_ms),
        delivery=delivery,
        downshifted_from=wanted.downshifted_from,
        fell_back_from=wanted.fell_back_from,
        redact=verdict.redact if permitted else (),
    )


def _outcome_of(event: Event) -> ActOutcome:
    match event:
        case ToolFailed(code="timed_out"):
            return "timed_out"
        case ModelFailed() | ToolFailed():
            return "failed"
        case _:
            return "succeeded"


def _booked(event: Event) -> dict[str, Any]:
    """Return what an act cost, for its settlement."""
    match event:
        case ModelAnswered() | ModelFailed():
            return {
                "tokens": event.prompt_tokens + event.completion_tokens,
                "cost_micros": event.cost_micros,
                "currency": event.currency,
                "estimated": event.estimated,
            }
        case ToolReturned():
            return {
                "tokens": event.cost_tokens,
                "cost_micros": event.cost_micros,
                "currency": event.currency,
                "estimated": event.estimated,
            }
        case _:
            return {}
