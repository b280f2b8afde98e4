"""The cards of a session's requests for approval, as one person sees them in the chat."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.urls import reverse
from django.utils.translation import gettext as _

from cartrita.accounts.console import names_of
from cartrita.accounts.models import User
from cartrita.accounts.queries import Caller
from cartrita.eventstore import RecordedEvent, followed, load, read_log
from governance import approval as approvals
from governance.approval import ApprovalNoted, ApprovalVoted
from governance.queries import approvals as queries
from governance.queries.approvals import ArgumentShown, shown
from tasks_app.models import PlanRow, RunRow
from tasks_app.plan import PlanCompleted, PlanHeldBack, PlanRefused
from tasks_app.run import ActDecided, RunFinished

# The newest of a session; older ones stand in the console.
CARDS_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Saying:
    """What somebody said on a request: a question, an answer, a comment, or their vote."""

    kind: str
    by: str
    text: str
    own: bool
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A request for approval; all texts have hidden characters made visible.

    `barred` tells that four eyes keep this person, who may deny it, from approving what is their own.
    `offered` are the scopes that can be chosen here, `more_scopes` tells that the console offers others.
    """

    id: UUID
    status: str
    for_review: bool
    what: str
    agent: str
    sentence: str
    rule: str
    roles: Sequence[str]
    quorum: int
    approved: int
    requested_at: datetime
    expires_at: datetime
    ended_by: str
    own: bool
    scope: str
    void_cause: str
    edited_by: str
    readable: bool
    erased: bool
    arguments: Sequence[ArgumentShown]
    said: Sequence[Saying]
    offered: Sequence[str]
    more_scopes: bool
    may_approve: bool
    may_deny: bool
    barred: bool
    may_answer: bool
    arguments_address: str
    console_address: str


def cards(session_id: UUID, user: User, caller: Caller, *, now: datetime) -> list[Card]:
    """Return the cards of a session that this person may see, oldest first."""
    page = queries.inbox(caller, status=None, session_id=session_id, limit=CARDS_SHOWN)
    return [card(entry["id"], user, caller, now=now) for entry in reversed(page.items)]


def card(approval_id: UUID, user: User, caller: Caller, *, now: datetime) -> Card:
    """Return one card. Raises ApprovalNotFound."""
    row = queries.visible_row(approval_id, caller)
    found = queries.approval(approval_id, caller)
    recorded = load(approval_id)
    folded = approvals.fold((each.event, each.recorded_at) for each in recorded)
    said = list(_said(recorded, comments=found["readable"]))
    names = names_of([each.by for each in said] + list(folded.ended_by) + [folded.edited_by])
    requester = row.requester_id == caller.user_id
    in_time = row.status == "waiting" and now < row.expires_at
    may_approve = queries.may_vote(row, caller, "approve", now=now)
    may_deny = queries.may_vote(row, caller, "deny", now=now)
    return Card(
        id=row.id,
        status=row.status,
        for_review=row.subject_kind == "message_out",
        what=shown(row.tool_name or row.model_name or _kind(row.subject_kind)),
        agent=shown(row.agent_name),
        sentence=row.reason,
        rule=row.rule,
        roles=row.approver_roles,
        quorum=row.quorum,
        approved=sum(vote.vote == "approve" for vote in folded.votes),
        requested_at=row.requested_at,
        expires_at=row.expires_at,
        ended_by=", ".join(names[by] for by in folded.ended_by),
        own=row.own,
        scope=row.scope,
        void_cause=row.void_cause,
        edited_by=names[folded.edited_by] if folded.edited_by else "",
        readable=found["readable"],
        erased=found["erased"],
        arguments=found["arguments_shown"],
        said=[_named(each, names[each.by]) for each in said],
        offered=[scope for scope in row.scopes if scope != "pattern"],
        more_scopes="pattern" in row.scopes,
        may_approve=may_approve,
        may_deny=may_deny,
        barred=may_deny and not may_approve,
        may_answer=in_time and requester and any(each.kind == "question" for each in said),
        arguments_address=reverse("approval-arguments", args=[row.id]),
        console_address=_console_address(row.id, user),
    )


def waits_for(cards: Iterable[Card], session_id: UUID, *, now: datetime) -> str:
    """Return what a session's turn waits for: `approval`, `review`, a time in ISO 8601, or nothing."""
    for each in cards:
        if each.status == "waiting":
            return "review" if each.for_review else "approval"
    runs = RunRow.objects.filter(session_id=session_id, status="waiting")
    plans = PlanRow.objects.filter(session_id=session_id, status="waiting")
    # These rows follow the log: what they do not show yet is read there.
    fresh = [
        each.stream_id
        for each in read_log(after=followed("plans", "runs"), session_id=session_id)
        if isinstance(each.event, ActDecided | PlanHeldBack)
    ]
    known = (*runs.values_list("id", flat=True), *plans.values_list("id", flat=True))
    for stream_id in dict.fromkeys((*known, *fresh)):
        events = [each.event for each in load(stream_id)]
        if any(isinstance(each, RunFinished | PlanRefused | PlanCompleted) for each in events):
            continue
        decided = [each for each in events if isinstance(each, ActDecided | PlanHeldBack)]
        until = decided[-1].retry_after if decided else None
        if until is not None and now < until:
            return until.isoformat()
    return ""


def _said(recorded: Sequence[RecordedEvent], *, comments: bool) -> Iterable[Saying]:
    """Return what was said, in order; comments only for who may read them."""
    for each in recorded:
        match each.event:
            case ApprovalNoted(kind=kind) as event if comments or kind != "comment":
                own = False
            case ApprovalVoted(vote=kind) as event if event.text:
                own = event.own
            case _:
                continue
        yield Saying(kind=kind, by=event.by, text=shown(event.text), own=own, at=each.recorded_at)


def _named(saying: Saying, name: str) -> Saying:
    return Saying(kind=saying.kind, by=name, text=saying.text, own=saying.own, at=saying.at)


def _kind(subject_kind: str) -> str:
    kinds: dict[str, Any] = {
        "plan": _("the plan"),
        "message_out": _("the answer"),
        "retrieval": _("the search"),
        "model_call": _("the model"),
        "document": _("the document"),
    }
    return str(kinds.get(subject_kind, subject_kind))


def _console_address(approval_id: UUID, user: User) -> str:
    """Return where the console shows the request; empty for who has no console."""
    if not (user.is_staff and user.has_perm("governance.view_approval")):
        return ""
    return reverse("admin:governance_approval_change", args=[approval_id])
