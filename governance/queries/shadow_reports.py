"""What a set in shadow would have changed: outcomes, rules, tools, and approvals a day."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

from cartrita.eventstore import RecordedEvent
from cartrita.eventstore.store import execute
from governance.cel import reads_arguments, reads_findings
from governance.policy import PolicySet
from governance.policy_store import set_in_shadow
from governance.rulebook import PolicyShadowed, ShadowEnded
from governance.shadow import NOT_EVALUATED

MOST_EXAMPLES = 50
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Cell:
    """How many decisions had the outcome `before`, and would have had `after` under the set in shadow."""

    before: str
    after: str
    count: int


@dataclass(frozen=True, slots=True)
class RuleChange:
    """How many decisions another rule would have decided, or the same one otherwise."""

    rule: str
    shadow_rule: str
    before: str
    after: str
    count: int


@dataclass(frozen=True, slots=True)
class About:
    """How many decisions about a tool, a model or (without either) of a kind, and how many would change."""

    name: str
    count: int
    changed: int


@dataclass(frozen=True, slots=True)
class Example:
    """A decision that the set in shadow would have decided otherwise."""

    decision_id: UUID
    session_id: UUID | None
    created_at: datetime
    name: str
    rule: str
    before: str
    shadow_rule: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowReport:
    """What one set in shadow said beside the decisions that were made.

    `watched` is for how long it was in shadow between `since` and `until`. Of `decisions`, `changed` would
    have had another outcome, `other_rule` the same one by another rule; `not_evaluated` are not among them.
    `approvals_before` people were asked for, `approvals_after` they would have been. `matrix` has every pair
    of outcomes that occurred, the others what changed, most frequent first; `by_tool` all that was decided
    about; `examples` are the newest of each pair of rules. `unread` names the set's rules that read the text
    of answers: of those that left while they were written they saw none, and what is counted of them is of
    the others alone.
    """

    policy_hash: str
    since: datetime
    until: datetime
    watched: timedelta
    decisions: int
    changed: int
    other_rule: int
    not_evaluated: int
    approvals_before: int
    approvals_after: int
    matrix: tuple[Cell, ...]
    by_rule: tuple[RuleChange, ...]
    by_tool: tuple[About, ...]
    examples: tuple[Example, ...]
    unread: tuple[str, ...] = ()

    @property
    def approvals_a_day(self) -> float:
        """How many more approvals (fewer, below zero) people would be asked for a day.

        Of what was watched for less than a day, so many as there were.
        """
        return round((self.approvals_after - self.approvals_before) / max(self.watched / _DAY, 1.0), 2)


def report_on(
    workspace_id: UUID,
    policy_hash: str,
    history: Sequence[RecordedEvent],
    *,
    since: datetime,
    until: datetime,
) -> ShadowReport:
    """Return what a set said of the workspace's decisions since a time; `history` is the rulebook's."""
    counted = [
        (before, after, rule, shadow_rule, name, count)
        for before, after, rule, shadow_rule, name, count in execute(
            _COUNTED, [workspace_id, policy_hash, since, until]
        )
    ]
    outcomes, rules = Counter[tuple[str, str]](), Counter[tuple[str, str, str, str]]()
    about, about_changed = Counter[str](), Counter[str]()
    not_evaluated = 0
    for before, after, rule, shadow_rule, name, count in counted:
        if shadow_rule == NOT_EVALUATED and not after:
            not_evaluated += count
            continue
        outcomes[before, after] += count
        about[name] += count
        if (before, rule) != (after, shadow_rule):
            rules[rule, shadow_rule, before, after] += count
        if before != after:
            about_changed[name] += count
    changed = sum(count for (before, after), count in outcomes.items() if before != after)
    return ShadowReport(
        policy_hash=policy_hash,
        since=since,
        until=until,
        watched=_watched(policy_hash, history, since, until),
        decisions=outcomes.total(),
        changed=changed,
        other_rule=rules.total() - changed,
        not_evaluated=not_evaluated,
        approvals_before=sum(count for (before, _), count in outcomes.items() if before == "escalate"),
        approvals_after=sum(count for (_, after), count in outcomes.items() if after == "escalate"),
        matrix=tuple(Cell(before, after, count) for (before, after), count in _most(outcomes)),
        by_rule=tuple(
            RuleChange(rule, shadow_rule, before, after, count)
            for (rule, shadow_rule, before, after), count in _most(rules)
        ),
        by_tool=tuple(About(name, count, about_changed[name]) for name, count in _most(about)),
        examples=tuple(
            Example(*row) for row in execute(_EXAMPLES, [workspace_id, policy_hash, since, until])
        ),
        unread=_reading_answers(set_in_shadow(policy_hash)),
    )


def _reading_answers(policy: PolicySet | None) -> tuple[str, ...]:
    """Name the rules about answers that read their text, or what is found in it."""
    return tuple(
        rule.name
        for rule in (policy.rules if policy is not None else ())
        if "message_out" in rule.match.kinds
        and any(
            reads_arguments(text) or reads_findings(text)
            for text in (rule.condition, rule.unless)
            if text is not None
        )
    )


def _most(counter: Counter[Any]) -> Iterable[tuple[Any, int]]:
    return sorted(counter.items(), key=lambda each: (-each[1], each[0]))


def _watched(
    policy_hash: str, history: Sequence[RecordedEvent], since: datetime, until: datetime
) -> timedelta:
    """Return how long the set was in shadow between two times."""
    total, began = timedelta(), None
    for recorded in history:
        match recorded.event:
            case PolicyShadowed(policy_hash=named) if named == policy_hash:
                began = recorded.recorded_at
            case ShadowEnded(policy_hash=named) if named == policy_hash and began is not None:
                total += max(min(recorded.recorded_at, until) - max(began, since), timedelta())
                began = None
            case _:
                pass
    if began is not None:
        total += max(until - max(began, since), timedelta())
    return total


_COUNTED: LiteralString = """
    select decision, shadow_outcome, policy_rule, shadow_rule,
        coalesce(nullif(tool_name, ''), nullif(model_name, ''), subject_kind), count(*)
    from policy_decisions
    where workspace_id = %b::uuid and shadow_hash = %b::text and shadow_hash > ''
        and created_at >= %b::timestamptz and created_at <= %b::timestamptz
    group by 1, 2, 3, 4, 5
"""
# Outcomes that change come before rules that change alone.
_EXAMPLES: LiteralString = f"""
    select id, session_id, created_at, name, policy_rule, decision, shadow_rule, shadow_outcome from (
        select distinct on (decision, shadow_outcome, policy_rule, shadow_rule)
            id, session_id, created_at,
            coalesce(nullif(tool_name, ''), nullif(model_name, ''), subject_kind) as name,
            policy_rule, decision, shadow_rule, shadow_outcome
        from policy_decisions
        where workspace_id = %b::uuid and shadow_hash = %b::text and shadow_hash > ''
            and created_at >= %b::timestamptz and created_at <= %b::timestamptz
            and shadow_outcome > '' and (decision, policy_rule) <> (shadow_outcome, shadow_rule)
        order by decision, shadow_outcome, policy_rule, shadow_rule, created_at desc, id
    ) example
    order by decision = shadow_outcome, created_at desc, id
    limit {MOST_EXAMPLES}
"""  # noqa: S608 # constants alone
