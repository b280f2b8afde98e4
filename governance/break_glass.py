"""Break-glass: for a time, rules that say so themselves hold nothing up. Pure: events, fold, what may follow.

Each opening has a stream of its own. That its time is over is no event: whoever asks compares `until` with
the time of asking, so that nothing has to be at hand to end it.
"""

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar, Literal, get_args
from uuid import UUID

from cartrita.errors import BadInput, Conflict, NotAllowed, NotFound
from cartrita.eventstore.types import Event
from governance.decide import GlassFact
from governance.four_eyes import FourEyes
from governance.visible_text import visible_length

GlassScope = Literal["workspace", "session", "user"]

# Those who keep the installation running break it, and whoever decides on acts looks at them afterwards.
OPENERS: frozenset[str] = frozenset({"admin", "operator"})
ENDERS: frozenset[str] = OPENERS | {"reviewer"}
REVIEWERS: frozenset[str] = frozenset({"admin", "reviewer"})

LONGEST = timedelta(hours=8)
SHORTEST_REASON, LONGEST_REASON = 10, 500
# An event holds 64 KiB.
MOST_REVIEWED_AT_ONCE = 500
# The narrower one is named where several are in force for an act.
_WIDTH: Mapping[str, int] = {"session": 0, "user": 1, "workspace": 2}


class BreakGlassOpened(Event):
    """Until that time, breakable rules count as audit for the acts of this scope.

    `scope` is a session's or person's id, empty for the workspace. `alone` says that nobody else in the
    workspace holds a role that is told of it. `reason` is no personal text.
    """

    type_name: ClassVar[str] = "governance.BreakGlassOpened"

    scope_kind: GlassScope
    scope: str
    reason: str
    by: str
    until: datetime
    alone: bool = False


class BreakGlassEnded(Event):
    """Somebody ended it before its time. `note` is no personal text."""

    type_name: ClassVar[str] = "governance.BreakGlassEnded"

    by: str
    note: str = ""


class BreakGlassReviewed(Event):
    """A person has looked at acts that it let pass. Those in `own` are of that person, or by their opening.

    `note` is no personal text.
    """

    type_name: ClassVar[str] = "governance.BreakGlassReviewed"

    decisions: tuple[UUID, ...]
    by: str
    own: tuple[UUID, ...] = ()
    note: str = ""


class BreakGlassNotFound(NotFound):
    """No break-glass with that id was opened for this caller's workspace."""

    code: ClassVar[str] = "break_glass_not_found"


class AlreadyOpen(Conflict):
    """Break-glass is in force for this scope: `details["by"]` opened it, `details["until"]` says how long."""

    code: ClassVar[str] = "break_glass_open"


class BreakGlassOver(Conflict):
    """It is in force no more."""

    code: ClassVar[str] = "break_glass_over"


class OwnAct(NotAllowed):
    """Four eyes are on: another person looks at what this one did, or opened."""

    code: ClassVar[str] = "own_act"


class NothingToReview(NotFound):
    """The decision is none that this break-glass let pass."""

    code: ClassVar[str] = "nothing_to_review"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakGlass:
    """One opening; `version` 0 before it."""

    scope_kind: GlassScope = "workspace"
    scope: str = ""
    reason: str = ""
    by: str = ""
    until: datetime | None = None
    alone: bool = False
    ended_by: str = ""
    reviewed: frozenset[UUID] = frozenset()
    version: int = 0

    def in_force(self, at: datetime) -> bool:
        """Return whether breakable rules count as audit at that time: not at its end any more."""
        return self.until is not None and not self.ended_by and at < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a step has to know of an opening that nobody has ended."""

    id: UUID
    scope_kind: GlassScope
    scope: str
    by: str
    until: datetime


def fold(events: Iterable[Event]) -> BreakGlass:
    """Return the opening after these events."""
    glass = BreakGlass()
    for event in events:
        glass = evolve(glass, event)
    return glass


def evolve(glass: BreakGlass, event: Event) -> BreakGlass:
    """Return the opening after one more event."""
    version = glass.version + 1
    match event:
        case BreakGlassOpened():
            return BreakGlass(
                scope_kind=event.scope_kind,
                scope=event.scope,
                reason=event.reason,
                by=event.by,
                until=event.until,
                alone=event.alone,
                version=version,
            )
        case BreakGlassEnded():
            return replace(glass, ended_by=event.by, version=version)
        case BreakGlassReviewed():
            return replace(glass, reviewed=glass.reviewed | {*event.decisions}, version=version)
        case _:
            return glass


def open_for(
    *,
    scope_kind: GlassScope,
    scope: str,
    reason: str,
    by: str,
    lasts: timedelta,
    now: datetime,
    others: Iterable[Opening],
    alone: bool,
) -> list[Event]:
    """Open it for a scope from `now` on; `others` are the workspace's openings that nobody has ended.

    Raises AlreadyOpen, and BadInput for a reason or a time that it does not take.
    """
    if scope_kind not in get_args(GlassScope):
        raise BadInput(f"scope_kind is one of {', '.join(get_args(GlassScope))}.", field="scope_kind")
    said = _text(reason, "reason")
    # Who reads it later must find something there: what nobody sees is no reason.
    if len(said) > LONGEST_REASON or visible_length(said) < SHORTEST_REASON:
        raise BadInput(
            f"Say why in {SHORTEST_REASON} to {LONGEST_REASON} visible characters, without personal text.",
            field="reason",
        )
    if not timedelta() < lasts <= LONGEST:
        raise BadInput(
            f"Break-glass is for at most {LONGEST // timedelta(hours=1)} hours; open it again if that is "
            "not enough.",
            field="minutes",
        )
    for other in others:
        if (other.scope_kind, other.scope) == (scope_kind, scope) and now < other.until:
            raise AlreadyOpen(
                f"It is open for this already, until {other.until:%Y-%m-%d %H:%M} UTC; end that first.",
                by=other.by,
                until=other.until.isoformat(),
                id=str(other.id),
            )
    return [
        BreakGlassOpened(
            scope_kind=scope_kind, scope=scope, reason=said, by=by, until=now + lasts, alone=alone
        )
    ]


def end(glass: BreakGlass, *, by: str, note: str, now: datetime) -> list[Event]:
    """End it before its time; nothing when this person has ended it.

    Raises BreakGlassNotFound, BreakGlassOver, BadInput.
    """
    _require_opened(glass)
    if glass.ended_by == by:
        return []
    if not glass.in_force(now):
        raise BreakGlassOver(
            "Somebody else has ended it." if glass.ended_by else "Its time is over.",
            by=glass.ended_by,
        )
    return [BreakGlassEnded(by=by, note=_note(note))]


def review(
    glass: BreakGlass,
    *,
    decisions: Collection[UUID],
    passed: Mapping[UUID, UUID | None],
    reviewer_id: UUID,
    four_eyes: FourEyes,
    note: str,
) -> list[Event]:
    """Say that somebody has looked at acts; nothing when all of them were looked at before.

    `passed` are the acts among `decisions` that this opening let pass, each with the person in whose session
    it happened. With `four_eyes`, nobody looks at what is their own, or happened because they opened it.

    Raises BreakGlassNotFound, NothingToReview, OwnAct, BadInput.
    """
    _require_opened(glass)
    if len(decisions) > MOST_REVIEWED_AT_ONCE:
        raise BadInput(f"At most {MOST_REVIEWED_AT_ONCE} acts are reviewed at once.", field="decisions")
    for decision_id in decisions:
        if decision_id not in passed:
            raise NothingToReview(
                f"Decision {decision_id} is no act that this break-glass let pass.", field="decisions"
            )
    by = f"user:{reviewer_id}"
    new = tuple(sorted({*decisions} - glass.reviewed))
    own = tuple(each for each in new if glass.by == by or passed[each] == reviewer_id)
    if own and four_eyes.on:
        said = "You opened it" if glass.by == by else "An act is your own"
        roles = ", ".join(sorted(REVIEWERS))
        raise OwnAct(
            f"{said}; ask another person who holds one of the roles {roles}.{four_eyes.remedy}",
            **four_eyes.details,
        )
    said_of_it = _note(note)
    return [BreakGlassReviewed(decisions=new, by=by, own=own, note=said_of_it)] if new else []


def covering(
    openings: Iterable[Opening], *, session_id: UUID | None, requester_id: UUID | None, at: datetime
) -> GlassFact | None:
    """Return the break-glass in force for an act: the narrowest, and of those the one that lasts longest."""
    scopes = {("workspace", ""), ("session", str(session_id)), ("user", str(requester_id))}
    found = [one for one in openings if (one.scope_kind, one.scope) in scopes and at < one.until]
    if not found:
        return None
    chosen = min(found, key=lambda one: (_WIDTH[one.scope_kind], -one.until.timestamp(), one.id))
    return GlassFact(id=chosen.id, until=chosen.until, by=chosen.by)


def _require_opened(glass: BreakGlass) -> None:
    if glass.version == 0:
        raise BreakGlassNotFound("There is no such break-glass.", field="glass_id")


def _note(note: str) -> str:
    said = _text(note, "note")
    if len(said) > LONGEST_REASON:
        raise BadInput(f"A note has at most {LONGEST_REASON} characters.", field="note")
    return said


def _text(written: str, field: str) -> str:
    said = written.strip()
    if any(unicodedata.category(each) in {"Cc", "Cs"} for each in said if each not in "\n\r\t"):
        raise BadInput(f"{field} holds control characters; write plain text.", field=field)
    return said
