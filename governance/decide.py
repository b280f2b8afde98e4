"""Decide, purely: the same request under the same policy gives the same verdict, for ever."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import cached_property
from hashlib import sha256
from itertools import compress, count
from typing import Any, Literal, Self, get_args
from uuid import UUID

from cartrita.errors import BadInput
from cartrita.eventstore.canonical import canonical_json
from governance import cel
from governance.canonical import SAFE_INTEGER, canonical
from governance.detectors.version import detectors_version
from governance.policy import Group, PolicySet, RuleResult
from governance.rule import (
    ACT,
    BUDGET_EXCEEDED,
    NOTHING_MATCHED,
    TAINTS_ACT_UNDER_WAY,
    GrantScope,
    Outcome,
    Rule,
    SubjectKind,
)

__all__ = [
    "BUDGET_EXCEEDED",
    "NOTHING_MATCHED",
    "SEVERITY",
    "UNLIMITED",
    "Budget",
    "BudgetFact",
    "Cost",
    "Counters",
    "DecisionRequest",
    "Delivery",
    "Evaluation",
    "GlassFact",
    "GrantFact",
    "RequestFacts",
    "SafetyLevel",
    "Verdict",
    "decide",
    "delivery",
    "evaluate",
    "tightest",
    "variables",
    "watched",
]

SafetyLevel = Literal["", "safe", "caution", "restricted"]
Delivery = Literal["live", "held"]
# What each rule of a group gave, in order of priority, and the places of those that matched or erred.
Evaluation = tuple[tuple[RuleResult, ...], list[int]]
_KINDS, _SAFETY_LEVELS = frozenset(get_args(SubjectKind)), frozenset(get_args(SafetyLevel))

SEVERITY: Mapping[Outcome, int] = {"deny": 4, "escalate": 3, "throttle": 2, "audit": 1, "allow": 0}
UNLIMITED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an act may cost at most: tokens, and money in micro-units of `currency` (ISO 4217)."""

    tokens: int = 0
    micros: int = 0
    currency: str = "USD"

    def __post_init__(self) -> None:
        _check_amounts(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The tightest budget that applies, in tokens and in micro-units of `currency`; None: no limit."""

    limit_tokens: int | None = None
    used_tokens: int = 0
    limit_micros: int | None = None
    used_micros: int = 0
    currency: str = "USD"

    def __post_init__(self) -> None:
        _check_amounts(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """How often something like this happened lately, as the caller counted it."""

    calls_last_minute: int = 0
    failures_last_5_minutes: int = 0
    repeats: int = 0

    def __post_init__(self) -> None:
        _check_amounts(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetFact:
    """One budget that applies, as it stands before the act.

    `used_*` include what is reserved; money is in micro-units of `currency`; a limit of None is none.
    """

    id: UUID
    name: str
    scope_kind: str
    scope: str
    period_start: datetime
    period_end: datetime | None = None
    limit_tokens: int | None = None
    used_tokens: int = 0
    limit_micros: int | None = None
    used_micros: int = 0
    currency: str = "USD"
    warn_percent: int = 80

    def __post_init__(self) -> None:
        _check_amounts(self)
        if type(self.warn_percent) is not int or not 1 <= self.warn_percent <= 100:
            raise BadInput(
                f"warn_percent is {self.warn_percent!r}; send a whole number from 1 to 100.",
                field="budgets.warn_percent",
            )
        set_once = object.__setattr__
        for name in ("period_start", "period_end"):
            at = getattr(self, name)
            if at is None and name == "period_end":
                continue
            if at.tzinfo is None:
                raise BadInput(f"{name} has no time zone; send an aware datetime.", field=f"budgets.{name}")
            set_once(self, name, at.astimezone(UTC))

    @property
    def left(self) -> Fraction:
        """The share of its tightest limit that is left, from 0 to 1; 1 without a limit."""
        shares = [
            Fraction(max(limit - used, 0), limit) if limit else Fraction(0)
            for limit, used in (
                (self.limit_tokens, self.used_tokens),
                (self.limit_micros, self.used_micros),
            )
            if limit is not None
        ]
        return min(shares, default=Fraction(1))

    def shortfall(self, cost: Cost) -> str:
        """Say why the budget does not hold an act of that cost; nothing where it does.

        What costs nothing fits any budget. Money of another currency cannot be set against a limit.
        """
        if self.limit_tokens is not None and cost.tokens > max(self.limit_tokens - self.used_tokens, 0):
            left = max(self.limit_tokens - self.used_tokens, 0)
            return f"{left:,} of {self.limit_tokens:,} tokens are left, and the act may cost {cost.tokens:,}"
        if self.limit_micros is not None and cost.micros:
            if cost.currency != self.currency:
                return f"it is in {self.currency}, and the act costs {cost.currency}, which it cannot hold"
            left = max(self.limit_micros - self.used_micros, 0)
            if cost.micros > left:
                return (
                    f"{_money(left)} of {_money(self.limit_micros)} {self.currency} are left,"
                    f" and the act may cost {_money(cost.micros)}"
                )
        return ""

    def warns(self, cost: Cost) -> bool:
        """Return whether the budget is at or beyond its warning once an act of that cost is booked."""
        tokens, micros = self.used_tokens + cost.tokens, self.used_micros
        if cost.currency == self.currency:
            micros += cost.micros
        return any(
            limit is not None and used * 100 >= limit * self.warn_percent
            for limit, used in ((self.limit_tokens, tokens), (self.limit_micros, micros))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFact:
    """People's leave that may cover the act: for which rule, in which version (`rule_hash`) of it.

    Whoever states it has found that tool definition and arguments are those that the leave is for. `own`
    tells that the requester is among those who gave it.
    """

    approval_id: UUID
    rule: str
    rule_hash: str
    scope: GrantScope
    own: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GlassFact:
    """Break-glass that was opened for the act: its stream, until when it is in force, and who opened it."""

    id: UUID
    until: datetime
    by: str

    def __post_init__(self) -> None:
        if self.until.tzinfo is None:
            raise BadInput("until has no time zone; send an aware datetime.", field="glass.until")
        object.__setattr__(self, "until", self.until.astimezone(UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What a caller knows of the surroundings of the acts that it asks for.

    `actor` is written as in `Context`, `roles` are the actor's in the workspace, `task_path` the ids from the
    plan's root task down, `labels` what this session has read, `at` an aware datetime.
    """

    workspace_id: UUID
    at: datetime
    session_id: UUID | None = None
    actor: str = "system"
    agent: str = ""
    roles: frozenset[str] = frozenset()
    task_path: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    budget: Budget = field(default_factory=Budget)
    counters: Counters = field(default_factory=Counters)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DecisionRequest:
    """The whole input of one decision; `arguments` are made canonical JSON when it is built.

    `budgets` are all that apply, and `budget` the tightest of them (`tightest`); `throttles` map rules to the
    level of their bucket at `at`, in thousandths of an act (a missing one is full); `grants` are leaves that
    cover the act; `actor_labels` what the actor has read in the last 24 hours, in any session. `taints` names
    (by tool, model or kind) acts under way that would not be allowed with the labels that this one may add.
    `findings` are the kinds of what detectors found in the text of the act, `teams` those of the person in
    whose session it happens, and `glass` the break-glass that was opened for it. `detectors` says which ones
    looked for findings: it is recorded with the decision, and no part of what is decided on.
    Requests without these facts are written, and hashed, as they were before there were any.

    Raises BadInput for arguments that are not bounded plain JSON, for an unknown subject kind or safety
    level, and for a naive `at`.
    """

    subject_kind: SubjectKind
    workspace_id: UUID
    at: datetime
    session_id: UUID | None = None
    actor: str = "system"
    agent: str = ""
    roles: frozenset[str] = frozenset()
    task_path: tuple[str, ...] = ()
    model: str = ""
    tool: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    definition_hash: str = ""
    safety_level: SafetyLevel = ""
    labels: frozenset[str] = frozenset()
    cost: Cost = field(default_factory=Cost)
    budget: Budget = field(default_factory=Budget)
    counters: Counters = field(default_factory=Counters)
    environment: Mapping[str, str] = field(default_factory=dict)
    budgets: tuple[BudgetFact, ...] = ()
    throttles: Mapping[str, int] = field(default_factory=dict)
    grants: tuple[GrantFact, ...] = ()
    actor_labels: frozenset[str] = frozenset()
    taints: frozenset[str] = frozenset()
    findings: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()
    glass: GlassFact | None = None
    detectors: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.subject_kind not in _KINDS:
            known = ", ".join(get_args(SubjectKind))
            raise BadInput(
                f"subject_kind is {self.subject_kind!r}; use one of {known}.", field="subject_kind"
            )
        if self.safety_level not in _SAFETY_LEVELS:
            raise BadInput(
                f"safety_level is {self.safety_level!r}; use safe, caution or restricted.",
                field="safety_level",
            )
        if self.at.tzinfo is None:
            raise BadInput("at has no time zone; send an aware datetime.", field="at")
        names = [self.actor, self.agent, self.model, self.tool, self.definition_hash, *self.task_path]
        names += (*self.roles, *self.labels, *self.actor_labels, *self.taints, *self.throttles)
        names += (*self.findings, *self.teams)
        for budget in self.budgets:
            names += (budget.name, budget.scope_kind, budget.scope)
        for grant in self.grants:
            names += (grant.rule, grant.rule_hash)
        if self.glass is not None:
            names.append(self.glass.by)
        if not all(type(name) is str and name.isascii() and "\0" not in name for name in names):
            canonical(names, "request")
        for name in names:
            if len(name) > 200:
                raise BadInput(
                    f"{name[:40]}… has more than 200 characters; send a shorter name.", field="request"
                )
        for field_name, largest in _MOST.items():
            if len(getattr(self, field_name)) > largest:
                raise BadInput(f"{field_name} has more than {largest} entries; send fewer.", field=field_name)
        set_once = object.__setattr__
        set_once(self, "arguments", canonical(dict(self.arguments), "arguments"))
        set_once(self, "environment", canonical(dict(self.environment), "environment"))
        set_once(self, "at", self.at.astimezone(UTC))
        # One order, so that the same facts make the same request.
        if self.budgets:
            set_once(self, "budgets", tuple(sorted(self.budgets, key=lambda budget: budget.id)))
        if self.grants:
            set_once(self, "grants", tuple(sorted(self.grants, key=lambda grant: grant.approval_id)))
        for rule, level in self.throttles.items():
            if type(level) is not int or not 0 <= level <= SAFE_INTEGER:
                raise BadInput(
                    f"throttles.{rule} is {level!r}; send a whole number of thousandths.", field="throttles"
                )

    @classmethod
    def about(
        cls,
        facts: RequestFacts,
        subject_kind: SubjectKind,
        *,
        arguments: Mapping[str, Any],
        model: str = "",
        tool: str = "",
        definition_hash: str = "",
        safety_level: SafetyLevel = "",
        cost: Cost | None = None,
        labels: frozenset[str] = frozenset(),
        findings: frozenset[str] | None = None,
    ) -> Self:
        """Build the request for one act within the caller's surroundings; `labels` join theirs.

        `findings` is None where detectors did not look at its text.
        """
        return cls(
            subject_kind=subject_kind,
            workspace_id=facts.workspace_id,
            at=facts.at,
            session_id=facts.session_id,
            actor=facts.actor,
            agent=facts.agent,
            roles=facts.roles,
            task_path=facts.task_path,
            model=model,
            tool=tool,
            arguments=arguments,
            definition_hash=definition_hash,
            safety_level=safety_level,
            labels=facts.labels | labels,
            cost=cost or Cost(),
            budget=facts.budget,
            counters=facts.counters,
            environment=facts.environment,
            findings=findings or frozenset(),
            detectors="" if findings is None else detectors_version(),
        )

    @cached_property
    def as_json(self) -> dict[str, Any]:
        """The exact request as canonical JSON; `from_json` gives an equal request back."""
        written: dict[str, Any] = {
            "subject_kind": self.subject_kind,
            "workspace_id": str(self.workspace_id),
            "at": self.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "session_id": str(self.session_id) if self.session_id else None,
            "actor": self.actor,
            "agent": self.agent,
            "roles": sorted(self.roles),
            "task_path": list(self.task_path),
            "model": self.model,
            "tool": self.tool,
            "arguments": self.arguments,
            "definition_hash": self.definition_hash,
            "safety_level": self.safety_level,
            "labels": sorted(self.labels),
            "cost": _members(self.cost),
            "budget": _members(self.budget),
            "counters": _members(self.counters),
            "environment": self.environment,
        }
        if self.budgets:
            written["budgets"] = [_fact(budget) for budget in self.budgets]
        if self.throttles:
            written["throttles"] = dict(self.throttles)
        if self.grants:
            written["grants"] = [_fact(grant) for grant in self.grants]
        if self.actor_labels:
            written["actor_labels"] = sorted(self.actor_labels)
        if self.taints:
            written["taints"] = sorted(self.taints)
        if self.findings:
            written["findings"] = sorted(self.findings)
        if self.teams:
            written["teams"] = sorted(self.teams)
        if self.glass is not None:
            written["glass"] = _fact(self.glass)
        return written

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a request from `as_json`, as it was stored."""
        return cls(
            **{
                **value,
                "workspace_id": UUID(value["workspace_id"]),
                "session_id": UUID(value["session_id"]) if value["session_id"] else None,
                "at": datetime.fromisoformat(value["at"]),
                "roles": frozenset(value["roles"]),
                "task_path": tuple(value["task_path"]),
                "labels": frozenset(value["labels"]),
                "cost": Cost(**value["cost"]),
                "budget": Budget(**value["budget"]),
                "counters": Counters(**value["counters"]),
                "budgets": tuple(_budget_fact(one) for one in value.get("budgets", ())),
                "grants": tuple(
                    GrantFact(**{**one, "approval_id": UUID(one["approval_id"])})
                    for one in value.get("grants", ())
                ),
                "actor_labels": frozenset(value.get("actor_labels", ())),
                "taints": frozenset(value.get("taints", ())),
                "findings": frozenset(value.get("findings", ())),
                "teams": frozenset(value.get("teams", ())),
                "glass": _glass_fact(value["glass"]) if value.get("glass") else None,
            }
        )

    def with_facts(self, **facts: Any) -> Self:
        """Return the request with other facts about the same act; its arguments are not looked at again."""
        made = replace(self, arguments={}, **facts)
        object.__setattr__(made, "arguments", self.arguments)
        made.__dict__["arguments_json"] = self.arguments_json
        return made

    @property
    def broken_glass(self) -> GlassFact | None:
        """The break-glass that is in force at the time of the request: until its end, and not at it."""
        return self.glass if self.glass is not None and self.at < self.glass.until else None

    @cached_property
    def arguments_json(self) -> bytes:
        """The arguments in RFC 8785 form."""
        return canonical_json(self.arguments)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the exact request in RFC 8785 form: what a permit is bound to."""
        written = self.as_json
        before = canonical_json({name: each for name, each in written.items() if name < "arguments"})
        after = canonical_json({name: each for name, each in written.items() if name > "arguments"})
        # The arguments may be a long prompt, and are written once for all facts.
        return sha256(b'%b,"arguments":%b,%b' % (before[:-1], self.arguments_json, after[1:])).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer of one decision.

    `rule` decided, in the version `rule_hash` (empty for what no rule of the set says, and in sets of
    environment 1); `evaluated` are all rules whose match took in the request, in order of priority. `review`
    marks the decision for a person's review (a matching audit rule, or a rule that erred). `budget` is the
    one that decided, `warnings` those at or beyond their warning once the act is booked. `retry_after_ms`
    comes with throttle. When the act goes ahead, `grants` are the approvals that let it, `consumed` the
    throttle rules whose bucket it takes an act (1000) out of, `left_out` the labels, in order, that the
    documents of a search must not carry, and `redact` the kinds of findings, in order, that are taken out of
    the act's text (`*`: all). `unbroken` are outcome and rule that it would have had without break-glass,
    None where they are the same. `unbroken_redact` and `unbroken_left_out` are what of these it would have
    had besides; decisions from before they were recorded say nothing of them and have the same verdict.
    `cost_limit_before` is what the tightest money budget leaves, in micro-units of `currency`, None without
    one; `cost_limit_after` what it leaves once the act costs its estimate. `resource_usage_*` count tokens
    and micros used, likewise.
    """

    outcome: Outcome
    rule: str
    reason: str
    policy_hash: str
    evaluated: tuple[RuleResult, ...]
    review: bool = False
    message_for_agent: str = ""
    message_for_people: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    currency: str = "USD"
    cost_limit_before: int | None = None
    cost_limit_after: int | None = None
    resource_usage_before: Mapping[str, int] = field(default_factory=dict)
    resource_usage_after: Mapping[str, int] = field(default_factory=dict)
    rule_hash: str = ""
    budget: UUID | None = None
    warnings: tuple[UUID, ...] = ()
    retry_after_ms: int | None = None
    grants: tuple[UUID, ...] = ()
    consumed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    unbroken: tuple[Outcome, str] | None = None
    unbroken_redact: tuple[str, ...] = field(default=(), compare=False)
    unbroken_left_out: tuple[str, ...] = field(default=(), compare=False)

    @property
    def allowed(self) -> bool:
        """Whether the act may go ahead now."""
        return self.outcome in {"allow", "audit"}


def decide(request: DecisionRequest, policy: PolicySet, evaluation: Evaluation | None = None) -> Verdict:
    """Return the policy's verdict on a request.

    `evaluation` is what the conditions of the policy's group for this request gave, where they were evaluated
    before (`evaluate`).

    The most severe outcome of the matching rules decides (deny > escalate > throttle > audit > allow), among
    equals the lowest priority number, then the order of the file. A rule that errs counts as deny and is
    named. A throttle rule whose bucket holds an act, and an escalation that a grant covers, count as allow,
    and a breakable rule that would hold the act up counts as audit while break-glass is in force for it.
    Without a matching rule the answer is deny, and so it is where a budget does not hold the act, or where
    the act may read what another one, which is under way, was allowed without.
    """
    group = policy.group(request)
    evaluated, held = evaluation or evaluate(group, request, policy.environment)
    found = _weigh(request, policy, [(group.rules[place], evaluated[place].result) for place in held])
    verdict = _verdict(request, policy, found, evaluated)
    if request.broken_glass is None or not (found.broke or "break_glass" in group.reads):
        return verdict
    whole = decide(request.with_facts(glass=None), policy)
    same = (whole.outcome, whole.rule) == (verdict.outcome, verdict.rule)
    return replace(
        verdict,
        unbroken=None if same else (whole.outcome, whole.rule),
        # A text that stays inside needs nothing taken out.
        unbroken_redact=_besides(whole.redact, verdict.redact) if verdict.allowed else (),
        unbroken_left_out=_besides(whole.left_out, verdict.left_out) if verdict.allowed else (),
    )


def delivery(request: DecisionRequest, policy: PolicySet) -> Delivery:
    """Return whether text may stream while it is written, from a `message_out` request without the text.

    Held where the text, which stands in the arguments, may matter to the outcome: a rule about this request
    that denies, escalates, throttles or redacts reads them, or nothing but rules that read them lets it pass.
    What detectors find holds no text back by itself: they look at it on its way (`watched`). Break-glass
    changes nothing of that: it may end before the text does.
    """
    return "held" if _matters(request, policy, cel.reads_arguments) else "live"


def watched(request: DecisionRequest, policy: PolicySet) -> bool:
    """Return whether what is found in a text may matter to the outcome for a `message_out` request.

    So it does where a rule redacts, or reads `findings` as `delivery` says it of the text.
    """
    if any(_redacts(rule, policy) for rule in policy.group(request).rules):
        return True
    # To sets of earlier environments it is a word like any other.
    return policy.environment > 2 and _matters(request, policy, cel.reads_findings)


def _matters(request: DecisionRequest, policy: PolicySet, reads: Callable[[str], bool]) -> bool:
    """Return whether what these conditions read may change the outcome for the worse."""
    group = policy.group(request)
    reading = {rule.name for rule in group.rules if _reads(rule, reads)}
    if not reading:
        return False
    if any(
        rule.name in reading and (SEVERITY[rule.outcome] > SEVERITY["audit"] or _redacts(rule, policy))
        for rule in group.rules
    ):
        return True
    blind = policy.part(group, (rule for rule in group.rules if rule.name not in reading))
    _, held = evaluate(blind, request, policy.environment)
    return not held


def tightest(budgets: Iterable[BudgetFact]) -> Budget:
    """Return the budget that leaves least in proportion, as `DecisionRequest.budget` states it."""
    limited = [one for one in budgets if one.limit_tokens is not None or one.limit_micros is not None]
    if not limited:
        return Budget()
    least = min(limited, key=lambda one: (one.left, one.id))
    return Budget(
        limit_tokens=least.limit_tokens,
        used_tokens=least.used_tokens,
        limit_micros=least.limit_micros,
        used_micros=least.used_micros,
        currency=least.currency,
    )


def variables(request: DecisionRequest, names: Iterable[str] = cel.VARIABLES) -> dict[str, Any]:
    """Return the request under names that conditions read: all of `governance.cel.VARIABLES`, or some."""
    return {name: _READERS[name](request) for name in names}


def _limit(limit: int | None) -> int:
    return UNLIMITED if limit is None else limit


def _left_percent(request: DecisionRequest) -> int:
    least = 100
    for budget in request.budgets or (request.budget,):
        for limit, used in (
            (budget.limit_tokens, budget.used_tokens),
            (budget.limit_micros, budget.used_micros),
        ):
            if limit is not None:
                least = min(least, max(limit - used, 0) * 100 // limit if limit else 0)
    return least


_READERS: Mapping[str, Callable[[DecisionRequest], Any]] = {
    "kind": lambda request: request.subject_kind,
    "actor": lambda request: request.actor,
    "agent": lambda request: request.agent,
    "roles": lambda request: sorted(request.roles),
    "workspace": lambda request: str(request.workspace_id),
    "session": lambda request: str(request.session_id) if request.session_id else "",
    "task_path": lambda request: list(request.task_path),
    "model.name": lambda request: request.model,
    "tool.name": lambda request: request.tool,
    "tool.safety": lambda request: request.safety_level,
    "tool.definition": lambda request: request.definition_hash,
    "args": lambda request: request.arguments,
    "labels": lambda request: sorted(request.labels),
    "cost.tokens": lambda request: request.cost.tokens,
    "cost.micros": lambda request: request.cost.micros,
    "cost.currency": lambda request: request.cost.currency,
    "budget.limit_tokens": lambda request: _limit(request.budget.limit_tokens),
    "budget.used_tokens": lambda request: request.budget.used_tokens,
    "budget.left_tokens": lambda request: _limit(request.budget.limit_tokens) - request.budget.used_tokens,
    "budget.limit_micros": lambda request: _limit(request.budget.limit_micros),
    "budget.used_micros": lambda request: request.budget.used_micros,
    "budget.left_micros": lambda request: _limit(request.budget.limit_micros) - request.budget.used_micros,
    "counters.calls_last_minute": lambda request: request.counters.calls_last_minute,
    "counters.failures_last_5_minutes": lambda request: request.counters.failures_last_5_minutes,
    "counters.repeats": lambda request: request.counters.repeats,
    "environment": lambda request: request.environment,
    "at": lambda request: request.at,
    "actor_labels": lambda request: sorted(request.actor_labels),
    "budget.left_percent": _left_percent,
    "budget.warned": lambda request: any(one.warns(request.cost) for one in request.budgets),
    "findings": lambda request: sorted(request.findings),
    "teams": lambda request: sorted(request.teams),
    "break_glass": lambda request: request.broken_glass is not None,
}


@dataclass(slots=True)
class _Found:
    """What the rules that held come to, before budgets."""

    rule: Rule | None = None
    outcome: Outcome = "deny"
    erred: bool = False
    covered: bool = False
    broken: bool = False
    review: bool = False
    broke: bool = False
    retry_after_ms: int | None = None
    grants: list[UUID] = field(default_factory=list)
    consumed: list[str] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)
    redact: set[str] = field(default_factory=set)


def _weigh(request: DecisionRequest, policy: PolicySet, held: Iterable[tuple[Rule, str]]) -> _Found:
    found = _Found()
    severity = -1
    glass = request.broken_glass is not None
    for rule, result in held:
        outcome, covered = rule.outcome, False
        if result == "error":
            outcome, found.review = "deny", True
        elif outcome in {"allow", "audit"}:
            found.review = found.review or outcome == "audit"
            # Sets of the first environment could say anything in their parameters.
            if rule.parameters and policy.environment > 1:
                found.left_out |= {*rule.parameters.get("leave_out", ())}
                found.redact |= {*rule.parameters.get("redact", ())}
        elif outcome == "throttle":
            throttle = policy.throttle(rule.name)
            level = request.throttles.get(rule.name, throttle.full)
            if level >= ACT:
                outcome, covered = "allow", True
                found.consumed.append(rule.name)
            elif not (glass and rule.breakable):
                found.retry_after_ms = max(found.retry_after_ms or 0, throttle.wait_ms(level))
        elif outcome == "escalate":
            grant = _grant_for(rule, request, policy)
            if grant is not None:
                outcome, covered = "allow", True
                found.grants.append(grant.approval_id)
        broken = glass and rule.breakable and result != "error" and not covered
        if broken:
            outcome, found.review, found.broke = "audit", True, True
        weight = SEVERITY[outcome]
        # The rules are in order of priority, so the first of a severity is the one to name.
        if weight > severity:
            severity = weight
            found.rule, found.outcome, found.erred = rule, outcome, result == "error"
            found.covered, found.broken = covered, broken
    return found


def _grant_for(rule: Rule, request: DecisionRequest, policy: PolicySet) -> GrantFact | None:
    version = policy.rule_hashes[rule.name]
    fitting = [
        grant
        for grant in request.grants
        if grant.rule == rule.name
        and grant.rule_hash == version
        # What cannot be undone is approved act by act, whatever somebody granted.
        and (grant.scope == "once" or request.safety_level != "restricted")
    ]
    # A leave for exactly this act goes first, or it would stay open for a later one.
    return min(fitting, key=lambda grant: (_SCOPES.index(grant.scope), grant.approval_id), default=None)


_SCOPES: tuple[GrantScope, ...] = ("once", "session", "pattern")


def _exceeded(request: DecisionRequest) -> tuple[BudgetFact, str] | None:
    """Return the budget that leaves least among those that do not hold the act, and why."""
    short = [(one, one.shortfall(request.cost)) for one in request.budgets]
    return min((pair for pair in short if pair[1]), key=lambda pair: (pair[0].left, pair[0].id), default=None)


def _reads(rule: Rule, reads: Callable[[str], bool]) -> bool:
    return any(reads(text) for text in (rule.condition, rule.unless) if text is not None)


def _redacts(rule: Rule, policy: PolicySet) -> bool:
    return policy.environment > 1 and "redact" in rule.parameters


def evaluate(group: Group, request: DecisionRequest, environment: int) -> Evaluation:
    """Return what each rule of the group gave, and the places of those that matched or erred, in order."""
    if not group.conditional:
        return group.all_matched, list(range(len(group.rules)))
    activation = cel.environment(environment).activation(variables(request, group.reads))
    try:
        matched = group.combination.hold(activation)
    except cel.EvaluationError:
        results = tuple(_evaluate_alone(rule, group, activation) for rule in group.rules)
        return results, [place for place, one in enumerate(results) if one.result != "not_matched"]
    # Rules without a condition are the constant true of the combination.
    held = list(compress(count(), matched))
    evaluated = list(group.none_matched)
    for place in held:
        evaluated[place] = group.all_matched[place]
    return tuple(evaluated), held


def _evaluate_alone(rule: Rule, group: Group, activation: cel.Activation) -> RuleResult:
    condition = group.conditions[rule.name]
    if condition is None:
        return RuleResult(rule.name, "matched")
    try:
        return RuleResult(rule.name, "matched" if condition.holds(activation) else "not_matched")
    except cel.EvaluationError as error:
        return RuleResult(rule.name, "error", str(error))


def _besides(whole: tuple[str, ...], broken: tuple[str, ...]) -> tuple[str, ...]:
    """Return what is only in the first; nothing where the second takes out all."""
    return () if "*" in broken else tuple(each for each in whole if each not in broken)


def _verdict(
    request: DecisionRequest, policy: PolicySet, found: _Found, evaluated: tuple[RuleResult, ...]
) -> Verdict:
    rule, outcome = found.rule, found.outcome
    exceeded = None
    if outcome != "deny" and request.budgets:
        exceeded = _exceeded(request)
    act = request.tool or request.model or request.subject_kind
    to_agent = ""
    if exceeded is not None:
        budget_fact, shortfall = exceeded
        rule, outcome, name = None, "deny", BUDGET_EXCEEDED
        reason = f"The budget {budget_fact.name} does not hold this: {shortfall}."
        to_agent = f"Denied: {reason}"
        to_people = reason
    elif request.taints and outcome in {"allow", "audit"}:
        rule, outcome, name = None, "deny", TAINTS_ACT_UNDER_WAY
        under_way = ", ".join(sorted(request.taints))
        reason = f"It may read what {under_way}, which is under way, was allowed only without."
        to_agent = f"Denied: {reason} Try again when that has ended."
        to_people = reason
    elif rule is None:
        name = NOTHING_MATCHED
        reason = (
            f"No rule of the policy covers {request.subject_kind} here, and what no rule covers is denied."
        )
        to_agent = f"Denied: no rule allows {act} here."
        to_people = reason
    elif found.erred:
        name = rule.name
        reason = f"The rule {name} could not be evaluated on this request: denied, and marked for review."
        to_agent = f"Denied: the rule {name} could not be evaluated on this request to {act}."
        to_people = reason
    elif found.covered:
        # The rule's messages are about acts that it holds up, and this one it lets pass.
        name = rule.name
        passed = "A person approved this act." if rule.outcome == "escalate" else "This act is within it."
        reason = to_people = f"{rule.sentence} {passed}"
    elif found.broken:
        name = rule.name
        reason = to_people = f"{rule.sentence} Break-glass lets this act pass."
    else:
        name, reason = rule.name, rule.sentence
        to_agent = rule.message_for_agent or _REFUSALS.get(outcome, "").format(reason)
        to_people = rule.message_for_people or reason
    goes_ahead = outcome in {"allow", "audit"}
    budget, cost = request.budget, request.cost
    left = None if budget.limit_micros is None else budget.limit_micros - budget.used_micros
    # A limit in another currency stands in its own, and then the act adds no money to it.
    foreign = bool(request.budgets) and left is not None and budget.currency != cost.currency
    micros = cost.micros if goes_ahead and not foreign else 0
    tokens = cost.tokens if goes_ahead else 0
    booked = cost if goes_ahead else Cost()
    return Verdict(
        outcome=outcome,
        rule=name,
        reason=reason,
        policy_hash=policy.content_hash,
        evaluated=evaluated,
        review=found.review,
        message_for_agent=to_agent,
        message_for_people=to_people,
        parameters={} if rule is None or found.erred else rule.parameters,
        currency=budget.currency if foreign else cost.currency,
        cost_limit_before=left,
        cost_limit_after=None if left is None else left - micros,
        resource_usage_before={"tokens": budget.used_tokens, "micros": budget.used_micros},
        resource_usage_after={"tokens": budget.used_tokens + tokens, "micros": budget.used_micros + micros},
        # Verdicts under sets of the first environment were recorded without it.
        rule_hash="" if rule is None or policy.environment == 1 else policy.rule_hashes[rule.name],
        budget=None if exceeded is None else exceeded[0].id,
        warnings=tuple(one.id for one in request.budgets if one.warns(booked)),
        retry_after_ms=found.retry_after_ms if outcome == "throttle" else None,
        grants=tuple(found.grants) if goes_ahead else (),
        consumed=tuple(found.consumed) if goes_ahead else (),
        left_out=tuple(sorted(found.left_out)) if goes_ahead else (),
        redact=tuple(sorted(found.redact)) if goes_ahead else (),
    )


_REFUSALS: Mapping[Outcome, str] = {
    "deny": "Denied: {}",
    "escalate": "Waiting for a person's approval: {}",
    "throttle": "Not now, later: {}",
}
# How many entries each field may have.
_MOST = {
    "roles": 50,
    "labels": 1000,
    "actor_labels": 1000,
    "taints": 1000,
    "findings": 1000,
    "teams": 200,
    "task_path": 64,
    "environment": 50,
    "budgets": 200,
    "grants": 200,
    "throttles": 2000,
}


def _money(micros: int) -> str:
    return f"{micros // 1_000_000:,}.{micros % 1_000_000:06}".rstrip("0").rstrip(".")


def _fact(fact: BudgetFact | GrantFact | GlassFact) -> dict[str, Any]:
    written: dict[str, Any] = _members(fact)
    for name, value in written.items():
        if isinstance(value, UUID):
            written[name] = str(value)
        elif isinstance(value, datetime):
            written[name] = value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return written


def _budget_fact(value: Mapping[str, Any]) -> BudgetFact:
    return BudgetFact(
        **{
            **value,
            "id": UUID(value["id"]),
            "period_start": datetime.fromisoformat(value["period_start"]),
            "period_end": datetime.fromisoformat(value["period_end"]) if value["period_end"] else None,
        }
    )


def _glass_fact(value: Mapping[str, Any]) -> GlassFact:
    return GlassFact(id=UUID(value["id"]), until=datetime.fromisoformat(value["until"]), by=value["by"])


def _members(facts: Any) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in _MEMBERS[type(facts)]}


def _check_amounts(facts: Cost | Budget | BudgetFact | Counters) -> None:
    for name in _AMOUNTS[type(facts).__name__]:
        amount = getattr(facts, name)
        if type(amount) is int and 0 <= amount <= SAFE_INTEGER:
            continue
        if amount is None and name.startswith("limit_"):
            continue
        full = f"{_GROUPS[type(facts).__name__]}.{name}"
        raise BadInput(f"{full} is {amount!r}; send a whole number from 0 to {SAFE_INTEGER}.", field=full)
    currency = getattr(facts, "currency", "USD")
    if not (isinstance(currency, str) and len(currency) == 3 and currency.isascii() and currency.isupper()):
        full = f"{_GROUPS[type(facts).__name__]}.currency"
        raise BadInput(f"{full} is {currency!r}; send an ISO 4217 code such as USD.", field=full)


_MEMBERS: Mapping[type, tuple[str, ...]] = {
    kind: tuple(member.name for member in fields(kind))
    for kind in (Cost, Budget, Counters, BudgetFact, GrantFact, GlassFact)
}
_AMOUNTS: Mapping[str, tuple[str, ...]] = {
    kind.__name__: tuple(member.name for member in fields(kind) if member.type in {int, int | None})
    for kind in (Cost, Budget, BudgetFact, Counters)
}
_GROUPS = {"Cost": "cost", "Budget": "budget", "BudgetFact": "budgets", "Counters": "counters"}
