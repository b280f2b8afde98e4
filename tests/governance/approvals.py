"""Requests for approval for tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from cartrita.accounts.queries import Caller, caller_in_workspace
from cartrita.eventstore import Append, Context, append, create_data_key, new_id
from cartrita.eventstore.blobs import put_blob
from cartrita.eventstore.canonical import canonical_json
from governance import approval
from governance.approval import ApprovalRequested
from governance.decide import DecisionRequest, Verdict
from tests.accounts.people import Person

ARGUMENTS: Mapping[str, Any] = {"code": "print(1)"}
RULE_HASH = "a" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a rule says about its approvals."""

    approvers: tuple[str, ...] = ("reviewer", "admin")
    quorum: int = 1
    expires_in: timedelta = timedelta(hours=1)
    scopes: tuple[str, ...] = ("once",)


def requested(
    *,
    at: datetime,
    requester_id: UUID | None = None,
    arguments: Mapping[str, Any] = ARGUMENTS,
    workspace_id: UUID | None = None,
    session_id: UUID | None = None,
    decision_id: UUID | None = None,
    safety_level: str = "caution",
    edited_by: str = "",
    arguments_sha256: str = "",
    terms: Terms | None = None,
) -> ApprovalRequested:
    """Return the request that an escalated call of execute_python makes."""
    request = DecisionRequest(
        subject_kind="tool_call",
        workspace_id=workspace_id or new_id(),
        at=at,
        session_id=session_id,
        tool="execute_python",
        agent="assistant",
        arguments=arguments,
        definition_hash="d" * 64,
        safety_level=safety_level,  # type: ignore[arg-type] # as the tests write it
    )
    verdict = Verdict(
        outcome="escalate",
        rule="python-needs-a-person",
        reason="Code runs after a person has read it.",
        policy_hash="b" * 64,
        evaluated=(),
    )
    return approval.request(
        decision_id=decision_id or new_id(),
        request=request,
        verdict=verdict,
        rule_hash=RULE_HASH,
        terms=terms or Terms(),
        requester_id=requester_id,
        edited_by=edited_by,
        arguments_sha256=arguments_sha256,
    )


def waiting(
    requester: Person,
    *,
    arguments: Mapping[str, Any] = ARGUMENTS,
    session_id: UUID | None = None,
    at: datetime | None = None,
    in_blob: bool = False,
    key_id: UUID | None = None,
    **more: Any,
) -> UUID:
    """Record a request of this person in a session and return the approval's id."""
    session_id = session_id or new_id()
    key_id = key_id or create_data_key(subject_id=requester.id, scope="session")
    decision_id = new_id()
    event = requested(
        at=at or timezone.now(),
        requester_id=requester.id,
        arguments=arguments,
        workspace_id=requester.workspace_id,
        session_id=session_id,
        decision_id=decision_id,
        arguments_sha256=put_blob(canonical_json(dict(arguments)), key_id=key_id) if in_blob else "",
        **more,
    )
    approval_id = approval.approval_id(decision_id)
    context = Context(
        workspace_id=requester.workspace_id,
        session_id=session_id,
        actor=f"user:{requester.id}",
        key_id=key_id,
    )
    append(Append(approval_id, 0, [event], context))
    return approval_id


def as_caller(person: Person) -> Caller:
    """Return a person in a browser."""
    found = caller_in_workspace(person.id, person.workspace_id)
    assert found is not None
    return found
