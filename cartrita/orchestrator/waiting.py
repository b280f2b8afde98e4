"""What becomes of an act that may not happen yet: it goes on, waits, or is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from cartrita.eventstore import Append, Context, Event, RecordedEvent, load
from governance import approval as approvals
from governance.approval import Approval, ApprovalVoted, VoidCause
from governance.balances import lock_approvals
from governance.decide import DecisionRequest, Verdict
from tasks_app.plan import PlanHeldBack
from tasks_app.run import ActDecided

Waiting = ActDecided | PlanHeldBack


@dataclass(frozen=True, slots=True)
class Awaits:
    """People have to decide first. Nothing is held in memory for it: the approval's end is what goes on."""

    approval_id: UUID


@dataclass(frozen=True, slots=True)
class Pauses:
    """It is too early."""

    until: datetime


@dataclass(frozen=True, slots=True)
class GoesOn:
    """The act is decided anew: with the leave that was given, or with a reviewer's arguments."""

    arguments: Mapping[str, Any] | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """People said no, or nothing in time; `reason` is for the person who asked."""

    code: str
    reason: str


Outlook = Awaits | Pauses | GoesOn | Refused


@dataclass(frozen=True, slots=True)
class Leave:
    """An approval as its stream tells it, at `version`; `words` are those of who said no."""

    approval_id: UUID
    version: int
    state: Approval
    words: str = ""


def leave_of(approval_id: UUID) -> Leave:
    """Return the approval as it stands."""
    history = load(approval_id)
    state = approvals.fold((recorded.event, recorded.recorded_at) for recorded in history)
    return Leave(approval_id, len(history), state, _words(history))


def outlook(waiting: Waiting, leave: Leave | None, now: datetime) -> Outlook:
    """Return what becomes of a waiting act; `leave` is its approval, None where it only waits for a time."""
    if leave is None:
        until = waiting.retry_after
        return Pauses(until) if until is not None and now < until else GoesOn()
    state = leave.state
    match state.status:
        case "waiting":
            return Awaits(leave.approval_id)
        case "denied":
            said = f": {leave.words}" if leave.words else "."
            return Refused("approval_denied", f"A reviewer said no{said}")
        case "expired":
            return Refused("approval_expired", "Nobody approved it in time.")
        case "void" if state.void_cause in {"cancelled", "erased"}:
            return Refused("approval_cancelled", "The request for approval was withdrawn.")
        case "replaced" if state.replacement is not None:
            return GoesOn(state.replacement, state.ended_by[0] if state.ended_by else "")
        case _:
            return GoesOn()


def without_effect(
    leave: Leave,
    decided: Sequence[tuple[DecisionRequest, Verdict]],
    *,
    rule_hashes: Mapping[str, str],
    context: Context,
) -> list[Append]:
    """Return what voids a grant that did not let its act through, with the grant locked; else nothing.

    Called in the step's transaction. `decided`, `rule_hashes` and `context` are as in `voiding`.
    """
    appends = voiding(leave, decided, rule_hashes=rule_hashes, context=context)
    # As people's commands do, the row before the stream: in the other order each would wait for the other.
    # Who was faster is told by the stream's version.
    if appends:
        lock_approvals([one.stream_id for one in appends])
    return appends


def voiding(
    leave: Leave,
    decided: Sequence[tuple[DecisionRequest, Verdict]],
    *,
    rule_hashes: Mapping[str, str],
    context: Context,
) -> list[Append]:
    """Return what voids a grant that did not let its act through, or nothing where it did or still may.

    `decided` are the new decisions of the step that had waited. A grant stands while another rule escalates
    or throttles the same act: it counts again once that rule is satisfied too. One for a session or a pattern
    stands for later acts.
    """
    state = leave.state
    if state.status != "granted" or state.scope != "once" or not decided:
        return []
    if any(leave.approval_id in verdict.grants for _, verdict in decided):
        return []
    verdict = decided[-1][1]
    cause: VoidCause = "not_covered"
    for request, _ in decided:
        if request.subject_kind == state.subject_kind:
            cause = approvals.why_not_covered(
                state,
                arguments=request.arguments,
                tool=request.tool,
                definition_hash=request.definition_hash,
                rule_hashes=rule_hashes,
            )
    if cause == "not_covered" and verdict.outcome in {"escalate", "throttle"}:
        return []
    events: list[Event] = approvals.void(state, cause=cause, detail=verdict.rule)
    return [Append(leave.approval_id, leave.version, events, context)]


def _words(history: Sequence[RecordedEvent]) -> str:
    said = [each.event for each in history if isinstance(each.event, ApprovalVoted)]
    return said[-1].text if said and said[-1].vote == "deny" else ""
