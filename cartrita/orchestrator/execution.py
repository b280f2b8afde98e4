"""Answer one message: fold what is recorded, do the first thing that is missing, record it, repeat.

Every record is one transaction: the outcome of the last act, its settlement, and the decision on the next act
with all that it reserves. A process that dies between two records leaves a prefix of this story, and whoever
folds it next goes on from there. An act that has to wait for people or for a time ends the execution: nothing
of it is held in memory, and whoever folds the run after that goes on.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

from cartrita.accounts.queries import roles_of
from cartrita.errors import CartritaError, Conflict
from cartrita.eventstore import Append, Context, Event, aload, derived_id, in_database_thread
from cartrita.llm import catalog, gateway
from cartrita.llm.catalog import ModelEntry
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.llm.gateway import ModelRequest, PreparedCall
from cartrita.orchestrator import answering, loop, results, unread, waiting
from cartrita.orchestrator.agents import ASSISTANT, Agent, agent_at_work
from cartrita.orchestrator.answering import Answer
from cartrita.orchestrator.assignment import Assignment
from cartrita.orchestrator.downshift import too_costly
from cartrita.orchestrator.labels import UNTRUSTED, candidates_of_call, labels_of_call
from cartrita.orchestrator.slash import SlashCall, slash_call
from cartrita.orchestrator.speech import delivery_of, speech_arguments
from cartrita.orchestrator.waiting import Awaits, Leave, Pauses, Refused
from cartrita.streaming.deltas import open_message, purge_message
from cartrita.tools import runner
from cartrita.tools.events import ToolFailed, ToolReturned
from cartrita.tools.registry import all_tools, tool
from governance.candidates import Candidates
from governance.commands.approvals import cancel
from governance.decide import Cost, DecisionRequest, RequestFacts
from governance.decision import ActOutcome
from governance.doors import Permit
from governance.queries.policies import active_policy
from governance.step import Act, Decided, Settlement, TaskLimit, atake_step
from retrieval import ingest
from retrieval.queries import candidates, in_scope
from retrieval.questions import MAX_QUERY
from retrieval.search import performed_event, search
from sessions_app import commands as sessions
from sessions_app.session import ReplyOutcome
from tasks_app import plan as plans
from tasks_app.plan import (
    DEFAULT_TASK_BUDGET,
    Plan,
    PlanAccepted,
    PlanHeldBack,
    PlanProposed,
    PlanRefused,
    Task,
    TaskAborted,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
)
from tasks_app.run import ActDecided, ActEdited, ActKind, AnswerHeld, Delivery, RunFinished, RunStarted

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ACT_OUTCOMES: dict[str, ActOutcome] = {
    "answered": "succeeded",
    "denied": "cancelled",
    "stopped": "cancelled",
    "failed": "failed",
}

# How many passages a question gets.
PASSAGES = 10
# How long a message waits for its own attachments to be read and indexed.
ATTACHMENT_SECONDS = 300.0
# A shorter pause is waited for in place; during a longer one nothing is held.
SHORT_PAUSE = timedelta(seconds=5)
# A task may use what it is expected to use so many times: an attempt that broke off counts as used.
BUDGET_TIMES = 3
# What the passages of a prompt amount to, roughly.
PASSAGES_TOKENS = 1500


class Stopped(Exception):
    """The person asked to stop; `partial` is the text that was already shown, `outcome` what the act left."""

    def __init__(self, partial: str = "", outcome: ModelFailed | ToolFailed | None = None) -> None:
        super().__init__("stopped")
        self.partial = partial
        self.outcome = outcome


class _Halted(Exception):
    """The work cannot go on now."""

    def __init__(self, until: Awaits | Pauses) -> None:
        super().__init__("halted")
        self.until = until


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
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


class Execution:
    """One attempt of this process to bring a message to its reply.

    `stop` is set when the person asks to stop. Raises StreamMoved where another process is faster, and
    database errors; both mean: fold again.
    """

    def __init__(self, assignment: Assignment, *, stop: asyncio.Event) -> None:
        self._work = assignment
        self._stop = stop
        # Clients choose message ids, so one may stand in several sessions; its event's id stands in one only.
        turn_id = assignment.causation_id
        self.plan_id = derived_id(turn_id, "plan")
        self.task_id = derived_id(self.plan_id, "task:1")
        self.run_id = derived_id(self.task_id, "attempt:1")
        self.reply_id = derived_id(turn_id, "reply")
        self._plan = Plan()
        self._run = loop.RunState()
        self._agent: Agent = ASSISTANT
        # None where no model is needed: the task is one call of a tool.
        self._model: ModelEntry | None = None
        self._wished_model = ""
        self._roles: frozenset[str] = frozenset()
        self._extract: Answer | None = None
        self._unrecorded = _Unrecorded()
        # The approval that the next decision may use, and the reviewer's arguments for it.
        self._leave: Leave | None = None
        self._edit: ActEdited | None = None
        # The decision whose act this process performs, so that its end is known.
        self._acting: UUID | None = None

    async def run(self) -> Awaits | Pauses | None:
        """Go on from what is recorded until the reply is posted, None, or until the work has to wait."""
        try:
            await self._go_on()
        except _Halted as halted:
            return halted.until
        except Conflict:
            raise
        except Exception:
            # What an act cost and gave is not lost because something after it failed.
            if self._unrecorded.events:
                await self._record()
            raise
        return None

    async def give_up(self) -> None:
        """Reply that the turn failed, after it could not be brought further by trying again."""
        self._unrecorded = _Unrecorded()
        self._acting = None
        await self._fold()
        await self._withdraw()
        await self._fail(
            f"There is no answer: something failed inside. Tell an operator the trace {self._work.trace_id}.",
            code="failed_inside",
        )

    async def _go_on(self) -> None:
        work = self._work
        await self._fold()
        self._roles = await in_database_thread(roles_of, work.user_id, work.workspace_id)
        call: SlashCall | None = None
        try:
            self._agent = agent_at_work(str(work.metadata.get("agent") or "assistant"))
            if self._plan.status == "new" and (call := slash_call(work.question)) is not None:
                await runner.prepare(call.tool, call.arguments, facts=self._facts(), key="")
        except CartritaError as error:
            await self._fail(error.message, code=error.code)
            return
        try:
            if call is None and not self._tool:
                await self._choose_model()
        except CartritaError as error:
            await self._fail(f"This message cannot be answered: {error.message}", code=error.code)
            return
        if self._plan.status == "new":
            await self._propose(call)
        while self._plan.status == "waiting":
            await self._resume_plan()
        if self._plan.status == "accepted":
            await self._work_through()
        await self._post_outcome()

    async def _fold(self) -> None:
        self._plan = plans.fold(recorded.event for recorded in await aload(self.plan_id))
        self._run = loop.fold(recorded.event for recorded in await aload(self.run_id))

    async def _choose_model(self) -> None:
        """Take the model that the person named, or the default; one that waits to be called stays the one."""
        named = _text(self._work.metadata.get("model"))
        self._model = await in_database_thread(catalog.choose, name=named, tier=None, purpose="execution")
        self._wished_model = self._model.name
        await self._fall_back()
        pending = self._run.waiting
        if pending is not None and pending.act == "model_call" and pending.subject != self._model.name:
            with suppress(CartritaError):
                self._model = await in_database_thread(
                    catalog.choose, name=pending.subject, tier=None, purpose="execution"
                )

    async def _fall_back(self) -> None:
        """Take the next model in place of one that failed; never in place of one that the person named."""
        failure, named = self._run.failure, _text(self._work.metadata.get("model"))
        if failure is None or not failure.retryable or named is not None or self._run.finished is not None:
            return
        failed = await in_database_thread(catalog.model, failure.model)
        others = await in_database_thread(catalog.fallbacks, failed, needs=self._agent.needs)
        self._model = others[0] if others else failed
        self._wished_model = self._model.name

    # Planning

    async def _propose(self, call: SlashCall | None) -> None:
        """Lay out the one task that a message is, and let governance decide on the plan as a whole."""
        work = self._work
        estimate = self._estimate(call)
        spec: dict[str, Any] = {"attachments": [str(document) for document in work.attachments]}
        if call is not None:
            spec |= {"tool": call.tool, "arguments": dict(call.arguments)}
        await self._decide_plan(
            attempt=1,
            first=(
                PlanProposed(
                    message_id=work.message_id,
                    root_task_id=self.task_id,
                    goal=work.question,
                    planner="single" if call is None else "slash",
                    estimated_tokens=estimate,
                ),
                TaskAdded(
                    task_id=self.task_id,
                    parent_id=None,
                    intent=work.question,
                    spec=spec,
                    agent=self._agent.name,
                    cost_budget_tokens=max(DEFAULT_TASK_BUDGET, BUDGET_TIMES * estimate),
                    estimated_tokens=estimate,
                ),
            ),
        )

    def _estimate(self, call: SlashCall | None) -> int:
        """Return roughly how many tokens the work needs."""
        if call is not None or self._model is None:
            return tool(call.tool).cost_tokens if call is not None else 0
        said = [self._agent.instructions, self._work.question, *(each.content for each in self._work.history)]
        # Most texts have more than three bytes a token in every vocabulary.
        prompt = sum(len(text.encode()) for text in said) // 3 + PASSAGES_TOKENS
        return min(prompt + self._agent.max_output_tokens, self._model.context_limit)

    async def _resume_plan(self) -> None:
        held = self._plan.held_back
        if held is None:
            raise AssertionError("a waiting plan is held back by a decision")
        if self._stop.is_set():
            await self._withdraw()
            await self._record(plan=[TaskAborted(task_id=self.task_id, reason="A person asked to stop.")])
            return
        match await self._outlook(held):
            case Refused():
                # What the reviewer wrote is personal and is read from the approval where it is told.
                refused = PlanRefused(
                    decision_id=held.decision_id, rule=held.rule, reason="A reviewer said no."
                )
                await self._record(plan=[refused])
            case _:
                await self._decide_plan(attempt=held.attempt + 1)

    async def _decide_plan(self, *, attempt: int, first: Sequence[Event] = ()) -> None:
        proposed = self._plan
        for event in first:
            proposed = plans.evolve(proposed, event)
        request = DecisionRequest.about(
            self._facts(),
            "plan",
            arguments=_plan_arguments(proposed),
            model=self._model.name if self._model else "",
            # Its acts reserve what they cost; the estimate stands in the arguments.
            cost=Cost(),
        )
        decision_id = derived_id(self.plan_id, "decision" if attempt == 1 else f"decision:{attempt}")
        act = Act(request=request, decision_id=decision_id, requester_id=self._work.user_id)
        plan_events: list[Event] = []
        run_events: list[Event] = []

        def then(decided: Sequence[Decided]) -> list[Append]:
            (one,) = decided
            plan_events[:] = [*first, *self._plan_outcome(one, attempt, datetime.now(UTC))]
            run_events[:] = [self._run_started()] if one.permit is not None else []
            return [*self._appends(plan_events, run_events), *self._voided([(request, one)])]

        await atake_step(context=self._context(), acts=[act], then=then)
        self._recorded(plan_events, run_events)
        self._leave = None

    def _plan_outcome(self, decided: Decided, attempt: int, at: datetime) -> list[Event]:
        verdict = decided.verdict
        if decided.permit is not None:
            return [
                PlanAccepted(decision_id=decided.decision_id, outcome=verdict.outcome),
                TaskStarted(task_id=self.task_id, run_id=self.run_id, attempt=1),
            ]
        if decided.approval_id is not None or verdict.retry_after_ms is not None:
            return [
                PlanHeldBack(
                    decision_id=decided.decision_id,
                    attempt=attempt,
                    outcome=verdict.outcome,
                    rule=verdict.rule,
                    reason=verdict.message_for_people,
                    approval_id=decided.approval_id,
                    retry_after=_later(at, verdict.retry_after_ms),
                )
            ]
        return [
            PlanRefused(decision_id=decided.decision_id, rule=verdict.rule, reason=verdict.message_for_people)
        ]

    def _run_started(self) -> RunStarted:
        return RunStarted(
            plan_id=self.plan_id,
            task_id=self.task_id,
            attempt=1,
            agent=self._agent.name,
            loop_version=loop.LOOP_VERSION,
        )

    # The loop

    async def _work_through(self) -> None:
        try:
            if not self._run.finished and not self._tool:
                await self._until_stopped(self._wait_for_attachments())
            while not self._run.finished:
                await self._take_step()
        except Stopped as stopped:
            await self._withdraw()
            if stopped.outcome is not None:
                self._came_of_it(stopped.outcome, outcome="cancelled")
            await self._finish(
                RunFinished(
                    status="stopped",
                    answer=stopped.partial,
                    citations=[],
                    model=stopped.outcome.model if isinstance(stopped.outcome, ModelFailed) else "",
                    supported=None,
                    code="stopped",
                    **_use_of(stopped.outcome),
                )
            )

    async def _take_step(self) -> None:
        if self._stop.is_set():
            raise Stopped
        if self._run.waiting is not None and self._leave is None:
            look = await self._outlook(self._run.waiting)
            if isinstance(look, Refused):
                await self._finish(_ended("denied", look.code, look.reason))
                return
        turn = await self._look_around()
        if self._run.search is not None and not turn.model_answers and self._extract is None:
            found = answering.extract(self._work.question, self._run.search)
            self._extract = await self._until_stopped(found)
        supported = self._extract is not None and bool(self._extract.supported)
        step = loop.next_step(self._run, turn, extract_supported=supported)
        match step:
            case loop.Search():
                await self._search(step)
            case loop.Extract():
                await self._speak(step)
            case loop.Generate():
                await self._generate(step)
            case loop.Call():
                await self._call(step)
            case loop.Deliver():
                await self._deliver(step)
            case loop.Finish(status="answered"):
                await self._finish_answered()
            case loop.Finish(status, code, reason):
                await self._finish(_ended(status, code, reason))
            case loop.Over():
                pass

    async def _look_around(self) -> loop.Turn:
        if self._tool:
            repeatable = any(each.idempotent for each in all_tools() if each.name == self._tool)
            return loop.Turn(
                searchable=False, attached=False, model_answers=False, tool=self._tool, repeatable=repeatable
            )
        work = self._work
        scope = in_scope(workspace_id=work.workspace_id, session_id=work.session_id)
        return loop.Turn(
            searchable=await in_database_thread(scope.filter(status__in=["chunked", "ready"]).exists),
            attached=bool(work.attachments),
            model_answers=self._called_model.can("answers"),
            model=self._called_model.name,
        )

    async def _outlook(self, held: waiting.Waiting) -> waiting.GoesOn | Refused:
        """Return what becomes of a waiting act; wait in place where that is short. Raises _Halted."""
        while True:
            leave = None
            if held.approval_id is not None:
                leave = await in_database_thread(waiting.leave_of, held.approval_id)
            look = waiting.outlook(held, leave, datetime.now(UTC))
            match look:
                case Pauses(until) if until - datetime.now(UTC) <= SHORT_PAUSE:
                    await self._pause(until)
                case Awaits() | Pauses():
                    raise _Halted(look)
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

    async def _wait_for_attachments(self) -> None:
        """Wait until the message's documents are read; one that waits for people is done without."""
        if self._work.attachments:
            await ingest.wait_ready(list(self._work.attachments), timeout=ATTACHMENT_SECONDS)

    async def _search(self, step: loop.Search) -> None:
        """Look for passages: decided once, with the labels of all documents that could be found."""
        work = self._work
        found_in = await in_database_thread(
            candidates,
            workspace_id=work.workspace_id,
            session_id=work.session_id,
            document_ids=work.attachments or None,
        )
        request = DecisionRequest.about(
            self._facts(),
            "retrieval",
            tool=loop.SEARCH,
            arguments={"query": work.question, "k": PASSAGES},
        )
        wanted = _Wanted(
            act="retrieval",
            subject=loop.SEARCH,
            request=request,
            may_add=frozenset({UNTRUSTED}),
            candidates=found_in,
        )
        permits = await self._decide(step, wanted)
        if permits is None:
            return
        (permit,) = permits
        permit.check(request)
        labels: frozenset[str] = frozenset()
        retrieval_id = derived_id(self.run_id, f"retrieval:{step.step}:{step.attempt}")
        outcome: Event
        try:
            found = await self._until_stopped(
                in_database_thread(
                    search,
                    work.question[:MAX_QUERY],
                    workspace_id=work.workspace_id,
                    session_id=work.session_id,
                    document_ids=work.attachments or None,
                    without_labels=permit.left_out,
                    within_labels=permit.labels,
                    k=PASSAGES,
                )
            )
        except CartritaError as error:
            outcome = ToolFailed(
                tool=loop.SEARCH, idempotency_key=str(retrieval_id), code=error.code, message=error.message
            )
        else:
            outcome = performed_event(found, retrieval_id=retrieval_id)
            labels = found.candidate_labels | {UNTRUSTED}
        self._came_of_it(outcome, labels=labels)

    async def _call(self, step: loop.Call) -> None:
        """Call the task's tool with its arguments, or with those that a reviewer put in their place."""
        edit = self._edit or self._run.edit
        arguments = edit.arguments if edit is not None else self._task.spec["arguments"]
        key = f"{self.run_id}:{step.step}"
        try:
            prepared = await runner.prepare(self._tool, arguments, facts=self._facts(), key=key)
        except CartritaError as error:
            # The tool is another one since the message was posted, or the reviewer's arguments do not fit.
            self._settle_abandoned()
            self._keep(runner.refused(error, name=self._tool, key=key))
            return
        wanted = _Wanted(
            act="tool_call",
            subject=self._tool,
            request=prepared.decision_request,
            may_add=labels_of_call(self._tool),
            candidates=await in_database_thread(candidates_of_call, prepared),
            edited_by=edit.by if edit is not None else "",
        )
        permits = await self._decide(step, wanted)
        if permits is None:
            return
        outcome = await self._until_stopped(runner.perform(prepared, permits[0], context=self._context()))
        # What a tool read of the documents that it may read is not known.
        self._came_of_it(outcome, labels=permits[0].labels or wanted.may_add)
        self._unrecorded.appends += prepared.record

    async def _speak(self, step: loop.Extract) -> None:
        """Show an answer that needed no model."""
        answer = self._extract
        if answer is None:
            raise AssertionError("a step that extracts follows a search")
        if await self._delivery() == "held":
            await self._have_text_decided(step, _held(answer, answering.EXTRACTIVE))
            return
        speech_attempt = len(self._run.speeches) + 1
        if await self._decide(step, self._speech("live")) is None or self._run.delivery == "held":
            return
        async with open_message(self._work.session_id, self.reply_id, speech_attempt) as writer:
            for piece in answer.pieces:
                if self._stop.is_set():
                    raise Stopped(partial="".join(answer.pieces)[: writer.bytes_written])
                await writer.write(piece)
            await writer.complete()
        await self._finish(_answered(_held(answer, answering.EXTRACTIVE)))

    async def _generate(self, step: loop.Generate) -> None:
        """Let the model answer, streaming what it says where nothing may hold it back."""
        model = self._called_model
        prompt = await answering.prompt(
            self._agent, model, self._work.history, self._work.question, self._run.search
        )
        prepared = await gateway.prepare(
            ModelRequest(messages=prompt, model=model.name, max_output_tokens=self._agent.max_output_tokens),
            facts=self._facts(),
        )
        if await self._downshifted(prepared):
            return
        delivery = await self._delivery()
        call = _Wanted(
            act="model_call",
            subject=model.name,
            request=prepared.decision_request,
            delivery=delivery,
            downshifted_from=self._wished_model if self._wished_model != model.name else "",
            fell_back_from=self._run.failure.model if self._run.failure is not None else "",
        )
        speech_attempt = len(self._run.speeches) + 1
        if delivery == "held":
            permits = await self._decide(step, call)
            if permits is not None:
                await self._ask_model(prepared, permits[-1], step.attempt, on_delta=None)
            return
        permits = await self._decide(step, self._speech("live"), call)
        if permits is None:
            return
        if self._run.delivery == "held":
            await self._ask_model(prepared, permits[-1], step.attempt, on_delta=None)
            return
        said: list[str] = []
        async with open_message(self._work.session_id, self.reply_id, speech_attempt) as writer:

            async def show(text: str) -> None:
                said.append(text)
                await writer.write(text)

            try:
                outcome = await self._ask_model(prepared, permits[-1], step.attempt, on_delta=show)
            except Stopped as stopped:
                raise Stopped("".join(said), stopped.outcome) from None
            if isinstance(outcome, ModelAnswered):
                await writer.complete()

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
        await self._fall_back()
        return outcome

    async def _downshifted(self, prepared: PreparedCall) -> bool:
        """Take a cheaper model where a budget runs short; never in place of one that the person named."""
        model = self._called_model
        pending = self._run.waiting
        decided_before = pending is not None and pending.act == "model_call"
        if _text(self._work.metadata.get("model")) is not None or decided_before:
            return False
        short = await in_database_thread(too_costly, prepared.decision_request, user_id=self._work.user_id)
        cheaper = await in_database_thread(catalog.cheaper, model) if short else None
        if cheaper is None:
            return False
        self._model = cheaper
        return True

    async def _deliver(self, step: loop.Deliver) -> None:
        """Have it decided whether people may read the answer that is there."""
        run = self._run
        if run.answer is None and await self._delivery() == "live":
            await self._decide(step, self._speech("live"))
            return
        await self._have_text_decided(step, await self._written())

    async def _have_text_decided(self, step: loop.Act, written: AnswerHeld) -> None:
        known = self._run.held is not None or self._run.answer is not None
        speech = self._speech("held", text=written.answer)
        await self._decide(step, speech, before=() if known else (written,))

    async def _delivery(self) -> Delivery:
        """Tell whether the answer may be shown while it is written."""
        if self._run.delivery == "held":
            return "held"
        return await in_database_thread(delivery_of, self._speech("live").request)

    async def _written(self) -> AnswerHeld:
        """Return the answer as it stands in the run's stream."""
        run = self._run
        if run.held is not None:
            return run.held
        if run.returned is not None:
            result = await in_database_thread(results.result_of, run.returned, key_id=self._work.key_id)
            return _held(Answer(results.readable(result), [], None), "")
        if run.answer is None:
            raise AssertionError("a run delivers an answer that it has")
        text = await gateway.whole_text(run.answer)
        return _held(await answering.check(text, run.search), run.answer.model)

    async def _finish_answered(self) -> None:
        await self._finish(_answered(await self._written(), **_use_of(self._run.answer)))

    async def _finish(self, finished: RunFinished) -> None:
        """End the run, its task and the plan in one record."""
        tokens = finished.prompt_tokens + finished.completion_tokens
        ended: Event
        if finished.status == "answered":
            ended = TaskCompleted(task_id=self.task_id, run_id=self.run_id, tokens=tokens)
        elif finished.status == "stopped":
            ended = TaskAborted(task_id=self.task_id, reason="A person asked to stop.", tokens=tokens)
        else:
            ended = TaskFailed(
                task_id=self.task_id,
                run_id=self.run_id,
                tokens=tokens,
                code=finished.code,
                reason="denied by policy" if finished.status == "denied" else finished.code,
            )
        outcome = _ACT_OUTCOMES[finished.status]
        plan_decision = self._plan.decision_id
        for decision_id in (*([plan_decision] if plan_decision else []), *self._run.speeches):
            self._unrecorded.settlements.append(Settlement(decision_id=decision_id, outcome=outcome))
        lost = self._run.undecided_outcome
        if lost is not None:
            known: ActOutcome = outcome if lost.decision_id == self._acting else "unknown"
            self._unrecorded.settlements.append(Settlement(decision_id=lost.decision_id, outcome=known))
        await self._record(plan=[ended], run=[finished])

    async def _fail(self, text: str, *, code: str) -> None:
        """End what was begun and reply with what went wrong."""
        if self._plan.status == "accepted" and self._run.finished is None:
            await self._finish(_ended("failed", code, text))
        elif self._plan.status == "waiting":
            await self._record(
                plan=[TaskFailed(task_id=self.task_id, run_id=self.run_id, tokens=0, code=code, reason=code)]
            )
        await self._reply(text, outcome="failed")

    async def _withdraw(self) -> None:
        """Take back the request for approval that nobody needs any more."""
        for held in (self._plan.held_back, self._run.waiting):
            if held is not None and held.approval_id is not None:
                await in_database_thread(
                    cancel, approval_id=held.approval_id, actor=f"user:{self._work.user_id}"
                )

    # The reply

    async def _post_outcome(self) -> None:
        finished = self._run.finished
        if self._plan.status == "refused":
            await self._reply(f"This was not allowed: {await self._refusal()}", outcome="denied")
        elif finished is None and self._plan.status == "stopped":
            await self._reply("", outcome="stopped")
        elif finished is None:
            raise AssertionError(f"plan {self.plan_id} ended without a finished run")
        elif finished.status == "answered":
            answer = finished.answer + await self._unread()
            await self._reply(answer, outcome="answered", finished=finished)
        elif finished.status == "stopped":
            await self._reply(finished.answer, outcome="stopped", finished=finished)
        elif finished.status == "denied":
            await self._reply(f"This was not allowed: {finished.answer}", outcome="denied", finished=finished)
        else:
            failure = f"There is no answer: {finished.answer}{await self._unread()}"
            await self._reply(failure, outcome="failed", finished=finished)

    async def _unread(self) -> str:
        """Return the paragraph that names attached documents which waited for approval meanwhile, if any."""
        if self._tool or not self._work.attachments:
            return ""
        return unread.note(await in_database_thread(unread.titles_unread, self._work, self.run_id))

    async def _refusal(self) -> str:
        """Return why the plan was refused, with the words of the reviewer who did."""
        held = self._plan.held_back
        if held is not None and held.approval_id is not None:
            leave = await in_database_thread(waiting.leave_of, held.approval_id)
            look = waiting.outlook(held, leave, datetime.now(UTC))
            if isinstance(look, Refused):
                return look.reason
        return self._plan.refusal or ""

    async def _reply(self, text: str, *, outcome: ReplyOutcome, finished: RunFinished | None = None) -> None:
        work = self._work
        await in_database_thread(
            sessions.post_reply,
            session_id=work.session_id,
            message_id=self.reply_id,
            parent=work.message_id,
            plan_id=self.plan_id,
            run_id=self.run_id,
            content=text,
            citations=finished.citations if finished else (),
            model=finished.model if finished else "",
            outcome=outcome,
            causation_id=work.causation_id,
            actor=f"agent:{self._agent.name}",
        )
        await purge_message(self.reply_id)

    # Deciding and recording

    async def _decide(
        self, step: loop.Act, *wanted: _Wanted, before: Sequence[Event] = ()
    ) -> list[Permit] | None:
        """Record what came of the last act and decide on the next ones; None unless all may happen.

        They are one step: where one of them may not happen, none does.
        """
        self._settle_abandoned()
        acts = [
            Act(
                request=each.request,
                decision_id=derived_id(self.run_id, f"decision:{step.step}:{step.attempt}:{each.act}"),
                may_add=each.may_add,
                candidates=each.candidates,
                task_limit=TaskLimit(task_id=self.task_id, tokens=self._task.cost_budget_tokens),
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
                *self._appends((), events),
                *self._voided(list(zip(requests, decided, strict=False))),
            ]

        decided = await atake_step(
            context=self._context(), acts=acts, settlements=left.settlements, then=then
        )
        self._recorded((), events)
        self._leave = self._edit = None
        permits = [one.permit for one in decided if one.permit is not None]
        if len(permits) < len(wanted):
            return None
        self._acting = decided[-1].decision_id
        return permits

    def _speech(self, delivery: Delivery, *, text: str = "") -> _Wanted:
        """Return the act of showing an answer to the person: while it is written, or this text."""
        request = DecisionRequest.about(
            self._facts(), "message_out", arguments=speech_arguments(self._work.user_id, delivery, text)
        )
        return _Wanted(act="message_out", subject="reply", request=request, delivery=delivery)

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

    def _voided(self, decided: Sequence[tuple[DecisionRequest, Decided]]) -> list[Append]:
        if self._leave is None:
            return []
        return waiting.without_effect(
            self._leave,
            [(request, one.verdict) for request, one in decided],
            rule_hashes=active_policy(self._work.workspace_id).rule_hashes,
            context=self._context(),
        )

    async def _record(self, *, plan: Sequence[Event] = (), run: Sequence[Event] = ()) -> None:
        """Record what came of the last act, and these events; nothing is decided."""
        left = self._unrecorded
        after = _after(self._plan, plan)
        ends = plans.completion(after) if plan and not after.ended else []
        plan_events, run_events = [*plan, *ends], [*left.events, *run]
        appends = [*left.appends, *self._appends(plan_events, run_events)]
        await atake_step(context=self._context(), settlements=left.settlements, then=lambda _: appends)
        self._recorded(plan_events, run_events)

    def _appends(self, plan: Sequence[Event], run: Sequence[Event]) -> list[Append]:
        context = self._context()
        appends = []
        if plan:
            appends.append(Append(self.plan_id, self._plan.version, plan, context))
        if run:
            appends.append(Append(self.run_id, self._run.version, run, context))
        return appends

    def _recorded(self, plan: Sequence[Event], run: Sequence[Event]) -> None:
        """Fold what was recorded; the events that had waited for it are folded already."""
        kept = len(self._unrecorded.events)
        self._unrecorded = _Unrecorded()
        self._plan = _after(self._plan, plan)
        self._run = replace(self._run, version=self._run.version + kept)
        for event in run[kept:]:
            self._run = loop.evolve(self._run, event)

    @property
    def _task(self) -> Task:
        return self._plan.tasks[self.task_id]

    @property
    def _tool(self) -> str:
        """The tool of a task that is one call; empty for a task of an agent."""
        task = self._plan.tasks.get(self.task_id)
        return "" if task is None else str(task.spec.get("tool", ""))

    @property
    def _called_model(self) -> ModelEntry:
        if self._model is None:
            raise AssertionError("a task of an agent has a model")
        return self._model

    def _facts(self) -> RequestFacts:
        work = self._work
        return RequestFacts(
            workspace_id=work.workspace_id,
            session_id=work.session_id,
            actor=f"user:{work.user_id}",
            agent=self._agent.name,
            roles=self._roles,
            task_path=(str(self.task_id),),
            at=datetime.now(UTC),
        )

    def _context(self) -> Context:
        return self._work.context(actor=f"agent:{self._agent.name}")

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


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _after(plan: Plan, events: Sequence[Event]) -> Plan:
    for event in events:
        plan = plans.evolve(plan, event)
    return plan


def _plan_arguments(plan: Plan) -> dict[str, Any]:
    """Return what is decided of a plan: the same for every decision on it."""
    tasks: list[dict[str, Any]] = []
    for task in plan.tasks.values():
        shown: dict[str, Any] = {"intent": task.intent, "agent": task.agent, "priority": task.priority}
        if "tool" in task.spec:
            shown |= {"tool": task.spec["tool"], "arguments": task.spec["arguments"]}
        tasks.append(shown)
    estimated = sum(task.estimated_tokens for task in plan.tasks.values())
    return {"planner": plan.planner, "tasks": tasks, "estimated_tokens": estimated}


def _act_decided(step: loop.Act, wanted: _Wanted, decided: Decided, *, delivery: Delivery) -> ActDecided:
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
        retry_after=None if permitted else _later(datetime.now(UTC), verdict.retry_after_ms),
        delivery=delivery,
        downshifted_from=wanted.downshifted_from,
        fell_back_from=wanted.fell_back_from,
    )


def _later(at: datetime, milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else at + timedelta(milliseconds=milliseconds)


def _held(answer: Answer, model: str) -> AnswerHeld:
    return AnswerHeld(answer=answer.text, citations=answer.citations, model=model, supported=answer.supported)


def _answered(written: AnswerHeld, **use: Any) -> RunFinished:
    return RunFinished(status="answered", **written.model_dump(), **use)


def _ended(status: Literal["denied", "failed", "answered"], code: str, reason: str) -> RunFinished:
    return RunFinished(status=status, answer=reason, citations=[], model="", supported=None, code=code)


def _use_of(outcome: Event | None) -> dict[str, Any]:
    """Return the tokens and money of a model's call, for the end of its run."""
    if not isinstance(outcome, ModelAnswered | ModelFailed):
        return {}
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "cost_micros": outcome.cost_micros,
        "currency": outcome.currency,
    }


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
            return {"tokens": event.cost_tokens}
        case _:
            return {}
