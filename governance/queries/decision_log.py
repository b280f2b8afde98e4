"""What was decided, for people: a workspace's decisions, page by page, and one with its exact request."""

import json
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

from django.db.models import QuerySet

from cartrita.accounts.console import CONSOLE_ROLES
from cartrita.accounts.queries import Caller
from cartrita.errors import BadInput
from cartrita.eventstore import unseal_or_empty
from cartrita.http.pagination import DEFAULT_LIMIT, Page, page_of
from governance.models import Approval, PolicyDecision
from governance.policy import Outcome, SubjectKind
from governance.queries.approvals import may_read
from governance.queries.decisions import UnknownDecision

MOST_EXPORTED = 10_000
# What a file of decisions has of each; exact requests stay here.
EXPORTED_COLUMNS = (
    "id",
    "created_at",
    "workspace_id",
    "session_id",
    "subject_kind",
    "tool_name",
    "model_name",
    "agent_name",
    "decision",
    "policy_rule",
    "reason",
    "review",
    "policy_hash",
    "rule_hash",
    "matched",
    "not_matched",
    "erred",
    "approval_id",
    "retry_after_ms",
    "cost_limit_before",
    "cost_limit_after",
    "currency",
    "act_outcome",
    "act_cost_micros",
    "act_currency",
    "act_tokens",
    "act_estimated",
    "settled_at",
    "trace_id",
)
# Who reads the exact requests of others, which hold what they wrote.
READERS: frozenset[str] = frozenset({"admin", "auditor", "reviewer"})


def decisions(
    caller: Caller,
    *,
    session_id: UUID | None = None,
    outcome: str = "",
    subject_kind: str = "",
    rule: str = "",
    tool: str = "",
    review: bool | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page:
    """Return the decisions that the caller may see, newest first: the workspace's, or those about own acts.

    Raises BadInput for an unknown outcome or subject kind.
    """
    rows = _chosen(
        caller,
        session_id=session_id,
        outcome=outcome,
        subject_kind=subject_kind,
        rule=rule,
        tool=tool,
        review=review,
    )
    page = page_of(rows, order=("-created_at", "-id"), cursor=cursor, limit=limit)
    return Page([_entry(row) for row in page.items], page.next_cursor)


def export(
    caller: Caller,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    session_id: UUID | None = None,
    outcome: str = "",
    subject_kind: str = "",
    rule: str = "",
    tool: str = "",
    review: bool | None = None,
) -> list[PolicyDecision]:
    """Return all decisions of these sorts that the caller may see, newest first, to be taken along.

    From `since` up to `until`, the end excluded. Raises BadInput for an unknown outcome or subject kind, and
    where there are more than 10,000.
    """
    rows = _chosen(
        caller,
        session_id=session_id,
        outcome=outcome,
        subject_kind=subject_kind,
        rule=rule,
        tool=tool,
        review=review,
    )
    if since is not None:
        rows = rows.filter(created_at__gte=since)
    if until is not None:
        rows = rows.filter(created_at__lt=until)
    found = list(rows.order_by("-created_at", "-id")[: MOST_EXPORTED + 1])
    if len(found) > MOST_EXPORTED:
        raise BadInput(
            f"More than {MOST_EXPORTED} decisions are asked for; name fewer with since and until.",
            field="since",
        )
    return found


def visible_decision(decision_id: UUID, caller: Caller) -> PolicyDecision:
    """Return a decision that the caller may see. Raises UnknownDecision."""
    row = _visible(caller).filter(id=decision_id).first()
    if row is None:
        raise UnknownDecision(f"There is no decision {decision_id}.", field="decision_id")
    return row


def decision(decision_id: UUID, caller: Caller) -> dict[str, Any]:
    """Return a decision; its exact request for who asked, and for readers of the workspace's text.

    An answer that is held back, or was refused, is held back from the person who asked for it here too.
    `request` is None where it is erased or not for the caller. Raises UnknownDecision.
    """
    row = _visible(caller).filter(id=decision_id).first()
    if row is None:
        raise UnknownDecision(f"There is no decision {decision_id}.", field="decision_id")
    opened = unseal_or_empty(row.key_id, row.request_context) if may_read_request(row, caller) else ""
    return {**_entry(row), "request": json.loads(opened) if opened else None}


def may_read_request(row: PolicyDecision, caller: Caller) -> bool:
    """Tell whether the caller may read the exact request of a decision that they can see."""
    if row.requester_id != caller.user_id:
        return bool(caller.roles & READERS)
    if row.subject_kind != "message_out":
        return True
    approval = Approval.objects.filter(id=row.approval_id).first() if row.approval_id else None
    if approval is not None:
        return may_read(approval, caller)
    return row.decision in {"allow", "audit"}


def _chosen(
    caller: Caller,
    *,
    session_id: UUID | None,
    outcome: str,
    subject_kind: str,
    rule: str,
    tool: str,
    review: bool | None,
) -> QuerySet[PolicyDecision]:
    if outcome and outcome not in get_args(Outcome):
        raise BadInput(f"outcome is one of {', '.join(get_args(Outcome))}.", field="outcome")
    if subject_kind and subject_kind not in get_args(SubjectKind):
        raise BadInput(f"subject_kind is one of {', '.join(get_args(SubjectKind))}.", field="subject_kind")
    asked: dict[str, Any] = {
        "session_id": session_id,
        "decision": outcome or None,
        "subject_kind": subject_kind or None,
        "policy_rule": rule or None,
        "tool_name": tool or None,
        "review": review,
    }
    return _visible(caller).filter(**{name: value for name, value in asked.items() if value is not None})


def _visible(caller: Caller) -> QuerySet[PolicyDecision]:
    rows = PolicyDecision.objects.filter(workspace_id=caller.workspace_id)
    return rows if caller.roles & CONSOLE_ROLES else rows.filter(requester_id=caller.user_id)


def _entry(row: PolicyDecision) -> dict[str, Any]:
    return {
        "id": row.id,
        "created_at": row.created_at,
        "workspace_id": row.workspace_id,
        "session_id": row.session_id,
        "requester_id": row.requester_id,
        "subject_kind": row.subject_kind,
        "tool": row.tool_name,
        "model": row.model_name,
        "agent": row.agent_name,
        "outcome": row.decision,
        "rule": row.policy_rule,
        "rule_hash": row.rule_hash,
        "policy_hash": row.policy_hash,
        "reason": row.reason,
        "review": row.review,
        "matched": row.matched,
        "not_matched": row.not_matched,
        "erred": row.erred,
        "message_for_people": row.message_for_people,
        "parameters": row.parameters,
        "cost_limit_before": row.cost_limit_before,
        "cost_limit_after": row.cost_limit_after,
        "currency": row.currency,
        "resource_usage_before": row.resource_usage_before,
        "resource_usage_after": row.resource_usage_after,
        "user_context": row.user_context,
        "budget_id": row.budget_id,
        "warnings": row.warnings,
        "grants": row.grants,
        "approval_id": row.approval_id,
        "retry_after_ms": row.retry_after_ms,
        "possible_labels": row.possible_labels,
        "redact": row.redact,
        "findings": row.findings,
        "glass_id": row.glass_id,
        "unbroken_outcome": row.unbroken_outcome,
        "unbroken_rule": row.unbroken_rule,
        "shadow_hash": row.shadow_hash,
        "shadow_outcome": row.shadow_outcome,
        "shadow_rule": row.shadow_rule,
        "decided_at": row.decided_at,
        "trace_id": row.trace_id,
        "act_outcome": row.act_outcome,
        "act_cost_micros": row.act_cost_micros,
        "act_currency": row.act_currency,
        "act_tokens": row.act_tokens,
        "act_estimated": row.act_estimated,
        "labels_added": row.labels_added,
        "settled_at": row.settled_at,
    }
