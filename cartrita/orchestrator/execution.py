"""Answer one message: fold what is recorded, do the first thing that is missing, record it, repeat.

Every record is one transaction over the streams that it touches: the outcome of the last act, its settlement,
and the decision on the next act. A process that dies between two records leaves a prefix of this story, and
whoever folds it next goes on from there.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from cartrita.accounts.queries import roles_of
from cartrita.errors import CartritaError
from cartrita.eventstore import Append, Event, aload, append, derived_id, in_database_thread
from cartrita.llm import catalog, gateway
from cartrita.llm.catalog import ModelEntry
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.llm.gateway import CallCancelled, ModelRequest
from cartrita.orchestrator import answering, loop
from cartrita.orchestrator.agents import ASSISTANT, Agent, agent
from cartrita.orchestrator.answering import Answer
from cartrita.orchestrator.assignment import Assignment
from cartrita.streaming.deltas import open_message, purge_message
from cartrita.tools.events import ToolFailed
from governance.decide import Cost, DecisionRequest, RequestFacts, Verdict
from governance.decision import ActOutcome
from governance.doors import Permit, amake_decision, settle
from governance.policy import SubjectKind
from governance.queries.decisions import recent_counters
from governance.queries.policies import active_policy
from retrieval import ingest
from retrieval.queries import in_scope
from retrieval.questions import MAX_QUERY
from retrieval.search import performed_event, search
from sessions_app import commands as sessions
from sessions_app.session import ReplyOutcome
from tasks_app import plan as plans
from tasks_app.plan import (
    Plan,
    PlanAccepted,
    PlanProposed,
    PlanRefused,
    TaskAborted,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
)
from tasks_app.run import ActDecided, ActKind, RunFinished, RunStarted

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


class Stopped(Exception):
    """The person asked to stop; `partial` is the text that was already shown."""

    def __init__(self, partial: str = "", outcome: ModelFailed | None = None) -> None:
        super().__init__("stopped")
        self.partial = partial
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision that is ready to be recorded together with what comes before the act."""

    verdict: Verdict
    permit: Permit | None
    append: Append
    event: ActDecided


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
        self._plan_decision_id = derived_id(self.plan_id, "decision")
        self._plan = Plan()
        self._run = loop.RunState()
        self._agent: Agent = ASSISTANT
        self._model: ModelEntry
        self._roles: frozenset[str] = frozenset()
        self._extract: Answer | None = None

    async def run(self) -> None:
        """Go on from what is recorded until the reply is posted."""
        work = self._work
        self._plan = plans.fold(recorded.event for recorded in await aload(self.plan_id))
        self._run = loop.fold(recorded.event for recorded in await aload(self.run_id))
        self._roles = await in_database_thread(roles_of, work.user_id, work.workspace_id)
        try:
            self._agent = agent(str(work.metadata.get("agent") or "assistant"))
            self._model = await in_database_thread(
                catalog.choose, name=_text(work.metadata.get("model")), tier=None, purpose="execution"
            )
        except CartritaError as error:
            await self._fail(f"This message cannot be answered: {error.message}", code=error.code)
            return
        if self._plan.status == "new":
            await self._propose()
        if self._plan.status == "accepted":
            await self._work_through()
        await self._post_outcome()

    async def give_up(self) -> None:
        """Reply that the turn failed, after it could not be brought further by trying again."""
        self._plan = plans.fold(recorded.event for recorded in await aload(self.plan_id))
        self._run = loop.fold(recorded.event for recorded in await aload(self.run_id))
        await self._fail(
            f"There is no answer: something failed inside. Tell an operator the trace {self._work.trace_id}.",
            code="failed_inside",
        )

    # Planning

    async def _propose(self) -> None:
        """Lay out the one task that a message is, and let governance decide on the plan as a whole."""
        work = self._work
        estimate = self._agent.max_output_tokens
        request = DecisionRequest.about(
            await self._facts("plan"),
            "plan",
            arguments={
                "planner": "single",
                "tasks": [{"intent": work.question, "agent": self._agent.name, "priority": 5}],
                "estimated_tokens": estimate,
            },
            model=self._model.name,
            cost=Cost(tokens=estimate),
        )
        decision_id = self._plan_decision_id
        policy = await in_database_thread(active_policy, work.workspace_id)
        verdict, decision, permit = await amake_decision(
            request, decision_id=decision_id, context=self._context(), policy=policy
        )
        events: list[Event] = [
            PlanProposed(
                message_id=work.message_id,
                root_task_id=self.task_id,
                goal=work.question,
                planner="single",
                estimated_tokens=estimate,
            ),
            TaskAdded(
                task_id=self.task_id,
                parent_id=None,
                intent=work.question,
                spec={"attachments": [str(document) for document in work.attachments]},
                agent=self._agent.name,
                estimated_tokens=estimate,
            ),
        ]
        if permit is None:
            events.append(
                PlanRefused(decision_id=decision_id, rule=verdict.rule, reason=verdict.message_for_people)
            )
            await self._record(plan=events, others=[decision])
            return
        events += [
            PlanAccepted(decision_id=decision_id, outcome=verdict.outcome),
            TaskStarted(task_id=self.task_id, run_id=self.run_id, attempt=1),
        ]
        started = RunStarted(
            plan_id=self.plan_id,
            task_id=self.task_id,
            attempt=1,
            agent=self._agent.name,
            loop_version=loop.LOOP_VERSION,
        )
        await self._record(plan=events, run=[started], others=[decision])

    # The loop

    async def _work_through(self) -> None:
        try:
            await self._until_stopped(self._wait_for_attachments())
            turn = await self._look_around()
            while not self._run.finished:
                await self._take_step(turn)
        except Stopped as stopped:
            await self._finish(
                RunFinished(
                    status="stopped",
                    answer=stopped.partial,
                    citations=[],
                    model=self._model.name if stopped.outcome else "",
                    supported=None,
                    code="stopped",
                ),
                outcome=stopped.outcome,
            )

    async def _look_around(self) -> loop.Turn:
        work = self._work
        scope = in_scope(workspace_id=work.workspace_id, session_id=work.session_id)
        return loop.Turn(
            searchable=await in_database_thread(scope.filter(status__in=["chunked", "ready"]).exists),
            attached=bool(work.attachments),
            model_answers=self._model.can("answers"),
        )

    async def _take_step(self, turn: loop.Turn) -> None:
        if self._stop.is_set():
            raise Stopped
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
            case loop.Finish(status="answered"):
                await self._finish_generated()
            case loop.Finish(status, code, reason):
                finished = RunFinished(
                    status=status, answer=reason, citations=[], model="", supported=None, code=code
                )
                await self._finish(finished)
            case loop.Over():
                pass

    async def _wait_for_attachments(self) -> None:
        if self._work.attachments:
            await ingest.wait_ready(list(self._work.attachments), timeout=ATTACHMENT_SECONDS)

    async def _search(self, step: loop.Search) -> None:
        """Look for passages: decided once, with the labels of all documents that could be found."""
        work = self._work
        labels = await in_database_thread(_labels_in_scope, work)
        request = DecisionRequest.about(
            await self._facts("retrieval", tool=loop.SEARCH, repeats=step.attempt - 1),
            "retrieval",
            tool=loop.SEARCH,
            arguments={"query": work.question, "k": PASSAGES},
            labels=labels,
        )
        decided = await self._decide(step, "retrieval", loop.SEARCH, request)
        await self._record(run=[decided.event], others=[decided.append, *self._abandoned()])
        if decided.permit is None:
            return
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
                    k=PASSAGES,
                )
            )
        except CartritaError as error:
            outcome = ToolFailed(
                tool=loop.SEARCH, idempotency_key=str(retrieval_id), code=error.code, message=error.message
            )
        else:
            outcome = performed_event(found, retrieval_id=retrieval_id)
        settled = self._settled(decided, outcome, labels=labels)
        await self._record(run=[outcome], others=[settled])

    async def _speak(self, step: loop.Extract) -> None:
        """Show an answer that needed no model."""
        answer = self._extract
        if answer is None:
            raise AssertionError("a step that extracts follows a search")
        decided = await self._decide_speech(step)
        await self._record(run=[decided.event], others=[decided.append, *self._abandoned()])
        if decided.permit is None:
            return
        async with open_message(self._work.session_id, self.reply_id, step.attempt) as writer:
            for piece in answer.pieces:
                if self._stop.is_set():
                    raise Stopped(partial="".join(answer.pieces)[: writer.bytes_written])
                await writer.write(piece)
            await writer.complete()
        await self._finish(
            RunFinished(
                status="answered",
                answer=answer.text,
                citations=answer.citations,
                model=answering.EXTRACTIVE,
                supported=answer.supported,
            )
        )

    async def _generate(self, step: loop.Generate) -> None:
        """Let the model answer, streaming what it says."""
        speech_attempt = len(self._run.speeches) + 1
        prompt = await answering.prompt(
            self._agent, self._model, self._work.history, self._work.question, self._run.search
        )
        prepared = await gateway.prepare(
            ModelRequest(
                messages=prompt, model=self._model.name, max_output_tokens=self._agent.max_output_tokens
            ),
            facts=await self._facts("model_call", repeats=step.attempt - 1),
        )
        speech = await self._decide_speech(step)
        decided = await self._decide(step, "model_call", self._model.name, prepared.decision_request)
        await self._record(
            run=[speech.event, decided.event], others=[speech.append, decided.append, *self._abandoned()]
        )
        if speech.permit is None or decided.permit is None:
            return
        said: list[str] = []
        async with open_message(self._work.session_id, self.reply_id, speech_attempt) as writer:

            async def show(text: str) -> None:
                said.append(text)
                await writer.write(text)

            try:
                outcome = await self._until_stopped(
                    gateway.perform(
                        prepared,
                        decided.permit,
                        attempt=step.attempt,
                        key_id=self._work.key_id,
                        on_delta=show,
                    )
                )
            except Stopped as stopped:
                raise Stopped("".join(said), stopped.outcome) from None
            if isinstance(outcome, ModelAnswered):
                await writer.complete()
        await self._record(run=[outcome], others=[self._settled(decided, outcome)])

    async def _finish_generated(self) -> None:
        answered = self._run.answer
        if answered is None:
            raise AssertionError("a run finishes as answered after its model answered")
        text = await gateway.whole_text(answered)
        answer = await answering.check(text, self._run.search)
        await self._finish(
            RunFinished(
                status="answered",
                answer=text,
                citations=answer.citations,
                model=answered.model,
                supported=answer.supported,
                prompt_tokens=answered.prompt_tokens,
                completion_tokens=answered.completion_tokens,
                cost_micros=answered.cost_micros,
                currency=answered.currency,
            )
        )

    async def _finish(self, finished: RunFinished, *, outcome: ModelFailed | None = None) -> None:
        """End the run, its task and the plan in one record."""
        if outcome is not None:
            finished = finished.model_copy(
                update={
                    "prompt_tokens": outcome.prompt_tokens,
                    "completion_tokens": outcome.completion_tokens,
                    "cost_micros": outcome.cost_micros,
                    "currency": outcome.currency,
                }
            )
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
        plan = plans.evolve(self._plan, ended)
        await self._record(
            plan=[ended, *plans.completion(plan)],
            run=[finished] if outcome is None else [outcome, finished],
            others=[
                settle(decision_id, outcome=_ACT_OUTCOMES[finished.status], context=self._context())
                for decision_id in (self._plan_decision_id, *self._run.open_decisions)
            ],
        )

    async def _fail(self, text: str, *, code: str) -> None:
        """End what was begun and reply with what went wrong."""
        if self._plan.status == "accepted" and self._run.finished is None:
            finished = RunFinished(
                status="failed", answer=text, citations=[], model="", supported=None, code=code
            )
            await self._finish(finished)
        await self._reply(text, outcome="failed")

    # The reply

    async def _post_outcome(self) -> None:
        finished = self._run.finished
        if self._plan.status == "refused":
            await self._reply(f"This was not allowed: {self._plan.refusal}", outcome="denied")
        elif finished is None:
            raise AssertionError(f"plan {self.plan_id} ended without a finished run")
        elif finished.status == "answered":
            await self._reply(finished.answer, outcome="answered", finished=finished)
        elif finished.status == "stopped":
            await self._reply(finished.answer, outcome="stopped", finished=finished)
        elif finished.status == "denied":
            await self._reply(f"This was not allowed: {finished.answer}", outcome="denied", finished=finished)
        else:
            await self._reply(f"There is no answer: {finished.answer}", outcome="failed", finished=finished)

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
        self,
        step: loop.Search | loop.Extract | loop.Generate,
        act: ActKind,
        subject: str,
        request: DecisionRequest,
    ) -> Decided:
        decision_id = derived_id(self.run_id, f"decision:{step.step}:{step.attempt}:{act}")
        policy = await in_database_thread(active_policy, self._work.workspace_id)
        verdict, decision, permit = await amake_decision(
            request, decision_id=decision_id, context=self._context(), policy=policy
        )
        event = ActDecided(
            step=step.step,
            attempt=step.attempt,
            act=act,
            subject=subject,
            decision_id=decision_id,
            outcome=verdict.outcome,
            rule=verdict.rule,
            permitted=permit is not None,
            reason="" if permit is not None else verdict.message_for_people,
        )
        return Decided(verdict, permit, decision, event)

    async def _decide_speech(self, step: loop.Extract | loop.Generate) -> Decided:
        """Decide whether text may reach the person while it is written."""
        request = DecisionRequest.about(
            await self._facts("message_out", repeats=step.attempt - 1),
            "message_out",
            arguments={"to": f"user:{self._work.user_id}", "mode": "live"},
        )
        return await self._decide(step, "message_out", "reply", request)

    def _settled(self, decided: Decided, outcome: Event, *, labels: frozenset[str] = frozenset()) -> Append:
        came_to: ActOutcome = "failed" if isinstance(outcome, ModelFailed | ToolFailed) else "succeeded"
        if not isinstance(outcome, ModelAnswered | ModelFailed):
            return settle(
                decided.event.decision_id, outcome=came_to, labels_added=labels, context=self._context()
            )
        return settle(
            decided.event.decision_id,
            outcome=came_to,
            tokens=outcome.prompt_tokens + outcome.completion_tokens,
            cost_micros=outcome.cost_micros,
            currency=outcome.currency,
            estimated=outcome.estimated,
            context=self._context(),
        )

    def _abandoned(self) -> list[Append]:
        """Settle the act that an earlier process decided and whose outcome nobody knows."""
        lost = self._run.undecided_outcome
        if lost is None:
            return []
        return [settle(lost.decision_id, outcome="unknown", context=self._context())]

    async def _record(
        self,
        *,
        plan: Sequence[Event] = (),
        run: Sequence[Event] = (),
        others: Sequence[Append] = (),
    ) -> None:
        context = self._context()
        appends = list(others)
        if plan:
            appends.append(Append(self.plan_id, self._plan.version, plan, context))
        if run:
            appends.append(Append(self.run_id, self._run.version, run, context))
        await in_database_thread(append, *appends)
        for event in plan:
            self._plan = plans.evolve(self._plan, event)
        for event in run:
            self._run = loop.evolve(self._run, event)

    async def _facts(self, kind: SubjectKind, *, tool: str = "", repeats: int = 0) -> RequestFacts:
        work = self._work
        now = datetime.now(UTC)
        counters = await in_database_thread(
            recent_counters, session_id=work.session_id, kind=kind, at=now, tool=tool, repeats=repeats
        )
        return RequestFacts(
            workspace_id=work.workspace_id,
            session_id=work.session_id,
            actor=f"user:{work.user_id}",
            agent=self._agent.name,
            roles=self._roles,
            task_path=(str(self.task_id),),
            counters=counters,
            at=now,
        )

    def _context(self) -> Any:
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
            except CallCancelled as cancelled:
                raise Stopped(outcome=cancelled.failed) from None
            except asyncio.CancelledError:
                raise Stopped from None
            return task.result()
        finally:
            stopper.cancel()
            task.cancel()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _labels_in_scope(work: Assignment) -> frozenset[str]:
    rows = in_scope(workspace_id=work.workspace_id, session_id=work.session_id)
    return frozenset(label for labels in rows.values_list("labels", flat=True) for label in labels)
