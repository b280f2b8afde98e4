"""What people may do with back-tests: ask for one, and stop it."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from django.db import connection, transaction

from cartrita.accounts.queries import Caller
from cartrita.eventstore import Append, Context, append, load, new_id, put_blob
from governance import rulebook as rulebooks
from governance.backtest import back_test as back_tests
from governance.backtest.back_test import (
    MOST_OPEN,
    REQUESTERS,
    BackTestRequested,
    MayNotBackTest,
    NoHistory,
    Source,
    TooManyBackTests,
    UnknownBackTest,
    check_range,
    listed,
)
from governance.commands.policies import OtherWorkspace
from governance.models import BackTest, PolicyDecision
from governance.policy import PolicySet, load_policy
from governance.queries.policies import active_policy, known_set
from governance.rulebook import compile_draft, rulebook_id

_LOCK = 0x62747374  # "btst", so that these advisory locks meet no other


def request_back_test(
    *,
    workspace_id: UUID,
    caller: Caller,
    policy_hash: str | None = None,
    text: str | None = None,
    source: str = "policy",
    since: datetime | None = None,
    until: datetime | None = None,
    session_id: UUID | None = None,
) -> tuple[UUID, bool]:
    """Ask what a set would have decided; return the back-test, and whether it is a new one.

    The set is that of `policy_hash` (the draft, or one that the workspace knows), of a policy file's `text`
    (`source` names it in messages), or the draft. One of the same set over the same decisions that has not
    ended is returned as it is. Raises MayNotBackTest, OtherWorkspace, UnknownPolicy, PolicyNotValid with the
    place of each problem, BadInput for times that make no range, NoHistory, and TooManyBackTests.
    """
    if caller.workspace_id != workspace_id:
        raise OtherWorkspace("You act in another workspace; test its rules.", field="workspace_id")
    if not REQUESTERS & caller.roles:
        raise MayNotBackTest(f"A back-test needs one of the roles {listed(REQUESTERS)}.")
    check_range(since, until)
    of, tested = _tested(workspace_id, policy_hash, text, source)
    asked = BackTestRequested(
        policy=tested.name,
        policy_hash=tested.content_hash,
        source=of,
        by=f"user:{caller.user_id}",
        since=since,
        until=until,
        only_session=session_id,
    )
    with transaction.atomic():
        _lock(workspace_id)
        same = BackTest.objects.filter(
            workspace_id=workspace_id,
            status="requested",
            policy_hash=tested.content_hash,
            since=since,
            until=until,
            only_session=session_id,
        ).first()
        if same is not None:
            return same.id, False
        if BackTest.objects.filter(workspace_id=workspace_id, status="requested").count() >= MOST_OPEN:
            raise TooManyBackTests(
                f"{MOST_OPEN} back-tests of this workspace have not ended; wait for one, or stop it."
            )
        _require_history(workspace_id, since, until, session_id)
        put_blob(tested.text.encode(), key_id=None)
        back_test_id = new_id()
        append(Append(back_test_id, 0, [asked], Context(workspace_id=workspace_id, actor=caller.actor)))
        for wake in _wakes:
            transaction.on_commit(wake, robust=True)
    return back_test_id, True


def cancel_back_test(*, back_test_id: UUID, caller: Caller) -> None:
    """Stop a back-test; it ends within a second, without a report. Nothing is done where it was stopped.

    Raises UnknownBackTest, MayNotBackTest, BackTestEnded.
    """
    with transaction.atomic():
        history = load(back_test_id)
        if not history or history[0].workspace_id != caller.workspace_id:
            raise UnknownBackTest("There is no such back-test.", field="back_test_id")
        state = back_tests.fold(recorded.event for recorded in history)
        events = back_tests.cancel(state, by=f"user:{caller.user_id}", roles=caller.roles)
        if events:
            context = Context(workspace_id=caller.workspace_id, actor=caller.actor)
            append(Append(back_test_id, state.version, events, context))


def when_asked(wake: Callable[[], None]) -> None:
    """Have a function called when a back-test was asked for in this process."""
    _wakes.append(wake)


_wakes: list[Callable[[], None]] = []


def _tested(
    workspace_id: UUID, policy_hash: str | None, text: str | None, source: str
) -> tuple[Source, PolicySet]:
    if text is not None:
        return "text", load_policy(text, source)
    if policy_hash is not None:
        return "known", known_set(workspace_id, policy_hash)
    active_policy(workspace_id)  # a workspace that never had one begins with a draft
    return "draft", compile_draft(rulebooks.fold(each.event for each in load(rulebook_id(workspace_id))))


def _require_history(
    workspace_id: UUID, since: datetime | None, until: datetime | None, session_id: UUID | None
) -> None:
    rows = PolicyDecision.objects.filter(workspace_id=workspace_id)
    if since is not None:
        rows = rows.filter(created_at__gte=since)
    if until is not None:
        rows = rows.filter(created_at__lt=until)
    if session_id is not None:
        rows = rows.filter(session_id=session_id)
    if not rows.exists():
        narrowed = since is not None or until is not None or session_id is not None
        raise NoHistory(
            "No decision lies in that time and session; widen them, or leave them out."
            if narrowed
            else "Nothing was decided in this workspace yet, so there is nothing to decide again.",
            field="since" if narrowed else None,
        )


def _lock(workspace_id: UUID) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "select pg_advisory_xact_lock(%s, %s)",
            [_LOCK, int.from_bytes(workspace_id.bytes[-4:], signed=True)],
        )
