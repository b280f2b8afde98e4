"""Buckets of throttle rules that nothing was recorded of, worked out from the times of decisions. Pure.

Each decision under a rule takes an act out of the rule's bucket at the time that was recorded, where it would
go ahead and every such bucket holds an act; a bucket is full at first. All recorded decisions count, also
those that a session would not have come to.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from governance.backtest.engine import Draw
from governance.rule import ACT, Throttle


@dataclass(slots=True)
class _Bucket:
    level: int
    at: datetime


@dataclass(slots=True)
class Buckets:
    """The buckets while draws go by in the order of their times."""

    throttles: Mapping[str, Throttle]
    _buckets: dict[tuple[str, str], _Bucket] = field(default_factory=dict)

    def short_after(self, draws: Iterable[Draw]) -> dict[UUID, dict[str, int]]:
        """Take the draws out; return the levels that those met for whom some bucket held no act."""
        short: dict[UUID, dict[str, int]] = {}
        for draw in draws:
            at = datetime.fromisoformat(draw.at)
            levels = {rule: self._level(rule, whose, at) for rule, whose in draw.buckets}
            if any(level < ACT for level in levels.values()):
                short[draw.decision_id] = levels
            elif draw.goes_ahead:
                for rule, whose in draw.buckets:
                    bucket = self._buckets[rule, whose]
                    bucket.level, bucket.at = levels[rule] - ACT, max(at, bucket.at)
        return short

    def _level(self, rule: str, whose: str, at: datetime) -> int:
        throttle = self.throttles[rule]
        bucket = self._buckets.get((rule, whose))
        if bucket is None:
            bucket = self._buckets[rule, whose] = _Bucket(throttle.full, at)
        return throttle.refilled(bucket.level, at - bucket.at)
