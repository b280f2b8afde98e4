"""Adding up what was decided again, session by session, and the report that comes of it. Pure.

Sums of parts are the sum of the whole, whichever way the sessions are dealt out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from heapq import nsmallest
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from governance.backtest.engine import Again, Loss, Stored

MOST_FIRST_CHANGES = 200
MOST_EXAMPLES = 10
MOST_DIFFERENCES = 50
# Rows of a table: those with the most changes.
MOST_ROWS = 200
GO_AHEAD = frozenset({"allow", "audit"})
DIMENSIONS = ("tool", "agent", "model", "subject_kind")
# Of decisions of which nothing but their number matters, beside that they come out as before.
_IS_ALIKE, _ALIKE = attrgetter("same_content", "short", "differs"), (True, False, None)


class Shown(NamedTuple):
    """A decision that stands in the report. The first of each sort in the log's order are shown."""

    position: int
    decision_id: str
    session_id: str | None
    at: str
    subject_kind: str
    tool: str
    model: str
    agent: str
    old: str
    old_rule: str
    new: str
    new_rule: str
    # Of a session's first change: how many decisions after it are not reached.
    not_reached: int = 0
    # Of a difference under the own set: what of the verdict differs.
    fields: tuple[str, ...] = ()


@dataclass(slots=True)
class Tally:
    """Counts that can be added. `counts` by name; the others by what their keys say."""

    counts: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    matrix: Counter[tuple[str, str]] = field(default_factory=Counter)
    # (old outcome, old rule, new outcome, new rule) of changed decisions.
    rules: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    # (dimension, name) of decisions that are reached, and with (old, new) of those that changed.
    reached: Counter[tuple[str, str]] = field(default_factory=Counter)
    changed: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    # (day, what).
    days: Counter[tuple[str, str]] = field(default_factory=Counter)
    # (what, "tokens" or a currency).
    spend: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[Shown]] = field(default_factory=dict)
    first_changes: list[Shown] = field(default_factory=list)
    differences: list[Shown] = field(default_factory=list)
    first_at: str = ""
    last_at: str = ""
    # (day, (kind, tool, model, agent, outcomes and rules)) of decisions that are reached and come out as
    # before, as most do: nothing but their number is kept until it is added to the other counts.
    alike: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Add another tally."""
        self.settle()
        other.settle()
        for name in ("counts", "lost", "matrix", "rules", "reached", "changed", "days", "spend"):
            getattr(self, name).update(getattr(other, name))
        for kind, shown in other.examples.items():
            self.examples[kind] = nsmallest(MOST_EXAMPLES, [*self.examples.get(kind, ()), *shown])
        self.first_changes = nsmallest(MOST_FIRST_CHANGES, [*self.first_changes, *other.first_changes])
        self.differences = nsmallest(MOST_DIFFERENCES, [*self.differences, *other.differences])
        self.first_at = min(filter(None, (self.first_at, other.first_at)), default="")
        self.last_at = max(self.last_at, other.last_at)

    def settle(self) -> None:
        """Add what is only numbered to the counts."""
        counts, days = self.counts, self.days
        for (day, (subject_kind, tool, model, agent, old, old_rule, _, new_rule)), many in self.alike.items():
            counts["decided"] += many
            counts["reached"] += many
            days[day, "decisions"] += many
            self.matrix[old, old] += many
            if old_rule != new_rule:
                counts["by_another_rule"] += many
            for dimension, name in zip(DIMENSIONS, (tool, agent, model, subject_kind), strict=True):
                if name:
                    self.reached[dimension, name] += many
            if old == "escalate":
                for what in ("approvals_before", "approvals_before_reached", "approvals_after"):
                    days[day, what] += many
        self.alike.clear()

    def count_session(self, decisions: Iterable[tuple[Stored, Again | Loss]]) -> None:
        """Count the decisions of one session, in order. Those after its first change are not reached."""
        first: Shown | None = None
        before, many = self.counts["not_reached"], 0
        for stored, again in decisions:
            many += 1
            if isinstance(again, str):
                self.lost[again] += 1
            elif first is not None:
                self._count_not_reached(stored, again)
            elif self._count(stored, again):
                first = _shown(stored, again)
        self.counts["looked_at"] += many
        self.counts["sessions"] += 1
        if first is not None:
            self.counts["sessions_changed"] += 1
            first = first._replace(not_reached=self.counts["not_reached"] - before)
            self.first_changes = nsmallest(MOST_FIRST_CHANGES, [*self.first_changes, first])

    def count_alone(self, stored: Stored, again: Again | Loss) -> None:
        """Count a decision of no session: nothing comes after it."""
        self.counts["looked_at"] += 1
        if isinstance(again, str):
            self.lost[again] += 1
        else:
            self._count(stored, again)

    def _count(self, stored: Stored, again: Again) -> bool:
        """Count a decision that is reached; return whether the session would have gone on otherwise."""
        if _IS_ALIKE(again) == _ALIKE and again.old == again.new:
            self._note_time(again.at)
            self.alike[again.at[:10], again[1:9]] += 1
            return False
        self._count_any(stored, again)
        counts, day = self.counts, again.at[:10]
        old, new = again.old, again.new
        counts["reached"] += 1
        self.matrix[old, new] += 1
        for dimension, name in zip(
            DIMENSIONS, again[2:3] + again[4:5] + again[3:4] + again[1:2], strict=True
        ):
            if name:
                self.reached[dimension, name] += 1
        if old == "escalate":
            self.days[day, "approvals_before_reached"] += 1
        if new == "escalate":
            self.days[day, "approvals_after"] += 1
        counts["short"] += again.short
        if old == new:
            counts["by_another_rule"] += again.old_rule != again.new_rule
            counts["other_content"] += not again.same_content
            return not again.same_content
        counts["changed"] += 1
        self.days[day, "changed"] += 1
        self.rules[old, again.old_rule, new, again.new_rule] += 1
        for dimension, name in zip(
            DIMENSIONS, again[2:3] + again[4:5] + again[3:4] + again[1:2], strict=True
        ):
            if name:
                self.changed[dimension, name, old, new] += 1
        shown = self.examples.setdefault((old, new), [])
        if len(shown) < MOST_EXAMPLES or stored.position < shown[-1].position:
            self.examples[old, new] = nsmallest(MOST_EXAMPLES, [*shown, _shown(stored, again)])
        if old in GO_AHEAD and new in GO_AHEAD:
            # The act happens either way, and so does all that follows.
            return not again.same_content
        if old in GO_AHEAD:
            self._spend("blocked", stored, again)
        elif new in GO_AHEAD:
            self._add_spend("let_through", again.cost_tokens, again.cost_micros, again.cost_currency)
        return True

    def _count_not_reached(self, stored: Stored, again: Again) -> None:
        self._count_any(stored, again)
        self.counts["not_reached"] += 1
        if again.old == "escalate":
            self.days[again.at[:10], "approvals_not_reached"] += 1
        if again.old in GO_AHEAD:
            self._spend("not_reached", stored, again)

    def _count_any(self, stored: Stored, again: Again) -> None:
        self.counts["decided"] += 1
        day = again.at[:10]
        self.days[day, "decisions"] += 1
        if again.old == "escalate":
            self.days[day, "approvals_before"] += 1
        self._note_time(again.at)
        if again.differs is not None:
            self.counts["differences"] += 1
            outcome, rule, fields = again.differs
            shown = _shown(stored, again)._replace(new=outcome, new_rule=rule, fields=fields)
            self.differences = nsmallest(MOST_DIFFERENCES, [*self.differences, shown])

    def _note_time(self, at: str) -> None:
        if not self.first_at or at < self.first_at:
            self.first_at = at
        self.last_at = max(self.last_at, at)

    def _spend(self, what: str, stored: Stored, again: Again) -> None:
        """Add what an act came to cost; what it was expected to cost at most, where it has not ended."""
        if stored.act_tokens is None or stored.act_micros is None:
            self._add_spend(what, again.cost_tokens, again.cost_micros, again.cost_currency)
        else:
            currency = stored.act_currency or again.cost_currency
            self._add_spend(what, stored.act_tokens, stored.act_micros, currency)

    def _add_spend(self, what: str, tokens: int, micros: int, currency: str) -> None:
        if tokens:
            self.spend[what, "tokens"] += tokens
        if micros:
            self.spend[what, currency] += micros


def report_of(tally: Tally, *, workspace_id: UUID, throttles: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return a tally as JSON: ids, names of rules and counts. Money is in micro-units of each currency.

    `throttles` names the throttle rules whose levels were `recorded`, and those that were `worked_out`.
    """
    tally.settle()
    counts = tally.counts
    days = _days(tally)
    span = _span_of_days(tally)
    before = sum(each["approvals_before_reached"] for each in days)
    after = sum(each["approvals_after"] for each in days)
    return {
        "trustworthy": counts["differences"] == 0,
        "self_check": {
            "decided": counts["decided"],
            "differences": counts["differences"],
            "shown": [_as_json(one, "recorded", "now", fields=list(one.fields)) for one in tally.differences],
        },
        "decisions": {
            "looked_at": counts["looked_at"],
            "decided_again": counts["decided"],
            "reached": counts["reached"],
            "not_reached": counts["not_reached"],
            "not_redecidable": sum(tally.lost.values()),
            "erased": tally.lost["erased"],
            "policy_missing": tally.lost["policy_missing"],
            "unreadable": tally.lost["unreadable"],
        },
        "first_at": tally.first_at or None,
        "last_at": tally.last_at or None,
        "span_of_days": span,
        "changed": counts["changed"],
        "by_another_rule": counts["by_another_rule"],
        "other_content": counts["other_content"],
        "sessions": {"all": counts["sessions"], "changed": counts["sessions_changed"]},
        "matrix": _matrix(tally.matrix),
        "by_rule": _capped(
            [
                {"old": old, "old_rule": old_rule, "new": new, "new_rule": new_rule, "decisions": many}
                for (old, old_rule, new, new_rule), many in _by_count(tally.rules)
            ]
        ),
        **{f"by_{dimension}": _by(tally, dimension) for dimension in DIMENSIONS},
        "by_workspace": [
            {
                "name": str(workspace_id),
                "reached": counts["reached"],
                "changed": counts["changed"],
                "changes": _changes(
                    {(old, new): many for (old, new), many in tally.matrix.items() if old != new}
                ),
            }
        ],
        "approvals": {
            "before": sum(each["approvals_before"] for each in days),
            "before_reached": before,
            "after": after,
            "not_reached": sum(each["approvals_not_reached"] for each in days),
            "before_a_day": round(before / span, 2) if span else 0.0,
            "after_a_day": round(after / span, 2) if span else 0.0,
            "more_a_day": round((after - before) / span, 2) if span else 0.0,
        },
        "by_day": days,
        "spend": {
            what: {
                "tokens": tally.spend[what, "tokens"],
                "micros": {
                    unit: many
                    for (of, unit), many in sorted(tally.spend.items())
                    if of == what and unit != "tokens"
                },
            }
            for what in ("blocked", "not_reached", "let_through")
        },
        "first_changes": [
            _as_json(one, "old", "new", not_reached=one.not_reached) for one in tally.first_changes
        ],
        "examples": [
            _as_json(one, "old", "new") for _, shown in sorted(tally.examples.items()) for one in shown
        ],
        "throttles": {**{name: list(rules) for name, rules in throttles.items()}, "held_up": counts["short"]},
    }


def _days(tally: Tally) -> list[dict[str, Any]]:
    names = (
        "decisions",
        "changed",
        "approvals_before",
        "approvals_before_reached",
        "approvals_after",
        "approvals_not_reached",
    )
    return [
        {"day": day, **{name: tally.days[day, name] for name in names}}
        for day in sorted({day for day, _ in tally.days})
    ]


def _span_of_days(tally: Tally) -> int:
    """Return how many days there are from the first decision's to the last one's, in UTC."""
    if not tally.first_at:
        return 0
    first, last = date.fromisoformat(tally.first_at[:10]), date.fromisoformat(tally.last_at[:10])
    return (last - first).days + 1


def _matrix(matrix: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (old, new), many in sorted(matrix.items()):
        found.setdefault(old, {})[new] = many
    return found


def _by(tally: Tally, dimension: str) -> list[dict[str, Any]]:
    changes: dict[str, dict[tuple[str, str], int]] = {}
    for (of, name, old, new), many in tally.changed.items():
        if of == dimension:
            changes.setdefault(name, {})[old, new] = many
    rows = [
        {
            "name": name,
            "reached": tally.reached[dimension, name],
            "changed": sum(of_name.values()),
            "changes": _changes(of_name),
        }
        for name, of_name in changes.items()
    ]
    return _capped(sorted(rows, key=lambda row: (-row["changed"], row["name"])))


def _changes(changes: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [{"old": old, "new": new, "decisions": many} for (old, new), many in _by_count(changes)]


def _by_count(counted: Mapping[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def _capped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[:MOST_ROWS]


def _shown(stored: Stored, again: Again) -> Shown:
    session_id = str(stored.session_id) if stored.session_id else None
    return Shown(stored.position, str(stored.decision_id), session_id, *again[:9])


def _as_json(one: Shown, before: str, after: str, **more: Any) -> dict[str, Any]:
    return {
        "decision_id": one.decision_id,
        "session_id": one.session_id,
        "at": one.at,
        "subject_kind": one.subject_kind,
        "tool": one.tool,
        "model": one.model,
        "agent": one.agent,
        before: one.old,
        f"{before}_rule": one.old_rule,
        after: one.new,
        f"{after}_rule": one.new_rule,
        **more,
    }
