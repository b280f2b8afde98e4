"""Policies and requests for tests."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import yaml

from governance.cel import ENVIRONMENT_VERSION
from governance.decide import DecisionRequest
from governance.policy import PolicySet, load_policy

WORKSPACE = UUID("018f0000-0000-7000-8000-000000000001")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def rule(name: str, outcome: str = "deny", condition: str | None = None, **more: Any) -> dict[str, Any]:
    written = {
        "name": name,
        "sentence": f"Sentence of {name}.",
        "match": {"kinds": ["tool_call"]},
        "outcome": outcome,
        **more,
    }
    return written if condition is None else {**written, "condition": condition}


def policy(*rules: dict[str, Any]) -> PolicySet:
    # As stored text, which reads faster than YAML.
    return load_policy(
        json.dumps(
            {"environment": ENVIRONMENT_VERSION, "policy": "test", "rules": rules}, separators=(",", ":")
        )
    )


def yaml_policy(*rules: dict[str, Any]) -> PolicySet:
    return load_policy(yaml.safe_dump({"policy": "test", "rules": list(rules)}, sort_keys=False))


def request(**more: Any) -> DecisionRequest:
    given: dict[str, Any] = {
        "subject_kind": "tool_call",
        "workspace_id": WORKSPACE,
        "at": NOON,
        "actor": "user:1",
        "tool": "calculate",
        "safety_level": "safe",
        "arguments": {"expression": "1 + 1"},
    }
    return DecisionRequest(**{**given, **more})
