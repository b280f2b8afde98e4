"""What bears on a step before it takes its locks, read in one round trip."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, cast
from uuid import UUID

from psycopg.pq.abc import PGresult

from cartrita.eventstore import arrays
from cartrita.eventstore.store import run_together
from cartrita.eventstore.together import Command, Recurring
from governance.break_glass import GlassScope, Opening
from governance.budget import Period, period_bounds
from governance.queries.break_glass import OPEN
from governance.queries.budgets import FOUND, WANTED, ApplicableBudget, Scope, wanted_values
from governance.queries.decisions import BOOKED, Booked, booked_of
from governance.queries.policies import IN_FORCE, in_force_and_shadow


@dataclass(frozen=True, slots=True)
class InForce:
    """The hash of the set in force (None: there never was one), of the one in shadow, and open break-glass.

    `shadow_hash` is empty where there is none; `openings` are those of the workspace that nobody has ended.
    """

    policy_hash: str | None
    shadow_hash: str
    openings: tuple[Opening, ...]


@dataclass(frozen=True, slots=True)
class Bearing:
    """What is in force, what is held back, each act's budgets.

    `has_rows` says whether every decision has its row; `teams` are the names of those of each act's person.
    """

    in_force: InForce
    booked: dict[UUID, Booked]
    has_rows: bool
    budgets: list[list[ApplicableBudget]]
    teams: list[frozenset[str]]


def bearing(
    *, workspace_id: UUID, decision_ids: Collection[UUID], scopes: Sequence[Sequence[Scope]], at: datetime
) -> Bearing:
    """Read what is in force, what decisions hold back, and the open budgets that acts count against.

    `scopes` has those of each act (`scopes_of`). Raises UnknownDecision.
    """
    wanted = [(act, kind, name) for act, of_act in enumerate(scopes) for kind, name in of_act]
    people = [(act, UUID(name)) for act, kind, name in wanted if kind == "user"]
    columns = [
        arrays.integers4([act for act, _, _ in wanted]),
        arrays.texts([kind for _, kind, _ in wanted]),
        arrays.texts([name for _, _, name in wanted]),
    ]
    # Small statements take half the time that one for all of them takes.
    active, opened, found, *others = run_together(
        *what_is_in_force(workspace_id, at=at),
        (_BUDGETS, [*columns, workspace_id.bytes]),
        *((_TEAMS, [user_id.bytes, workspace_id.bytes]) for _, user_id in people),
        *((_BUDGETS_OF_TEAMS, [user_id.bytes, workspace_id.bytes]) for _, user_id in people),
        *((_BOOKED, [decision_id.bytes]) for decision_id in decision_ids),
    )
    of_people, of_teams = others[: len(people)], others[len(people) : 2 * len(people)]
    teams: list[set[str]] = [set() for _ in scopes]
    rows = [(_whole(row[0]), row[1:]) for row in _rows(found)]
    for (act, _), answer, budgets_of_teams in zip(people, of_people, of_teams, strict=True):
        teams[act] |= {_text(name) for (name,) in _rows(answer)}
        rows += [(act, row) for row in _rows(budgets_of_teams)]
    if {(act, row[1]) for act, row in rows if row[1] is not None} - {(act, row[0]) for act, row in rows}:
        # Some is a part of another one that is for nothing of the act, or closed.
        (found,) = run_together((_WITH_PARENTS, wanted_values(workspace_id, scopes)))
        rows = [(_whole(row[0]), row[1:]) for row in _rows(found)]
    budgets: list[list[ApplicableBudget]] = [[] for _ in scopes]
    for act, row in {(act, row[0]): (act, row) for act, row in sorted(rows, key=_act_and_id)}.values():
        budgets[act].append(_budget(row, at))
    held_back = others[2 * len(people) :]
    return Bearing(
        in_force_of([active, opened]),
        booked_of(decision_ids, held_back),
        all(answer.ntuples for answer in held_back),
        budgets,
        [frozenset(names) for names in teams],
    )


def what_is_in_force(workspace_id: UUID, *, at: datetime) -> list[Command]:
    """Return the two statements that `in_force_of` reads the answers of."""
    return [(_IN_FORCE, [workspace_id.bytes]), (_OPEN, [workspace_id.bytes, arrays.time(at)])]


def in_force_of(answers: Sequence[PGresult]) -> InForce:
    """Return what the statements of `what_is_in_force` found."""
    active, opened = answers
    hashes = _text(active.get_value(0, 0)) if active.ntuples else None
    return InForce(*in_force_and_shadow(hashes), tuple(_opening(row) for row in _rows(opened)))


def _act_and_id(row: tuple[int, Sequence[bytes | None]]) -> tuple[int, bytes]:
    return row[0], row[1][0] or b""


def _rows(answer: PGresult) -> list[list[bytes | None]]:
    places = range(answer.nfields)
    return [[answer.get_value(row, place) for place in places] for row in range(answer.ntuples)]


def _budget(row: Sequence[bytes | None], at: datetime) -> ApplicableBudget:
    id_, _, name, scope_kind, scope, period, time_zone, tokens, micros, currency, warn_percent = row
    period_start, period_end = period_bounds(cast("Period", _text(period)), _text(time_zone), at)
    return ApplicableBudget(
        id=_uuid(id_),
        name=_text(name),
        scope_kind=_text(scope_kind),
        scope=_text(scope),
        period_start=period_start,
        period_end=period_end,
        limit_tokens=None if tokens is None else _whole(tokens),
        limit_micros=None if micros is None else _whole(micros),
        currency=_text(currency),
        warn_percent=_whole(warn_percent),
    )


def _opening(row: Sequence[bytes | None]) -> Opening:
    id_, scope_kind, scope, by, until = row
    return Opening(
        id=_uuid(id_),
        scope_kind=cast("GlassScope", _text(scope_kind)),
        scope=_text(scope),
        by=_text(by),
        until=arrays.moment(until or b""),
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode()


def _whole(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big", signed=True)


def _uuid(value: bytes | None) -> UUID:
    return UUID(bytes=value)


_COLUMNS: LiteralString = (
    "id, parent_id, name, scope_kind, scope, period, time_zone, "
    "limit_tokens, limit_micros, currency, warn_percent"
)
_IN_FORCE, _OPEN, _BOOKED = Recurring(IN_FORCE), Recurring(OPEN), Recurring(BOOKED)
_BUDGETS = Recurring(f"""
    select act, {_COLUMNS} from unnest(%b::int4[], %b::text[], %b::text[]) as one (act, scope_kind, scope)
    join governance_budget using (scope_kind, scope) where workspace_id = %b::uuid and not closed
    order by act, id
""")  # noqa: S608 # constants alone
_TEAMS = Recurring("""
    select name from accounts_team_member member
    join accounts_team team on team.id = member.team_id and team.workspace_id = member.workspace_id
    where member.user_id = %b::uuid and member.workspace_id = %b::uuid and not team.closed
""")
_BUDGETS_OF_TEAMS = Recurring(f"""
    with budget as (
        select budget.* from accounts_team_member member
        join accounts_team team on team.id = member.team_id and team.workspace_id = member.workspace_id
        join governance_budget budget on budget.workspace_id = member.workspace_id
            and budget.scope_kind = 'team' and budget.scope = team.id::text
        where member.user_id = %b::uuid and member.workspace_id = %b::uuid
            and not team.closed and not budget.closed
    )
    select {_COLUMNS} from budget order by id
""")  # noqa: S608 # constants alone
_WITH_PARENTS = Recurring(f"""
    with recursive {WANTED}, {FOUND} select act, {_COLUMNS} from found where not closed order by act, id
""")  # noqa: S608 # constants alone
