"""What the rules of a set did in a time range, and which of them never did anything."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

from django.utils import timezone

from cartrita.errors import BadInput
from cartrita.eventstore import load
from cartrita.eventstore.store import execute
from governance.policy import Outcome, PolicySet, Rule, rule_hash
from governance.queries.policies import active_policy, known_set
from governance.rule import Example
from governance.rulebook import RuleWritten, rulebook_id

FINDINGS = ("never_hit", "always_overridden", "never_slowed", "lacks_examples")
DEFAULT_SPAN = timedelta(days=30)
LONGEST_SPAN = timedelta(days=366)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approvals:
    """The approvals that a rule asked for in the range; `median_seconds` is until people said yes or no."""

    requested: int
    granted: int
    denied: int
    expired: int
    waiting: int
    other: int
    median_seconds: float | None

    @property
    def always_granted(self) -> bool:
        """Whether people answered, and said yes each time."""
        return self.granted > 0 and not (self.denied or self.expired)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCoverage:
    """What one rule did: in how many decisions it was evaluated, matched, erred, and was the one to decide.

    `slowed` counts acts that it made wait. `overridden_by` says which rules decided where this one matched.
    `doubts` are why it can never match or decide. `shown` and `shown_otherwise` count examples in which it
    decides, and those of its own in which another rule does.
    """

    rule: str
    rule_hash: str
    priority: int
    outcome: Outcome
    evaluated: int
    matched: int
    erred: int
    decided: int
    slowed: int
    overridden_by: Mapping[str, int]
    counts_anyway: bool
    doubts: tuple[str, ...]
    approvals: Approvals | None
    conditional: bool
    shown: int
    shown_otherwise: int

    @property
    def never_hit(self) -> bool:
        """Whether it neither matched nor failed to be evaluated."""
        return not (self.matched or self.erred)

    @property
    def always_overridden(self) -> bool:
        """Whether it matched, and another rule decided each time."""
        return self.matched > 0 and not self.decided

    @property
    def never_slowed(self) -> bool:
        """Whether it is a throttle that let everything pass at once."""
        return self.outcome == "throttle" and self.matched > 0 and not self.slowed

    @property
    def lacks_examples(self) -> bool:
        """Whether no example shows it at work, or none of its own where its condition does not hold."""
        return not self.shown or (self.conditional and not self.shown_otherwise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The rules of one set, in order of priority, over the decisions that were made under this very set.

    `others` counts decisions in the range that another set made, which say nothing about this one;
    `by_no_rule` those that no rule decided, by the name that the verdict says.
    """

    workspace_id: UUID
    policy_hash: str
    policy: str
    since: datetime
    until: datetime
    decisions: int
    others: int
    by_no_rule: Mapping[str, int]
    rules: tuple[RuleCoverage, ...]


def coverage(
    workspace_id: UUID,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    policy_hash: str | None = None,
) -> Coverage:
    """Return what the rules of a set did from `since` (30 days ago) up to `until` (now), the end excluded.

    `policy_hash` names a set that is or was in force here (None: the one that is). Raises UnknownPolicy, and
    BadInput for a range that is empty or longer than 366 days.
    """
    until = until or timezone.now()
    if since is None:
        # Before the first year there is nothing.
        since = until - min(DEFAULT_SPAN, until - datetime.min.replace(tzinfo=UTC))
    if not timedelta() < until - since <= LONGEST_SPAN:
        raise BadInput("since lies before until, by at most 366 days.", field="since")
    active = active_policy(workspace_id)
    policy = (
        active if policy_hash in {None, active.content_hash} else known_set(workspace_id, str(policy_hash))
    )
    over = [workspace_id, since, until, policy.content_hash]
    (counted,) = execute(_DECISIONS, [policy.content_hash, policy.content_hash, workspace_id, since, until])
    decisions, others = counted
    results = {(name, result): count for name, result, count in execute(_RESULTS, over)}
    deciding: dict[str, dict[str, int]] = {}
    slowed: dict[str, int] = {}
    for name, decided_by, waits, count in execute(_DECIDING, over):
        by = deciding.setdefault(name, {})
        by[decided_by] = by.get(decided_by, 0) + count
        if waits and decided_by == name:
            slowed[name] = slowed.get(name, 0) + count
    named = {rule.name for rule in policy.rules}
    by_no_rule = {name: count for name, count in execute(_DECIDED, over) if name not in named}
    approvals = _approvals(workspace_id, since, until)
    examples = _examples(workspace_id, policy)
    shown = _shown(examples)
    doubts: dict[str, list[str]] = {}
    for warning in policy.warnings:
        doubts.setdefault(warning.rule, []).append(warning.message)
    rules = []
    for rule in policy.rules:
        count = {
            result: results.get((rule.name, result), 0) for result in ("matched", "not_matched", "erred")
        }
        by = deciding.get(rule.name, {})
        rules.append(
            RuleCoverage(
                rule=rule.name,
                rule_hash=policy.rule_hashes[rule.name],
                priority=rule.priority,
                outcome=rule.outcome,
                evaluated=sum(count.values()),
                matched=count["matched"],
                erred=count["erred"],
                decided=by.get(rule.name, 0),
                slowed=slowed.get(rule.name, 0),
                overridden_by={name: by[name] for name in sorted(by) if name != rule.name},
                counts_anyway=rule.outcome == "audit" or bool({"leave_out", "redact"} & set(rule.parameters)),
                doubts=tuple(doubts.get(rule.name, ())),
                approvals=approvals.get(policy.rule_hashes[rule.name], _NONE)
                if rule.outcome == "escalate"
                else None,
                conditional=rule.condition is not None or rule.unless is not None,
                shown=shown.get(rule.name, 0),
                shown_otherwise=sum((one.by or rule.name) != rule.name for one in examples[rule.name]),
            )
        )
    return Coverage(
        workspace_id=workspace_id,
        policy_hash=policy.content_hash,
        policy=policy.name,
        since=since,
        until=until,
        decisions=decisions,
        others=others,
        by_no_rule=by_no_rule,
        rules=tuple(rules),
    )


def coverage_as_json(found: Coverage) -> dict[str, Any]:
    """Return a report as JSON, with what follows from its counts."""
    rules = []
    for rule in found.rules:
        counted = asdict(rule)
        for name in FINDINGS:
            counted[name] = getattr(rule, name)
        if rule.approvals is not None:
            counted["approvals"]["always_granted"] = rule.approvals.always_granted
        rules.append(counted)
    return {
        **asdict(found),
        "workspace_id": str(found.workspace_id),
        "since": found.since.isoformat(),
        "until": found.until.isoformat(),
        "rules": rules,
    }


def coverage_lines(found: Coverage) -> Iterator[str]:
    """Yield a report as text: a line for each rule, with its counts and what is worth a look."""
    yield (
        f"{found.policy} {found.policy_hash}, {found.since:%Y-%m-%d %H:%M} to {found.until:%Y-%m-%d %H:%M} "
        f"UTC: {found.decisions} decisions, {found.others} of other sets"
    )
    for rule in found.rules:
        said = [name.replace("_", " ") for name in FINDINGS if getattr(rule, name)]
        if rule.always_overridden:
            said.append(f"(by {', '.join(f'{name}: {count}' for name, count in rule.overridden_by.items())})")
        if rule.approvals is not None and rule.approvals.always_granted:
            said.append(f"always approved ({rule.approvals.granted} of {rule.approvals.requested})")
        said += rule.doubts
        yield (
            f"{rule.rule:40} {rule.outcome:8} {rule.evaluated:7} evaluated {rule.matched:7} matched "
            f"{rule.decided:7} decided  {', '.join(said)}"
        ).rstrip()


def _approvals(workspace_id: UUID, since: datetime, until: datetime) -> dict[str, Approvals]:
    return {
        row[0]: Approvals(
            requested=row[1],
            granted=row[2],
            denied=row[3],
            expired=row[4],
            waiting=row[5],
            other=row[1] - sum(row[2:6]),
            median_seconds=None if row[6] is None else float(row[6]),
        )
        for row in execute(_APPROVALS, [workspace_id, since, until])
    }


def _examples(workspace_id: UUID, policy: PolicySet) -> dict[str, tuple[Example, ...]]:
    """Return the examples of each rule; a stored set has none, a rule had them when it was written."""
    written: dict[str, Any] = {
        recorded.event.rule_hash: recorded.event.definition
        for recorded in load(rulebook_id(workspace_id))
        if isinstance(recorded.event, RuleWritten)
    }
    return {
        rule.name: Rule.model_validate(written[version]).examples
        if (version := rule_hash(rule)) in written
        else rule.examples
        for rule in policy.rules
    }


def _shown(examples: Mapping[str, Iterable[Example]]) -> dict[str, int]:
    """Count for each rule the examples in which it decides, its own and those of others."""
    found: dict[str, int] = {}
    for name, each in examples.items():
        for one in each:
            by = one.by or name
            found[by] = found.get(by, 0) + 1
    return found


_NONE = Approvals(requested=0, granted=0, denied=0, expired=0, waiting=0, other=0, median_seconds=None)
_DECISIONS: LiteralString = """
    select count(*) filter (where policy_hash = %b::text), count(*) filter (where policy_hash <> %b::text)
    from policy_decisions
    where workspace_id = %b::uuid and created_at >= %b::timestamptz and created_at < %b::timestamptz
"""
_RESULTS: LiteralString = """
    with made as (
        select matched, not_matched, erred from policy_decisions
        where workspace_id = %b::uuid and created_at >= %b::timestamptz and created_at < %b::timestamptz
            and policy_hash = %b::text
    )
    select name, 'matched', count(*) from made, unnest(matched) as name group by name
    union all select name, 'not_matched', count(*) from made, unnest(not_matched) as name group by name
    union all select name, 'erred', count(*) from made, unnest(erred) as name group by name
"""
_DECIDING: LiteralString = """
    select name, policy_rule, decision = 'throttle', count(*)
    from policy_decisions, unnest(matched || erred) as name
    where workspace_id = %b::uuid and created_at >= %b::timestamptz and created_at < %b::timestamptz
        and policy_hash = %b::text
    group by 1, 2, 3
"""
_DECIDED: LiteralString = """
    select policy_rule, count(*) from policy_decisions
    where workspace_id = %b::uuid and created_at >= %b::timestamptz and created_at < %b::timestamptz
        and policy_hash = %b::text
    group by policy_rule order by policy_rule
"""
_APPROVALS: LiteralString = """
    select rule_hash, count(*),
        count(*) filter (where status in ('granted', 'used')),
        count(*) filter (where status = 'denied'),
        count(*) filter (where status = 'expired'),
        count(*) filter (where status = 'waiting'),
        percentile_cont(0.5) within group (order by extract(epoch from ended_at - requested_at))
            filter (where status in ('granted', 'used', 'denied'))
    from governance_approval
    where workspace_id = %b::uuid and requested_at >= %b::timestamptz and requested_at < %b::timestamptz
    group by rule_hash
"""
