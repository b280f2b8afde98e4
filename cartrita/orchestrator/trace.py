"""How an answer came about: what the log holds of a message, from its posting to its reply, in its order.

Acts are told by what was decided of them and what that cost. What they brought is left out: before the reply
was given, and where it was denied, people may be holding the same words back.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, ClassVar, Final
from uuid import UUID

from cartrita.accounts.queries import Caller
from cartrita.errors import NotFound
from cartrita.eventstore import RecordedEvent, derived_id, read_session_of
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.orchestrator.reading import may_read
from cartrita.tools.events import ToolFailed, ToolReturned
from cartrita.wording import counted
from governance.approval import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalNoted,
    ApprovalReplaced,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalVoided,
    ApprovalVoted,
)
from governance.decision import ActSettled, DecisionMade
from retrieval.document import RetrievalPerformed
from sessions_app.session import MessagePosted, ReplyPosted, TurnCancelRequested
from tasks_app.plan import (
    EdgeAdded,
    GrowthRefused,
    PlanAccepted,
    PlanBilled,
    PlanCompleted,
    PlanCriticised,
    PlanHeldBack,
    PlanProposed,
    PlanRefused,
    PlanRevised,
    TaskAborted,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskPruned,
    TaskRetried,
    TaskStarted,
)
from tasks_app.plan_view import bill_in_words, bill_view, money_in_words
from tasks_app.queries import headline
from tasks_app.run import ActDecided, ActEdited, AnswerHeld, RunFinished, RunStarted

# Clients choose message ids: the same one may stand in other workspaces.
_SESSION_OF_MESSAGE: Final = (
    "select session_id from conversation_messages where message_id = %b and workspace_id = %b limit 1"
)
_OUTCOMES = (ModelAnswered, ModelFailed, ToolReturned, ToolFailed, RetrievalPerformed)
# What of several events that were recorded together comes first: 2 where nothing is said here.
_RANKS = {
    **dict.fromkeys((each.type_name for each in _OUTCOMES), 0),
    **dict.fromkeys((each.type_name for each in (RunStarted, RunFinished, ApprovalUsed, ActDecided)), 1),
    ApprovalRequested.type_name: 3,
}


class TraceNotFound(NotFound):
    """No message has such an id, nor what was done for one; or it is another person's, or it was erased."""

    code: ClassVar[str] = "trace_not_found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event of the way to an answer, in `words`; `named` where it is of what was asked for.

    `trace_id` names its trace at a receiver of traces; `inputs_hash` is that of the request as it was
    decided. `task` is the number of the task in its plan. Money is in micro-units of `currency`; what does
    not apply is None.
    """

    position: int
    at: datetime
    event: str
    actor: str
    message_id: UUID
    words: str
    named: bool
    trace_id: str
    plan_id: UUID | None = None
    task: int | None = None
    task_id: UUID | None = None
    agent: str | None = None
    run_id: UUID | None = None
    decision_id: UUID | None = None
    approval_id: UUID | None = None
    outcome: str | None = None
    rule: str | None = None
    subject: str | None = None
    inputs_hash: str | None = None
    latency_ms: float | None = None
    tokens: int | None = None
    cost_micros: int | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The way to the answer of a message, or to those of all messages of a session."""

    session_id: UUID
    entries: tuple[Entry, ...]


def trace(any_id: UUID, caller: Caller) -> Trace:
    """Return the way to an answer by the id of its session, message, reply, plan, task's run or decision.

    A run or a decision names its entries among those of its message. Raises TraceNotFound.
    """
    recorded = _session_events(any_id, caller)
    told = _Told(recorded)
    wanted = told.messages_of(any_id)
    if not wanted:
        raise TraceNotFound(f"{any_id} belongs to no message: nothing was done for an answer.", field="id")
    entries = [
        entry
        for each in recorded
        if (entry := told.entry(each, named=any_id)) is not None and entry.message_id in wanted
    ]
    return Trace(session_id=told.session_id, entries=tuple(_by_moments(entries)))


def _session_events(any_id: UUID, caller: Caller) -> list[RecordedEvent]:
    """Return the events of the session that an id belongs to, in the order of the log, by one query."""
    recorded = read_session_of(any_id, or_else=_SESSION_OF_MESSAGE, parameters=[any_id, caller.workspace_id])
    session_ids = {each.session_id for each in recorded if each.workspace_id == caller.workspace_id}
    for session_id in session_ids:
        if session_id is not None and may_read(caller, session_id):
            return recorded
    message = f"There is no message, session, plan, run, decision or approval {any_id} that you may read."
    raise TraceNotFound(message, field="id")


@dataclass(slots=True)
class _Plan:
    """What the log holds of a plan: whose answer it is of, and its tasks."""

    message_id: UUID
    agents: dict[UUID, str] = field(default_factory=dict)
    parts: defaultdict[UUID | None, list[UUID]] = field(default_factory=lambda: defaultdict(list))
    numbers: dict[UUID, int] = field(default_factory=dict)

    def number(self) -> None:
        """Number the tasks, each before its parts."""
        stack = self.parts[None][::-1]
        while stack:
            task_id = stack.pop()
            self.numbers[task_id] = len(self.numbers) + 1
            stack.extend(self.parts[task_id][::-1])


class _Told:
    """What a session's events tell of one another."""

    def __init__(self, recorded: Sequence[RecordedEvent]) -> None:
        self.session_id = next(each.session_id for each in recorded if each.session_id is not None)
        self.plans: dict[UUID, _Plan] = {}
        self.posted: dict[UUID, UUID] = {}
        self.runs: dict[UUID, RunStarted] = {}
        self.finished: dict[UUID, RunFinished] = {}
        self.of_tasks: set[UUID] = set()
        self.decisions: dict[UUID, DecisionMade] = {}
        self.settled: dict[UUID, ActSettled] = {}
        self.run_of: dict[UUID, UUID] = {}
        self.plan_of: dict[UUID, UUID] = {}
        self.asked: dict[UUID, UUID] = {}
        # What an app beside the runner records of an act names no decision: it belongs to the act before.
        self.open_acts: dict[UUID, UUID] = {}
        self.outcomes: set[UUID] = set()
        self.decision_of: dict[UUID, UUID] = {}
        self.replies: dict[UUID, UUID] = {}
        for each in recorded:
            self._take(each)
        for plan in self.plans.values():
            plan.number()

    def messages_of(self, any_id: UUID) -> frozenset[UUID]:
        """Return the messages that an id is of: itself, or what was done for them."""
        if any_id == self.session_id:
            return frozenset(self.posted.values())
        if any_id in self.posted.values():
            return frozenset({any_id})
        found = self.replies.get(any_id) or self._message_of(any_id)
        return frozenset({found} if found is not None else ())

    def entry(self, recorded: RecordedEvent, *, named: UUID) -> Entry | None:
        """Return an event as an entry, None for what says nothing of the way to an answer."""
        message_id = self._message_of_event(recorded)
        facts = self._facts(recorded) if message_id is not None else None
        if facts is None or message_id is None:
            return None
        plan_id = self._plan_of_stream(recorded.stream_id)
        run_id = recorded.stream_id if recorded.stream_id in self.runs else facts.pop("run_id", None)
        if (task_id := facts.get("task_id")) is None and run_id in self.runs:
            task_id = facts["task_id"] = self.runs[run_id].task_id
        plan = self.plans.get(plan_id) if plan_id is not None else None
        number = plan.numbers.get(task_id) if plan is not None and task_id is not None else None
        if number is None:
            facts.pop("task_id", None)
        agent = facts.pop("agent", None) or (self.runs[run_id].agent if run_id in self.runs else None)
        ids = {recorded.stream_id, run_id, facts.get("decision_id"), facts.get("approval_id")}
        return Entry(
            position=recorded.position or 0,
            at=recorded.recorded_at,
            event=recorded.type_name,
            actor=recorded.actor,
            message_id=message_id,
            named=named in ids and self.is_a_part(named),
            trace_id=recorded.trace_id,
            inputs_hash=self._inputs_hash(recorded, facts.get("decision_id")),
            plan_id=plan_id,
            task=number,
            agent=agent,
            run_id=run_id,
            **facts,
        )

    def _inputs_hash(self, recorded: RecordedEvent, decision_id: UUID | None) -> str | None:
        """Return the hash of what was decided, where the event tells a decision."""
        decided = isinstance(recorded.event, ActDecided | PlanAccepted | PlanHeldBack | PlanRefused)
        decision = self.decisions.get(decision_id) if decided and decision_id is not None else None
        return decision.request_hash or None if decision is not None else None

    def is_a_part(self, any_id: UUID) -> bool:
        """Tell whether an id is of a part of the way: a run, a decision, an approval."""
        return any_id in self.runs or any_id in self.decisions or any_id in self.asked

    def _take(self, recorded: RecordedEvent) -> None:
        stream = recorded.stream_id
        match recorded.event:
            case MessagePosted(message_id=message_id):
                self.posted[recorded.event_id] = message_id
                self.plan_of[derived_id(recorded.event_id, "plan")] = message_id
            case ReplyPosted(message_id=reply_id, parent=parent):
                self.replies[reply_id] = parent
            case PlanProposed(message_id=message_id):
                self.plans[stream] = _Plan(message_id)
                self.plan_of[stream] = message_id
            case TaskAdded() as event if stream in self.plans:
                plan = self.plans[stream]
                if event.task_id not in plan.agents:
                    plan.agents[event.task_id] = event.agent
                    plan.parts[event.parent_id].append(event.task_id)
            case TaskStarted(run_id=run_id):
                self.of_tasks.add(run_id)
            case RunStarted() as event:
                self.runs[stream] = event
            case RunFinished() as event:
                self.finished[stream] = event
            case ActDecided() as event:
                self.run_of[event.decision_id] = stream
                if event.permitted and event.act != "message_out":
                    self.open_acts[stream] = event.decision_id
            case PlanAccepted() | PlanHeldBack() | PlanRefused() as event:
                if event.decision_id is not None:
                    self.run_of[event.decision_id] = stream
            case DecisionMade() as event:
                self.decisions[stream] = event
            case ActSettled() as event:
                self.settled[stream] = event
            case ApprovalRequested(decision_id=decision_id):
                self.asked[stream] = decision_id
            case outcome if isinstance(outcome, _OUTCOMES):
                of_act = getattr(outcome, "decision_id", None) or self.open_acts.get(stream)
                if of_act is not None:
                    self.outcomes.add(of_act)
                    self.decision_of[recorded.event_id] = of_act
            case _:
                pass

    def _message_of(self, stream_id: UUID) -> UUID | None:
        """Return the message that a plan, a run, a decision or an approval is for."""
        plan_id = self._plan_of_stream(stream_id)
        return self.plan_of.get(plan_id) if plan_id is not None else None

    def _plan_of_stream(self, stream_id: UUID) -> UUID | None:
        decision_id = self.asked.get(stream_id, stream_id)
        run_id = self.run_of.get(decision_id, decision_id)
        run = self.runs.get(run_id)
        plan_id = run.plan_id if run is not None else run_id
        return plan_id if plan_id in self.plan_of else None

    def _message_of_event(self, recorded: RecordedEvent) -> UUID | None:
        match recorded.event:
            case (
                MessagePosted(role="user", message_id=message_id, context=False)
                | TurnCancelRequested(message_id=message_id)
            ):
                return message_id
            case ReplyPosted(parent=message_id):
                return message_id
        return self._message_of(recorded.stream_id)

    def _facts(self, recorded: RecordedEvent) -> dict[str, Any] | None:
        """Return what an event tells, None where it tells nothing or another one tells it."""
        return (
            self._facts_of_conversation(recorded)
            or self._facts_of_plan(recorded)
            or self._facts_of_task(recorded)
            or self._facts_of_run(recorded)
            or self._facts_of_outcome(recorded)
            or self._facts_of_approval(recorded)
        )

    def _facts_of_conversation(self, recorded: RecordedEvent) -> dict[str, Any] | None:
        match recorded.event:
            case MessagePosted() as event:
                return {"words": f"message {event.message_id} by {event.author}: {headline(event.content)}"}
            case TurnCancelRequested():
                return {"words": f"{recorded.actor} asked to stop"}
            case ReplyPosted() as event:
                words = f"reply {event.message_id}, {event.outcome}: {headline(event.content)}"
                return {"words": words, "outcome": event.outcome}
        return None

    def _facts_of_plan(self, recorded: RecordedEvent) -> dict[str, Any] | None:
        match recorded.event:
            case PlanProposed() as event:
                count = len(self.plans[recorded.stream_id].agents)
                tasks = "1 task" if count == 1 else f"{count} tasks"
                words = f"plan {recorded.stream_id} by {event.planner}: {tasks}"
                return {"words": words, "tokens": event.estimated_tokens}
            case PlanBilled() as event:
                return {"words": f"bill: {bill_in_words(bill_view(event))}", "tokens": event.tokens.p50}
            case PlanAccepted() as event:
                decision = self.decisions.get(event.decision_id)
                return _verdict(
                    "plan", event, event.outcome, rule=decision.rule if decision is not None else ""
                )
            case PlanHeldBack() as event:
                return _verdict("plan", event, event.outcome, rule=event.rule)
            case PlanRefused() as event:
                return _verdict("plan", event, "deny", rule=event.rule)
            case PlanCriticised(task_id=None) as event:
                return {"words": _criticism(event), "outcome": event.verdict}
            case PlanRevised() as event:
                added, pruned = len(event.added), len(event.pruned)
                return {"words": f"plan revised: {counted(added, 'task')} added, {pruned} left out"}
            case GrowthRefused() as event:
                return {"words": f"the plan may not grow ({event.bound}): {headline(event.reason)}"}
            case PlanCompleted() as event:
                words = f"plan {event.status}, {counted(event.tokens, 'token')}"
                return {"words": words, "outcome": event.status, "tokens": event.tokens}
        return None

    def _facts_of_task(self, recorded: RecordedEvent) -> dict[str, Any] | None:
        match recorded.event:
            case TaskAdded() as event:
                words = f"added for {event.agent}: {headline(event.intent)}"
                return {"words": words, "task_id": event.task_id, "agent": event.agent}
            case EdgeAdded() as event:
                first = self.plans[recorded.stream_id].numbers[event.from_task]
                return {"words": f"comes after task {first} ({event.relation})", "task_id": event.to_task}
            case TaskStarted() as event:
                agent = self.plans[recorded.stream_id].agents[event.task_id]
                words = f"{agent} begins attempt {event.attempt}, run {event.run_id}"
                return {"words": words, "task_id": event.task_id, "agent": agent, "run_id": event.run_id}
            case PlanCriticised() as event:
                return {"words": _criticism(event), "task_id": event.task_id, "outcome": event.verdict}
            case TaskCompleted() as event:
                return self._ended(event, "complete", event.run_id)
            case TaskRetried() as event:
                again = f"is tried again, not before {event.not_before:%H:%M:%S} UTC ({event.code})"
                return self._ended(event, again, event.run_id)
            case TaskFailed() as event:
                return self._ended(event, f"failed ({event.code}): {headline(event.reason)}", event.run_id)
            case TaskAborted() as event:
                return self._ended(event, f"stopped: {headline(event.reason)}", None)
            case TaskPruned() as event:
                words = f"left out ({event.code}): {headline(event.reason)}"
                return {"words": words, "task_id": event.task_id, "outcome": event.code}
        return None

    def _facts_of_run(self, recorded: RecordedEvent) -> dict[str, Any] | None:
        of_task = recorded.stream_id in self.of_tasks
        match recorded.event:
            # An attempt at a task is told where the plan says so; what else runs is asked for advice.
            case RunStarted() as event if not of_task:
                return {"words": f"{event.agent} is asked, run {recorded.stream_id}"}
            case RunFinished() as event if not of_task or event.status != "answered":
                why = f" ({event.code})" if event.code else ""
                agent = self.runs[recorded.stream_id].agent
                return {"words": f"{agent}: {event.status}{why}", "outcome": event.status}
            case ActDecided() as event:
                return _decided(event, self.decisions.get(event.decision_id))
            case ActEdited() as event:
                words = f"{event.by} changed the arguments; the act is decided anew"
                return {"words": words, "approval_id": event.approval_id}
            case AnswerHeld():
                return {"words": "the answer waits for the decision on its text"}
        return None

    def _facts_of_outcome(self, recorded: RecordedEvent) -> dict[str, Any] | None:
        match recorded.event:
            case ModelAnswered() as event:
                return self._used(event, f"{event.model} answered")
            case ModelFailed() as event:
                return self._used(event, f"{event.model} failed ({event.code})")
            case ToolReturned() as event:
                words = f"{event.tool} returned"
                return self._worked(recorded, words, event.latency_ms) | {"subject": event.tool}
            case ToolFailed() as event:
                words = f"{event.tool} failed ({event.code})"
                return self._worked(recorded, words, event.latency_ms) | {"subject": event.tool}
            case RetrievalPerformed() as event:
                documents = len(event.documents_retrieved)
                found = counted(len(event.passages), "passage")
                words = f"search found {found} in {counted(documents, 'document')}"
                return self._worked(recorded, words, event.retrieval_latency_ms)
            # What came of an act tells how it ended; of the others only what went wrong is told.
            case ActSettled() as event if event.outcome != "succeeded":
                decision = self.decisions.get(recorded.stream_id)
                if recorded.stream_id in self.outcomes or decision is None:
                    return None
                told = {"decision_id": recorded.stream_id, "outcome": event.outcome}
                words = f"{decision.subject_kind}: {event.outcome}"
                return told | {"words": words} | self._of_run(recorded.stream_id)
        return None

    def _facts_of_approval(self, recorded: RecordedEvent) -> dict[str, Any] | None:
        decision_id = self.asked.get(recorded.stream_id)
        words = _approval(recorded)
        if words is None or decision_id is None:
            return None
        told = {"words": words, "approval_id": recorded.stream_id, "decision_id": decision_id}
        if isinstance(recorded.event, ApprovalUsed):
            told["decision_id"] = recorded.event.decision_id
        return told | self._of_run(decision_id)

    def _of_run(self, decision_id: UUID) -> dict[str, Any]:
        run_id = self.run_of.get(decision_id)
        return {"run_id": run_id} if run_id in self.runs else {}

    def _ended(
        self,
        event: TaskCompleted | TaskRetried | TaskFailed | TaskAborted,
        words: str,
        run_id: UUID | None,
    ) -> dict[str, Any]:
        words += f"; {counted(event.tokens, 'token')}"
        told: dict[str, Any] = {"task_id": event.task_id, "tokens": event.tokens, "run_id": run_id}
        finished = self.finished.get(run_id) if run_id is not None else None
        if finished is None:
            return told | {"words": words}
        if finished.cost_micros:
            words += f", {money_in_words({finished.currency: finished.cost_micros})}"
        return told | {"words": words, "cost_micros": finished.cost_micros, "currency": finished.currency}

    def _used(self, event: ModelAnswered | ModelFailed, words: str) -> dict[str, Any]:
        tokens = event.prompt_tokens + event.completion_tokens
        cost = money_in_words({event.currency: event.cost_micros})
        return {
            "words": f"{words} in {event.latency_ms} ms, {counted(tokens, 'token')}, {cost}",
            "subject": event.model,
            "decision_id": event.decision_id,
            "latency_ms": event.latency_ms,
            "tokens": tokens,
            "cost_micros": event.cost_micros,
            "currency": event.currency,
            "outcome": self._outcome(event.decision_id),
        }

    def _worked(self, recorded: RecordedEvent, words: str, latency_ms: float) -> dict[str, Any]:
        decision_id = self.decision_of.get(recorded.event_id)
        settled = self.settled.get(decision_id) if decision_id is not None else None
        words += f" in {latency_ms:.0f} ms"
        told: dict[str, Any] = {"decision_id": decision_id, "latency_ms": latency_ms}
        if settled is None:
            return told | {"words": words}
        if settled.tokens:
            words += f", {counted(settled.tokens, 'token')}"
        if settled.cost_micros:
            words += f", {money_in_words({settled.currency: settled.cost_micros})}"
        return told | {
            "words": words,
            "tokens": settled.tokens,
            "cost_micros": settled.cost_micros,
            "currency": settled.currency,
            "outcome": settled.outcome,
        }

    def _outcome(self, decision_id: UUID) -> str | None:
        settled = self.settled.get(decision_id)
        return settled.outcome if settled is not None else None


def _by_moments(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Yield entries in the order of the log; of what was recorded together, causes first.

    The log orders events that were recorded together by their streams' ids, which says nothing.
    """
    for _, together in groupby(entries, key=attrgetter("at")):
        yield from sorted(together, key=lambda entry: _RANKS.get(entry.event, 2))


def _decided(event: ActDecided, decision: DecisionMade | None) -> dict[str, Any]:
    # A tool that reads documents is decided as a retrieval: told by the name that rules match.
    kind = decision.subject_kind if decision is not None and event.act == "tool_call" else event.act
    act = f"{kind} {event.subject}".rstrip()
    if event.downshifted_from:
        act += f" in place of {event.downshifted_from}"
    if event.fell_back_from:
        act += f" after {event.fell_back_from} failed"
    told = _verdict(act, event, event.outcome, rule=event.rule)
    if event.permitted and event.delivery == "held":
        told["words"] += "; the answer is held until its text is decided"
    return told | {"subject": event.subject or None}


def _verdict(
    what: str, event: ActDecided | PlanAccepted | PlanHeldBack | PlanRefused, outcome: str, *, rule: str
) -> dict[str, Any]:
    words = f"{what}: {outcome}" + (f" by {rule}" if rule else "")
    if event.decision_id is not None:
        words += f" (decision {event.decision_id})"
    if reason := getattr(event, "reason", ""):
        words += f": {headline(reason)}"
    approval_id = getattr(event, "approval_id", None)
    retry_after = getattr(event, "retry_after", None)
    if approval_id is not None:
        words += f"; waits for approval {approval_id}"
    elif retry_after is not None:
        words += f"; waits until {retry_after:%H:%M:%S} UTC"
    return {
        "words": words,
        "decision_id": event.decision_id,
        "outcome": outcome,
        "rule": rule or None,
        "approval_id": approval_id,
    }


def _criticism(event: PlanCriticised) -> str:
    words = f"critic: {event.verdict}"
    for passed, told in ((True, "passed"), (False, "not passed")):
        if found := [check.name for check in event.checks if check.passed is passed]:
            words += f"; {told}: {headline(', '.join(found))}"
    return words


def _approval(recorded: RecordedEvent) -> str | None:
    match recorded.event:
        case ApprovalRequested(quorum=quorum, approver_roles=roles, rule=rule):
            people = "1 person" if quorum == 1 else f"{quorum} people"
            return f"approval {recorded.stream_id} asked of {people} ({', '.join(roles)}) by {rule}"
        case ApprovalNoted(kind=kind, by=by):
            return f"{kind} by {by}"
        case ApprovalVoted(vote=vote, by=by):
            return f"{by} votes: {vote}"
        case ApprovalGranted(by=several, scope=scope):
            return f"approved by {', '.join(several)} ({scope})"
        case ApprovalDenied(by=by):
            return f"approval denied by {by}"
        case ApprovalExpired():
            return "nobody approved in time"
        case ApprovalReplaced(by=by):
            return f"{by} changed what is to be approved"
        case ApprovalVoided(cause=cause):
            return f"approval void ({cause})"
        case ApprovalUsed(decision_id=decision_id):
            return f"approval used by decision {decision_id}"
    return None
