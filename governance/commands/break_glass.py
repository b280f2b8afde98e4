"""What people may do with break-glass: load, decide, append."""

import logging
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from cartrita.accounts.permissions import RoleMissing
from cartrita.accounts.queries import Caller, people_with_roles, roles_of
from cartrita.errors import BadInput
from cartrita.eventstore import Append, Context, Event, RecordedEvent, StreamMoved, append, load, new_id
from governance import break_glass as glasses
from governance.break_glass import (
    ENDERS,
    MOST_REVIEWED_AT_ONCE,
    OPENERS,
    REVIEWERS,
    BreakGlass,
    BreakGlassNotFound,
    GlassScope,
)
from governance.known_scopes import require_known
from governance.models import BreakGlass as BreakGlassRow
from governance.models import GlassReview
from governance.queries.break_glass import openings_of, passed_rows
from governance.queries.four_eyes import four_eyes

logger = logging.getLogger(__name__)

_LOCK = 0x676C6173  # "glas", so that these advisory locks meet no other


def open_break_glass(
    *,
    caller: Caller,
    reason: str,
    minutes: int,
    scope_kind: GlassScope = "workspace",
    scope: str = "",
    now: datetime | None = None,
) -> tuple[UUID, list[RecordedEvent]]:
    """Open break-glass in the caller's workspace, and return its id and what was recorded.

    `minutes` are at most 480, counted from now. `scope` is the id of a session or person, empty for the
    workspace. Raises RoleMissing, AlreadyOpen, UnknownScope, BadInput.
    """
    _require(caller, OPENERS)
    scope = _checked_scope(caller, scope_kind, scope)
    moment = now or timezone.now()
    with transaction.atomic():
        # Of two people who open it for one scope at once, the second is told.
        with connection.cursor() as cursor:
            cursor.execute(
                "select pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK, str(caller.workspace_id)]
            )
        open_rows = BreakGlassRow.objects.filter(
            workspace_id=caller.workspace_id, ended_at=None, until__gt=moment
        )
        others = openings_of(
            {**row, "id": str(row["id"]), "until": row["until"].isoformat()}
            for row in open_rows.values("id", "scope_kind", "scope", "by", "until")
        )
        told = people_with_roles(caller.workspace_id, ENDERS) - {caller.user_id}
        events = glasses.open_for(
            scope_kind=scope_kind,
            scope=scope,
            reason=reason,
            by=_person(caller),
            lasts=timedelta(minutes=minutes),
            now=moment,
            others=others,
            alone=not told,
        )
        glass_id = new_id()
        context = Context(workspace_id=caller.workspace_id, actor=caller.actor)
        recorded = append(Append(glass_id, 0, events, context), recorded_at=now)
    logger.warning(
        "Break-glass %s is open for %s minutes in workspace %s (%s).",
        glass_id,
        minutes,
        caller.workspace_id,
        scope_kind,
    )
    return glass_id, recorded


def end_break_glass(
    *,
    glass_id: UUID,
    caller: Caller,
    note: str = "",
    expected_version: int | None = None,
    now: datetime | None = None,
) -> list[RecordedEvent]:
    """End it before its time, and return what was recorded: nothing when the caller has ended it.

    Raises RoleMissing, BreakGlassNotFound, BreakGlassOver, BadInput, StreamMoved.
    """
    _require(caller, ENDERS)
    moment = now or timezone.now()
    return _change(
        caller,
        glass_id,
        lambda glass: glasses.end(glass, by=_person(caller), note=note, now=moment),
        expected_version,
        now,
    )


def review_acts(
    *,
    glass_id: UUID,
    caller: Caller,
    decisions: Collection[UUID] | None = None,
    note: str = "",
    expected_version: int | None = None,
    now: datetime | None = None,
) -> list[RecordedEvent]:
    """Say that the caller has looked at acts that it let pass, and return what was recorded.

    None: at the oldest 500 of those that wait. Nothing is recorded when all were looked at before. Raises
    RoleMissing, BreakGlassNotFound, NothingToReview, OwnAct, BadInput, StreamMoved.
    """
    _require(caller, REVIEWERS)

    def decide(glass: BreakGlass) -> list[Event]:
        rows = passed_rows(caller.workspace_id, glass_id)
        if decisions is None:
            looked_at = GlassReview.objects.filter(glass_id=glass_id).values("id")
            rows = rows.exclude(id__in=looked_at).order_by("created_at", "id")[:MOST_REVIEWED_AT_ONCE]
        else:
            rows = rows.filter(id__in=decisions)
        passed = dict(rows.values_list("id", "requester_id"))
        return glasses.review(
            glass,
            decisions=passed.keys() if decisions is None else decisions,
            passed=passed,
            reviewer_id=caller.user_id,
            four_eyes=four_eyes(caller.workspace_id, REVIEWERS, now=now),
            note=note,
        )

    return _change(caller, glass_id, decide, expected_version, now)


def _change(
    caller: Caller,
    glass_id: UUID,
    decide: Callable[[BreakGlass], list[Event]],
    expected_version: int | None,
    now: datetime | None,
) -> list[RecordedEvent]:
    with transaction.atomic():
        row = (
            BreakGlassRow.objects.select_for_update()
            .filter(id=glass_id, workspace_id=caller.workspace_id)
            .first()
        )
        if row is None:
            raise BreakGlassNotFound("There is no such break-glass.", field="glass_id")
        glass = glasses.fold(recorded.event for recorded in load(glass_id))
        events = decide(glass)
        if not events:
            return []
        if expected_version is not None and glass.version != expected_version:
            raise StreamMoved(
                stream_id=glass_id, expected_version=expected_version, actual_version=glass.version
            )
        context = Context(workspace_id=caller.workspace_id, actor=caller.actor)
        return append(Append(glass_id, glass.version, events, context), recorded_at=now)


def _checked_scope(caller: Caller, scope_kind: str, scope: str) -> str:
    """Return the scope in its one spelling. Raises BadInput where it names nothing of the workspace."""
    scope = scope.strip()
    if scope_kind == "workspace":
        if scope not in {"", str(caller.workspace_id)}:
            raise BadInput("The workspace needs no scope; leave it out.", field="scope")
        return ""
    try:
        found = UUID(scope)
    except ValueError:
        raise BadInput(f"The scope of a {scope_kind} is its id, a UUID.", field="scope") from None
    if scope_kind == "user" and not roles_of(found, caller.workspace_id):
        raise BadInput("Nobody in this workspace has that id.", field="scope")
    if scope_kind == "session":
        require_known(scope_kind, str(found), caller.workspace_id)
    return str(found)


def _require(caller: Caller, roles: frozenset[str]) -> None:
    if not caller.roles & roles:
        raise RoleMissing(f"This needs one of the roles {', '.join(sorted(roles))}.", roles=sorted(roles))


def _person(caller: Caller) -> str:
    """Name the person, also behind a token: with two ways of asking one is still one."""
    return f"user:{caller.user_id}"
