"""Trying a set on a past event, and keeping that it was tried."""

from typing import ClassVar
from uuid import UUID

from cartrita.accounts.queries import Caller
from cartrita.errors import NotAllowed
from cartrita.eventstore import Append, Context, StreamMoved, append, load
from governance.backtest.back_test import REQUESTERS, listed
from governance.commands.policies import OtherWorkspace
from governance.queries.policies import Tried, try_on
from governance.rulebook import PolicyTried, trials_id

TRIES = 5
# A try is a back-test of one decision.
TRIERS = REQUESTERS


class MayNotTry(NotAllowed):
    """The caller holds no role that may try rules on past decisions."""

    code: ClassVar[str] = "may_not_try"


def require_trier(caller: Caller) -> None:
    """Raise MayNotTry unless the caller may try rules on what was decided."""
    if not caller.roles & TRIERS:
        raise MayNotTry(f"Trying rules on a past decision needs one of the roles {listed(TRIERS)}.")


def try_set(
    *, workspace_id: UUID, decision_id: UUID, caller: Caller, policy_hash: str | None = None
) -> Tried:
    """Decide a past request under a set that is known here (None: the draft), and return both verdicts.

    That it was tried is recorded once for each person and decision, unless the caller may only read. Raises
    MayNotTry, UnknownDecision, NotRedecidable, UnknownPolicy, PolicyNotValid, OtherWorkspace.
    """
    require_trier(caller)
    if caller.workspace_id != workspace_id:
        raise OtherWorkspace("You act in another workspace; try its rules.", field="workspace_id")
    tried = try_on(workspace_id=workspace_id, decision_id=decision_id, policy_hash=policy_hash)
    if "write" in caller.scopes:
        _record(workspace_id, tried, caller)
    return tried


def _record(workspace_id: UUID, tried: Tried, caller: Caller) -> None:
    stream_id = trials_id(workspace_id, tried.policy_hash)
    event = PolicyTried(
        policy_hash=tried.policy_hash,
        decision_id=tried.decision_id,
        by=f"user:{caller.user_id}",
        changed=tried.changed,
        outcome=tried.new.outcome,
        rule=tried.new.rule,
    )
    context = Context(workspace_id=workspace_id, actor=caller.actor)
    for attempt in range(1, TRIES + 1):
        history = load(stream_id)
        if any(recorded.event == event for recorded in history):
            return
        try:
            append(Append(stream_id, len(history), [event], context))
        except StreamMoved:
            if attempt == TRIES:
                raise
        else:
            return
