"""What people may do with budgets: load, decide, append."""

from collections.abc import Callable
from uuid import UUID

from django.db import connection, transaction

from cartrita.accounts.permissions import RoleMissing
from cartrita.accounts.queries import Caller, roles_of
from cartrita.errors import BadInput
from cartrita.eventstore import Append, Context, Event, RecordedEvent, StreamMoved, append, load
from governance import budget as budgets
from governance.budget import RANK, Budget, BudgetNotFound, Period, ScopeKind, budget_id

KEEPERS: frozenset[str] = frozenset({"admin", "operator"})
_TREE_LOCK = 0x62756467  # "budg", so that these advisory locks meet no other


def set_budget(
    *,
    caller: Caller,
    name: str,
    scope_kind: ScopeKind,
    scope: str = "",
    parent_id: UUID | None = None,
    period: Period = "month",
    time_zone: str = "UTC",
    limit_tokens: int | None = None,
    limit_micros: int | None = None,
    currency: str = "USD",
    warn_percent: int = 80,
    expected_version: int | None = None,
) -> tuple[UUID, list[RecordedEvent]]:
    """Begin the budget of a scope and period in the caller's workspace, or write its terms anew.

    Returns its id, and what was recorded: nothing when it stands so already. `scope` is an id, or an agent's
    or model's name; the workspace needs none. Limits are tokens and micro-units of `currency`. Raises
    RoleMissing, NoLimit, WrongParent, BadInput, StreamMoved.
    """
    _require_keeper(caller)
    scope = _checked_scope(caller, scope_kind, scope)
    own_id = budget_id(caller.workspace_id, scope_kind, scope, period)
    wanted = Budget(
        name=name.strip(),
        scope_kind=scope_kind,
        scope=scope,
        parent_id=parent_id,
        period=period,
        time_zone=time_zone,
        limit_tokens=limit_tokens,
        limit_micros=limit_micros,
        currency=currency,
        warn_percent=warn_percent,
    )

    def decide(budget: Budget) -> list[Event]:
        return budgets.set_terms(
            budget, wanted, own_id=own_id, ancestors=_ancestors(parent_id, caller.workspace_id)
        )

    return own_id, _change(caller, own_id, decide, expected_version, new=True)


def raise_budget(
    *,
    budget_id: UUID,
    caller: Caller,
    reason: str,
    limit_tokens: int | None = None,
    limit_micros: int | None = None,
    expected_version: int | None = None,
) -> list[RecordedEvent]:
    """Give a budget more and say why; None leaves a limit as it is.

    Raises RoleMissing, BudgetNotFound, BudgetIsClosed, NotARaise, BadInput, StreamMoved.
    """
    _require_keeper(caller)

    def decide(budget: Budget) -> list[Event]:
        return budgets.raise_limits(
            budget, by=_person(caller), reason=reason, limit_tokens=limit_tokens, limit_micros=limit_micros
        )

    return _change(caller, budget_id, decide, expected_version)


def close_budget(
    *, budget_id: UUID, caller: Caller, expected_version: int | None = None
) -> list[RecordedEvent]:
    """End a budget and return what was recorded: nothing when it has ended.

    Raises RoleMissing, BudgetNotFound, StreamMoved.
    """
    _require_keeper(caller)
    return _change(
        caller, budget_id, lambda budget: budgets.close(budget, by=_person(caller)), expected_version
    )


def _change(
    caller: Caller,
    stream_id: UUID,
    decide: Callable[[Budget], list[Event]],
    expected_version: int | None,
    *,
    new: bool = False,
) -> list[RecordedEvent]:
    with transaction.atomic():
        # The tree is checked as a whole, so its changes follow one another.
        with connection.cursor() as cursor:
            cursor.execute(
                "select pg_advisory_xact_lock(%s, hashtext(%s))", [_TREE_LOCK, str(caller.workspace_id)]
            )
        budget = _load(stream_id, caller.workspace_id)
        if budget.version == 0 and not new:
            raise BudgetNotFound("There is no such budget.", field="budget_id")
        events = decide(budget)
        if not events:
            return []
        if expected_version is not None and budget.version != expected_version:
            raise StreamMoved(
                stream_id=stream_id, expected_version=expected_version, actual_version=budget.version
            )
        context = Context(workspace_id=caller.workspace_id, actor=caller.actor)
        return append(Append(stream_id, budget.version, events, context))


def _load(stream_id: UUID, workspace_id: UUID) -> Budget:
    """Return a budget of the workspace; one that was never set for any other stream."""
    history = load(stream_id)
    if history and history[0].workspace_id != workspace_id:
        return Budget()
    return budgets.fold(recorded.event for recorded in history)


def _ancestors(parent_id: UUID | None, workspace_id: UUID) -> list[tuple[UUID, Budget]]:
    found: list[tuple[UUID, Budget]] = []
    while parent_id is not None and len(found) <= len(RANK):
        parent = _load(parent_id, workspace_id)
        found.append((parent_id, parent))
        parent_id = parent.parent_id
    return found


def _checked_scope(caller: Caller, scope_kind: str, scope: str) -> str:
    """Return the scope in its one spelling. Raises BadInput where it names nothing of the workspace."""
    scope = scope.strip()
    if scope_kind == "workspace":
        if scope not in {"", str(caller.workspace_id)}:
            raise BadInput(
                "The scope of a workspace's budget is that workspace; leave it out.", field="scope"
            )
        return str(caller.workspace_id)
    if scope_kind not in {"user", "session", "task"}:
        return scope
    try:
        found = UUID(scope)
    except ValueError:
        raise BadInput(f"The scope of a {scope_kind}'s budget is its id, a UUID.", field="scope") from None
    if scope_kind == "user" and not roles_of(found, caller.workspace_id):
        raise BadInput("Nobody in this workspace has that id.", field="scope")
    return str(found)


def _require_keeper(caller: Caller) -> None:
    if not caller.roles & KEEPERS:
        raise RoleMissing(f"This needs one of the roles {', '.join(sorted(KEEPERS))}.", roles=sorted(KEEPERS))


def _person(caller: Caller) -> str:
    return f"user:{caller.user_id}"
