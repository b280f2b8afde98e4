"""The read model of decisions, written with each of them: counters and settlements read it under locks."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import orjson

from cartrita.eventstore import RecordedEvent, arrays, inline_batched, load
from cartrita.eventstore.store import execute
from cartrita.eventstore.together import Command, Recurring
from governance.decision import ActSettled, DecisionMade
from governance.models import PolicyDecision

Row = dict[str, Any]


def commands_of_decisions(batch: Sequence[RecordedEvent]) -> list[Command]:
    """Return the statements that `project_policy_decision` needs for decisions that have their rows.

    Those of a step have: what it settles it has read before. Small statements with ready values take a
    third of what one for all takes, of the server and here.
    """
    commands: list[Command] = []
    for recorded in batch:
        if isinstance(recorded.event, DecisionMade):
            row = _made(recorded, recorded.event)
            commands.append((_INSERT, [pack(row[name]) for name, pack in _PACKERS.items()]))
        elif isinstance(recorded.event, ActSettled):
            row = _settled(recorded, recorded.event)
            commands.append((_SETTLE, [_PACKERS[name](row[name]) for name in _SETTLED]))
    return commands


@inline_batched(DecisionMade, ActSettled, tables=[PolicyDecision], commands=commands_of_decisions)
def project_policy_decision(batch: Sequence[RecordedEvent]) -> None:
    """Show decisions, and how their acts ended as soon as that is recorded."""
    made: dict[UUID, Row] = {}
    settled: dict[UUID, Row] = {}
    for recorded in batch:
        if isinstance(recorded.event, DecisionMade):
            made[recorded.stream_id] = _made(recorded, recorded.event)
        elif isinstance(recorded.event, ActSettled):
            row = _settled(recorded, recorded.event)
            if recorded.stream_id in made:
                made[recorded.stream_id] |= row
            else:
                settled[recorded.stream_id] = row
    shown = _write(made, settled)
    missing = settled.keys() - shown
    if missing:
        # Homes of before have decisions that the log's follower had not reached.
        project_policy_decision(
            [one for decision_id in missing for one in load(decision_id, up_to_version=1)]
        )
        _write({}, {decision_id: settled[decision_id] for decision_id in missing})


def _write(made: dict[UUID, Row], settled: dict[UUID, Row]) -> set[UUID]:
    """Write rows and outcomes; return the decisions that have a row for their outcome."""
    # Every step waits for this: one statement for all, and JSON because thirty parameters cost more to pack.
    parameters = [
        orjson.dumps([*rows.values()], option=orjson.OPT_UTC_Z).decode() for rows in (made, settled)
    ]
    return {decision_id for (decision_id,) in execute(_WRITE, parameters)}


def _made(recorded: RecordedEvent, event: DecisionMade) -> Row:
    return {
        "id": recorded.stream_id,
        "created_at": recorded.recorded_at,
        "workspace_id": recorded.workspace_id,
        "session_id": recorded.session_id,
        "subject_kind": event.subject_kind,
        "tool_name": event.tool,
        "model_name": event.model,
        "agent_name": event.agent,
        "decision": event.outcome,
        "policy_rule": event.rule,
        "reason": event.reason,
        "review": event.review,
        "cost_limit_before": event.cost_limit_before,
        "cost_limit_after": event.cost_limit_after,
        "currency": event.currency,
        "resource_usage_before": event.resource_usage_before,
        "resource_usage_after": event.resource_usage_after,
        "request_context": recorded.sealed["request"],
        "user_context": {"actor": event.actor, "roles": event.roles},
        "key_id": recorded.key_id,
        "policy_hash": event.policy_hash,
        "matched": event.matched,
        "not_matched": event.not_matched,
        "erred": event.erred,
        "message_for_agent": event.message_for_agent,
        "message_for_people": event.message_for_people,
        "parameters": event.parameters,
        "rule_hash": event.rule_hash,
        "reserved": [vars(one) for one in event.reserved],
        "possible_labels": event.possible_labels,
        "grants": event.grants,
        "approval_id": event.approval_id,
        "retry_after_ms": event.retry_after_ms,
        "requester_id": event.requester_id,
        "budget_id": event.budget,
        "warnings": event.warnings,
        "redact": event.redact,
        "findings": event.findings,
        "glass_id": event.glass_id,
        "unbroken_outcome": event.without_glass[0],
        "unbroken_rule": event.without_glass[1],
        "shadow_hash": event.shadow_hash,
        "shadow_outcome": event.shadow_outcome,
        "shadow_rule": event.shadow_rule,
        "decided_at": event.at,
        "trace_id": recorded.trace_id,
        "act_outcome": "",
        "act_cost_micros": None,
        "act_currency": "",
        "act_tokens": None,
        "act_estimated": False,
        "labels_added": (),
        "settled_at": None,
    }


def _settled(recorded: RecordedEvent, event: ActSettled) -> Row:
    return {
        "id": recorded.stream_id,
        "act_outcome": event.outcome,
        "act_cost_micros": event.cost_micros,
        "act_currency": event.currency,
        "act_tokens": event.tokens,
        "act_estimated": event.estimated,
        "labels_added": event.labels_added,
        "settled_at": recorded.recorded_at,
    }


def _uuid(value: UUID | None) -> bytes | None:
    return None if value is None else value.bytes


def _text(value: str) -> bytes:
    return value.encode()


def _time(value: datetime | None) -> bytes | None:
    return None if value is None else arrays.time(value)


def _number(value: int | None) -> bytes | None:
    return None if value is None else value.to_bytes(8, "big", signed=True)


def _truth(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def _json(value: Any) -> bytes:
    # The version of jsonb's binary format, and the text.
    return b"\1" + orjson.dumps(value, option=orjson.OPT_UTC_Z)


# How each column of a decision's row is written.
_PACKERS: dict[str, Callable[[Any], bytes | None]] = {
    "id": _uuid,
    "created_at": _time,
    "workspace_id": _uuid,
    "session_id": _uuid,
    "subject_kind": _text,
    "tool_name": _text,
    "model_name": _text,
    "agent_name": _text,
    "decision": _text,
    "policy_rule": _text,
    "reason": _text,
    "review": _truth,
    "cost_limit_before": _number,
    "cost_limit_after": _number,
    "currency": _text,
    "resource_usage_before": _json,
    "resource_usage_after": _json,
    "request_context": _text,
    "user_context": _json,
    "key_id": _uuid,
    "policy_hash": _text,
    "matched": arrays.texts,
    "not_matched": arrays.texts,
    "erred": arrays.texts,
    "message_for_agent": _text,
    "message_for_people": _text,
    "parameters": _json,
    "rule_hash": _text,
    "reserved": _json,
    "possible_labels": arrays.texts,
    "grants": arrays.uuids,
    "approval_id": _uuid,
    "retry_after_ms": _number,
    "requester_id": _uuid,
    "budget_id": _uuid,
    "warnings": arrays.uuids,
    "redact": arrays.texts,
    "findings": arrays.texts,
    "glass_id": _uuid,
    "unbroken_outcome": _text,
    "unbroken_rule": _text,
    "shadow_hash": _text,
    "shadow_outcome": _text,
    "shadow_rule": _text,
    "decided_at": _time,
    "trace_id": _text,
    "act_outcome": _text,
    "act_cost_micros": _number,
    "act_currency": _text,
    "act_tokens": _number,
    "act_estimated": _truth,
    "labels_added": arrays.texts,
    "settled_at": _time,
}
_TYPES: dict[Any, LiteralString] = {
    _uuid: "uuid",
    _text: "text",
    _time: "timestamptz",
    _number: "int8",
    _truth: "bool",
    _json: "jsonb",
    arrays.texts: "text[]",
    arrays.uuids: "uuid[]",
}
_INSERT = Recurring(
    "insert into policy_decisions ("  # noqa: S608 # constants alone
    + ", ".join(_PACKERS)
    + ") values ("
    + ", ".join([f"%b::{_TYPES[pack]}" for pack in _PACKERS.values()])
    + ")"
)
_SETTLE = Recurring("""
    update policy_decisions set
        act_outcome = %b::text, act_cost_micros = %b::int8, act_currency = %b::text, act_tokens = %b::int8,
        act_estimated = %b::bool, labels_added = %b::text[], settled_at = %b::timestamptz
    where id = %b::uuid
""")
_SETTLED = (
    "act_outcome",
    "act_cost_micros",
    "act_currency",
    "act_tokens",
    "act_estimated",
    "labels_added",
    "settled_at",
    "id",
)
_WRITE: LiteralString = """
    with made as (
        insert into policy_decisions
        select * from json_populate_recordset(null::policy_decisions, %b::text::json)
    )
    update policy_decisions held set
        act_outcome = new.act_outcome, act_cost_micros = new.act_cost_micros,
        act_currency = new.act_currency, act_tokens = new.act_tokens, act_estimated = new.act_estimated,
        labels_added = new.labels_added, settled_at = new.settled_at
    from json_populate_recordset(null::policy_decisions, %b::text::json) new
    where held.id = new.id
    returning held.id
"""
