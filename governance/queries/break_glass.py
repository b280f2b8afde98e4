"""Who opened break-glass, what is in force, what was decided under it, and what it let pass."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString, get_args
from uuid import UUID

from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from cartrita.accounts.console import CONSOLE_ROLES
from cartrita.accounts.permissions import RoleMissing
from cartrita.accounts.queries import Caller
from cartrita.http.pagination import DEFAULT_LIMIT, Page, page_of
from governance.break_glass import BreakGlassNotFound, Opening
from governance.models import BreakGlass, GlassReview, PolicyDecision

State = Literal["open", "over", "ended"]

Which = Literal["passed", "changed", "all"]

# All that was decided under it, and of that what would have come out otherwise without it.
DECIDED = Q(glass_id__isnull=False)
CHANGED = DECIDED & ~Q(unbroken_outcome="")
# What it let pass, for people to look at: of these the acts that went ahead.
PASSED = CHANGED & Q(decision__in=("allow", "audit"))
ACTS: Mapping[str, Which] = {which: which for which in get_args(Which)}
_OF: Mapping[Which, Q] = {"passed": PASSED, "changed": CHANGED, "all": DECIDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An opening as it stands.

    `decisions` were made under it, `changed` of them would have come out otherwise without it, it let
    `passed` acts pass, and `to_review` of these wait for a look.
    """

    id: UUID
    workspace_id: UUID
    version: int
    scope_kind: str
    scope: str
    reason: str
    by: str
    alone: bool
    opened_at: datetime
    until: datetime
    ended_at: datetime | None
    ended_by: str
    ended_note: str
    state: State
    decisions: int
    changed: int
    passed: int
    to_review: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """An act that was decided under break-glass.

    `unbroken_*` are what it would have come to without it, where that is something else (`changed`; the same
    outcome and rule where only more would have been taken or left out), and `passed` says that it went ahead
    then. `reviewed_by` is empty while nobody has looked at it, and `own` says that whoever did had a part in
    it.
    """

    decision_id: UUID
    glass_id: UUID
    created_at: datetime
    session_id: UUID | None
    requester_id: UUID | None
    subject_kind: str
    tool: str
    model: str
    agent: str
    outcome: str
    rule: str
    unbroken_outcome: str
    unbroken_rule: str
    changed: bool
    passed: bool
    act_outcome: str
    reviewed_by: str
    reviewed_at: datetime | None
    own: bool
    note: str


def require_reader(caller: Caller) -> None:
    """Raise RoleMissing unless the caller looks after the workspace."""
    if not caller.roles & CONSOLE_ROLES:
        raise RoleMissing(
            f"This needs one of the roles {', '.join(sorted(CONSOLE_ROLES))}.", roles=sorted(CONSOLE_ROLES)
        )


def openings(
    workspace_id: UUID,
    *,
    at: datetime,
    in_force: bool = False,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page:
    """Return a page of a workspace's openings, newest first: all, or those in force. Raises BadInput."""
    rows = BreakGlass.objects.filter(workspace_id=workspace_id)
    if in_force:
        rows = rows.filter(ended_at=None, until__gt=at)
    page = page_of(rows, order=("-opened_at", "-id"), cursor=cursor, limit=limit)
    return Page(_standings(page.items, at), page.next_cursor)


def opening(glass_id: UUID, caller: Caller, *, at: datetime) -> Standing:
    """Return one opening of the caller's workspace. Raises RoleMissing, BreakGlassNotFound."""
    require_reader(caller)
    row = BreakGlass.objects.filter(id=glass_id, workspace_id=caller.workspace_id).first()
    if row is None:
        raise BreakGlassNotFound("There is no such break-glass.", field="glass_id")
    return standing(row, at=at)


def standing(row: BreakGlass, *, at: datetime) -> Standing:
    """Return an opening as it stands."""
    return _standings([row], at)[0]


def in_force(workspace_ids: Collection[UUID], *, at: datetime) -> list[BreakGlass]:
    """Return the openings that are in force in these workspaces, the newest first."""
    return list(BreakGlass.objects.filter(workspace_id__in=workspace_ids, ended_at=None, until__gt=at)[:20])


def in_force_for(
    workspace_id: UUID, *, session_id: UUID, requester_id: UUID | None, at: datetime
) -> list[BreakGlass]:
    """Return the openings in force for what a person asks for in a session, those that last longest first."""
    scopes = Q(scope_kind="workspace") | Q(scope_kind="session", scope=str(session_id))
    if requester_id is not None:
        scopes |= Q(scope_kind="user", scope=str(requester_id))
    rows = BreakGlass.objects.filter(scopes, workspace_id=workspace_id, ended_at=None, until__gt=at)
    return list(rows.order_by("-until", "id"))


def acts(
    workspace_id: UUID,
    *,
    glass_id: UUID | None = None,
    which: Which = "passed",
    reviewed: bool | None = False,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page:
    """Return a page of acts under break-glass in a workspace, newest first: those that it let pass.

    Or those whose verdict it `changed`, or `all` that were decided under it. Of these the ones that wait for
    a person's look, those `reviewed`, or with None both; of one opening where it is named. Raises BadInput.
    """
    rows = PolicyDecision.objects.filter(_OF[which], workspace_id=workspace_id)
    if glass_id is not None:
        rows = rows.filter(glass_id=glass_id)
    if reviewed is not None:
        looked_at = Exists(GlassReview.objects.filter(id=OuterRef("id")))
        rows = rows.filter(looked_at if reviewed else ~looked_at)
    page = page_of(rows, order=("-created_at", "-id"), cursor=cursor, limit=limit)
    return Page(acts_of(page.items), page.next_cursor)


def passed_rows(workspace_id: UUID, glass_id: UUID | None = None) -> QuerySet[PolicyDecision]:
    """Return the decisions by which break-glass let something pass."""
    rows = PolicyDecision.objects.filter(PASSED, workspace_id=workspace_id)
    return rows if glass_id is None else rows.filter(glass_id=glass_id)


def passed_at(workspace_id: UUID, session_id: UUID) -> list[datetime]:
    """Return when break-glass let something pass in a session."""
    rows = passed_rows(workspace_id).filter(session_id=session_id).order_by("created_at")
    return list(rows.values_list("created_at", flat=True))


def acts_of(rows: Iterable[PolicyDecision]) -> list[Act]:
    """Return decisions under break-glass beside who has looked at them."""
    listed = list(rows)
    reviews = GlassReview.objects.in_bulk([row.id for row in listed])
    return [_act(row, reviews.get(row.id)) for row in listed]


def openings_of(rows: Iterable[Mapping[str, Any]]) -> tuple[Opening, ...]:
    """Return the openings of the rows that `OPEN` gives."""
    return tuple(
        Opening(
            id=UUID(row["id"]),
            scope_kind=row["scope_kind"],
            scope=row["scope"],
            by=row["by"],
            until=datetime.fromisoformat(row["until"]),
        )
        for row in rows
    )


# Those of a workspace that nobody has ended and whose time is not over.
OPEN: LiteralString = """
    select id, scope_kind, scope, by, until from governance_break_glass
    where workspace_id = %b::uuid and ended_at is null and until > %b::timestamptz
"""


def _standings(rows: list[BreakGlass], at: datetime) -> list[Standing]:
    ids = [row.id for row in rows]
    under = PolicyDecision.objects.filter(glass_id__in=ids).order_by()
    looked_at = Exists(GlassReview.objects.filter(id=OuterRef("id")))
    counted = {
        found["glass_id"]: found
        for found in under.values("glass_id").annotate(
            decisions=Count("id"),
            changed=Count("id", filter=CHANGED),
            passed=Count("id", filter=PASSED),
            to_review=Count("id", filter=PASSED & Q(~looked_at)),
        )
    }
    return [_standing(row, counted.get(row.id, {}), at) for row in rows]


def _standing(row: BreakGlass, counted: Mapping[str, Any], at: datetime) -> Standing:
    state: State = "ended" if row.ended_at is not None else "open" if at < row.until else "over"
    return Standing(
        id=row.id,
        workspace_id=row.workspace_id,
        version=row.version,
        scope_kind=row.scope_kind,
        scope=row.scope,
        reason=row.reason,
        by=row.by,
        alone=row.alone,
        opened_at=row.opened_at,
        until=row.until,
        ended_at=row.ended_at,
        ended_by=row.ended_by,
        ended_note=row.ended_note,
        state=state,
        decisions=counted.get("decisions", 0),
        changed=counted.get("changed", 0),
        passed=counted.get("passed", 0),
        to_review=counted.get("to_review", 0),
    )


def _act(row: PolicyDecision, review: GlassReview | None) -> Act:
    assert row.glass_id is not None  # noqa: S101 # those that DECIDED finds have one
    changed = row.unbroken_outcome != ""
    return Act(
        decision_id=row.id,
        glass_id=row.glass_id,
        created_at=row.created_at,
        session_id=row.session_id,
        requester_id=row.requester_id,
        subject_kind=row.subject_kind,
        tool=row.tool_name,
        model=row.model_name,
        agent=row.agent_name,
        outcome=row.decision,
        rule=row.policy_rule,
        unbroken_outcome=row.unbroken_outcome,
        unbroken_rule=row.unbroken_rule,
        changed=changed,
        passed=changed and row.decision in {"allow", "audit"},
        act_outcome=row.act_outcome,
        reviewed_by=review.by if review else "",
        reviewed_at=review.reviewed_at if review else None,
        own=review.own if review else False,
        note=review.note if review else "",
    )
