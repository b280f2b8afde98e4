"""What somebody searches or reads: decided by policy, done, settled and recorded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from django.db import transaction

from cartrita.accounts.queries import Caller
from cartrita.eventstore import Append, Context, create_data_key, new_id
from governance.candidates import Candidates
from governance.decide import DecisionRequest
from governance.detectors import kinds_within
from governance.doors import Permit
from governance.queries.approvals import waiting_for
from governance.refusals import refusal
from governance.step import Act, Decided, Settlement, take_step
from retrieval import queries
from retrieval.document import DocumentNotFound
from retrieval.search import Retrieval, check_query, performed_event, search, without

# What rules know these acts by; the same names as those of agents have.
SEARCH = "search_documents"
READ = "read_document"
# Passages are other people's text, whatever they say.
UNTRUSTED = "untrusted"

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Searched:
    """A search and the id under which it is recorded."""

    retrieval_id: UUID
    found: Retrieval


def search_as(
    caller: Caller,
    query: str,
    *,
    session_id: UUID | None = None,
    document_ids: Sequence[UUID] | None = None,
    k: int = 10,
) -> Searched:
    """Search for a person or their program what the workspace and this session hold.

    It is decided once, with the labels of all documents that it may find in; what the decision wants redacted
    is taken out of the passages. Raises BadInput, and where
    policy does not let it happen now DeniedByPolicy, ApprovalNeeded or Throttled, whose decision stands.
    """
    check_query(query, k)
    candidates = queries.candidates(
        workspace_id=caller.workspace_id, session_id=session_id, document_ids=document_ids
    )
    arguments = {
        "query": query,
        "k": k,
        **({} if document_ids is None else {"documents": sorted(str(each) for each in document_ids)}),
    }
    permit, context = _permitted(caller, SEARCH, arguments, candidates, session_id=session_id)
    try:
        found = search(
            query,
            workspace_id=caller.workspace_id,
            session_id=session_id,
            document_ids=document_ids,
            without_labels=permit.left_out,
            within_labels=permit.labels,
            k=k,
        )
    except Exception:
        take_step(context=context, settlements=[Settlement(decision_id=permit.decision_id, outcome="failed")])
        raise
    found = replace(found, hits=tuple(without(hit, permit.redact) for hit in found.hits))
    retrieval_id = new_id()
    event = performed_event(found, retrieval_id=retrieval_id)
    # Its row among the metrics has the same id.
    performed = Append(retrieval_id, 0, [event], context, [retrieval_id])
    settlement = Settlement(
        decision_id=permit.decision_id,
        outcome="succeeded",
        labels_added=found.candidate_labels | {UNTRUSTED},
    )
    take_step(context=context, settlements=[settlement], then=lambda _: [performed])
    return Searched(retrieval_id, found)


def read_as(
    caller: Caller,
    document_id: UUID,
    read: Callable[[], Read],
    *,
    start: int,
    end: int,
    session_id: UUID | None = None,
) -> Read:
    """Let a person or their program read characters `start` to `end` of a document: return what `read` gives.

    Nothing is read before it is decided; what is read is the document as it is, redacted by no rule. Raises
    DocumentNotFound, also where policy leaves the document out; BadInput while it has no text; what `read`
    raises; and where policy does not let it happen now DeniedByPolicy, ApprovalNeeded or Throttled, whose
    decision stands.
    """
    detail = queries.document(document_id, workspace_id=caller.workspace_id, session_id=session_id)
    if detail.characters is None:
        raise queries.no_text(detail.status, detail.error_message)
    labels = frozenset(detail.labels)
    arguments = {"document_id": str(document_id), "start": start, "end": end}
    permit, context = _permitted(caller, READ, arguments, Candidates({labels: 1}), session_id=session_id)
    try:
        _check_left_in(permit, labels)
        found = read()
    except Exception:
        take_step(context=context, settlements=[Settlement(decision_id=permit.decision_id, outcome="failed")])
        raise
    settlement = Settlement(
        decision_id=permit.decision_id, outcome="succeeded", labels_added=labels | {UNTRUSTED}
    )
    take_step(context=context, settlements=[settlement])
    return found


def _check_left_in(permit: Permit, labels: frozenset[str]) -> None:
    decided_on = permit.labels is None or labels <= permit.labels
    if not (decided_on and permit.left_out.isdisjoint(labels)):
        # The same answer as for a document that is not there.
        raise DocumentNotFound("There is no such document.", field="document_id")


def _permitted(
    caller: Caller,
    tool: str,
    arguments: Mapping[str, Any],
    candidates: Candidates,
    *,
    session_id: UUID | None,
) -> tuple[Permit, Context]:
    """Have it decided and return the permit, and what settlements are recorded in; raise the refusal."""
    key_id = create_data_key(subject_id=caller.user_id, scope="search")
    context = Context(
        workspace_id=caller.workspace_id, session_id=session_id, actor=caller.actor, key_id=key_id
    )
    request = DecisionRequest(
        subject_kind="retrieval",
        workspace_id=caller.workspace_id,
        at=datetime.now(UTC),
        session_id=session_id,
        actor=caller.actor,
        roles=caller.roles,
        tool=tool,
        arguments=arguments,
        safety_level="safe",
        findings=kinds_within(arguments),
    )
    act = Act(
        request=request,
        decision_id=new_id(),
        may_add=frozenset({UNTRUSTED}),
        candidates=candidates,
        requester_id=caller.user_id,
    )
    decided = _decide(act, context)
    permit = decided.permit
    if permit is None:
        raise refusal(decided)
    permit.check(request)
    return permit, context


def _decide(act: Act, context: Context) -> Decided:
    """Decide on an act; asked again while people are asked already, it asks nobody anew."""
    with transaction.atomic():
        (decided,) = take_step(context=context, acts=[act])
        if decided.approval_id is None or act.requester_id is None:
            return decided
        earlier = waiting_for(act.request, requester_id=act.requester_id, besides=decided.approval_id)
        if earlier is None or earlier.rule != decided.verdict.rule:
            return decided
        transaction.set_rollback(True)
    return replace(decided, decision_id=earlier.decision_id, approval_id=earlier.id)
