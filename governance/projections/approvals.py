"""Read models of approvals, as functions of each approval's stream."""

from typing import Any

from cartrita.eventstore import RecordedEvent, inline
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
from governance.models import Approval, ApprovalNote


@inline(
    ApprovalRequested,
    ApprovalNoted,
    ApprovalVoted,
    ApprovalGranted,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalReplaced,
    ApprovalVoided,
    ApprovalUsed,
    tables=[Approval],
)
def project_approvals(recorded: RecordedEvent) -> None:
    """Show what waits for people, what they said, and what became of it."""
    if isinstance(recorded.event, ApprovalRequested):
        _waiting(recorded, recorded.event).save(force_insert=True)
        return
    row = Approval.objects.get(id=recorded.stream_id)
    for name, value in _changes(row, recorded).items():
        setattr(row, name, value)
    row.version = recorded.version
    row.save(force_update=True)


@inline(ApprovalNoted, tables=[ApprovalNote])
def project_approval_notes(recorded: RecordedEvent) -> None:
    """Show comments, questions and answers."""
    if isinstance(recorded.event, ApprovalNoted):
        ApprovalNote.objects.create(
            id=recorded.event_id,
            approval_id=recorded.stream_id,
            workspace_id=recorded.workspace_id,
            kind=recorded.event.kind,
            by=recorded.event.by,
            text=recorded.sealed["text"],
            key_id=recorded.key_id,
            created_at=recorded.recorded_at,
        )


def _waiting(recorded: RecordedEvent, event: ApprovalRequested) -> Approval:
    return Approval(
        id=recorded.stream_id,
        workspace_id=recorded.workspace_id,
        session_id=recorded.session_id,
        version=recorded.version,
        decision_id=event.decision_id,
        requester_id=event.requester_id,
        subject_kind=event.subject_kind,
        agent_name=event.agent,
        tool_name=event.tool,
        model_name=event.model,
        definition_hash=event.definition_hash,
        safety_level=event.safety_level,
        arguments=recorded.sealed["arguments"],
        arguments_sha256=event.arguments_sha256,
        arguments_bytes=event.arguments_bytes,
        arguments_hash=recorded.sealed["arguments_hash"],
        rule=event.rule,
        rule_hash=event.rule_hash,
        policy_hash=event.policy_hash,
        reason=event.reason,
        approver_roles=list(event.approver_roles),
        quorum=event.quorum,
        scopes=list(event.scopes),
        edited_by=event.edited_by,
        status="waiting",
        key_id=recorded.key_id,
        requested_at=recorded.recorded_at,
        expires_at=event.expires_at,
    )


def _changes(row: Approval, recorded: RecordedEvent) -> dict[str, Any]:
    at = recorded.recorded_at
    match recorded.event:
        case ApprovalVoted() as event:
            vote = {
                "by": event.by,
                "user_id": str(event.user_id),
                "vote": event.vote,
                "own": event.own,
                "scope": event.scope,
                "at": at.isoformat(),
            }
            return {"votes": [*row.votes, vote]}
        case ApprovalGranted() as event:
            return {
                "status": "granted",
                "scope": event.scope,
                "pattern": recorded.sealed["pattern"],
                "valid_until": event.valid_until,
                "own": event.own,
                "ended_at": at,
            }
        case ApprovalDenied():
            return {"status": "denied", "ended_at": at}
        case ApprovalExpired():
            return {"status": "expired", "ended_at": at}
        case ApprovalReplaced():
            return {"status": "replaced", "replacement": recorded.sealed["arguments"], "ended_at": at}
        case ApprovalVoided() as event:
            return {"status": "void", "void_cause": event.cause, "ended_at": row.ended_at or at}
        case ApprovalUsed():
            return {"status": "used" if row.scope == "once" else row.status, "uses": row.uses + 1}
        case _:
            return {}
