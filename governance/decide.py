"""Decide, purely: the same request under the same policy gives the same verdict, for ever."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from itertools import compress, count
from typing import Any, Literal, Self, get_args
from uuid import UUID

from cartrita.errors import BadInput
from governance import cel
from governance.canonical import SAFE_INTEGER, canonical, fingerprint
from governance.policy import Group, Outcome, PolicySet, Rule, RuleResult, SubjectKind

SafetyLevel = Literal["", "safe", "caution", "restricted"]

# The rule that a verdict names when no rule of the set matched.
NOTHING_MATCHED = "nothing-matched"

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

    def __post_init__(self) -> None:
        if self.subject_kind not in get_args(SubjectKind):
            known = ", ".join(get_args(SubjectKind))
            raise BadInput(
                f"subject_kind is {self.subject_kind!r}; use one of {known}.", field="subject_kind"
            )
        if self.safety_level not in get_args(SafetyLevel):
            raise BadInput(
                f"safety_level is {self.safety_level!r}; use safe, caution or restricted.",
                field="safety_level",
            )
        if self.at.tzinfo is None:
            raise BadInput("at has no time zone; send an aware datetime.", field="at")
        names = [self.actor, self.agent, self.model, self.tool, self.definition_hash, *self.task_path]
        canonical([*names, *self.roles, *self.labels], "request")
        for name in (*names, *self.roles, *self.labels):
            if len(name) > 200:
                raise BadInput(
                    f"{name[:40]}… has more than 200 characters; send a shorter name.", field="request"
                )
        for field_name, largest in (("roles", 50), ("labels", 200), ("task_path", 64), ("environment", 50)):
            if len(getattr(self, field_name)) > largest:
                raise BadInput(f"{field_name} has more than {largest} entries; send fewer.", field=field_name)
        set_once = object.__setattr__
        set_once(self, "arguments", canonical(dict(self.arguments), "arguments"))
        set_once(self, "environment", canonical(dict(self.environment), "environment"))
        set_once(self, "at", self.at.astimezone(UTC))

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
    ) -> Self:
        """Build the request for one act within the caller's surroundings; `labels` join theirs."""
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
        )

    @cached_property
    def as_json(self) -> dict[str, Any]:
        """The exact request as canonical JSON; `from_json` gives an equal request back."""
        return {
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
            }
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the exact request in RFC 8785 form: what a permit is bound to."""
        return fingerprint(self.as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer of one decision.

    `rule` decided; `evaluated` are all rules whose match took in the request, in order of priority. `review`
    marks the decision for a person's review (a matching audit rule, or a rule that erred).
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

    @property
    def allowed(self) -> bool:
        """Whether the act may go ahead now."""
        return self.outcome in {"allow", "audit"}


def decide(request: DecisionRequest, policy: PolicySet) -> Verdict:
    """Return the policy's verdict on a request.

    The most severe outcome of the matching rules decides (deny > escalate > throttle > audit > allow), among
    equals the lowest priority number, then the order of the file. A rule that errs counts as deny and is
    named. Without a matching rule the answer is deny.
    """
    group = policy.group(
        kind=request.subject_kind,
        tool=request.tool,
        model=request.model,
        agent=request.agent,
        roles=request.roles,
        workspace=str(request.workspace_id),
    )
    evaluated, held = _evaluate(group, request)
    deciding: Rule | None = None
    severity = -1
    erred = review = False
    for place in held:
        rule = group.rules[place]
        failed = evaluated[place].result == "error"
        review = review or failed or rule.outcome == "audit"
        weight = SEVERITY["deny"] if failed else SEVERITY[rule.outcome]
        # Rules of a group are in order of priority, so the first of a severity is the one to name.
        if weight > severity:
            deciding, severity, erred = rule, weight, failed
    return _verdict(request, policy, deciding, erred=erred, review=review, evaluated=evaluated)


def variables(request: DecisionRequest) -> dict[str, Any]:
    """Return the request under the names that conditions read (`governance.cel.VARIABLES`)."""
    cost, budget, counters = request.cost, request.budget, request.counters
    limit_tokens = UNLIMITED if budget.limit_tokens is None else budget.limit_tokens
    limit_micros = UNLIMITED if budget.limit_micros is None else budget.limit_micros
    return {
        "kind": request.subject_kind,
        "actor": request.actor,
        "agent": request.agent,
        "roles": sorted(request.roles),
        "workspace": str(request.workspace_id),
        "session": str(request.session_id) if request.session_id else "",
        "task_path": list(request.task_path),
        "model.name": request.model,
        "tool.name": request.tool,
        "tool.safety": request.safety_level,
        "tool.definition": request.definition_hash,
        "args": request.arguments,
        "labels": sorted(request.labels),
        "cost.tokens": cost.tokens,
        "cost.micros": cost.micros,
        "cost.currency": cost.currency,
        "budget.limit_tokens": limit_tokens,
        "budget.used_tokens": budget.used_tokens,
        "budget.left_tokens": limit_tokens - budget.used_tokens,
        "budget.limit_micros": limit_micros,
        "budget.used_micros": budget.used_micros,
        "budget.left_micros": limit_micros - budget.used_micros,
        "counters.calls_last_minute": counters.calls_last_minute,
        "counters.failures_last_5_minutes": counters.failures_last_5_minutes,
        "counters.repeats": counters.repeats,
        "environment": request.environment,
        "at": request.at,
    }


def _evaluate(group: Group, request: DecisionRequest) -> tuple[tuple[RuleResult, ...], list[int]]:
    """Return what each rule of the group gave, and the places of those that matched or erred, in order."""
    if not group.conditional:
        return group.all_matched, list(range(len(group.rules)))
    activation = cel.activation(variables(request))
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


def _verdict(
    request: DecisionRequest,
    policy: PolicySet,
    deciding: Rule | None,
    *,
    erred: bool,
    review: bool,
    evaluated: tuple[RuleResult, ...],
) -> Verdict:
    outcome: Outcome = "deny" if erred or deciding is None else deciding.outcome
    act = request.tool or request.model or request.subject_kind
    if deciding is None:
        name = NOTHING_MATCHED
        reason = (
            f"No rule of the policy covers {request.subject_kind} here, and what no rule covers is denied."
        )
        to_agent = f"Denied: no rule allows {act} here."
        to_people = reason
    elif erred:
        name = deciding.name
        reason = f"The rule {name} could not be evaluated on this request: denied, and marked for review."
        to_agent = f"Denied: the rule {name} could not be evaluated on this request to {act}."
        to_people = reason
    else:
        name = deciding.name
        reason = deciding.sentence
        to_agent = deciding.message_for_agent or (
            "" if outcome in {"allow", "audit"} else f"Denied: {reason}"
        )
        to_people = deciding.message_for_people or reason
    goes_ahead = outcome in {"allow", "audit"}
    budget, cost = request.budget, request.cost
    left = None if budget.limit_micros is None else budget.limit_micros - budget.used_micros
    return Verdict(
        outcome=outcome,
        rule=name,
        reason=reason,
        policy_hash=policy.content_hash,
        evaluated=evaluated,
        review=review,
        message_for_agent=to_agent,
        message_for_people=to_people,
        parameters={} if deciding is None or erred else deciding.parameters,
        currency=cost.currency,
        cost_limit_before=left,
        cost_limit_after=left - cost.micros if left is not None and goes_ahead else left,
        resource_usage_before={"tokens": budget.used_tokens, "micros": budget.used_micros},
        resource_usage_after={
            "tokens": budget.used_tokens + (cost.tokens if goes_ahead else 0),
            "micros": budget.used_micros + (cost.micros if goes_ahead else 0),
        },
    )


def _members(facts: Cost | Budget | Counters) -> dict[str, int | str | None]:
    return {member.name: getattr(facts, member.name) for member in fields(facts)}


def _check_amounts(facts: Cost | Budget | Counters) -> None:
    for member in fields(facts):
        amount = getattr(facts, member.name)
        name = f"{type(facts).__name__.lower()}.{member.name}"
        if member.name == "currency":
            if not (isinstance(amount, str) and len(amount) == 3 and amount.isascii() and amount.isupper()):
                raise BadInput(f"{name} is {amount!r}; send an ISO 4217 code such as USD.", field=name)
        elif amount is None and member.name.startswith("limit_"):
            continue
        elif type(amount) is not int or not 0 <= amount <= SAFE_INTEGER:
            raise BadInput(f"{name} is {amount!r}; send a whole number from 0 to {SAFE_INTEGER}.", field=name)
