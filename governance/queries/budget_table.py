"""The budgets of a workspace as rows of a table, for files."""

from collections.abc import Iterator, Sequence

from governance.queries.budgets import BudgetStanding, scope_names

COLUMNS = (
    "id",
    "name",
    "level",
    "scope_kind",
    "scope",
    "scope_name",
    "parent_id",
    "period",
    "time_zone",
    "period_start",
    "period_end",
    "limit_tokens",
    "used_tokens",
    "reserved_tokens",
    "left_tokens",
    "limit_micros",
    "used_micros",
    "reserved_micros",
    "left_micros",
    "currency",
    "percent",
    "warning",
    "runs_out_at",
    "closed",
)


def table_of(roots: Sequence[BudgetStanding]) -> list[list[object]]:
    """Return a row of `COLUMNS` for each budget of a tree, parents before their parts; times as ISO 8601."""
    names = scope_names(roots)
    return [
        [_cell(one, column, level, names.get((one.scope_kind, one.scope), "")) for column in COLUMNS]
        for level, one in _flat(roots, 0)
    ]


def _flat(standings: Sequence[BudgetStanding], level: int) -> Iterator[tuple[int, BudgetStanding]]:
    for one in standings:
        yield level, one
        yield from _flat(one.children, level + 1)


def _cell(one: BudgetStanding, column: str, level: int, scope_name: str) -> object:
    match column:
        case "level":
            return level
        case "scope_name":
            return scope_name
        case "period_start" | "period_end" | "runs_out_at":
            at = getattr(one, column)
            return at.isoformat(timespec="seconds") if at else None
        case _:
            value: object = getattr(one, column)
            return value
