"""An approval: a person's leave for one escalated act. Pure: events, their fold, and what may happen next.

The stream is `approval_id(decision_id)` of the decision that escalated.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from cartrita.eventstore.ids import derived_id
from cartrita.eventstore.types import Event, Sealed
from governance.policy import SubjectKind

GrantScope = Literal["once", "session", "pattern"]
Vote = Literal["approve", "deny"]
NoteKind = Literal["comment", "question", "answer"]
ApprovalStatus = Literal["waiting", "granted", "used", "denied", "expired", "void", "replaced"]


class ApprovalRequested(Event):
    """A rule escalated an act: it waits for people.

    Bound to the tool's definition, the exact arguments and the version of the rule (`rule_hash`).
    `arguments` is the exact JSON, or None where it stands in the blob `arguments_sha256`. `requester_id` is
    the person in whose session it happened; `edited_by` the reviewer whose change of the arguments this is.
    """

    type_name: ClassVar[str] = "governance.ApprovalRequested"

    decision_id: UUID
    requester_id: UUID | None
    subject_kind: SubjectKind
    agent: str
    tool: str
    model: str
    definition_hash: str
    safety_level: str
    arguments: Sealed[dict[str, Any] | None]
    arguments_sha256: str = ""
    arguments_bytes: int = Field(ge=0)
    arguments_hash: Sealed[str]
    rule: str
    rule_hash: str
    policy_hash: str
    reason: str
    approver_roles: tuple[str, ...]
    quorum: int = Field(ge=1)
    scopes: tuple[GrantScope, ...]
    expires_at: datetime
    edited_by: str = ""


class ApprovalNoted(Event):
    """Somebody commented, asked the requester something, or the requester answered."""

    type_name: ClassVar[str] = "governance.ApprovalNoted"

    kind: NoteKind
    by: str
    text: Sealed[str]


class ApprovalVoted(Event):
    """An approver said yes or no. `own` tells that the request was their own."""

    type_name: ClassVar[str] = "governance.ApprovalVoted"

    by: str
    user_id: UUID
    vote: Vote
    own: bool = False
    text: Sealed[str] = ""


class ApprovalGranted(Event):
    """The quorum said yes. `own` (four eyes are off) tells that the requester is among them.

    `scope` once: this act alone; session: acts of this tool in this session; pattern: acts whose arguments
    fit `pattern` (argument -> text with `*`), in the whole workspace until `valid_until`.
    """

    type_name: ClassVar[str] = "governance.ApprovalGranted"

    by: tuple[str, ...]
    scope: GrantScope
    own: bool
    valid_until: datetime | None = None
    pattern: Sealed[dict[str, str]] = Field(default_factory=dict)


class ApprovalDenied(Event):
    """An approver said no."""

    type_name: ClassVar[str] = "governance.ApprovalDenied"

    by: str


class ApprovalExpired(Event):
    """Nobody decided in time, which counts as no."""

    type_name: ClassVar[str] = "governance.ApprovalExpired"


class ApprovalReplaced(Event):
    """A reviewer changed the arguments: the act is decided and approved anew with these."""

    type_name: ClassVar[str] = "governance.ApprovalReplaced"

    by: str
    arguments: Sealed[dict[str, Any]]


class ApprovalVoided(Event):
    """The request or its grant holds no more: `cause` says what changed.

    Causes: arguments_changed, tool_changed, rule_changed, not_covered (another rule decides now), cancelled.
    """

    type_name: ClassVar[str] = "governance.ApprovalVoided"

    cause: Literal["arguments_changed", "tool_changed", "rule_changed", "not_covered", "cancelled"]
    detail: str = ""


class ApprovalUsed(Event):
    """A grant let this decision through; one with scope once is used up."""

    type_name: ClassVar[str] = "governance.ApprovalUsed"

    decision_id: UUID


def approval_id(decision_id: UUID) -> UUID:
    """Return the stream of the approval that a decision asks for."""
    return derived_id(decision_id, "approval")
