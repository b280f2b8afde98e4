"""A plan as people see it, folded from its own stream and those of its runs: as new as the log."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from cartrita.eventstore import RecordedEvent, load_streams
from governance.models import PolicyDecision
from tasks_app import plan as plans
from tasks_app.plan import (
    Amounts,
    Criticism,
    Foreseen,
    Money,
    Plan,
    PlanAccepted,
    PlanBilled,
    PlanCompleted,
    PlanCriticised,
    PlanHeldBack,
    PlanProposed,
    PlanRefused,
    PlanStatus,
    Relation,
    Task,
    TaskAborted,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskKind,
    TaskPruned,
    TaskStarted,
    TaskStatus,
)
from tasks_app.relations import Graph, status_of
from tasks_app.run import ActDecided, ActKind, RunFinished, RunStarted

WaitsFor = Literal["", "tasks", "approval", "time"]
# What came between an act and its doing: people were asked, it had to wait for a time, it was denied.
Hindrance = Literal["asked", "throttled", "denied"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision as people see it; `reason` is what they are told where it did not permit the act."""

    decision_id: UUID | None
    outcome: str
    rule: str
    permitted: bool
    act: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckView:
    """What a critic looked at; `detail` is empty until the plan's answer was given."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeView:
    """What a task comes after, and on what terms; `weight` is in hundredths."""

    task_id: UUID
    relation: Relation
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AmountsView:
    """What something comes to in one case of ten (`p10`), in half of them and in nine of ten, at most."""

    p10: int
    p50: int
    p90: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyView(AmountsView):
    """Amounts in micro-units of `currency`."""

    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeseenView:
    """An act that policy would hold up or deny; not `sure` where its arguments were not known yet."""

    act: ActKind
    subject: str
    outcome: str
    rule: str
    sure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BillLineView:
    """What one task was expected to use; it rests on `samples` such tasks, without any on an estimate."""

    task_id: UUID
    agent: str
    tool: str
    model: str
    samples: int
    tokens: AmountsView
    cost: MoneyView
    foreseen: tuple[ForeseenView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BillView:
    """What a plan was expected to use before it began.

    It rests on `samples` past tasks; `estimated` counts the tasks that are expected to use something of which
    nothing was known from past ones. `approvals`, `throttles` and `denials` count acts.
    """

    tasks: int
    tokens: AmountsView
    costs: tuple[MoneyView, ...]
    approvals: int
    throttles: int
    denials: int
    samples: int
    estimated: int
    lines: tuple[BillLineView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task with its parts.

    `blocked_by` are the open tasks that it waits for, `waits_for` says for what kind of thing. `costs` are
    micro-units by currency, of its finished attempts and of the acts of an unfinished one.
    """

    id: UUID
    parent_id: UUID | None
    kind: TaskKind
    intent: str
    agent: str
    tool: str
    priority: int
    status: TaskStatus
    waits_for: WaitsFor
    blocked_by: tuple[UUID, ...]
    depends_on: tuple[EdgeView, ...]
    run_id: UUID | None
    attempts: int
    next_try_at: datetime | None
    estimated_tokens: int
    budget_tokens: int
    actual_tokens: int
    costs: dict[str, int]
    verdict: Verdict | None
    approval_id: UUID | None
    criticism: Criticism | None
    checks: tuple[CheckView, ...]
    code: str
    error: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    parts: tuple["TaskView", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """A plan as people see it: what it came to, and its tasks as a tree.

    `asked_count`, `throttled_count` and `denied_count` count the acts that people were asked about, that had
    to wait for a time and that were denied. `tasks` holds the root with its parts, nothing before it was
    added. `version` counts the plan's events.
    """

    id: UUID
    session_id: UUID
    message_id: UUID
    status: PlanStatus
    goal: str
    planner: str
    version: int
    task_count: int
    ended_count: int
    agents: tuple[str, ...]
    estimated_tokens: int
    budget_tokens: int
    actual_tokens: int
    costs: dict[str, int]
    bill: BillView | None
    asked_count: int
    throttled_count: int
    denied_count: int
    verdict: Verdict | None
    approval_id: UUID | None
    retry_after: datetime | None
    refusal: str | None
    criticism: Criticism | None
    checks: tuple[CheckView, ...]
    revisions: int
    created_at: datetime
    accepted_at: datetime | None
    ended_at: datetime | None
    tasks: tuple[TaskView, ...]

    @property
    def ended(self) -> bool:
        """Tell whether nothing more can happen to this plan."""
        return self.status in plans.FINAL_PLAN_STATUSES

    def all_tasks(self) -> list[TaskView]:
        """Return all tasks, each before its parts."""
        found: list[TaskView] = []
        stack = list(self.tasks[::-1])
        while stack:
            task = stack.pop()
            found.append(task)
            stack.extend(task.parts[::-1])
        return found


@dataclass(slots=True)
class _Attempts:
    """What the runs of a task tell of it."""

    newest: ActDecided | None = None
    unfinished: set[UUID] = field(default_factory=set)
    costs: Counter[str] = field(default_factory=Counter)
    hindered: "dict[Hindrance, set[tuple[UUID, int]]]" = field(default_factory=lambda: defaultdict(set))


@dataclass(slots=True, kw_only=True)
class _Told:
    """What events tell beside the plan's state: what runs did, what critics saw, when things began."""

    graph: Graph
    attempts: Mapping[UUID, _Attempts]
    awaiting: Collection[UUID] = ()
    checks: dict[UUID | None, tuple[CheckView, ...]] = field(default_factory=dict)
    added: dict[UUID, datetime] = field(default_factory=dict)
    started: dict[UUID, datetime] = field(default_factory=dict)
    ended: dict[UUID, datetime] = field(default_factory=dict)
    accepted: datetime | None = None
    plan_ended: datetime | None = None

    def count(self, hindrance: Hindrance) -> int:
        """Count the acts of all tasks that this came between."""
        return sum(len(attempts.hindered[hindrance]) for attempts in self.attempts.values())


def plan_view(recorded: Sequence[RecordedEvent], *, parts_readable: bool) -> PlanView:
    """Return the plan that these events, all of its stream, make: three queries at most."""
    proposed = recorded[0].event
    if not isinstance(proposed, PlanProposed):
        raise TypeError(f"{recorded[0].type_name} proposes no plan")
    folded = plans.fold(each.event for each in recorded)
    told = _told(recorded, folded, parts_readable=parts_readable)
    views = {task.task_id: _task_view(folded, task, told) for task in folded.tasks.values()}
    worked_on = [task for task in folded.tasks.values() if task.kind != "goal"]
    costs: Counter[str] = Counter()
    for view in views.values():
        costs.update(view.costs)
    held = folded.held_back if folded.status == "waiting" else None
    root_id = folded.root_task_id
    return PlanView(
        id=recorded[0].stream_id,
        session_id=in_session(recorded[0]),
        message_id=proposed.message_id,
        status=folded.status,
        goal=proposed.goal,
        planner=folded.planner,
        version=folded.version,
        task_count=len(worked_on),
        ended_count=sum(task.ended for task in worked_on),
        agents=tuple(dict.fromkeys(task.agent for task in worked_on)),
        estimated_tokens=proposed.estimated_tokens,
        budget_tokens=sum(task.cost_budget_tokens for task in folded.tasks.values()),
        actual_tokens=folded.tokens,
        costs=dict(costs),
        bill=bill_view(folded.bill) if folded.bill is not None else None,
        asked_count=told.count("asked"),
        throttled_count=told.count("throttled"),
        denied_count=told.count("denied"),
        verdict=_plan_verdict(recorded),
        approval_id=held.approval_id if held is not None else None,
        retry_after=held.retry_after if held is not None else None,
        refusal=folded.refusal,
        criticism=folded.criticism,
        checks=told.checks.get(None, ()),
        revisions=folded.revisions,
        created_at=recorded[0].recorded_at,
        accepted_at=told.accepted,
        ended_at=told.plan_ended,
        tasks=(_with_parts(views, told.graph, root_id),) if root_id is not None and root_id in views else (),
    )


def bill_view(bill: PlanBilled) -> BillView:
    """Return a bill as people see it."""
    # Tasks of the same agent and tool rest on the same past tasks.
    samples: dict[tuple[str, str], int] = {}
    for line in bill.lines:
        samples[line.agent, line.tool] = max(line.samples, samples.get((line.agent, line.tool), 0))
    return BillView(
        tasks=len(bill.lines),
        tokens=_amounts(bill.tokens),
        costs=tuple(_money_view(each) for each in bill.costs),
        approvals=bill.approvals,
        throttles=bill.throttles,
        denials=bill.denials,
        samples=sum(samples.values()),
        estimated=sum(1 for line in bill.lines if not line.samples and line.tokens.p90),
        lines=tuple(
            BillLineView(
                task_id=line.task_id,
                agent=line.agent,
                tool=line.tool,
                model=line.model,
                samples=line.samples,
                tokens=_amounts(line.tokens),
                cost=_money_view(line.cost),
                foreseen=tuple(_foreseen(each) for each in line.foreseen),
            )
            for line in bill.lines
        ),
    )


def sums_of(bill: BillView) -> dict[str, Any]:
    """Return a bill without the lines of its tasks, as JSON values."""
    return {name: value for name, value in asdict(bill).items() if name != "lines"}


def bill_in_words(bill: BillView) -> str:
    """Return a bill as one line for a terminal."""
    facts = [f"about {bill.tokens.p50:,} tokens ({bill.tokens.p10:,} to {bill.tokens.p90:,})"]
    facts += [money_in_words({cost.currency: cost.p50}) for cost in bill.costs]
    counts = ((bill.approvals, "to be approved"), (bill.throttles, "to wait"), (bill.denials, "denied"))
    facts += [f"{count} {'act' if count == 1 else 'acts'} {words}" for count, words in counts if count]
    past = "1 past task" if bill.samples == 1 else f"{bill.samples} past tasks"
    rests = f"rests on {past}" if bill.samples else "an estimate"
    return f"{', '.join(facts)}; {rests}"


def money_in_words(costs: Mapping[str, int]) -> str:
    """Return amounts in micro-units by currency as text, empty where there are none."""
    return ", ".join(f"{micros / 1_000_000:.6f} {currency}" for currency, micros in costs.items())


def in_session(recorded: RecordedEvent) -> UUID:
    """Return the session of an event of a plan or a run: all of these belong to one."""
    if recorded.session_id is None:
        raise AssertionError(f"{recorded.type_name} {recorded.event_id} belongs to no session")
    return recorded.session_id


def _amounts(amounts: Amounts) -> AmountsView:
    return AmountsView(p10=amounts.p10, p50=amounts.p50, p90=amounts.p90)


def _money_view(money: Money) -> MoneyView:
    return MoneyView(p10=money.p10, p50=money.p50, p90=money.p90, currency=money.currency)


def _foreseen(foreseen: Foreseen) -> ForeseenView:
    return ForeseenView(
        act=foreseen.act,
        subject=foreseen.subject,
        outcome=foreseen.outcome,
        rule=foreseen.rule,
        sure=foreseen.sure,
    )


def _told(recorded: Sequence[RecordedEvent], folded: Plan, *, parts_readable: bool) -> "_Told":
    attempts = _attempts_by_task(
        [each.event.run_id for each in recorded if isinstance(each.event, TaskStarted)]
    )
    told = _Told(graph=Graph.of(folded), attempts=attempts)
    told.awaiting = {
        task_id
        for task_id, of_task in attempts.items()
        if of_task.unfinished and of_task.newest is not None and of_task.newest.waits
    }
    readable = folded.status == "complete" and parts_readable
    for each in recorded:
        at = each.recorded_at
        match each.event:
            case TaskAdded(task_id=task_id):
                told.added.setdefault(task_id, at)
            case TaskStarted(task_id=task_id):
                told.started.setdefault(task_id, at)
            case (
                TaskCompleted(task_id=task_id)
                | TaskFailed(task_id=task_id)
                | TaskAborted(task_id=task_id)
                | TaskPruned(task_id=task_id)
            ):
                told.ended.setdefault(task_id, at)
            case PlanCriticised() as event:
                told.checks[event.task_id] = _checks(event, readable=readable)
            case PlanAccepted():
                told.accepted = told.accepted or at
            case PlanRefused() | PlanCompleted():
                told.plan_ended = told.plan_ended or at
    return told


def _task_view(folded: Plan, task: Task, told: "_Told") -> TaskView:
    of_task = told.attempts.get(task.task_id, _Attempts())
    act = of_task.newest
    waits = act if act is not None and task.task_id in told.awaiting and not task.ended else None
    blocked_by = () if task.ended else tuple(one.task_id for one in told.graph.blockers(task))
    return TaskView(
        id=task.task_id,
        parent_id=task.parent_id,
        kind=task.kind,
        intent=task.intent,
        agent=task.agent,
        tool=str(task.spec.get("tool", "")),
        priority=task.priority,
        status=status_of(folded, task, told.graph, awaiting=told.awaiting),
        waits_for=_waits_for(folded, task, waits, blocked_by),
        blocked_by=blocked_by,
        depends_on=tuple(
            EdgeView(task_id=edge.from_task, relation=edge.relation, weight=edge.weight)
            for edge in told.graph.incoming[task.task_id]
        ),
        run_id=task.run_id,
        attempts=task.attempts,
        next_try_at=task.not_before or (waits.retry_after if waits is not None else None),
        estimated_tokens=task.estimated_tokens,
        budget_tokens=task.cost_budget_tokens,
        actual_tokens=task.tokens,
        costs=dict(of_task.costs),
        verdict=_verdict(act) if act is not None else None,
        approval_id=waits.approval_id if waits is not None else None,
        criticism=task.criticism,
        checks=told.checks.get(task.task_id, ()),
        code=task.code,
        error=task.error,
        created_at=told.added[task.task_id],
        started_at=told.started.get(task.task_id),
        ended_at=told.ended.get(task.task_id),
    )


def _attempts_by_task(run_ids: Sequence[UUID]) -> Mapping[UUID, _Attempts]:
    """Return what the runs tell of each task: two queries, or one where all have finished."""
    found: defaultdict[UUID, _Attempts] = defaultdict(_Attempts)
    if not run_ids:
        return found
    task_of: dict[UUID, UUID] = {}
    decided: dict[UUID, list[ActDecided]] = {}
    for each in load_streams(run_ids, RunStarted, ActDecided, RunFinished):
        match each.event:
            case RunStarted(task_id=task_id):
                task_of[each.stream_id] = task_id
                found[task_id].unfinished.add(each.stream_id)
                decided[each.stream_id] = []
            case ActDecided() as event:
                decided[each.stream_id].append(event)
                if (hindrance := _hindrance(event)) is not None:
                    # However often it is decided: the act of one step of a run.
                    found[task_of[each.stream_id]].hindered[hindrance].add((each.stream_id, event.step))
            case RunFinished() as event:
                of_task = found[task_of[each.stream_id]]
                of_task.unfinished.discard(each.stream_id)
                if event.cost_micros:
                    of_task.costs[event.currency] += event.cost_micros
    # Attempts come one after the other, in the order of `run_ids`.
    for run_id in run_ids:
        if decided.get(run_id):
            found[task_of[run_id]].newest = decided[run_id][-1]
    open_decisions = {
        event.decision_id: task_of[run_id]
        for of_task in found.values()
        for run_id in of_task.unfinished
        for event in decided[run_id]
    }
    if open_decisions:
        spent = PolicyDecision.objects.filter(id__in=open_decisions, act_cost_micros__gt=0)
        for decision_id, currency, micros in spent.values_list("id", "act_currency", "act_cost_micros"):
            found[open_decisions[decision_id]].costs[currency] += micros or 0
    return found


def _hindrance(act: ActDecided) -> Hindrance | None:
    if act.permitted:
        return None
    if act.approval_id is not None:
        return "asked"
    return "throttled" if act.retry_after is not None else "denied"


def _waits_for(folded: Plan, task: Task, waits: ActDecided | None, blocked_by: Sequence[UUID]) -> WaitsFor:
    if task.ended or folded.ended:
        return ""
    held = folded.held_back if folded.status == "waiting" else None
    if held is not None or waits is not None:
        approval_id = (
            held.approval_id if held is not None else waits.approval_id if waits is not None else None
        )
        return "approval" if approval_id is not None else "time"
    if task.not_before is not None:
        return "time"
    return "tasks" if task.status == "pending" and blocked_by else ""


def _with_parts(views: Mapping[UUID, TaskView], graph: Graph, task_id: UUID) -> TaskView:
    parts = tuple(_with_parts(views, graph, part) for part in graph.parts[task_id])
    return replace(views[task_id], parts=parts)


def _checks(event: PlanCriticised, *, readable: bool) -> tuple[CheckView, ...]:
    details = event.details if readable else {}
    return tuple(
        CheckView(name=check.name, passed=check.passed, detail=details.get(check.name, ""))
        for check in event.checks
    )


def _plan_verdict(recorded: Iterable[RecordedEvent]) -> Verdict | None:
    found = None
    for each in recorded:
        match each.event:
            case PlanAccepted() as event:
                found = Verdict(
                    decision_id=event.decision_id,
                    outcome=event.outcome,
                    rule="",
                    permitted=True,
                    act="plan",
                    reason="",
                )
            case PlanHeldBack() as event:
                found = Verdict(
                    decision_id=event.decision_id,
                    outcome=event.outcome,
                    rule=event.rule,
                    permitted=False,
                    act="plan",
                    reason=event.reason,
                )
            case PlanRefused() as event:
                found = Verdict(
                    decision_id=event.decision_id,
                    outcome="deny",
                    rule=event.rule,
                    permitted=False,
                    act="plan",
                    reason=event.reason,
                )
    return found


def _verdict(act: ActDecided) -> Verdict:
    return Verdict(
        decision_id=act.decision_id,
        outcome=act.outcome,
        rule=act.rule,
        permitted=act.permitted,
        act=act.act,
        reason=act.reason,
    )
