"""A run as people see it, folded from its own stream: its acts in order, with their outcomes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from cartrita.eventstore import Event, RecordedEvent
from governance.models import PolicyDecision
from tasks_app.plan_view import in_session
from tasks_app.run import ActDecided, ActEdited, ActKind, Delivery, RunFinished, RunStarted, RunStatus

# Vectors of a query: long, and nothing that people read.
_NOT_FOR_PEOPLE = frozenset({"query_embedding"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ActView:
    """A decision on the act of a step, and how the act ended; `ended` is empty where it did not, or not yet.

    `ended` is succeeded, failed, timed_out, cancelled or unknown, `code` says why it failed. `latency_ms` is
    that of the act itself. `content` holds what was sealed of its outcome, None where it may not be read.
    """

    step: int
    attempt: int
    act: ActKind
    subject: str
    decision_id: UUID
    outcome: str
    rule: str
    permitted: bool
    reason: str
    approval_id: UUID | None
    retry_after: datetime | None
    delivery: Delivery
    downshifted_from: str
    fell_back_from: str
    edited_by: str
    decided_at: datetime
    ended: str
    code: str
    tokens: int | None
    cost_micros: int | None
    currency: str
    latency_ms: float | None
    ended_at: datetime | None
    content: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """An attempt at a task with its acts in order.

    `readable` tells whether content is given: `answer` and `citations` are None where it is not.
    """

    id: UUID
    plan_id: UUID
    task_id: UUID
    session_id: UUID
    attempt: int
    agent: str
    loop_version: int
    status: RunStatus
    code: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cost_micros: int
    currency: str
    supported: bool | None
    created_at: datetime
    finished_at: datetime | None
    readable: bool
    answer: str | None
    citations: list[dict[str, Any]] | None
    acts: tuple[ActView, ...]


def run_view(recorded: Sequence[RecordedEvent], *, readable: bool) -> RunView:
    """Return the run that these events, all of its stream, make; content only where it is `readable`."""
    started = recorded[0].event
    if not isinstance(started, RunStarted):
        raise TypeError(f"{recorded[0].type_name} starts no run")
    end, finished_at = None, None
    for each in recorded:
        if isinstance(each.event, RunFinished):
            end, finished_at = each.event, each.recorded_at
    acts = acts_of(recorded, readable=readable)
    waits = bool(acts) and not acts[-1].permitted and (acts[-1].approval_id or acts[-1].retry_after)
    return RunView(
        id=recorded[0].stream_id,
        plan_id=started.plan_id,
        task_id=started.task_id,
        session_id=in_session(recorded[0]),
        attempt=started.attempt,
        agent=started.agent,
        loop_version=started.loop_version,
        status=end.status if end is not None else "waiting" if waits else "running",
        code=end.code if end is not None else "",
        model=end.model if end is not None else "",
        prompt_tokens=end.prompt_tokens if end is not None else 0,
        completion_tokens=end.completion_tokens if end is not None else 0,
        cost_micros=end.cost_micros if end is not None else 0,
        currency=end.currency if end is not None else "",
        supported=end.supported if end is not None else None,
        created_at=recorded[0].recorded_at,
        finished_at=finished_at,
        readable=readable,
        answer=end.answer if end is not None and readable else None,
        citations=list(end.citations) if end is not None and readable else None,
        acts=acts,
    )


def acts_of(recorded: Sequence[RecordedEvent], *, readable: bool) -> tuple[ActView, ...]:
    """Return the acts of a run's events in order, with their outcomes: one query for what they cost."""
    outcomes = _outcomes(recorded)
    ids = [each.event.decision_id for each in recorded if isinstance(each.event, ActDecided)]
    rows = PolicyDecision.objects.in_bulk(ids)
    editors: dict[int, str] = {}
    found = []
    for each in recorded:
        match each.event:
            case ActEdited(step=step, by=by):
                editors[step] = by
            case ActDecided(decision_id=decision_id) as event:
                act = _act_view(
                    each, event, outcomes.get(decision_id), rows.get(decision_id), readable=readable
                )
                found.append(replace(act, edited_by=editors.get(event.step, "")))
    return tuple(found)


def _act_view(
    decided: RecordedEvent,
    event: ActDecided,
    outcome: RecordedEvent | None,
    row: PolicyDecision | None,
    *,
    readable: bool,
) -> ActView:
    ended: Event | None = outcome.event if outcome is not None else None
    sealed = sorted(set(outcome.sealed) - _NOT_FOR_PEOPLE) if outcome is not None else []
    content = None
    if outcome is not None and readable and not outcome.erased:
        content = outcome.event.model_dump(mode="json", include=set(sealed)) if sealed else {}
    return ActView(
        step=event.step,
        attempt=event.attempt,
        act=event.act,
        subject=event.subject,
        decision_id=event.decision_id,
        outcome=event.outcome,
        rule=event.rule,
        permitted=event.permitted,
        reason=event.reason,
        approval_id=event.approval_id,
        retry_after=event.retry_after,
        delivery=event.delivery,
        downshifted_from=event.downshifted_from,
        fell_back_from=event.fell_back_from,
        edited_by="",
        decided_at=decided.recorded_at,
        ended=row.act_outcome if row is not None else "",
        code=str(getattr(ended, "code", "")),
        tokens=row.act_tokens if row is not None else None,
        cost_micros=row.act_cost_micros if row is not None else None,
        currency=row.act_currency if row is not None else "",
        latency_ms=getattr(ended, "latency_ms", getattr(ended, "retrieval_latency_ms", None)),
        ended_at=outcome.recorded_at if outcome is not None else row.settled_at if row is not None else None,
        content=content,
    )


def _outcomes(recorded: Iterable[RecordedEvent]) -> dict[UUID, RecordedEvent]:
    """Return what came of each permitted act, by its decision.

    What an app beside this one records of an act (a search) names no decision: it belongs to the act before.
    """
    found: dict[UUID, RecordedEvent] = {}
    pending: ActDecided | None = None
    for each in recorded:
        event = each.event
        if isinstance(event, ActDecided):
            pending = event if event.permitted and event.act != "message_out" else pending
        elif not each.type_name.startswith("tasks_app."):
            decision_id = getattr(event, "decision_id", None) or (pending.decision_id if pending else None)
            if decision_id is not None:
                found.setdefault(decision_id, each)
    return found
