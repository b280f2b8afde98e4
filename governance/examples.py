"""The examples of a policy: requests written with the names of conditions, decided and compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any
from uuid import UUID

from cartrita.errors import BadInput
from governance import cel
from governance.decide import Budget, Cost, Counters, DecisionRequest, decide
from governance.policy import Example, PolicySet, Rule

_NOWHERE = UUID(int=0)
_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_NAMES = frozenset(cel.VARIABLES) - {"budget.left_tokens", "budget.left_micros"}
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


def request_from_names(given: Mapping[str, Any]) -> DecisionRequest:
    """Build a request from values under the names of conditions; what is not given is empty.

    The time is noon of 2026-01-01 UTC, so that an example gives the same on every day.

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
            else:
                fields.update(_field(name, value))
        return DecisionRequest(
            **fields,
            cost=Cost(**amounts["cost"]),
            budget=Budget(**amounts["budget"]),
            counters=Counters(**amounts["counters"]),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"The example's request is not valid: {error}", field="given") from None


def _field(name: str, value: Any) -> dict[str, Any]:
    match name:
        case "roles" | "labels":
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
        verdict = decide(request_from_names(example.given), policy)
    except BadInput as error:
        return error.message
    expected = example.by or rule.name
    if (verdict.outcome, verdict.rule) == (example.then, expected):
        return ""
    errors = "".join(f" ({one.rule}: {one.detail})" for one in verdict.evaluated if one.detail)
    return f"expected {example.then} by {expected}, got {verdict.outcome} by {verdict.rule}{errors}"
