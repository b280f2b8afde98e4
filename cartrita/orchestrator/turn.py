"""A turn: one message brought to its reply. Its plan is laid out and decided, its tasks are worked on, as
many at a time as may be, and what the root came to is posted.

Nothing of it is only in memory: another process folds the plan and its runs, and goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from django.db import InterfaceError, OperationalError

from cartrita import telemetry
from cartrita.accounts.queries import roles_of
from cartrita.errors import CartritaError, Conflict
from cartrita.eventstore import Append, Erased, Event, derived_id, in_database_thread
from cartrita.llm import catalog
from cartrita.llm.catalog import ModelEntry
from cartrita.orchestrator import compose, planning, pricing, unread, waiting
from cartrita.orchestrator.agents import GENERAL
from cartrita.orchestrator.assignment import Assignment
from cartrita.orchestrator.attempt import Attempt
from cartrita.orchestrator.claims import ClaimLost
from cartrita.orchestrator.ledger import STOPPED, Crew, Ledger
from cartrita.orchestrator.limits import RunLimits
from cartrita.orchestrator.parts import parts_of
from cartrita.orchestrator.planning import draft_plan
from cartrita.orchestrator.speech import speech_arguments, told
from cartrita.orchestrator.steps import SHORT_PAUSE, Halted, Stopped, later
from cartrita.orchestrator.waiting import Awaits, Leave, Pauses, Refused
from cartrita.streaming.deltas import purge_message
from governance.commands.approvals import cancel
from governance.decide import Cost, DecisionRequest, RequestFacts
from governance.detectors import kinds_within
from governance.queries.policies import active_policy
from governance.step import Act, Decided
from sessions_app import commands as sessions
from sessions_app.session import ReplyOutcome
from tasks_app import plan as plans
from tasks_app.draft import DraftPlan
from tasks_app.plan import Plan, PlanAccepted, PlanHeldBack, PlanRefused
from tasks_app.run import RunFinished
from tasks_app.schedule import unattended, wakes_at

logger = logging.getLogger(__name__)

# The database cannot be reached, or asks to try again. What it refuses for good is an error as any other.
DATABASE_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError, OperationalError, InterfaceError)
# So often is an attempt gone on with by one process before it ends as failed.
TRIES = 5
DATABASE_PAUSE_SECONDS = 0.5
# A place for a task is waited for in place: others end, or nothing does and the limits are looked at again.
PLACE_SECONDS = 1.0
# Stands in the place of a rule's name where a plan does not begin because no budget would hold it.
BUDGET_SHORT = "budget-below-bill"


class Turn:
    """This process's work on one message.

    `stop` is set when the person asks to stop, `wake` when something that a task waits for has ended.
    `still_ours` tells whether no other process has taken the session over; it is asked right before acts that
    must not happen twice. Raises StreamMoved where another process is faster, and database errors: both mean
    to fold again; and ClaimLost.
    """

    def __init__(
        self,
        assignment: Assignment,
        *,
        stop: asyncio.Event,
        wake: asyncio.Event,
        crew: Crew,
        still_ours: Callable[[], Awaitable[bool]],
        limits: RunLimits | None = None,
    ) -> None:
        self._work = assignment
        self._stop = stop
        self._wake = wake
        self._still_ours = still_ours
        self._limits = limits or RunLimits()
        self._ledger = Ledger(assignment, crew)
        self._roles: frozenset[str] = frozenset()
        self._attempts: dict[UUID, asyncio.Task[Awaits | Pauses | None]] = {}
        self._halted: dict[UUID, Awaits | Pauses] = {}
        # The approval that the next decision on the plan may use.
        self._leave: Leave | None = None

    async def run(self) -> Awaits | Pauses | None:
        """Go on from what is recorded until the reply is posted, None, or until all of it has to wait."""
        try:
            with telemetry.span(
                telemetry.SPAN_PLAN,
                {
                    telemetry.OPENINFERENCE_SPAN_KIND: "CHAIN",
                    telemetry.SESSION_ID: str(self._work.session_id),
                    telemetry.PLAN_ID: str(self._ledger.plan_id),
                },
                expected=(Halted, Erased, ClaimLost, Conflict),
            ) as span:
                halted = await self._go_on()
                span.set_attribute(telemetry.OUTCOME, self._ledger.plan.status)
                return halted
        except Halted as halted:
            return halted.until

    async def give_up(self) -> None:
        """Reply that the turn failed, after it could not be brought further by trying again."""
        await self._ledger.fold()
        await self._withdraw()
        await self._fail(
            f"There is no answer: something failed inside. Tell an operator the trace {self._work.trace_id}.",
            code="failed_inside",
        )

    async def _go_on(self) -> Awaits | Pauses | None:
        ledger = self._ledger
        await ledger.fold()
        self._roles = await in_database_thread(roles_of, self._work.user_id, self._work.workspace_id)
        if ledger.plan.status == "new":
            try:
                await self._propose()
            except Stopped:
                await self._reply("", outcome="stopped")
                return None
            except CartritaError as error:
                if isinstance(error, Conflict):
                    raise
                await self._fail(error.message, code=error.code)
                return None
        while ledger.plan.status == "waiting":
            await self._resume_plan()
        if ledger.plan.status == "accepted":
            halted = await self._drive()
            if halted is not None:
                return halted
        await self._post_outcome()
        return None

    # Planning

    async def _propose(self) -> None:
        """Lay out the plan and its bill, and let governance decide on it as a whole."""
        draft = await draft_plan(self._ledger, roles=self._roles, stop=self._stop)
        first, short = await in_database_thread(self._lay_out, draft)
        if short:
            await self._ledger.note([*first, PlanRefused(decision_id=None, rule=BUDGET_SHORT, reason=short)])
        else:
            await self._decide_plan(attempt=1, first=first)

    def _lay_out(self, draft: DraftPlan) -> tuple[list[Event], str]:
        """Return the events of the plan, and why its budget does not suffice where that is so."""
        work = self._work
        expectations = planning.expectations_of(work, draft, self._model_for(draft))
        laid_out = planning.lay_out(work, self._ledger.plan_id, draft, expectations)
        billed = planning.bill(work, self._roles, laid_out, expectations)
        short = None
        # What a single act costs is decided with the act; of several the first would be paid for nothing.
        if len(draft.tasks) > 1:
            short = pricing.shortfall(
                billed, workspace_id=work.workspace_id, session_id=work.session_id, user_id=work.user_id
            )
        return [*laid_out, billed], short or ""

    def _model_for(self, draft: DraftPlan) -> ModelEntry | None:
        """Return the model of the tasks' own work and of their synthesis; None where rules do for both."""
        only_calls = all(task.tool for task in draft.tasks)
        if only_calls and len(draft.tasks) == 1:
            return None
        named = self._work.metadata.get("model")
        name = named if isinstance(named, str) and named else None
        try:
            return catalog.choose(name=name, tier=None, purpose="execution")
        except CartritaError as error:
            if only_calls:
                return None
            raise type(error)(f"This message cannot be answered: {error.message}", **error.details) from None

    async def _resume_plan(self) -> None:
        held = self._ledger.plan.held_back
        if held is None:
            raise AssertionError("a waiting plan is held back by a decision")
        if self._stop.is_set():
            await self._withdraw()
            await self._ledger.stop(reason=STOPPED)
            return
        look = await self._outlook(held)
        if isinstance(look, Refused):
            # What the reviewer wrote is personal and is read from the approval where it is told.
            refused = PlanRefused(decision_id=held.decision_id, rule=held.rule, reason="A reviewer said no.")
            await self._ledger.note([refused])
        elif look is not None:
            await self._decide_plan(attempt=held.attempt + 1)

    async def _outlook(self, held: PlanHeldBack) -> waiting.GoesOn | Refused | None:
        """Return what becomes of a plan that waits, None after a short pause. Raises Halted."""
        leave = None
        if held.approval_id is not None:
            leave = await in_database_thread(waiting.leave_of, held.approval_id)
        look = waiting.outlook(held, leave, datetime.now(UTC))
        match look:
            case Pauses(until) if until - datetime.now(UTC) <= SHORT_PAUSE:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), (until - datetime.now(UTC)).total_seconds())
                return None
            case Awaits() | Pauses():
                raise Halted(look)
            case waiting.GoesOn():
                self._leave = leave
        return look

    async def _decide_plan(self, *, attempt: int, first: Sequence[Event] = ()) -> None:
        work, ledger = self._work, self._ledger
        proposed = plans.extend(ledger.plan, first)
        arguments = _plan_arguments(proposed)
        request = DecisionRequest.about(
            self._facts(),
            "plan",
            arguments=arguments,
            # Its acts reserve what they cost; the estimate stands in the arguments.
            cost=Cost(),
            findings=kinds_within(arguments),
        )
        decision_id = derived_id(ledger.plan_id, "decision" if attempt == 1 else f"decision:{attempt}")
        leave = self._leave

        def voided(decided: Decided) -> list[Append]:
            if leave is None:
                return []
            return waiting.without_effect(
                leave,
                [(request, decided.verdict)],
                rule_hashes=active_policy(work.workspace_id).rule_hashes,
                context=work.context(actor="system"),
            )

        await ledger.decide(
            Act(request=request, decision_id=decision_id, requester_id=work.user_id),
            first=first,
            outcome=lambda decided: [_plan_outcome(decided, attempt, datetime.now(UTC))],
            voided=voided,
        )
        self._leave = None

    def _facts(self) -> RequestFacts:
        work, root = self._work, self._ledger.plan.root_task_id
        return RequestFacts(
            workspace_id=work.workspace_id,
            session_id=work.session_id,
            actor=f"user:{work.user_id}",
            agent=GENERAL,
            roles=self._roles,
            task_path=(str(root),) if root is not None else (),
            labels=work.labels,
            at=datetime.now(UTC),
        )

    # Driving

    async def _drive(self) -> Awaits | Pauses | None:
        """Work on the plan's tasks until it has ended, None, or until everything in it waits."""
        try:
            while not self._over():
                if self._stop.is_set():
                    await self._ledger.stop(reason=STOPPED)
                    self._halted.clear()
                elif self._wake.is_set():
                    self._halted.clear()
                self._wake.clear()
                self._let_go_on(datetime.now(UTC))
                await self._ledger.start_ready()
                self._attend()
                if self._over():
                    break
                if self._attempts:
                    await self._until_something_ends()
                elif (halted := await self._wait()) is not None:
                    return halted
            return None
        finally:
            await self._leave_work()

    def _over(self) -> bool:
        return self._ledger.plan.ended

    def _attend(self) -> None:
        """Begin to work on every task that has begun and that nobody works on."""
        for task in unattended(self._ledger.plan, running=()):
            if task.task_id not in self._attempts and task.task_id not in self._halted:
                self._ledger.crew.join(task, self._work.session_id)
                self._attempts[task.task_id] = asyncio.create_task(
                    self._attempt(task.task_id), name=f"task-{task.task_id}"
                )

    async def _attempt(self, task_id: UUID) -> Awaits | Pauses | None:
        """Bring a task's attempt to its end, folding again after what may pass; return what it waits for."""
        tries = 0
        while True:
            attempt = self._attempt_at(task_id)
            try:
                return await attempt.run()
            except (Erased, ClaimLost):
                raise
            except Conflict as error:
                # Somebody else recorded first; what they recorded is where to go on.
                logger.info("Task %s is folded again: %s", task_id, error)
            except DATABASE_ERRORS as error:
                # Not for the whole turn to meet: what the other tasks are doing is not thrown away.
                logger.warning("Task %s waits for the database: %s", task_id, error)
                await asyncio.sleep(DATABASE_PAUSE_SECONDS)
                continue
            except Exception:
                logger.exception("Task %s failed, trace %s", task_id, self._work.trace_id)
            tries += 1
            if tries >= TRIES:
                await attempt.give_up()
                return None
            await asyncio.sleep(0.05 * 2**tries)
            await self._ledger.fold()
            if self._ledger.plan.tasks[task_id].status != "running":
                return None

    def _attempt_at(self, task_id: UUID) -> Attempt:
        return Attempt(
            self._ledger,
            task_id,
            roles=self._roles,
            stop=self._stop,
            limits=self._limits,
            still_ours=self._still_ours,
        )

    async def _until_something_ends(self) -> None:
        """Wait until an attempt ends, the person asks to stop, or something or its time wakes a task."""
        signals = [asyncio.create_task(self._wake.wait())]
        if not self._stop.is_set():
            signals.append(asyncio.create_task(self._stop.wait()))
        try:
            done, _ = await asyncio.wait(
                {*self._attempts.values(), *signals},
                timeout=self._seconds_to_wait(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for signal in signals:
                signal.cancel()
        for task_id in [task_id for task_id, attempt in self._attempts.items() if attempt in done]:
            attempt = self._attempts.pop(task_id)
            self._ledger.crew.leave(task_id)
            halted = attempt.result()
            if halted is not None:
                self._halted[task_id] = halted

    async def _wait(self) -> Awaits | Pauses | None:
        """Return what everything waits for; None after waiting for what is short."""
        if self._ledger.wants_a_place():
            await self._ledger.crew.place_left(PLACE_SECONDS)
            return None
        now = datetime.now(UTC)
        times = [each.until for each in self._halted.values() if isinstance(each, Pauses)]
        if (retry := wakes_at(self._ledger.plan)) is not None:
            times.append(retry)
        if times and min(times) - now <= SHORT_PAUSE:
            await self._pause(min(times))
            return None
        if times:
            return Pauses(min(times))
        if self._halted:
            return next(iter(self._halted.values()))
        # Nothing runs and nothing waits: there was no place a moment ago.
        await self._ledger.crew.place_left(PLACE_SECONDS)
        return None

    def _let_go_on(self, now: datetime) -> None:
        """Forget the pauses that are over, so that somebody works on their tasks again."""
        over = [
            task_id
            for task_id, each in self._halted.items()
            if isinstance(each, Pauses) and each.until <= now
        ]
        for task_id in over:
            del self._halted[task_id]

    def _seconds_to_wait(self) -> float | None:
        """Return when to look again although nothing has ended: at a retry, a pause's end, or for a place."""
        times = [each.until for each in self._halted.values() if isinstance(each, Pauses)]
        if (retry := wakes_at(self._ledger.plan)) is not None:
            times.append(retry)
        seconds = [max((at - datetime.now(UTC)).total_seconds(), 0.01) for at in times]
        if self._ledger.wants_a_place():
            # Another session's task may make it.
            seconds.append(PLACE_SECONDS)
        return min(seconds, default=None)

    async def _pause(self, until: datetime) -> None:
        seconds = max((until - datetime.now(UTC)).total_seconds(), 0.01)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _leave_work(self) -> None:
        """Let go of what is under way: whoever folds the plan next goes on with it."""
        for attempt in self._attempts.values():
            attempt.cancel()
        await asyncio.gather(*self._attempts.values(), return_exceptions=True)
        self._attempts.clear()
        for task_id in self._ledger.plan.tasks:
            self._ledger.crew.leave(task_id)

    # The reply

    async def _fail(self, text: str, *, code: str) -> None:
        """End what was begun and reply with what went wrong."""
        plan = self._ledger.plan
        if not plan.ended and plan.status in {"accepted", "waiting"}:
            await self._ledger.stop(reason=code)
            for task in self._ledger.plan.open_tasks():
                if task.status == "running":
                    await self._attempt_at(task.task_id).give_up()
        await self._reply(text, outcome="failed")

    async def _withdraw(self) -> None:
        """Take back the request for approval of the plan, which nobody needs any more."""
        held = self._ledger.plan.held_back
        if held is not None and held.approval_id is not None:
            await in_database_thread(cancel, approval_id=held.approval_id, actor=f"user:{self._work.user_id}")

    async def _post_outcome(self) -> None:
        plan = self._ledger.plan
        if plan.status == "refused":
            await self._reply(f"This was not allowed: {await self._refusal()}", outcome="denied")
            return
        finished = await self._ledger.result_of(self._ledger.root)
        if finished is None and plan.status == "stopped":
            await self._reply("", outcome="stopped")
        elif finished is None:
            await self._reply(await self._tellable(await self._failures()), outcome="failed")
        elif finished.status == "answered":
            await self._reply(finished.answer + await self._unread(), outcome="answered", finished=finished)
        elif finished.status == "stopped":
            await self._reply(finished.answer, outcome="stopped", finished=finished)
        elif finished.status == "denied":
            await self._reply(f"This was not allowed: {finished.answer}", outcome="denied", finished=finished)
        else:
            failure = await self._tellable(f"There is no answer: {finished.answer}", code=finished.code)
            await self._reply(failure + await self._unread(), outcome="failed", finished=finished)

    async def _tellable(self, text: str, *, code: str = "") -> str:
        """Return what may be told of a failure: tools put what they read into the words of their errors."""
        facts = replace(self._facts(), agent=self._ledger.root.agent)
        request = DecisionRequest.about(
            facts, "message_out", arguments=speech_arguments(self._work.user_id, "held", text)
        )
        tellable = await in_database_thread(told, request, text)
        if tellable is not None:
            return tellable
        return f"There is no answer{f' ({code})' if code else ''}. A rule keeps back why."

    async def _failures(self) -> str:
        """Return why none of the parts came to a result."""
        parts = await parts_of(self._ledger, self._ledger.root)
        said = compose.without_results(parts)
        return f"There is no answer, because no part of it came to a result:\n\n{said}"

    async def _unread(self) -> str:
        """Return the paragraph that names attached documents which waited for approval meanwhile, if any."""
        root = self._ledger.root
        if "tool" in root.spec or not self._work.attachments or root.run_id is None:
            return ""
        return unread.note(await in_database_thread(unread.titles_unread, self._work, root.run_id))

    async def _refusal(self) -> str:
        """Return why the plan was refused, with the words of the reviewer who did."""
        held = self._ledger.plan.held_back
        if held is not None and held.approval_id is not None:
            leave = await in_database_thread(waiting.leave_of, held.approval_id)
            look = waiting.outlook(held, leave, datetime.now(UTC))
            if isinstance(look, Refused):
                return look.reason
        return self._ledger.plan.refusal or ""

    async def _reply(self, text: str, *, outcome: ReplyOutcome, finished: RunFinished | None = None) -> None:
        work, ledger, plan = self._work, self._ledger, self._ledger.plan
        root_id = plan.root_task_id or derived_id(ledger.plan_id, "task:1")
        root = plan.tasks.get(root_id)
        await in_database_thread(
            sessions.post_reply,
            session_id=work.session_id,
            message_id=ledger.reply_id,
            parent=work.message_id,
            plan_id=ledger.plan_id,
            run_id=(root.run_id if root is not None else None) or ledger.run_id(root_id, 1),
            content=text,
            citations=finished.citations if finished else (),
            model=finished.model if finished else "",
            outcome=outcome,
            causation_id=work.causation_id,
            actor=f"agent:{root.agent if root is not None else GENERAL}",
        )
        await purge_message(ledger.reply_id)


def _plan_arguments(plan: Plan) -> dict[str, Any]:
    """Return what is decided of a plan: the same for every decision on it."""
    tasks: list[dict[str, Any]] = []
    for task in plan.tasks.values():
        each: dict[str, Any] = {"intent": task.intent, "agent": task.agent, "priority": task.priority}
        if "tool" in task.spec:
            each |= {"tool": task.spec["tool"], "arguments": task.spec["arguments"]}
        tasks.append(each)
    estimated = sum(task.estimated_tokens for task in plan.tasks.values())
    shown: dict[str, Any] = {"planner": plan.planner, "tasks": tasks, "estimated_tokens": estimated}
    if plan.bill is not None:
        bill = plan.bill
        shown["bill"] = bill.model_dump(mode="json", include={"tokens", "costs", "approvals", "denials"})
    return shown


def _plan_outcome(decided: Decided, attempt: int, at: datetime) -> Event:
    verdict = decided.verdict
    if decided.permit is not None:
        return PlanAccepted(decision_id=decided.decision_id, outcome=verdict.outcome)
    if decided.approval_id is not None or verdict.retry_after_ms is not None:
        return PlanHeldBack(
            decision_id=decided.decision_id,
            attempt=attempt,
            outcome=verdict.outcome,
            rule=verdict.rule,
            reason=verdict.message_for_people,
            approval_id=decided.approval_id,
            retry_after=later(at, verdict.retry_after_ms),
        )
    return PlanRefused(decision_id=decided.decision_id, rule=verdict.rule, reason=verdict.message_for_people)
