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
from psycopg.pq.abc import PGresult

from cartrita.eventstore import arrays
from cartrita.eventstore.canonical import rfc3339
from cartrita.eventstore.store import execute, run_together
from cartrita.eventstore.together import BEGIN, ROLLBACK, Command, Recurring

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

    def changes(self) -> list[Command]:
        """Return the statements that store what changed."""
        commands: list[Command] = []
        for subject, labels in self._changed_labels.items():
            commands.append((_WRITE_LABELS, [b"\1" + orjson.dumps(labels), subject.encode()]))
        for key in sorted(self._changed_balances):
            balance = self.balances[key]
            amounts = [
                _number(balance.reserved_tokens),
                _number(balance.reserved_micros),
                _number(balance.used_tokens),
                _number(balance.used_micros),
            ]
            commands.append((_WRITE_BALANCE, [*amounts, *_key(key)]))
        for name in sorted(self._changed_buckets):
            bucket = self.buckets[name]
            commands.append((_WRITE_BUCKET, [_number(bucket.level), arrays.time(bucket.at), name.encode()]))
        return commands


def lock(
    *,
    workspace_id: UUID,
    subjects: Collection[str],
    balances: Collection[BalanceKey],
    buckets: Mapping[str, int],
    at: datetime,
    then: Sequence[Command],
    untouched: bool = False,
) -> tuple[Held, list[PGresult]]:
    """Lock these rows to the end of the transaction; return them, and what `then` finds under the locks.

    `buckets` maps each key to the level that a bucket begins with. Rows that are missing are made. Nothing
    may be locked before in the transaction. `then` only reads. `untouched` says that the transaction may
    begin anew: it is the caller's own, and nothing was written in it.
    """
    # In this order all lock them. One by one takes half the time that one statement for all of them takes.
    of_subjects, of_balances, of_buckets = sorted(set(subjects)), sorted(set(balances)), sorted(buckets)
    making: list[Command] = [
        *((_MAKE_LABELS, [subject.encode(), workspace_id.bytes]) for subject in of_subjects),
        *((_MAKE_BALANCE, [*_key(key), workspace_id.bytes]) for key in of_balances),
        *(
            (_MAKE_BUCKET, [key.encode(), workspace_id.bytes, _number(buckets[key]), arrays.time(at)])
            for key in of_buckets
        ),
    ]
    locking: list[Command] = [
        *((_LOCK_LABELS, [subject.encode()]) for subject in of_subjects),
        *((_LOCK_BALANCE, _key(key)) for key in of_balances),
        *((_LOCK_BUCKET, [key.encode()]) for key in of_buckets),
    ]
    before: list[Command] = [] if untouched else [(_SAVE, ())]
    while True:
        answers = run_together(*before, *locking, *then)[len(before) :]
        rows, found = answers[: len(locking)], answers[len(locking) :]
        missing = [make for make, row in zip(making, rows, strict=True) if row.ntuples == 0]
        if not missing:
            break
        # Before anything is locked: who makes rows holds none for which another one waits out of order.
        before = [*(((ROLLBACK, ()), (BEGIN, ())) if untouched else ((_BACK, ()),)), *missing]
    held, row = Held(), iter(rows)
    for subject in of_subjects:
        # After the version of jsonb's binary format.
        held.labels[subject] = orjson.loads(_value(next(row), 0)[1:])
    for key in of_balances:
        amounts = next(row)
        held.balances[key] = Balance(*(_whole(_value(amounts, place)) for place in range(4)))
    for name in of_buckets:
        bucket = next(row)
        held.buckets[name] = Bucket(_whole(_value(bucket, 0)), arrays.moment(_value(bucket, 1)))
    return held, found


def lock_approvals(approval_ids: Collection[UUID]) -> list[tuple[UUID, int, UUID | None, str]]:
    """Lock approvals, in order of their ids; return id, version, session and status of each."""
    rows: list[tuple[UUID, int, UUID | None, str]] = execute(
        _LOCK_APPROVALS, [arrays.uuids(list(approval_ids))]
    ).fetchall()
    return rows


def _key(key: BalanceKey) -> list[bytes | None]:
    budget_id, period_start = key
    return [budget_id.bytes, arrays.time(period_start)]


def _number(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)


def _whole(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


def _value(row: PGresult, place: int) -> bytes:
    value = row.get_value(0, place)
    assert value is not None  # noqa: S101 # no column of these tables is null
    return value


_SAVE, _BACK = Recurring("savepoint locks"), Recurring("rollback to savepoint locks")
_LOCK_LABELS = Recurring("select labels from governance_label_set where subject = %b::text for update")
_LOCK_BALANCE = Recurring("""
    select reserved_tokens, reserved_micros, used_tokens, used_micros from governance_budget_balance
    where budget_id = %b::uuid and period_start = %b::timestamptz for update
""")
_LOCK_BUCKET = Recurring("select level, at from governance_throttle_bucket where key = %b::text for update")
_LOCK_APPROVALS: LiteralString = """
    select id, version, session_id, status from governance_approval
    where id = any(%b::uuid[]) order by id for update
"""
_MAKE_LABELS = Recurring("""
    insert into governance_label_set (subject, workspace_id, labels) values (%b::text, %b::uuid, '{}')
    on conflict do nothing
""")
_MAKE_BALANCE = Recurring("""
    insert into governance_budget_balance
        (budget_id, period_start, workspace_id, reserved_tokens, reserved_micros, used_tokens, used_micros)
    values (%b::uuid, %b::timestamptz, %b::uuid, 0, 0, 0, 0) on conflict do nothing
""")
_MAKE_BUCKET = Recurring("""
    insert into governance_throttle_bucket (key, workspace_id, level, at)
    values (%b::text, %b::uuid, %b::int8, %b::timestamptz) on conflict do nothing
""")
_WRITE_LABELS = Recurring("""
    update governance_label_set set labels = labels || %b::jsonb where subject = %b::text
""")
_WRITE_BALANCE = Recurring("""
    update governance_budget_balance set reserved_tokens = %b::int8, reserved_micros = %b::int8,
        used_tokens = %b::int8, used_micros = %b::int8
    where budget_id = %b::uuid and period_start = %b::timestamptz
""")
_WRITE_BUCKET = Recurring("""
    update governance_throttle_bucket set level = %b::int8, at = %b::timestamptz where key = %b::text
""")
