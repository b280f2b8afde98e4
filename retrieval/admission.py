"""Whether a document may come in: decided by policy when it is received, and again once people approved."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import cast
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from cartrita.accounts.queries import roles_of
from cartrita.eventstore import Append, Context, Event, append, load, new_id, unseal
from cartrita.eventstore.blobs import get_blob
from governance import approval as approvals
from governance.approval import Approval
from governance.commands.approvals import cancel, void
from governance.decide import DecisionRequest
from governance.detectors import kinds_in
from governance.models import Approval as ApprovalRow
from governance.queries.approvals import state
from governance.queries.policies import active_policy
from governance.step import Act, Decided, Settlement, take_step
from retrieval import document as documents
from retrieval import models
from retrieval.document import DocumentFailed, DocumentHeld, DocumentReceived, DocumentReleased

# Why documents that policy or people refused have failed: the same content may be sent again.
REFUSED = frozenset({"denied_by_policy", "approval_denied", "approval_expired", "approval_void"})
# What of a text is looked at before it is let in; all of it is looked at when it is read.
LOOKED_AT_BYTES = 1024 * 1024


def decide(
    *,
    title: str,
    media_type: str,
    labels: Sequence[str],
    content: bytes,
    owner_id: UUID,
    context: Context,
) -> Decided:
    """Have it decided whether the document may come in.

    `context` is the document's, so that what is recorded of it goes when its key does: title and hash of the
    content are personal. What comes of it is appended with `record`.
    """
    request = DecisionRequest(
        subject_kind="document",
        workspace_id=context.workspace_id,
        at=datetime.now(UTC),
        session_id=context.session_id,
        actor=context.actor,
        roles=roles_of(owner_id, context.workspace_id),
        arguments={
            "title": title,
            "media_type": media_type,
            "bytes": len(content),
            "labels": list(labels),
            "sha256": sha256(content).hexdigest(),
        },
        findings=_findings(title, media_type, content),
    )
    act = Act(request=request, decision_id=new_id(), requester_id=owner_id)
    (decided,) = take_step(context=context, acts=[act])
    if decided.permit is not None:
        decided.permit.check(request)
    return decided


def _findings(title: str, media_type: str, content: bytes) -> frozenset[str]:
    """Return the kinds of what is found in title and text, as far as that can be read before it is let in."""
    found = kinds_in(title)
    if media_type.startswith("text/"):
        found |= kinds_in(content[:LOOKED_AT_BYTES].decode(errors="replace"))
    return found


def arrival(received: DocumentReceived, decided: Decided) -> Sequence[Event]:
    """Return the events of a new document, which is held where people have to approve it."""
    document = documents.Document()
    events = [*documents.receive(document, received)]
    if decided.approval_id is not None:
        document = documents.evolve(document, received)
        events += documents.hold(document, held(decided, approval_id=decided.approval_id))
    return events


def record(decided: Decided, context: Context, *appends: Append) -> None:
    """Append what came of the decision, which is settled where it let the document in."""
    if decided.permit is None:
        append(*appends)
        return
    settlement = Settlement(decision_id=decided.decision_id, outcome="succeeded")
    take_step(context=context, settlements=[settlement], then=lambda _: appends)


def withdraw(decided: Decided, context: Context) -> None:
    """Take back what was decided on a document that came twice at the same time."""
    if decided.approval_id is not None:
        cancel(approval_id=decided.approval_id, actor=context.actor)
    else:
        settlement = Settlement(decision_id=decided.decision_id, outcome="cancelled")
        take_step(context=context, settlements=[settlement])


def held(decided: Decided, *, approval_id: UUID) -> DocumentHeld:
    """Return the event of a document that may not come in yet."""
    wait = decided.verdict.retry_after_ms
    return DocumentHeld(
        decision_id=decided.decision_id,
        approval_id=approval_id,
        rule=decided.verdict.rule,
        reason=decided.verdict.message_for_people,
        retry_after=None if wait is None else datetime.now(UTC) + timedelta(milliseconds=wait),
    )


def to_decide_again(limit: int) -> list[UUID]:
    """Return held documents whose approval has ended, one way or the other: one query, oldest first."""
    ended = ApprovalRow.objects.filter(id=OuterRef("approval_id")).exclude(status="waiting")
    due = Q(retry_after=None) | Q(retry_after__lte=datetime.now(UTC))
    rows = models.Document.objects.filter(due, Exists(ended), status="held")
    return list(rows.order_by("created_at", "id").values_list("id", flat=True)[:limit])


def decide_again(document_id: UUID) -> bool:
    """Go on with a held document as its approval ended; return whether it may be read now.

    Granted: it is decided anew with that grant as a fact, under the rules of today. Raises Erased,
    UnknownBlob and BlobAltered, StreamMoved where a person changes the approval at the same time.
    """
    with transaction.atomic():
        row = models.Document.objects.select_for_update().get(id=document_id)
        if row.status != "held" or row.approval_id is None:
            return False
        approval = state(row.approval_id)
        if approval.status == "waiting":
            return False
        history = load(row.id)
        # The decision is on the act of who sent the document, whoever finds that it goes on.
        context = Context(
            workspace_id=row.workspace_id,
            session_id=row.session_id,
            actor=history[0].actor,
            key_id=row.key_id,
        )
        document = documents.fold(recorded.event for recorded in history)
        refused = _refused(approval)
        if refused is not None:
            append(Append(row.id, document.version, documents.fail(document, refused), context))
            return False
        content = get_blob(row.blob, key_id=row.key_id)
        received = cast("DocumentReceived", history[0].event)
        decided = decide(
            title=unseal(row.key_id, row.title),
            media_type=received.media_type,
            labels=received.labels,
            content=content,
            owner_id=row.owner_id,
            context=context,
        )
        events = _after(document, decided, approval_id=decided.approval_id or row.approval_id)
        record(decided, context, Append(row.id, document.version, events, context))
        _void_without_effect(row.approval_id, approval, decided, row.workspace_id)
    return decided.permit is not None


def _refused(approval: Approval) -> DocumentFailed | None:
    """Return why people do not let the document in. Their words are theirs: they stand in the approval."""
    match approval.status:
        case "denied":
            code, said = "approval_denied", "A reviewer said no."
        case "expired":
            code, said = "approval_expired", "Nobody approved it in time."
        case "void" if approval.void_cause in {"cancelled", "erased"}:
            code, said = "approval_void", "The request for approval was withdrawn."
        case _:
            return None
    return DocumentFailed(stage="policy", code=code, message=said)


def _after(document: documents.Document, decided: Decided, *, approval_id: UUID) -> Sequence[Event]:
    verdict = decided.verdict
    if decided.permit is not None:
        return documents.release(document, DocumentReleased(decision_id=decided.decision_id))
    if verdict.outcome in {"escalate", "throttle"}:
        return documents.hold(document, held(decided, approval_id=approval_id))
    return documents.fail(
        document,
        DocumentFailed(stage="policy", code="denied_by_policy", message=verdict.message_for_people),
    )


def _void_without_effect(approval_id: UUID, approval: Approval, decided: Decided, workspace_id: UUID) -> None:
    """End a grant for this document alone that did not let it in, save where it may still count."""
    once = approval.status == "granted" and approval.scope == "once"
    if not once or approval_id in decided.verdict.grants:
        return
    rule_hashes = active_policy(workspace_id).rule_hashes
    cause: approvals.VoidCause = "not_covered"
    if rule_hashes.get(approval.rule) != approval.rule_hash:
        cause = "rule_changed"
    elif decided.verdict.outcome in {"escalate", "throttle"}:
        return
    void(approval_id=approval_id, cause=cause, actor="system", detail=decided.verdict.rule)
