"""What waits for people, what they said, and which grants let an act through."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

from django.db.models import Q, QuerySet

from cartrita.accounts.console import CONSOLE_ROLES
from cartrita.accounts.queries import Caller
from cartrita.errors import BadInput
from cartrita.eventstore import Erased, get_blob, load, unseal_or_empty
from cartrita.eventstore.canonical import canonical_json
from cartrita.http.pagination import DEFAULT_LIMIT, Page, page_of
from governance import approval as approvals
from governance.approval import ApprovalNotFound, ApprovalStatus, Vote
from governance.canonical import fingerprint
from governance.decide import DecisionRequest, GrantFact
from governance.models import Approval, ApprovalNote
from governance.queries.four_eyes import four_eyes
from governance.visible_text import shown

__all__ = ["shown"]  # pages take it from here

# Who reads the text of others' requests in their workspace without deciding on them.
READERS: frozenset[str] = frozenset({"admin", "auditor"})
# Arguments whose JSON is longer are shown as hash and size, and downloaded.
SHOWN_BYTES = 4096
MOST_GRANTS = 500
# A request states at most so many; one that fits is enough for a rule.
MOST_STATED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentShown:
    """One argument as a page shows it: `text` has hidden characters made visible, "" where it is `cut`.

    `sha256` is that of its canonical JSON, of `bytes` bytes.
    """

    name: str
    text: str
    bytes: int
    sha256: str
    cut: bool


def state(approval_id: UUID) -> approvals.Approval:
    """Return an approval as its events say. Raises ApprovalNotFound."""
    found = approvals.fold((recorded.event, recorded.recorded_at) for recorded in load(approval_id))
    if found.status == "none":
        raise ApprovalNotFound("There is no such approval.", field="approval_id")
    return found


def waiting_sessions(session_ids: Collection[UUID]) -> dict[UUID, datetime]:
    """Return those sessions in which something waits for people, each with since when."""
    rows = Approval.objects.filter(session_id__in=session_ids, status="waiting").order_by("-requested_at")
    return {row.session_id: row.requested_at for row in rows if row.session_id is not None}


def matching_grants(
    *,
    workspace_id: UUID,
    session_id: UUID | None,
    kind: str,
    tool: str,
    definition_hash: str,
    safety_level: str,
    arguments: Mapping[str, Any],
    rule_hashes: Mapping[str, str],
    at: datetime,
    requester_id: UUID | None,
    model: str = "",
) -> list[GrantFact]:
    """Return the grants that cover this act, in id order; those for once are locked until the commit.

    A grant holds for its tool's definition and its rule's version alone: once for the same arguments in the
    same session, or, outside of sessions, for the same person; session for its session; pattern in the
    workspace for arguments that fit. Grants that are remembered never cover a restricted tool. Call it in a
    transaction.
    """
    here = Q(scope__in=("once", "session"), session_id=session_id)
    if session_id is None:
        here &= Q(requester_id=requester_id)
    here |= Q(scope="pattern")
    candidates = Approval.objects.filter(
        here,
        Q(valid_until=None) | Q(valid_until__gt=at),
        workspace_id=workspace_id,
        status="granted",
        subject_kind=kind,
        tool_name=tool,
        definition_hash=definition_hash,
        rule__in=list(rule_hashes),
        rule_hash__in=set(rule_hashes.values()),
    ).order_by("-requested_at", "-id")
    if kind == "model_call":
        candidates = candidates.filter(model_name=model)
    wanted = fingerprint(dict(arguments))
    covering: dict[str, list[UUID]] = {}
    for row in candidates[:MOST_GRANTS]:
        if rule_hashes.get(row.rule) == row.rule_hash and _covers(row, wanted, arguments, safety_level):
            covering.setdefault(row.rule, []).append(row.id)
    if not covering:
        return []
    # The newest of each rule, so that many of one rule leave room for those of the others.
    share = max(MOST_STATED // len(covering), 1)
    stated = [approval_id for ids in covering.values() for approval_id in ids[:share]][:MOST_STATED]
    # Locked and asked again: another step may have used one up in the meantime.
    locked = Approval.objects.select_for_update().filter(id__in=stated, status="granted").order_by("id")
    return [
        GrantFact(
            approval_id=row.id, rule=row.rule, rule_hash=row.rule_hash, scope=_scope(row.scope), own=row.own
        )
        for row in locked
    ]


def waiting_for(request: DecisionRequest, *, requester_id: UUID, besides: UUID) -> Approval | None:
    """Return the oldest request, `besides` one, by which this person waits for leave for exactly this act."""
    rows = Approval.objects.filter(
        workspace_id=request.workspace_id,
        session_id=request.session_id,
        requester_id=requester_id,
        status="waiting",
        subject_kind=request.subject_kind,
        tool_name=request.tool,
        definition_hash=request.definition_hash,
    ).exclude(id=besides)
    wanted = fingerprint(dict(request.arguments))
    for row in rows.order_by("requested_at", "id")[:MOST_GRANTS]:
        if unseal_or_empty(row.key_id, row.arguments_hash) == wanted:
            return row
    return None


def inbox(
    caller: Caller,
    *,
    status: str | None = "waiting",
    session_id: UUID | None = None,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page:
    """Return the approvals that the caller may see, newest first; `status` None: of every status.

    Raises BadInput for an unknown status.
    """
    rows = visible(caller)
    if status is not None:
        if status not in get_args(ApprovalStatus):
            raise BadInput(f"status is one of {', '.join(get_args(ApprovalStatus))}.", field="status")
        rows = rows.filter(status=status)
    if session_id is not None:
        rows = rows.filter(session_id=session_id)
    page = page_of(rows, order=("-requested_at", "-id"), cursor=cursor, limit=limit)
    return Page([_entry(row, caller) for row in page.items], page.next_cursor)


def waiting(workspace_id: UUID, *, limit: int) -> list[dict[str, Any]]:
    """Return a workspace's newest waiting requests, without anything that is sealed."""
    rows = Approval.objects.filter(workspace_id=workspace_id, status="waiting")
    return [_clear(row) for row in rows.order_by("-requested_at", "-id")[:limit]]


def workspace_of(approval_id: UUID) -> UUID:
    """Return the workspace of an approval. Raises ApprovalNotFound."""
    found = Approval.objects.filter(id=approval_id).values_list("workspace_id", flat=True).first()
    if found is None:
        raise ApprovalNotFound("There is no such approval.", field="approval_id")
    return found


def approval(approval_id: UUID, caller: Caller) -> dict[str, Any]:
    """Return an approval with its exact arguments, notes and votes. Raises ApprovalNotFound.

    Arguments, notes and pattern are opened for the requester, for who may decide, and for administrators and
    auditors of the workspace; `readable` tells whether they are.
    """
    row = visible_row(approval_id, caller)
    entry = _entry(row, caller)
    readable: bool = entry["readable"]
    arguments = arguments_of(row) if readable else None
    pattern = _opened(row, row.pattern) if readable else None
    replacement = _opened(row, row.replacement) if readable else None
    notes = ApprovalNote.objects.filter(approval_id=row.id).order_by("created_at", "id")
    return {
        **entry,
        "arguments": arguments if arguments is not None and row.arguments_bytes <= SHOWN_BYTES else None,
        "arguments_shown": arguments_shown(arguments) if arguments is not None else [],
        "arguments_hash": unseal_or_empty(row.key_id, row.arguments_hash) if readable else "",
        "pattern": pattern or {},
        "replacement": replacement,
        "notes": [_note(note) for note in notes] if readable else [],
    }


def visible_row(approval_id: UUID, caller: Caller) -> Approval:
    """Return the row of an approval that the caller may see. Raises ApprovalNotFound."""
    row = visible(caller).filter(id=approval_id).first()
    if row is None:
        raise ApprovalNotFound("There is no such approval.", field="approval_id")
    return row


def may_read(row: Approval, caller: Caller) -> bool:
    """Tell whether the caller may read the text of a request that they can see.

    An answer that is held back is so from the person who asked for it too, whatever their roles, unless it
    is theirs to decide on it because nobody else can.
    """
    decides = bool(caller.roles & set(row.approver_roles))
    if row.requester_id != caller.user_id:
        return decides or bool(caller.roles & READERS)
    if row.subject_kind != "message_out" or row.uses:
        return True
    return decides and not four_eyes(row.workspace_id, row.approver_roles).on


def may_vote(row: Approval, caller: Caller, vote: Vote, *, now: datetime) -> bool:
    """Tell whether this vote of the caller would count now."""
    if row.status != "waiting" or row.expires_at <= now or not caller.roles & set(row.approver_roles):
        return False
    return vote == "deny" or not barred(row, caller)


def barred(row: Approval, caller: Caller) -> bool:
    """Tell whether four eyes keep the caller from approving what is their own."""
    own = approvals.is_own(caller.user_id, requester_id=row.requester_id, edited_by=row.edited_by)
    return own and four_eyes(row.workspace_id, row.approver_roles).on


def agreed(row: Approval) -> int:
    """Return how many people's yes counts now towards a request's quorum, as `approval.vote` counts them."""
    eyes = four_eyes(row.workspace_id, row.approver_roles)
    last = {vote["by"]: vote for vote in row.votes}
    return sum(
        vote["vote"] == "approve" and by in eyes.holders and not (eyes.on and vote["own"])
        for by, vote in last.items()
    )


def arguments_of(row: Approval) -> dict[str, Any] | None:
    """Return the exact arguments of a request, None where they are erased."""
    if row.arguments_sha256:
        try:
            found: dict[str, Any] | None = json.loads(get_blob(row.arguments_sha256, key_id=row.key_id))
        except Erased:
            return None
        return found
    opened: dict[str, Any] | None = _opened(row, row.arguments)
    return opened


def arguments_shown(arguments: Mapping[str, Any]) -> list[ArgumentShown]:
    """Return arguments for a page: hidden characters visible, what is above 4 KiB as hash and size alone."""
    found = []
    for name, value in arguments.items():
        stored = canonical_json(value)
        cut = len(stored) > SHOWN_BYTES
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        found.append(
            ArgumentShown(
                name=shown(name),
                text="" if cut else shown(text),
                bytes=len(stored),
                sha256=fingerprint(value),
                cut=cut,
            )
        )
    return found


def visible(caller: Caller) -> QuerySet[Approval]:
    """Return the rows that the caller may see: the workspace's, or own ones and those to decide on."""
    rows = Approval.objects.filter(workspace_id=caller.workspace_id)
    if caller.roles & CONSOLE_ROLES:
        return rows
    return rows.filter(Q(requester_id=caller.user_id) | Q(approver_roles__overlap=sorted(caller.roles)))


def _covers(row: Approval, wanted: str, arguments: Mapping[str, Any], safety_level: str) -> bool:
    if row.scope == "once":
        return unseal_or_empty(row.key_id, row.arguments_hash) == wanted
    if safety_level == "restricted":
        return False
    if row.scope == "session":
        return row.session_id is not None
    pattern = _opened(row, row.pattern)
    return bool(pattern) and approvals.fits(pattern, arguments)


def _scope(scope: str) -> approvals.GrantScope:
    found: approvals.GrantScope
    for found in get_args(approvals.GrantScope):
        if found == scope:
            return found
    raise AssertionError(scope)


def _opened(row: Approval, token: str) -> Any:
    text = unseal_or_empty(row.key_id, token)
    return json.loads(text) if text else None


def _entry(row: Approval, caller: Caller) -> dict[str, Any]:
    return {
        **_clear(row),
        "readable": may_read(row, caller),
        "erased": not unseal_or_empty(row.key_id, row.arguments_hash),
    }


def _clear(row: Approval) -> dict[str, Any]:
    return {
        "id": row.id,
        "workspace_id": row.workspace_id,
        "session_id": row.session_id,
        "version": row.version,
        "decision_id": row.decision_id,
        "requester_id": row.requester_id,
        "subject_kind": row.subject_kind,
        "agent": row.agent_name,
        "tool": row.tool_name,
        "model": row.model_name,
        "definition_hash": row.definition_hash,
        "safety_level": row.safety_level,
        "arguments_bytes": row.arguments_bytes,
        "rule": row.rule,
        "rule_hash": row.rule_hash,
        "policy_hash": row.policy_hash,
        "reason": row.reason,
        "approver_roles": row.approver_roles,
        "quorum": row.quorum,
        "scopes": row.scopes,
        "edited_by": row.edited_by,
        "status": row.status,
        "votes": row.votes,
        "scope": row.scope,
        "valid_until": row.valid_until,
        "own": row.own,
        "void_cause": row.void_cause,
        "uses": row.uses,
        "requested_at": row.requested_at,
        "expires_at": row.expires_at,
        "ended_at": row.ended_at,
    }


def _note(note: ApprovalNote) -> dict[str, Any]:
    return {
        "id": note.id,
        "kind": note.kind,
        "by": note.by,
        "text": unseal_or_empty(note.key_id, note.text),
        "created_at": note.created_at,
    }
