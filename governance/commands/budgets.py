"""What people may do with budgets: load, decide, append."""

from collections.abc import Callable
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from cartrita.accounts.permissions import RoleMissing
from cartrita.accounts.queries import Caller, roles_of, workspace
from cartrita.accounts.team import TeamIsClosed, TeamNotFound
from cartrita.accounts.team_queries import team
from cartrita.errors import BadInput
from cartrita.eventstore import Append, Context, Event, RecordedEvent, StreamMoved, append, load
from governance import budget as budgets
from governance.budget import (
    RANK,
    Budget,
    BudgetNotFound,
    Period,
    ScopeKind,
    WrongParent,
    budget_id,
    period_bounds,
)
from governance.known_scopes import UnknownScope, require_known
from governance.models import BudgetBalance

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
    time_zone: str | None = None,
    limit_tokens: int | None = None,
    limit_micros: int | None = None,
    currency: str | None = None,
    warn_percent: int = 80,
    expected_version: int | None = None,
) -> tuple[UUID, list[RecordedEvent]]:
    """Begin the budget of a scope and period in the caller's workspace, or write its terms anew.

    Returns its id, and what was recorded: nothing when it stands so already. `scope` is an id, or an agent's
    or model's name; the workspace needs none. Limits are tokens and micro-units of `currency`. Time zone and
    currency that are left out are those that the budget has, and of a new one the workspace's. What is used
    stays used, unless another time zone begins another period. Raises RoleMissing, NoLimit, WrongParent,
    UnknownScope, TeamIsClosed, CurrencyFixed, BadInput, StreamMoved.
    """
    _require_keeper(caller)
    scope = _spelled(caller, scope_kind, scope)
    own_id = budget_id(caller.workspace_id, scope_kind, scope, period)

    def decide(budget: Budget) -> list[Event]:
        if budget.version == 0 or budget.closed:
            # One that stands may be changed though its session, agent or model is gone.
            _require_there(caller, scope_kind, scope)
        usual = budget if budget.version else workspace(caller.workspace_id)
        wanted = Budget(
            name=name.strip(),
            scope_kind=scope_kind,
            scope=scope,
            parent_id=parent_id,
            period=period,
            time_zone=time_zone or usual.time_zone,
            limit_tokens=limit_tokens,
            limit_micros=limit_micros,
            currency=currency or usual.currency,
            warn_percent=warn_percent,
        )
        ancestors = _ancestors(parent_id, caller.workspace_id)
        events = budgets.set_terms(
            budget, wanted, own_id=own_id, ancestors=ancestors, money_booked=_money_booked(own_id, budget)
        )
        if events and wanted.parent_id is not None and wanted.parent_id != budget.parent_id:
            _require_part(wanted, ancestors[0][1], caller.workspace_id)
        return events

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


def _spelled(caller: Caller, scope_kind: str, scope: str) -> str:
    """Return the scope in its one spelling. Raises BadInput for what is none of its kind."""
    scope = scope.strip()
    if scope_kind == "workspace":
        if scope not in {"", str(caller.workspace_id)}:
            raise BadInput(
                "The scope of a workspace's budget is that workspace; leave it out.", field="scope"
            )
        return str(caller.workspace_id)
    if scope_kind not in {"team", "user", "session", "task"}:
        return scope
    try:
        return str(UUID(scope))
    except ValueError:
        raise BadInput(f"The scope of a {scope_kind}'s budget is its id, a UUID.", field="scope") from None


def _require_there(caller: Caller, scope_kind: str, scope: str) -> None:
    """Raise UnknownScope, or TeamIsClosed, where the scope names nothing that acts in the workspace."""
    if scope_kind == "user" and not roles_of(UUID(scope), caller.workspace_id):
        raise UnknownScope("Nobody in this workspace has that id.", field="scope")
    if scope_kind == "team":
        try:
            found = team(UUID(scope), caller.workspace_id)
        except TeamNotFound:
            raise UnknownScope("No team of this workspace has that id.", field="scope") from None
        if found.closed:
            raise TeamIsClosed(
                f"The team {found.name} is closed; set a budget for another one.", field="scope"
            )
    if scope:
        require_known(scope_kind, scope, caller.workspace_id)


def _require_part(wanted: Budget, parent: Budget, workspace_id: UUID) -> None:
    """Raise WrongParent where a person's budget shall be a part of that of a team that they are not in."""
    if wanted.scope_kind != "user" or parent.scope_kind != "team":
        return
    members = {str(each.user_id) for each in team(UUID(parent.scope), workspace_id).members}
    if wanted.scope not in members:
        raise WrongParent("This person is not in the team of that budget.", field="parent_id")


def _money_booked(own_id: UUID, budget: Budget) -> bool:
    if budget.version == 0:
        return False
    start, _ = period_bounds(budget.period, budget.time_zone, timezone.now())
    present = BudgetBalance.objects.filter(budget_id=own_id, period_start__gte=start)
    return present.exclude(used_micros=0, reserved_micros=0).exists()


def _require_keeper(caller: Caller) -> None:
    if not caller.roles & KEEPERS:
        raise RoleMissing(f"This needs one of the roles {', '.join(sorted(KEEPERS))}.", roles=sorted(KEEPERS))


def _person(caller: Caller) -> str:
    return f"user:{caller.user_id}"
