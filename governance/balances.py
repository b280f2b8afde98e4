"""The rows that steps lock and change: label sets, balances of budgets, buckets of throttle rules.

They are no projections: what they hold is decided under their locks. Whoever takes locks takes them all with
one `lock`, so that no two steps wait for one another: label sets by subject, balances by budget and period,
buckets by key; approvals come after them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import LiteralString
from uuid import UUID

import orjson

from cartrita.eventstore import arrays
from cartrita.eventstore.canonical import rfc3339
from cartrita.eventstore.codec import Row
from cartrita.eventstore.store import Statement, execute, execute_together

BalanceKey = tuple[UUID, datetime]


@dataclass(slots=True)
class Balance:
    """What is held back and used of one budget in one period."""

    reserved_tokens: int = 0
    reserved_micros: int = 0
    used_tokens: int = 0
    used_micros: int = 0


@dataclass(slots=True)
class Bucket:
    """How full a throttle rule's bucket was at `at`, in thousandths of an act."""

    level: int
    at: datetime


@dataclass(slots=True)
class Held:
    """Locked rows, changed in memory until `changes` run. Labels map to when they came last (RFC 3339)."""

    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    balances: dict[BalanceKey, Balance] = field(default_factory=dict)
    buckets: dict[str, Bucket] = field(default_factory=dict)
    _changed_labels: dict[str, dict[str, str]] = field(default_factory=dict)
    _changed_balances: set[BalanceKey] = field(default_factory=set)
    _changed_buckets: set[str] = field(default_factory=set)

    def add_labels(self, subject: str, labels: Collection[str], moment: datetime) -> None:
        """Add labels to what a subject has read."""
        if labels:
            added = dict.fromkeys(labels, rfc3339(moment))
            self.labels[subject].update(added)
            self._changed_labels.setdefault(subject, {}).update(added)

    def reserve(self, key: BalanceKey, *, tokens: int, micros: int) -> None:
        """Hold back amounts, or release them where they are negative."""
        balance = self.balances[key]
        balance.reserved_tokens += tokens
        balance.reserved_micros += micros
        self._changed_balances.add(key)

    def use(self, key: BalanceKey, *, tokens: int, micros: int) -> None:
        """Book amounts as used."""
        balance = self.balances[key]
        balance.used_tokens += tokens
        balance.used_micros += micros
        self._changed_balances.add(key)

    def drain(self, key: str, *, level: int, at: datetime) -> None:
        """Leave a bucket at `level`."""
        self.buckets[key] = Bucket(level, at)
        self._changed_buckets.add(key)

    def copy(self) -> "Held":
        """Return the same rows, to be changed apart from these."""
        return Held(
            {subject: dict(labels) for subject, labels in self.labels.items()},
            {key: replace(balance) for key, balance in self.balances.items()},
            dict(self.buckets),
            {subject: dict(labels) for subject, labels in self._changed_labels.items()},
            set(self._changed_balances),
            set(self._changed_buckets),
        )

    def changes(self) -> list[Statement]:
        """Return the statements that store what changed."""
        statements: list[Statement] = []
        if labels := self._changed_labels:
            added = [orjson.dumps(one).decode() for one in labels.values()]
            statements.append((_WRITE_LABELS, [arrays.texts(list(labels)), arrays.texts(added)]))
        if balances := sorted(self._changed_balances):
            amounts = [self.balances[key] for key in balances]
            parameters = [
                arrays.uuids([budget_id for budget_id, _ in balances]),
                arrays.times([period_start for _, period_start in balances]),
                arrays.integers8([balance.reserved_tokens for balance in amounts]),
                arrays.integers8([balance.reserved_micros for balance in amounts]),
                arrays.integers8([balance.used_tokens for balance in amounts]),
                arrays.integers8([balance.used_micros for balance in amounts]),
            ]
            statements.append((_WRITE_BALANCES, parameters))
        if buckets := sorted(self._changed_buckets):
            levels = arrays.integers8([self.buckets[key].level for key in buckets])
            times = arrays.times([self.buckets[key].at for key in buckets])
            statements.append((_WRITE_BUCKETS, [arrays.texts(buckets), levels, times]))
        return statements


def lock(
    *,
    workspace_id: UUID,
    subjects: Collection[str],
    balances: Collection[BalanceKey],
    buckets: Mapping[str, int],
    at: datetime,
    then: Statement,
) -> tuple[Held, list[Row]]:
    """Lock these rows to the end of the transaction; return them, and what `then` finds under the locks.

    `buckets` maps each key to the level that a bucket begins with. Rows that are missing are made. Nothing
    may be locked before in the transaction. `then` only reads.
    """
    wanted_balances = sorted(set(balances))
    wanted = [
        arrays.texts(sorted(set(subjects))),
        arrays.uuids([budget_id for budget_id, _ in wanted_balances]),
        arrays.times([period_start for _, period_start in wanted_balances]),
        arrays.texts(sorted(buckets)),
    ]
    making: dict[str, Statement] = {
        "labels": (_MAKE_LABELS, [workspace_id, wanted[0]]),
        "balances": (_MAKE_BALANCES, [workspace_id, wanted[1], wanted[2]]),
        "buckets": (
            _MAKE_BUCKETS,
            [workspace_id, at, wanted[3], arrays.integers8([buckets[key] for key in sorted(buckets)])],
        ),
    }
    made: set[str] = set()
    while True:
        # Before anything is locked: who makes rows holds none for which another one waits out of order.
        held, found, missing = _lock(wanted, then, first=[making[kind] for kind in making if kind in made])
        if not missing:
            return held, found
        made |= missing


def lock_approvals(approval_ids: Collection[UUID]) -> list[tuple[UUID, int, UUID | None, str]]:
    """Lock approvals, in order of their ids; return id, version, session and status of each."""
    rows: list[tuple[UUID, int, UUID | None, str]] = execute(
        _LOCK_APPROVALS, [arrays.uuids(list(approval_ids))]
    ).fetchall()
    return rows


def _lock(
    wanted: Sequence[object], then: Statement, *, first: Sequence[Statement]
) -> tuple[Held, list[Row], set[str]]:
    """Run `first`, then lock all of the rows; or none, where some are missing, and return of which kinds."""
    held = Held()
    missing: set[str] = set()
    *_, locked, found = execute_together(*first, (_LOCK, wanted), then)
    for kind, name, budget_id, labels, moment, *amounts in locked:
        match kind:
            case 0:
                missing.add(name)
            case 1:
                held.labels[name] = labels
            case 2:
                held.balances[budget_id, moment] = Balance(*amounts)
            case _:
                held.buckets[name] = Bucket(amounts[0], moment)
    return held, found.fetchall(), missing


# The branches of a `union all` run one after the other, and each sorts before it locks.
_LOCK: LiteralString = """
    with wanted_label as materialized (select unnest(%b::text[]) as subject),
    wanted_balance as materialized (
        select * from unnest(%b::uuid[], %b::timestamptz[]) as wanted (budget_id, period_start)
    ),
    wanted_bucket as materialized (select unnest(%b::text[]) as key),
    missing as materialized (
        select 'labels' as kind from wanted_label where not exists (
            select from governance_label_set held where held.subject = wanted_label.subject
        )
        union all select 'balances' from wanted_balance where not exists (
            select from governance_budget_balance held
            where held.budget_id = wanted_balance.budget_id
              and held.period_start = wanted_balance.period_start
        )
        union all select 'buckets' from wanted_bucket where not exists (
            select from governance_throttle_bucket held where held.key = wanted_bucket.key
        )
    ),
    label as materialized (
        select subject, labels from governance_label_set join wanted_label using (subject)
        where not exists (select from missing) order by subject
        for update of governance_label_set
    ),
    balance as materialized (
        select budget_id, period_start, reserved_tokens, reserved_micros, used_tokens, used_micros
        from governance_budget_balance join wanted_balance using (budget_id, period_start)
        where not exists (select from missing) order by budget_id, period_start
        for update of governance_budget_balance
    ),
    bucket as materialized (
        select key, level, at from governance_throttle_bucket join wanted_bucket using (key)
        where not exists (select from missing) order by key
        for update of governance_throttle_bucket
    )
    select distinct 0::int4, kind, null::uuid, null::jsonb, null::timestamptz,
        null::int8, null::int8, null::int8, null::int8 from missing
    union all select 1, subject, null, labels, null, null, null, null, null from label
    union all select 2, null, budget_id, null, period_start,
        reserved_tokens, reserved_micros, used_tokens, used_micros from balance
    union all select 3, key, null, null, at, level, null, null, null from bucket
"""
_LOCK_APPROVALS: LiteralString = """
    select id, version, session_id, status from governance_approval
    where id = any(%b::uuid[]) order by id for update
"""
_MAKE_LABELS: LiteralString = """
    insert into governance_label_set (subject, workspace_id, labels)
    select subject, %b::uuid, '{}' from unnest(%b::text[]) as wanted (subject) order by subject
    on conflict do nothing
"""
_MAKE_BALANCES: LiteralString = """
    insert into governance_budget_balance
        (budget_id, period_start, workspace_id, reserved_tokens, reserved_micros, used_tokens, used_micros)
    select budget_id, period_start, %b::uuid, 0, 0, 0, 0
    from unnest(%b::uuid[], %b::timestamptz[]) as wanted (budget_id, period_start)
    order by budget_id, period_start on conflict do nothing
"""
_MAKE_BUCKETS: LiteralString = """
    insert into governance_throttle_bucket (key, workspace_id, level, at)
    select key, %b::uuid, level, %b::timestamptz
    from unnest(%b::text[], %b::int8[]) as wanted (key, level) order by key
    on conflict do nothing
"""
_WRITE_LABELS: LiteralString = """
    update governance_label_set held set labels = held.labels || new.labels::jsonb
    from unnest(%b::text[], %b::text[]) as new (subject, labels) where held.subject = new.subject
"""
_WRITE_BALANCES: LiteralString = """
    update governance_budget_balance held set
        reserved_tokens = new.reserved_tokens, reserved_micros = new.reserved_micros,
        used_tokens = new.used_tokens, used_micros = new.used_micros
    from unnest(%b::uuid[], %b::timestamptz[], %b::int8[], %b::int8[], %b::int8[], %b::int8[]) as new
        (budget_id, period_start, reserved_tokens, reserved_micros, used_tokens, used_micros)
    where held.budget_id = new.budget_id and held.period_start = new.period_start
"""
_WRITE_BUCKETS: LiteralString = """
    update governance_throttle_bucket held set level = new.level, at = new.at
    from unnest(%b::text[], %b::int8[], %b::timestamptz[]) as new (key, level, at) where held.key = new.key
"""
