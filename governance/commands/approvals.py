"""What people and runs may do with requests for approval: load, decide, append.

Votes wait for one another on the approval's row: of two at once the first counts, the second is told.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from cartrita.accounts.console import names_of
from cartrita.accounts.queries import Caller
from cartrita.eventstore import Append, Context, Event, RecordedEvent, StreamMoved, append, derived_id, load
from cartrita.eventstore.models import DataKey, SubjectKey
from governance import approval as approvals
from governance.approval import ApprovalEnded, ApprovalNotFound, GrantScope, NoteKind, VoidCause
from governance.models import Approval
from governance.queries.approvals import arguments_of, visible
from governance.queries.four_eyes import four_eyes

EXPIRED_AT_ONCE = 500

Decide = Callable[[approvals.Approval, Approval], list[Event]]
ArgumentCheck = Callable[[str, Mapping[str, Any]], None]

_argument_checks: list[ArgumentCheck] = []


def register_argument_check(check: ArgumentCheck) -> None:
    """Register how a tool, by its name, checks arguments; the package that owns the tools does it.

    `check` raises a CartritaError that names each parameter that does not fit.
    """
    _argument_checks[:] = [check]


def approve(
    *,
    approval_id: UUID,
    caller: Caller,
    scope: GrantScope = "once",
    pattern: Mapping[str, str] | None = None,
    valid_until: datetime | None = None,
    text: str = "",
    expected_version: int | None = None,
    command_id: UUID | None = None,
    now: datetime | None = None,
) -> list[RecordedEvent]:
    """Say yes and return what was recorded: the vote, and the grant where the quorum is reached.

    Nothing when this person said the same before, or `command_id` came before. `scope` says what the yes is
    for; a pattern maps every argument to its text, `*` for any, and needs `valid_until`. Raises
    ApprovalNotFound, NotAnApprover, OwnRequest, ApprovalEnded, ScopeNotOffered, BadPattern, BadInput,
    NoteTooLong, StreamMoved.
    """
    moment = now or timezone.now()

    def decide(approval: approvals.Approval, row: Approval) -> list[Event]:
        return approvals.vote(
            approval,
            voter_id=caller.user_id,
            by=_person(caller),
            roles=caller.roles,
            vote="approve",
            four_eyes=four_eyes(row.workspace_id, approval.approver_roles, now=moment),
            now=moment,
            arguments=arguments_of(row) if scope == "pattern" else None,
            scope=scope,
            pattern=pattern,
            valid_until=valid_until,
            text=text,
        )

    return _change_as(caller, approval_id, decide, expected_version, command_id)


def deny(
    *,
    approval_id: UUID,
    caller: Caller,
    text: str = "",
    expected_version: int | None = None,
    command_id: UUID | None = None,
    now: datetime | None = None,
) -> list[RecordedEvent]:
    """Say no, which ends the request, and return what was recorded; it needs no second person.

    Raises ApprovalNotFound, NotAnApprover, ApprovalEnded, BadInput, NoteTooLong, StreamMoved.
    """
    moment = now or timezone.now()

    def decide(approval: approvals.Approval, row: Approval) -> list[Event]:
        return approvals.vote(
            approval,
            voter_id=caller.user_id,
            by=_person(caller),
            roles=caller.roles,
            vote="deny",
            four_eyes=four_eyes(row.workspace_id, approval.approver_roles, now=moment),
            now=moment,
            text=text,
        )

    return _change_as(caller, approval_id, decide, expected_version, command_id)


def ask(
    *,
    approval_id: UUID,
    caller: Caller,
    text: str,
    command_id: UUID | None = None,
    now: datetime | None = None,
) -> list[RecordedEvent]:
    """Ask the requester something. Raises ApprovalNotFound, NotAnApprover, ApprovalEnded, BadInput."""
    return _note("question", approval_id, caller, text, command_id=command_id, now=now)


def comment(
    *,
    approval_id: UUID,
    caller: Caller,
    text: str,
    command_id: UUID | None = None,
    now: datetime | None = None,
) -> list[RecordedEvent]:
    """Comment a request, also one that has ended. Raises ApprovalNotFound, NotAnApprover, BadInput."""
    return _note("comment", approval_id, caller, text, command_id=command_id, now=now)


def answer(
    *,
    approval_id: UUID,
    caller: Caller,
    text: str,
    command_id: UUID | None = None,
    now: datetime | None = None,
) -> list[RecordedEvent]:
    """Answer as the requester. Raises ApprovalNotFound, NotAnApprover, ApprovalEnded, BadInput."""
    return _note("answer", approval_id, caller, text, command_id=command_id, now=now)


def edit_arguments(
    *,
    approval_id: UUID,
    caller: Caller,
    arguments: Mapping[str, Any],
    expected_version: int | None = None,
    command_id: UUID | None = None,
    now: datetime | None = None,
) -> list[RecordedEvent]:
    """Put other arguments in place, which ends this request: the run asks anew with them.

    They have to fit the tool's schema. Raises ApprovalNotFound, NotAnApprover, ApprovalEnded, BadInput,
    TooLarge, StreamMoved, and what the tool's own check raises.
    """
    moment = now or timezone.now()

    def decide(approval: approvals.Approval, row: Approval) -> list[Event]:
        del row
        events = approvals.edit(
            approval, by=_person(caller), roles=caller.roles, arguments=arguments, now=moment
        )
        # Only then: what a tool takes is told to those who may change the request.
        for check in _argument_checks:
            check(approval.tool, arguments)
        return events

    return _change_as(caller, approval_id, decide, expected_version, command_id)


def withdraw(
    *, approval_id: UUID, caller: Caller, expected_version: int | None = None, command_id: UUID | None = None
) -> list[RecordedEvent]:
    """Take back a grant that is not used up. Raises ApprovalNotFound, NotAnApprover, ApprovalEnded."""

    def decide(approval: approvals.Approval, row: Approval) -> list[Event]:
        del row
        return approvals.withdraw(approval, by=_person(caller), roles=caller.roles)

    return _change_as(caller, approval_id, decide, expected_version, command_id)


def cancel(*, approval_id: UUID, actor: str) -> list[RecordedEvent]:
    """End what a cancelled run asked for; nothing when it has ended. Raises ApprovalNotFound."""
    return _change(_any(approval_id), lambda approval, _: approvals.cancel(approval), actor=actor)


def void(*, approval_id: UUID, cause: VoidCause, actor: str, detail: str = "") -> list[RecordedEvent]:
    """End a request or grant because what it was bound to changed; nothing when it has ended.

    `detail` is no personal text. Raises ApprovalNotFound.
    """
    return _change(
        _any(approval_id),
        lambda approval, _: approvals.void(approval, cause=cause, detail=detail),
        actor=actor,
    )


def void_of_session(*, session_id: UUID, workspace_id: UUID, actor: str) -> int:
    """End what waits in an erased session, in the caller's transaction; return how many that were."""
    rows = Approval.objects.filter(session_id=session_id, workspace_id=workspace_id)
    ids = rows.filter(status__in=("waiting", "granted")).order_by("id").values_list("id", flat=True)
    return sum(bool(void(approval_id=one, cause="erased", actor=actor)) for one in list(ids))


def expire_due(now: datetime) -> int:
    """End the requests whose time is over or whose text is erased, oldest first; return how many.

    An answer that does not come counts as no.
    """
    # Asked every second: thousands that wait are sorted out where they stand.
    subjects = SubjectKey.objects.filter(subject_id=OuterRef("subject_id"), wrapped__isnull=False)
    keys = DataKey.objects.filter(Exists(subjects), key_id=OuterRef("key_id"), wrapped__isnull=False)
    erased = Q(key_id__isnull=False) & ~Exists(keys)
    waiting = Approval.objects.filter(Q(expires_at__lte=now) | erased, status="waiting")
    due = list(waiting.order_by("expires_at", "id").values_list("id", flat=True)[:EXPIRED_AT_ONCE])
    return sum(
        bool(_change(_any(one), lambda approval, _: approvals.expire(approval, now=now), actor="system"))
        for one in due
    )


def _note(
    kind: NoteKind,
    approval_id: UUID,
    caller: Caller,
    text: str,
    *,
    command_id: UUID | None,
    now: datetime | None,
) -> list[RecordedEvent]:
    moment = now or timezone.now()

    def decide(approval: approvals.Approval, row: Approval) -> list[Event]:
        del row
        return approvals.note(
            approval,
            kind=kind,
            by=_person(caller),
            author_id=caller.user_id,
            roles=caller.roles,
            text=text,
            now=moment,
        )

    return _change_as(caller, approval_id, decide, None, command_id)


def _change_as(
    caller: Caller,
    approval_id: UUID,
    decide: Decide,
    expected_version: int | None,
    command_id: UUID | None,
) -> list[RecordedEvent]:
    return _change(
        visible(caller).filter(id=approval_id),
        decide,
        actor=caller.actor,
        expected_version=expected_version,
        command_id=command_id,
    )


def _change(
    rows: QuerySet[Approval],
    decide: Decide,
    *,
    actor: str,
    expected_version: int | None = None,
    command_id: UUID | None = None,
) -> list[RecordedEvent]:
    with transaction.atomic():
        # As steps do, the row before the stream: in the other order each would wait for the other.
        row = rows.select_for_update().first()
        if row is None:
            raise ApprovalNotFound("There is no such approval.", field="approval_id")
        history = load(row.id)
        version = len(history)
        approval = approvals.fold((recorded.event, recorded.recorded_at) for recorded in history)
        if command_id is not None and _event_id(command_id, 0) in {one.event_id for one in history}:
            return []
        try:
            events = decide(approval, row)
        except ApprovalEnded:
            # Who ended it is told by name.
            raise approvals.ended(approval, names_of(approval.ended_by)) from None
        if not events:
            return []
        if expected_version is not None and version != expected_version:
            raise StreamMoved(stream_id=row.id, expected_version=expected_version, actual_version=version)
        context = Context(
            workspace_id=row.workspace_id, session_id=row.session_id, actor=actor, key_id=row.key_id
        )
        event_ids = (
            None if command_id is None else [_event_id(command_id, place) for place in range(len(events))]
        )
        return append(Append(row.id, version, events, context, event_ids))


def _any(approval_id: UUID) -> QuerySet[Approval]:
    return Approval.objects.filter(id=approval_id)


def _event_id(command_id: UUID, place: int) -> UUID:
    return derived_id(command_id, f"approval:{place}")


def _person(caller: Caller) -> str:
    """Name the person, by whichever token they came."""
    return f"user:{caller.user_id}"
