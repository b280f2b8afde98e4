"""What the channel of a session shows of the work on its messages: events of the apps below, put briefly."""

from typing import Any

from cartrita.eventstore import Event, RecordedEvent
from cartrita.eventstore.canonical import rfc3339
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
from retrieval.document import (
    CollectionCreated,
    DocumentChunked,
    DocumentEmbedded,
    DocumentExamined,
    DocumentFailed,
    DocumentHeld,
    DocumentReceived,
    DocumentReleased,
    DocumentRemoved,
    RetrievalPerformed,
)
from sessions_app.channel import register_shown
from tasks_app.plan import (
    EdgeAdded,
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
from tasks_app.plan_view import bill_view, sums_of
from tasks_app.queries import headline
from tasks_app.run import ActDecided, ActEdited, AnswerHeld

PLAN_EVENTS: tuple[type[Event], ...] = (
    PlanProposed,
    PlanBilled,
    PlanAccepted,
    PlanRefused,
    PlanCriticised,
    PlanRevised,
    PlanCompleted,
    TaskAdded,
    EdgeAdded,
    TaskStarted,
    TaskRetried,
    TaskCompleted,
    TaskFailed,
    TaskAborted,
    TaskPruned,
)
DOCUMENT_EVENTS: tuple[type[Event], ...] = (
    DocumentReceived,
    DocumentHeld,
    DocumentReleased,
    DocumentChunked,
    DocumentEmbedded,
    DocumentFailed,
    DocumentRemoved,
)
# Each act's ActDecided and outcome say what people need of these; the rest is for auditors.
INTERNAL_EVENTS: tuple[type[Event], ...] = (
    ActEdited,
    ActSettled,
    AnswerHeld,
    CollectionCreated,
    DocumentExamined,
)
# What an approval has come to after each of these.
APPROVAL_STATUS: dict[type[Event], str] = {
    ApprovalRequested: "waiting",
    ApprovalGranted: "granted",
    ApprovalUsed: "used",
    ApprovalDenied: "denied",
    ApprovalExpired: "expired",
    ApprovalReplaced: "replaced",
    ApprovalVoided: "void",
}
WAITING_FOR_APPROVAL = "waiting for approval"
WAITING_FOR_REVIEW = "waiting for review"


def document_event(recorded: RecordedEvent) -> dict[str, Any]:
    """Describe a step of a document's way; its id is the stream's."""
    shown: dict[str, Any] = {"document_id": str(recorded.stream_id)}
    match recorded.event:
        case DocumentReceived(title=title, media_type=media_type, size=size):
            return {**shown, "title": title, "media_type": media_type, "size": size}
        case DocumentChunked(characters=characters, pages=pages, chunks=chunks):
            return {**shown, "characters": characters, "pages": pages, "chunks": chunks}
        case DocumentHeld(approval_id=approval_id, reason=reason):
            return {**shown, "approval_id": str(approval_id), "reason": reason}
        case DocumentFailed(stage=stage, code=code, message=message):
            return {**shown, "stage": stage, "code": code, "message": message}
        case _:
            return shown


def retrieval_event(recorded: RecordedEvent) -> dict[str, Any]:
    """Describe a search by what it found and its latency in milliseconds, without its words and vectors."""
    event = recorded.event
    if not isinstance(event, RetrievalPerformed):
        raise TypeError(f"{recorded.type_name} is no search")
    return {
        "retrieval_id": str(event.retrieval_id),
        "documents": len(event.documents_retrieved),
        "passages": len(event.passages),
        "latency_ms": event.retrieval_latency_ms,
    }


def decided_event(recorded: RecordedEvent) -> dict[str, Any]:
    """Describe the decision on an act; `phase` says in words what an act that waits is waiting for."""
    event = recorded.event
    if not isinstance(event, ActDecided):
        raise TypeError(f"{recorded.type_name} is no decision on an act")
    shown = event.model_dump(mode="json")
    return {**shown, "phase": _phase(event, for_review=event.act == "message_out")}


def under_glass_event(recorded: RecordedEvent) -> dict[str, Any] | None:
    """Describe a decision under break-glass by which one; all others are for auditors."""
    event = recorded.event
    if not isinstance(event, DecisionMade) or event.glass_id is None:
        return None
    return {
        "decision_id": str(recorded.stream_id),
        "glass_id": str(event.glass_id),
        "let_pass": bool(event.without_glass[0]) and event.outcome in {"allow", "audit"},
    }


def held_back_event(recorded: RecordedEvent) -> dict[str, Any]:
    """Describe what a plan waits for before it begins; `phase` says it in words."""
    event = recorded.event
    if not isinstance(event, PlanHeldBack):
        raise TypeError(f"{recorded.type_name} holds no plan back")
    return {**event.model_dump(mode="json"), "phase": _phase(event, for_review=False)}


def plan_event(recorded: RecordedEvent) -> dict[str, Any]:
    """Describe what happened in a plan: its tasks and what became of them, never what they came to.

    An intent is shown as one short line; it is empty once the session is erased.
    """
    event = recorded.event
    shown: dict[str, Any] = {"plan_id": str(recorded.stream_id)}
    clear = event.model_dump(
        mode="json", exclude=set(recorded.sealed) | {"details", "spec", "goal", "reason"}
    )
    match event:
        case TaskAdded(intent=intent):
            return {**shown, **clear, "intent": headline(intent)}
        case TaskFailed(reason=reason) | TaskAborted(reason=reason) | TaskPruned(reason=reason):
            return {**shown, **clear, "reason": headline(reason)}
        case PlanBilled() as bill:
            # What it is made up of is on the plan's page.
            return {**shown, **sums_of(bill_view(bill))}
        case PlanRefused(reason=reason):
            return {**shown, **clear, "reason": headline(reason)}
        case _:
            return {**shown, **clear}


def approval_event(recorded: RecordedEvent) -> dict[str, Any]:
    """Describe what happened to an approval, without anything that was sealed.

    Who may read the arguments gets them from the approval itself.
    """
    shown: dict[str, Any] = {
        "approval_id": str(recorded.stream_id),
        "status": APPROVAL_STATUS[type(recorded.event)],
    }
    match recorded.event:
        case ApprovalRequested() as event:
            return {
                **shown,
                "kind": event.subject_kind,
                "agent": event.agent,
                "tool": event.tool,
                "model": event.model,
                "rule": event.rule,
                "sentence": event.reason,
                "requester_id": str(event.requester_id) if event.requester_id else None,
                "edited_by": event.edited_by,
                "approver_roles": list(event.approver_roles),
                "quorum": event.quorum,
                "scopes": list(event.scopes),
                "expires_at": rfc3339(event.expires_at),
            }
        case ApprovalGranted() as event:
            until = event.valid_until
            return {
                **shown,
                "by": list(event.by),
                "scope": event.scope,
                "own": event.own,
                "valid_until": rfc3339(until) if until else None,
            }
        case ApprovalDenied(by=by) | ApprovalReplaced(by=by):
            return {**shown, "by": [by]}
        case ApprovalVoided(cause=cause, detail=detail):
            return {**shown, "cause": cause, "detail": detail}
        case ApprovalUsed(decision_id=decision_id):
            return {**shown, "decision_id": str(decision_id)}
        case _:
            return shown


def note_event(recorded: RecordedEvent) -> dict[str, Any]:
    """Describe a comment, question or answer on an approval by who wrote it, without its text."""
    event = recorded.event
    if not isinstance(event, ApprovalNoted):
        raise TypeError(f"{recorded.type_name} is no note")
    return {"approval_id": str(recorded.stream_id), "kind": event.kind, "by": event.by}


def voted_event(recorded: RecordedEvent) -> dict[str, Any]:
    """Describe a vote by who gave it: where several people must agree, the first changes no status."""
    event = recorded.event
    if not isinstance(event, ApprovalVoted):
        raise TypeError(f"{recorded.type_name} is no vote")
    return {"approval_id": str(recorded.stream_id), "vote": event.vote, "by": event.by}


def _phase(event: ActDecided | PlanHeldBack, *, for_review: bool) -> str:
    if event.approval_id is not None:
        return WAITING_FOR_REVIEW if for_review else WAITING_FOR_APPROVAL
    if event.retry_after is not None:
        return f"waiting (throttled until {event.retry_after:%H:%M:%S} UTC)"
    return ""


for event_class in DOCUMENT_EVENTS:
    register_shown(event_class.type_name, document_event)
for event_class in PLAN_EVENTS:
    register_shown(event_class.type_name, plan_event)
for event_class in INTERNAL_EVENTS:
    register_shown(event_class.type_name, lambda _: None)
for event_class in APPROVAL_STATUS:
    register_shown(event_class.type_name, approval_event)
register_shown(ApprovalNoted.type_name, note_event)
register_shown(ApprovalVoted.type_name, voted_event)
register_shown(ActDecided.type_name, decided_event)
register_shown(DecisionMade.type_name, under_glass_event)
register_shown(PlanHeldBack.type_name, held_back_event)
register_shown(RetrievalPerformed.type_name, retrieval_event)
