"""A search that somebody asks for: decided by policy, made, settled and recorded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from django.db import transaction

from cartrita.accounts.queries import Caller
from cartrita.eventstore import Append, Context, create_data_key, new_id
from governance.decide import DecisionRequest
from governance.queries.approvals import waiting_for
from governance.refusals import refusal
from governance.step import Act, Decided, Settlement, take_step
from retrieval import queries
from retrieval.search import Retrieval, check_query, performed_event, search

# What rules know such a search by; the same name as agents' searches have.
SEARCH = "search_documents"
# Passages are other people's text, whatever they say.
UNTRUSTED = "untrusted"


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

    It is decided once, with the labels of all documents that it may find in. Raises BadInput, and where
    policy does not let it happen now DeniedByPolicy, ApprovalNeeded or Throttled, whose decision stands.
    """
    check_query(query, k)
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
        tool=SEARCH,
        arguments={
            "query": query,
            "k": k,
            **({} if document_ids is None else {"documents": sorted(str(each) for each in document_ids)}),
        },
        safety_level="safe",
    )
    candidates = queries.candidates(
        workspace_id=caller.workspace_id, session_id=session_id, document_ids=document_ids
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
    retrieval_id = new_id()
    performed = Append(retrieval_id, 0, [performed_event(found, retrieval_id=retrieval_id)], context)
    settlement = Settlement(
        decision_id=permit.decision_id,
        outcome="succeeded",
        labels_added=found.candidate_labels | {UNTRUSTED},
    )
    take_step(context=context, settlements=[settlement], then=lambda _: [performed])
    return Searched(retrieval_id, found)


def _decide(act: Act, context: Context) -> Decided:
    """Decide on a search; asked again while people are asked already, it asks nobody anew."""
    with transaction.atomic():
        (decided,) = take_step(context=context, acts=[act])
        if decided.approval_id is None or act.requester_id is None:
            return decided
        earlier = waiting_for(act.request, requester_id=act.requester_id, besides=decided.approval_id)
        if earlier is None or earlier.rule != decided.verdict.rule:
            return decided
        transaction.set_rollback(True)
    return replace(decided, decision_id=earlier.decision_id, approval_id=earlier.id)
