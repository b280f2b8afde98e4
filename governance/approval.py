"""An approval: a person's leave for one escalated act. Pure: events, their fold, and what may happen next.

The stream is `approval_id(decision_id)` of the decision that escalated.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol
from uuid import UUID

from pydantic import Field

from cartrita.errors import BadInput, Conflict, NotAllowed, NotFound, TooLarge
from cartrita.eventstore.canonical import canonical_json
from cartrita.eventstore.ids import derived_id
from cartrita.eventstore.types import Event, Sealed
from governance.canonical import canonical, fingerprint
from governance.decide import DecisionRequest, Verdict
from governance.four_eyes import FourEyes
from governance.policy import SubjectKind

GrantScope = Literal["once", "session", "pattern"]
Vote = Literal["approve", "deny"]
NoteKind = Literal["comment", "question", "answer"]
ApprovalStatus = Literal["waiting", "granted", "used", "denied", "expired", "void", "replaced"]
VoidCause = Literal["arguments_changed", "tool_changed", "rule_changed", "not_covered", "cancelled", "erased"]

NOTE_LIMIT = 4000
MOST_NOTES = 200
# Of these, so that nobody keeps the approvers from asking.
MOST_NOTES_OF_REQUESTER = 100
# How long a grant may be remembered at most.
LONGEST_MEMORY = timedelta(days=30)
PATTERN_LIMIT = 500


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

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of large arguments."""
        return (self.arguments_sha256,)


class ApprovalNoted(Event):
    """Somebody commented, asked the requester something, or the requester answered."""

    type_name: ClassVar[str] = "governance.ApprovalNoted"

    kind: NoteKind
    by: str
    text: Sealed[str]


class ApprovalVoted(Event):
    """An approver said yes or no. `own` tells that it was on what they asked for, or wrote.

    `scope`, `pattern` and `valid_until` are what a yes is for, as in ApprovalGranted.
    """

    type_name: ClassVar[str] = "governance.ApprovalVoted"

    by: str
    user_id: UUID
    vote: Vote
    own: bool = False
    text: Sealed[str] = ""
    scope: GrantScope = "once"
    valid_until: datetime | None = None
    pattern: Sealed[dict[str, str]] = Field(default_factory=dict)


class ApprovalGranted(Event):
    """The quorum said yes. `own` (four eyes are off) tells that whose request it is stands among them.

    That is who wrote the arguments where they were edited, and the requester otherwise.

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

    Causes: arguments_changed, tool_changed, rule_changed, not_covered (another rule decides now), cancelled,
    erased (nobody can read any more what was asked).
    """

    type_name: ClassVar[str] = "governance.ApprovalVoided"

    cause: VoidCause
    detail: str = ""


class ApprovalUsed(Event):
    """A grant let this decision through; one with scope once is used up."""

    type_name: ClassVar[str] = "governance.ApprovalUsed"

    decision_id: UUID


class ApprovalNotFound(NotFound):
    """No approval with that id exists for this caller."""

    code: ClassVar[str] = "approval_not_found"


class NotAnApprover(NotAllowed):
    """The caller holds none of the roles that may decide this request."""

    code: ClassVar[str] = "not_an_approver"


class OwnRequest(NotAllowed):
    """Four eyes: nobody approves what they asked for, or arguments that they wrote."""

    code: ClassVar[str] = "own_request"


class ApprovalEnded(Conflict):
    """The request is decided already, or holds no more; the message says who ended it and how."""

    code: ClassVar[str] = "approval_ended"


class ScopeNotOffered(BadInput):
    """The rule offers no grant of that scope for this act."""

    code: ClassVar[str] = "scope_not_offered"


class BadPattern(BadInput):
    """The pattern does not say which acts are meant, or not the one that waits."""

    code: ClassVar[str] = "bad_pattern"


class NoteTooLong(TooLarge):
    """The text is above its limit."""

    code: ClassVar[str] = "note_too_long"


class EscalationTerms(Protocol):
    """What a rule that escalates says about who decides, and within which time."""

    @property
    def approvers(self) -> Sequence[str]:
        """Return the roles of which an approver holds one."""

    @property
    def quorum(self) -> int:
        """Return how many different people must say yes."""

    @property
    def expires_in(self) -> timedelta:
        """Return after which time a request without an answer counts as denied."""

    @property
    def scopes(self) -> Sequence[str]:
        """Return which grants the rule offers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CastVote:
    """What one person said last."""

    user_id: UUID
    by: str
    vote: Vote
    own: bool
    scope: GrantScope
    valid_until: datetime | None
    pattern: Mapping[str, str]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A request for leave and what became of it; `none` before it was made.

    `arguments` is None where they stand in the blob `arguments_sha256`, or are erased (`erased`). `ended_by`
    and `ended_at` say who or what ended the waiting. `replacement` are the arguments that a reviewer put in
    place of these, None otherwise.
    """

    status: ApprovalStatus | Literal["none"] = "none"
    decision_id: UUID | None = None
    requester_id: UUID | None = None
    edited_by: str = ""
    subject_kind: str = ""
    agent: str = ""
    tool: str = ""
    model: str = ""
    definition_hash: str = ""
    safety_level: str = ""
    arguments: Mapping[str, Any] | None = None
    arguments_sha256: str = ""
    arguments_hash: str = ""
    rule: str = ""
    rule_hash: str = ""
    policy_hash: str = ""
    reason: str = ""
    approver_roles: frozenset[str] = frozenset()
    quorum: int = 1
    scopes: tuple[GrantScope, ...] = ()
    requested_at: datetime | None = None
    expires_at: datetime | None = None
    erased: bool = False
    votes: tuple[CastVote, ...] = ()
    notes: int = 0
    notes_of_requester: int = 0
    scope: GrantScope | Literal[""] = ""
    pattern: Mapping[str, str] = field(default_factory=dict)
    valid_until: datetime | None = None
    own: bool = False
    used_by: tuple[UUID, ...] = ()
    replacement: Mapping[str, Any] | None = None
    void_cause: VoidCause | Literal[""] = ""
    ended_by: tuple[str, ...] = ()
    ended_at: datetime | None = None


def fold(history: Iterable[tuple[Event, datetime]]) -> Approval:
    """Return the state after these events, each with the time of its recording."""
    approval = Approval()
    for event, at in history:
        approval = evolve(approval, event, at)
    return approval


def evolve(approval: Approval, event: Event, at: datetime) -> Approval:
    """Return the state after one more event."""
    match event:
        case ApprovalRequested():
            return Approval(
                status="waiting",
                decision_id=event.decision_id,
                requester_id=event.requester_id,
                edited_by=event.edited_by,
                subject_kind=event.subject_kind,
                agent=event.agent,
                tool=event.tool,
                model=event.model,
                definition_hash=event.definition_hash,
                safety_level=event.safety_level,
                arguments=event.arguments,
                arguments_sha256=event.arguments_sha256,
                arguments_hash=event.arguments_hash,
                rule=event.rule,
                rule_hash=event.rule_hash,
                policy_hash=event.policy_hash,
                reason=event.reason,
                approver_roles=frozenset(event.approver_roles),
                quorum=event.quorum,
                scopes=event.scopes,
                requested_at=at,
                expires_at=event.expires_at,
                # Every request has a hash of its arguments while its key stands.
                erased=not event.arguments_hash,
            )
        case ApprovalNoted():
            own = event.by == f"user:{approval.requester_id}"
            return replace(
                approval,
                notes=approval.notes + 1,
                notes_of_requester=approval.notes_of_requester + own,
            )
        case ApprovalVoted():
            cast = CastVote(
                user_id=event.user_id,
                by=event.by,
                vote=event.vote,
                own=event.own,
                scope=event.scope,
                valid_until=event.valid_until,
                pattern=event.pattern,
                at=at,
            )
            others = tuple(vote for vote in approval.votes if vote.user_id != event.user_id)
            return replace(approval, votes=(*others, cast))
        case ApprovalGranted():
            granted = _ended(approval, "granted", event.by, at)
            return replace(
                granted,
                scope=event.scope,
                pattern=event.pattern,
                valid_until=event.valid_until,
                own=event.own,
            )
        case ApprovalDenied():
            return _ended(approval, "denied", (event.by,), at)
        case ApprovalExpired():
            return _ended(approval, "expired", (), at)
        case ApprovalReplaced():
            return replace(_ended(approval, "replaced", (event.by,), at), replacement=event.arguments)
        case ApprovalVoided():
            return replace(_ended(approval, "void", (), at), void_cause=event.cause)
        case ApprovalUsed():
            status = "used" if approval.scope == "once" else approval.status
            return replace(approval, status=status, used_by=(*approval.used_by, event.decision_id))
        case _:
            return approval


def request(
    *,
    decision_id: UUID,
    request: DecisionRequest,
    verdict: Verdict,
    rule_hash: str,
    terms: EscalationTerms,
    requester_id: UUID | None,
    edited_by: str = "",
    arguments_sha256: str = "",
) -> ApprovalRequested:
    """Return the request that an escalating verdict makes, bound to what was decided.

    `arguments_sha256` names the blob of arguments that are too long for an event. A restricted tool is never
    remembered, and an act outside sessions is not remembered for its session.
    """
    offered = tuple(scope for scope in _SCOPES if scope in terms.scopes)
    if request.safety_level == "restricted":
        offered = ("once",)
    if request.session_id is None:
        offered = tuple(scope for scope in offered if scope != "session")
    arguments = dict(request.arguments)
    return ApprovalRequested(
        decision_id=decision_id,
        requester_id=requester_id,
        subject_kind=request.subject_kind,
        agent=request.agent,
        tool=request.tool,
        model=request.model,
        definition_hash=request.definition_hash,
        safety_level=request.safety_level,
        arguments=None if arguments_sha256 else arguments,
        arguments_sha256=arguments_sha256,
        arguments_bytes=len(canonical_json(arguments)),
        arguments_hash=fingerprint(arguments),
        rule=verdict.rule,
        rule_hash=rule_hash,
        policy_hash=verdict.policy_hash,
        reason=verdict.reason,
        approver_roles=tuple(sorted(terms.approvers)),
        quorum=terms.quorum,
        scopes=offered or ("once",),
        expires_at=request.at + terms.expires_in,
        edited_by=edited_by,
    )


def vote(
    approval: Approval,
    *,
    voter_id: UUID,
    by: str,
    roles: frozenset[str],
    vote: Vote,
    four_eyes: FourEyes,
    now: datetime,
    arguments: Mapping[str, Any] | None = None,
    scope: GrantScope = "once",
    pattern: Mapping[str, str] | None = None,
    valid_until: datetime | None = None,
    text: str = "",
) -> list[Event]:
    """Say yes or no; a no ends the request at once, the quorum's last yes grants it.

    Nothing when this person said the same before. `arguments` are the exact ones, for which a pattern must
    hold. While `four_eyes` are on, a yes of whose request it is (`is_own`) counts for nothing, whenever it
    was given; a no needs no second person. A yes of somebody who may decide no more (none of its `holders`)
    counts for nothing either, until they may again. Raises NotAnApprover, OwnRequest, ApprovalEnded,
    ScopeNotOffered, BadPattern, BadInput, NoteTooLong.
    """
    _require_waiting(approval, now)
    _require_approver(approval, roles)
    own = is_own(voter_id, requester_id=approval.requester_id, edited_by=approval.edited_by)
    if vote == "approve" and four_eyes.on and own:
        whose = "You wrote these arguments" if approval.edited_by else "You asked for this yourself"
        raise OwnRequest(f"{whose}; a second person must approve.{four_eyes.remedy}", **four_eyes.details)
    said = _checked_text(text, field="text", needed=False)
    if vote == "deny":
        return [
            ApprovalVoted(by=by, user_id=voter_id, vote="deny", own=own, text=said),
            ApprovalDenied(by=by),
        ]
    _check_scope(
        approval, scope=scope, pattern=pattern, valid_until=valid_until, arguments=arguments, now=now
    )
    cast = CastVote(
        user_id=voter_id,
        by=by,
        vote="approve",
        own=own,
        scope=scope,
        valid_until=valid_until,
        pattern=dict(pattern or {}),
        at=now,
    )
    others = [one for one in approval.votes if one.user_id != voter_id]
    before = next((one for one in approval.votes if one.user_id == voter_id), None)
    events: list[Event] = []
    if before is None or replace(before, at=now, own=own) != cast:
        events.append(
            ApprovalVoted(
                by=by,
                user_id=voter_id,
                vote="approve",
                own=own,
                text=said,
                scope=scope,
                valid_until=valid_until,
                pattern=cast.pattern,
            )
        )
    counted = [
        one
        for one in (*others, cast)
        if one.vote == "approve"
        and not (four_eyes.on and one.own)
        and (one is cast or one.by in four_eyes.holders)
    ]
    if len(counted) >= approval.quorum:
        events.append(_granted(counted))
    return events


def note(
    approval: Approval,
    *,
    kind: NoteKind,
    by: str,
    author_id: UUID,
    roles: frozenset[str],
    text: str,
    now: datetime,
) -> list[Event]:
    """Comment (approvers and the requester), ask the requester (approvers), or answer (the requester).

    Questions and answers need a request that waits; comments may follow later. Raises NotAnApprover,
    ApprovalEnded, BadInput, NoteTooLong.
    """
    _require_known(approval)
    if kind == "answer" and author_id != approval.requester_id:
        raise NotAnApprover("Only the person who asked for this answers questions on it; comment instead.")
    if kind == "question" or author_id != approval.requester_id:
        _require_approver(approval, roles)
    if kind != "comment":
        _require_waiting(approval, now)
    elif approval.erased:
        raise ended(approval)
    if approval.notes >= MOST_NOTES:
        raise NoteTooLong(f"At most {MOST_NOTES} notes are kept for one request.", field="text")
    if author_id == approval.requester_id and approval.notes_of_requester >= MOST_NOTES_OF_REQUESTER:
        raise NoteTooLong(
            f"At most {MOST_NOTES_OF_REQUESTER} notes of the requester are kept for one request.",
            field="text",
        )
    return [ApprovalNoted(kind=kind, by=by, text=_checked_text(text, field="text", needed=True))]


def edit(
    approval: Approval,
    *,
    by: str,
    roles: frozenset[str],
    arguments: Mapping[str, Any],
    now: datetime,
) -> list[Event]:
    """Put other arguments in place: this request ends, and the act is decided and approved anew with them.

    Only the arguments of a tool can be changed. Raises NotAnApprover, ApprovalEnded, BadInput, TooLarge.
    """
    _require_waiting(approval, now)
    _require_approver(approval, roles)
    if approval.subject_kind != "tool_call":
        raise BadInput("Only the arguments of a tool call can be changed.", field="arguments")
    wanted = canonical(dict(arguments), "arguments")
    size = len(canonical_json(wanted))
    if size > EDIT_LIMIT:
        raise TooLarge(f"The arguments have {size} bytes; at most {EDIT_LIMIT} can be put in place.")
    if fingerprint(wanted) == approval.arguments_hash:
        raise BadInput(
            "These are the arguments that were asked for; change them or approve.", field="arguments"
        )
    return [ApprovalReplaced(by=by, arguments=wanted)]


def expire(approval: Approval, *, now: datetime) -> list[Event]:
    """End a request to which nobody answered in time, or that is erased; nothing for any other."""
    if approval.status != "waiting":
        return []
    if approval.erased:
        return [ApprovalVoided(cause="erased")]
    return [ApprovalExpired()] if approval.expires_at is not None and now >= approval.expires_at else []


def void(approval: Approval, *, cause: VoidCause, detail: str = "") -> list[Event]:
    """End a request or a grant because what it was bound to changed; nothing when it has ended."""
    _require_known(approval)
    if approval.status not in {"waiting", "granted"}:
        return []
    return [ApprovalVoided(cause=cause, detail=detail)]


def cancel(approval: Approval) -> list[Event]:
    """End what a cancelled run asked for; a grant that is remembered for more than it stays."""
    _require_known(approval)
    if approval.status == "granted" and approval.scope != "once":
        return []
    return void(approval, cause="cancelled")


def withdraw(approval: Approval, *, by: str, roles: frozenset[str]) -> list[Event]:
    """Take back a grant that is not used up; nothing when it is void. Raises NotAnApprover, ApprovalEnded."""
    _require_known(approval)
    _require_approver(approval, roles)
    if approval.status == "void":
        return []
    if approval.status != "granted":
        raise ended(approval)
    return void(approval, cause="cancelled", detail=f"withdrawn by {by}")


def use(approval: Approval, *, decision_id: UUID) -> list[Event]:
    """Note that a decision goes ahead by this grant; nothing when that is noted. Raises ApprovalEnded."""
    _require_known(approval)
    if decision_id in approval.used_by:
        return []
    if approval.status != "granted":
        raise ended(approval)
    return [ApprovalUsed(decision_id=decision_id)]


def why_not_covered(
    approval: Approval,
    *,
    arguments: Mapping[str, Any],
    tool: str,
    definition_hash: str,
    rule_hashes: Mapping[str, str],
) -> VoidCause:
    """Return why a grant does not let this act through under these rules, for `void`."""
    if (tool, definition_hash) != (approval.tool, approval.definition_hash):
        return "tool_changed"
    if fingerprint(dict(arguments)) != approval.arguments_hash:
        return "arguments_changed"
    if rule_hashes.get(approval.rule) != approval.rule_hash:
        return "rule_changed"
    return "not_covered"


def fits(pattern: Mapping[str, str], arguments: Mapping[str, Any]) -> bool:
    """Tell whether exactly the arguments that a pattern names are given, each like its text.

    `*` stands for any text, `\\*` for a star, `\\\\` for a backslash; what is no text is compared as its
    canonical JSON.
    """
    return pattern.keys() == arguments.keys() and all(
        _is_like(wanted, _as_text(arguments[name])) for name, wanted in pattern.items()
    )


def ended(approval: Approval, names: Mapping[str, str] = MappingProxyType({})) -> ApprovalEnded:
    """Return the error that says who ended a request and how; `names` says what people are called."""
    who = " and ".join(names.get(by, by) for by in approval.ended_by)
    at = f" at {approval.ended_at:%Y-%m-%d %H:%M} UTC" if approval.ended_at else ""
    match approval.status:
        case "granted" | "used":
            said = f"{who} approved this request{at}."
        case "denied":
            said = f"{who} denied this request{at}."
        case "replaced":
            said = f"{who} changed the arguments{at}; the new request is decided on its own."
        case "expired":
            said = f"Nobody decided this request in time: it ended{at}."
        case "void":
            said = f"This request holds no more ({approval.void_cause.replace('_', ' ')}){at}."
        case _ if approval.erased:
            said = "This request is erased: nobody can read any more what was asked."
        case _:
            said = "The time of this request is over, which counts as no."
    return ApprovalEnded(
        said,
        status=approval.status,
        by=list(approval.ended_by),
        at=approval.ended_at.isoformat() if approval.ended_at else None,
    )


def is_own(person_id: UUID, *, requester_id: UUID | None, edited_by: str) -> bool:
    """Tell whether a request is this person's own: who changed its arguments, else who asked for it.

    Where a reviewer changed them, the requester's yes is that of a second person.
    """
    return edited_by == f"user:{person_id}" if edited_by else person_id == requester_id


def approval_id(decision_id: UUID) -> UUID:
    """Return the stream of the approval that a decision asks for."""
    return derived_id(decision_id, "approval")


# Arguments that a reviewer writes stand in the event; 64 KiB is the event store's limit.
EDIT_LIMIT = 32 * 1024
_SCOPES: tuple[GrantScope, ...] = ("once", "session", "pattern")


def _ended(approval: Approval, status: ApprovalStatus, by: tuple[str, ...], at: datetime) -> Approval:
    if status == "void" and approval.status == "granted":
        return replace(approval, status=status)
    return replace(approval, status=status, ended_by=by, ended_at=at)


def _granted(counted: Sequence[CastVote]) -> ApprovalGranted:
    """Grant what all agreed on: where their scopes differ, this act alone."""
    first = counted[0]
    agreed = all((one.scope, one.pattern) == (first.scope, first.pattern) for one in counted)
    until = [one.valid_until for one in counted if one.valid_until is not None]
    return ApprovalGranted(
        by=tuple(one.by for one in counted),
        scope=first.scope if agreed else "once",
        own=any(one.own for one in counted),
        valid_until=min(until) if agreed and until else None,
        pattern=dict(first.pattern) if agreed else {},
    )


def _require_known(approval: Approval) -> None:
    if approval.status == "none":
        raise ApprovalNotFound("There is no such approval.", field="approval_id")


def _require_waiting(approval: Approval, now: datetime) -> None:
    _require_known(approval)
    over = approval.expires_at is not None and now >= approval.expires_at
    if approval.status != "waiting" or approval.erased or over:
        raise ended(approval)


def _require_approver(approval: Approval, roles: frozenset[str]) -> None:
    if not roles & approval.approver_roles:
        needed = " or ".join(sorted(approval.approver_roles))
        raise NotAnApprover(
            f"This request is decided by people with the role {needed}.",
            roles=sorted(approval.approver_roles),
        )


def _check_scope(
    approval: Approval,
    *,
    scope: GrantScope,
    pattern: Mapping[str, str] | None,
    valid_until: datetime | None,
    arguments: Mapping[str, Any] | None,
    now: datetime,
) -> None:
    if scope not in approval.scopes:
        raise ScopeNotOffered(
            f"This request can be approved for: {', '.join(approval.scopes)}.",
            field="scope",
            scopes=list(approval.scopes),
        )
    if valid_until is not None:
        if valid_until.tzinfo is None:
            raise BadInput("valid_until has no time zone; send an aware time.", field="valid_until")
        if scope == "once":
            raise BadInput("valid_until is for the scopes session and pattern.", field="valid_until")
        if not now < valid_until <= now + LONGEST_MEMORY:
            raise BadInput(
                f"valid_until lies in the future, at most {LONGEST_MEMORY.days} days ahead.",
                field="valid_until",
            )
    if scope != "pattern":
        if pattern:
            raise BadPattern("A pattern is for the scope pattern.", field="pattern")
        return
    if valid_until is None:
        raise BadInput("A pattern needs an end: send valid_until.", field="valid_until")
    _check_pattern(pattern or {}, approval.arguments if arguments is None else arguments)


def _check_pattern(pattern: Mapping[str, str], arguments: Mapping[str, Any] | None) -> None:
    if not pattern or all(set(wanted) <= {"*"} for wanted in pattern.values()):
        raise BadPattern(
            "The pattern leaves everything open; write at least one argument's text.", field="pattern"
        )
    for name, wanted in pattern.items():
        if not wanted or len(wanted) > PATTERN_LIMIT:
            raise BadPattern(
                f"The pattern of {name[:60]} has 1 to {PATTERN_LIMIT} characters.",
                field=f"pattern.{name[:60]}",
            )
        _parts(wanted)
    given = arguments or {}
    if pattern.keys() != given.keys():
        raise BadPattern(
            f"The pattern names each argument of the act, `*` for any text: {', '.join(sorted(given))}.",
            field="pattern",
        )
    if not fits(pattern, given):
        raise BadPattern("The act that waits does not fit the pattern.", field="pattern")


def _checked_text(text: str, *, field: str, needed: bool) -> str:
    said = text.strip()
    if needed and not said:
        raise BadInput("Write a text.", field=field)
    if len(said) > NOTE_LIMIT:
        raise NoteTooLong(f"The text has {len(said)} characters; at most {NOTE_LIMIT} are kept.", field=field)
    canonical(said, field)
    return said


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value).decode()


def _parts(pattern: str) -> list[str]:
    """Return the literal texts between the stars of a pattern."""
    parts, literal = [], False
    part = ""
    for character in pattern:
        if literal:
            if character not in "*\\":
                raise BadPattern("A backslash stands before a star or a backslash only.", field="pattern")
            part, literal = part + character, False
        elif character == "\\":
            literal = True
        elif character == "*":
            parts.append(part)
            part = ""
        else:
            part += character
    if literal:
        raise BadPattern("A backslash stands before a star or a backslash only.", field="pattern")
    return [*parts, part]


def _is_like(pattern: str, text: str) -> bool:
    """Match in time proportional to the text: between stars, the first place of each literal is the best."""
    parts = _parts(pattern)
    if len(parts) == 1:
        return text == parts[0]
    first, *middle, last = parts
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    place, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True
