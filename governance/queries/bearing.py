"""What bears on a step before it takes its locks, read in one statement."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson

from cartrita.eventstore import arrays
from cartrita.eventstore.store import run_together
from cartrita.eventstore.together import Recurring
from governance.break_glass import Opening
from governance.queries.break_glass import OPEN, openings_of
from governance.queries.budgets import (
    APPLICABLE,
    FOUND,
    WANTED,
    ApplicableBudget,
    Scope,
    applicable_budget,
    wanted_values,
)
from governance.queries.decisions import BOOKED, Booked, booked_of
from governance.queries.policies import IN_FORCE, in_force_and_shadow


@dataclass(frozen=True, slots=True)
class Bearing:
    """The hash of the set in force (None: there never was one), what is held back, each act's budgets.

    `shadow_hash` is that of the set in shadow, empty where there is none; `has_rows` says whether every
    decision has its row; `teams` are the names of those of each act's person, `openings` the break-glass of
    the workspace that nobody has ended.
    """

    policy_hash: str | None
    shadow_hash: str
    booked: dict[UUID, Booked]
    has_rows: bool
    budgets: list[list[ApplicableBudget]]
    teams: list[frozenset[str]]
    openings: tuple[Opening, ...]


def bearing(
    *, workspace_id: UUID, decision_ids: Collection[UUID], scopes: Sequence[Sequence[Scope]], at: datetime
) -> Bearing:
    """Read what is in force, what decisions hold back, and the open budgets that acts count against.

    `scopes` has those of each act (`scopes_of`). Raises UnknownDecision.
    """
    (answer,) = run_together(
        (
            _BEARING,
            [
                *wanted_values(workspace_id, scopes),
                workspace_id.bytes,
                arrays.uuids(list(decision_ids)),
                *(workspace_id.bytes, arrays.time(at)),
            ],
        )
    )
    hashes, held_back, found, in_team, opened = (answer.get_value(0, place) for place in range(5))
    policy_hash, shadow_hash = in_force_and_shadow(hashes.decode() if hashes else None)
    budgets: list[list[ApplicableBudget]] = [[] for _ in scopes]
    for budget in orjson.loads(found or b"[]"):
        budgets[budget["act"]].append(applicable_budget(budget, at))
    teams: list[set[str]] = [set() for _ in scopes]
    for team in orjson.loads(in_team or b"[]"):
        teams[team["act"]].add(team["name"])
    rows = orjson.loads(held_back or b"[]")
    return Bearing(
        policy_hash,
        shadow_hash,
        booked_of(decision_ids, rows),
        len(rows) == len(decision_ids),
        budgets,
        [frozenset(names) for names in teams],
        openings_of(orjson.loads(opened)) if opened else (),
    )


# As text, because orjson reads JSON faster than psycopg.
_BEARING = Recurring(f"""
    with recursive {WANTED}, {FOUND}
    select ({IN_FORCE}), (select json_agg(booked)::text from ({BOOKED}) booked),
        (select json_agg(applicable)::text from ({APPLICABLE}) applicable),
        (select json_agg(in_team)::text from in_team), (select json_agg(opened)::text from ({OPEN}) opened)
""")  # noqa: S608 # constants alone
