"""What bears on a step before it takes its locks, read in one statement."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

import orjson

from cartrita.eventstore import arrays
from cartrita.eventstore.store import execute
from governance.queries.budgets import APPLICABLE, ApplicableBudget, Scope, applicable_budget
from governance.queries.decisions import BOOKED, Booked, booked_of
from governance.queries.policies import IN_FORCE


@dataclass(frozen=True, slots=True)
class Bearing:
    """The hash of the set in force (None: there never was one), what is held back, each act's budgets."""

    policy_hash: str | None
    booked: dict[UUID, Booked]
    budgets: list[list[ApplicableBudget]]


def bearing(
    *, workspace_id: UUID, decision_ids: Collection[UUID], scopes: Sequence[Sequence[Scope]], at: datetime
) -> Bearing:
    """Read what is in force, what decisions hold back, and the open budgets that acts count against.

    `scopes` has those of each act (`scopes_of`). Raises UnknownDecision.
    """
    wanted = [(act, kind, name) for act, of_act in enumerate(scopes) for kind, name in of_act]
    row = execute(
        _BEARING,
        [
            workspace_id,
            arrays.uuids(list(decision_ids)),
            arrays.integers4([act for act, _, _ in wanted]),
            arrays.texts([kind for _, kind, _ in wanted]),
            arrays.texts([name for _, _, name in wanted]),
            workspace_id,
        ],
    ).fetchone()
    assert row is not None  # noqa: S101 # a select without a from returns a row
    policy_hash, held_back, found = row
    budgets: list[list[ApplicableBudget]] = [[] for _ in scopes]
    for budget in orjson.loads(found or b"[]"):
        budgets[budget["act"]].append(applicable_budget(budget, at))
    return Bearing(policy_hash, booked_of(decision_ids, orjson.loads(held_back or b"[]")), budgets)


# As text, because orjson reads JSON faster than psycopg.
_BEARING: LiteralString = f"""
    select ({IN_FORCE}), (select json_agg(booked)::text from ({BOOKED}) booked),
        (select json_agg(applicable)::text from ({APPLICABLE}) applicable)
"""  # noqa: S608 # constants alone
