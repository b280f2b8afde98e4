"""The examples of a policy: requests written with the names of conditions, decided and compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any
from uuid import UUID

from cartrita.errors import BadInput
from cartrita.eventstore.ids import derived_id
from governance import cel
from governance.decide import (
    Budget,
    BudgetFact,
    Cost,
    Counters,
    DecisionRequest,
    GlassFact,
    GrantFact,
    decide,
    tightest,
)
from governance.policy import Example, PolicySet, Rule
from governance.rule import ACT

_NOWHERE = UUID(int=0)
_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
_FOR_EVER = datetime(9999, 1, 1, tzinfo=UTC)
# What conditions read and nobody states, because it follows from the rest.
_DERIVED = frozenset({"budget.left_tokens", "budget.left_micros", "budget.left_percent", "budget.warned"})
_NAMES = (frozenset(cel.VARIABLES) | {"budgets", "throttles", "grants"}) - _DERIVED
_BUDGET_NAMES = (
    "name",
    "limit_tokens",
    "used_tokens",
    "limit_micros",
    "used_micros",
    "currency",
    "warn_percent",
)
_FIELDS = {
    "kind": "subject_kind",
    "args": "arguments",
    "model.name": "model",
    "tool.name": "tool",
    "tool.safety": "safety_level",
    "tool.definition": "definition_hash",
}


@dataclass(frozen=True, slots=True)
class ExampleFailure:
    """An example that the policy does not fulfil."""

    rule: str
    number: int
    message: str

    def __str__(self) -> str:
        return f"example {self.number} of rule {self.rule}: {self.message}"


def run_examples(policy: PolicySet) -> list[ExampleFailure]:
    """Decide every example of every rule.

    Return those whose outcome or deciding rule is another than they say.
    """
    failures = []
    for rule in policy.rules:
        for number, example in enumerate(rule.examples, start=1):
            message = _shortfall(policy, rule, example)
            if message:
                failures.append(ExampleFailure(rule.name, number, message))
    return failures


def request_from_names(given: Mapping[str, Any], policy: PolicySet | None = None) -> DecisionRequest:
    """Build a request from values under the names of conditions; what is not given is empty.

    Besides those names there are `budgets` (a list of {name, limit_tokens, used_tokens, limit_micros,
    used_micros, currency, warn_percent}, each where it is not the default), `throttles` (how many acts the
    bucket of a rule still holds, such as {slow-down: 0.5}) and `grants` (names of rules of `policy` that a
    person has approved the act under). With `break_glass: true` somebody has opened it. The time is noon of
    2026-01-01 UTC, so that an example gives the same on every day.

    Raises BadInput for unknown names, naming similar ones, and for values of other types.
    """
    for name in given:
        if name not in _NAMES:
            close = get_close_matches(str(name), _NAMES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known names: {', '.join(sorted(_NAMES))}"
            raise BadInput(f"{name} is not a known name; {hint}", field=str(name))
    if "kind" not in given:
        raise BadInput("kind is missing; say what is decided.", field="kind")
    fields: dict[str, Any] = {"workspace_id": _NOWHERE, "at": _NOON}
    amounts: dict[str, dict[str, Any]] = {"cost": {}, "budget": {}, "counters": {}}
    try:
        for name, value in given.items():
            group, _, member = name.partition(".")
            if group in amounts:
                amounts[group][member] = value
            elif name == "budgets":
                fields["budgets"] = tuple(_budget(one) for one in value)
            elif name == "throttles":
                fields["throttles"] = {rule: _level(rule, acts) for rule, acts in value.items()}
            elif name == "grants":
                fields["grants"] = tuple(_grant(rule, policy) for rule in value)
            elif name == "break_glass":
                fields["glass"] = _glass(value)
            else:
                fields.update(_field(name, value))
        stated = Budget(**amounts["budget"]) if amounts["budget"] else tightest(fields.get("budgets", ()))
        return DecisionRequest(
            **fields, cost=Cost(**amounts["cost"]), budget=stated, counters=Counters(**amounts["counters"])
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"The example's request is not valid: {error}", field="given") from None


def _budget(written: Mapping[str, Any]) -> BudgetFact:
    for name in written:
        if name not in _BUDGET_NAMES:
            raise BadInput(f"budgets has no {name}; known names: {', '.join(_BUDGET_NAMES)}", field="budgets")
    name = written.get("name", "workspace")
    return BudgetFact(
        **{
            **written,
            "id": derived_id(_NOWHERE, f"example:{name}"),
            "name": name,
            "scope_kind": "workspace",
            "scope": str(_NOWHERE),
            "period_start": _MIDNIGHT,
            "period_end": _MIDNIGHT + timedelta(days=1),
        }
    )


def _level(rule: str, acts: float) -> int:
    if type(acts) not in {int, float} or not 0 <= acts <= 1_000_000:
        raise BadInput(
            f"throttles.{rule} is {acts!r}; say how many acts the bucket still holds.", field="throttles"
        )
    return int(acts * ACT)


def _grant(rule: str, policy: PolicySet | None) -> GrantFact:
    version = None if policy is None else policy.rule_hashes.get(rule)
    if version is None:
        raise BadInput(f"grants names {rule!r}, which is no rule of this policy.", field="grants")
    return GrantFact(
        approval_id=derived_id(_NOWHERE, f"example:{rule}"), rule=rule, rule_hash=version, scope="once"
    )


def _glass(opened: Any) -> GlassFact | None:
    if type(opened) is not bool:
        raise BadInput(f"break_glass is {opened!r}; write true or false.", field="break_glass")
    if not opened:
        return None
    return GlassFact(id=derived_id(_NOWHERE, "example:break-glass"), until=_FOR_EVER, by="user:somebody")


def _field(name: str, value: Any) -> dict[str, Any]:
    match name:
        case "roles" | "labels" | "actor_labels" | "findings" | "teams":
            return {name: frozenset(value)}
        case "task_path":
            return {name: tuple(value)}
        case "workspace" | "session":
            return {f"{name}_id": UUID(value)}
        case "at":
            return {name: datetime.fromisoformat(value)}
        case _:
            return {_FIELDS.get(name, name): value}


def _shortfall(policy: PolicySet, rule: Rule, example: Example) -> str:
    try:
        verdict = decide(request_from_names(example.given, policy), policy)
    except BadInput as error:
        return error.message
    expected = example.by or rule.name
    if (verdict.outcome, verdict.rule) == (example.then, expected):
        return ""
    errors = "".join(f" ({one.rule}: {one.detail})" for one in verdict.evaluated if one.detail)
    return f"expected {example.then} by {expected}, got {verdict.outcome} by {verdict.rule}{errors}"
