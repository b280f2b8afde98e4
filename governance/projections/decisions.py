"""The read model of decisions, written with each of them: counters and settlements read it under locks."""

from typing import LiteralString

import orjson

from cartrita.eventstore import RecordedEvent, arrays, inline, load
from cartrita.eventstore.store import execute
from governance.decision import ActSettled, DecisionMade
from governance.models import PolicyDecision


@inline(DecisionMade, ActSettled, tables=[PolicyDecision])
def project_policy_decision(recorded: RecordedEvent) -> None:
    """Show a decision, and how its act ended as soon as that is recorded."""
    if isinstance(recorded.event, DecisionMade):
        _show(recorded, recorded.event)
    elif isinstance(recorded.event, ActSettled) and not _settle(recorded, recorded.event):
        # Homes of before have decisions that the log's follower had not reached.
        for made in load(recorded.stream_id, up_to_version=1):
            project_policy_decision(made)
        _settle(recorded, recorded.event)


def _show(recorded: RecordedEvent, event: DecisionMade) -> None:
    # Every step waits for this row: Django's insert takes twice as long as all else that is done for it.
    execute(
        _INSERT,
        [
            recorded.stream_id,
            recorded.recorded_at,
            recorded.workspace_id,
            recorded.session_id,
            event.subject_kind,
            event.tool,
            event.model,
            event.agent,
            event.outcome,
            event.rule,
            event.reason,
            event.review,
            event.cost_limit_before,
            event.cost_limit_after,
            event.currency,
            _json(event.resource_usage_before),
            _json(event.resource_usage_after),
            recorded.sealed["request"],
            _json({"actor": event.actor, "roles": event.roles}),
            recorded.key_id,
            event.policy_hash,
            arrays.texts(event.matched),
            arrays.texts(event.not_matched),
            arrays.texts(event.erred),
            event.message_for_agent,
            event.message_for_people,
            _json(event.parameters),
            event.rule_hash,
            _json([one.model_dump(mode="json") for one in event.reserved]),
            arrays.texts(event.possible_labels),
            arrays.uuids(event.grants),
            event.approval_id,
            event.retry_after_ms,
            event.requester_id,
            event.budget,
            arrays.uuids(event.warnings),
            event.at,
            recorded.trace_id,
        ],
    )


def _settle(recorded: RecordedEvent, event: ActSettled) -> bool:
    settled = execute(
        _SETTLE,
        [
            event.outcome,
            event.cost_micros,
            event.currency,
            event.tokens,
            event.estimated,
            arrays.texts(event.labels_added),
            recorded.recorded_at,
            recorded.stream_id,
        ],
    )
    return settled.rowcount > 0


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


_INSERT: LiteralString = """
    insert into policy_decisions (
        id, created_at, workspace_id, session_id, subject_kind, tool_name, model_name, agent_name,
        decision, policy_rule, reason, review, cost_limit_before, cost_limit_after, currency,
        resource_usage_before, resource_usage_after, request_context, user_context, key_id, policy_hash,
        matched, not_matched, erred, message_for_agent, message_for_people, parameters, rule_hash,
        reserved, possible_labels, grants, approval_id, retry_after_ms, requester_id, budget_id, warnings,
        decided_at, trace_id, act_outcome, act_currency, act_estimated, labels_added
    ) values (
        %b::uuid, %b::timestamptz, %b::uuid, %b::uuid, %b::text, %b::text, %b::text, %b::text,
        %b::text, %b::text, %b::text, %b::bool, %b::int8, %b::int8, %b::text,
        %b::text::jsonb, %b::text::jsonb, %b::text, %b::text::jsonb, %b::uuid, %b::text,
        %b::text[], %b::text[], %b::text[], %b::text, %b::text, %b::text::jsonb, %b::text,
        %b::text::jsonb, %b::text[], %b::uuid[], %b::uuid, %b::int8, %b::uuid, %b::uuid, %b::uuid[],
        %b::timestamptz, %b::text, '', '', false, '{}'
    )
"""
_SETTLE: LiteralString = """
    update policy_decisions set
        act_outcome = %b::text, act_cost_micros = %b::int8, act_currency = %b::text, act_tokens = %b::int8,
        act_estimated = %b::bool, labels_added = %b::text[], settled_at = %b::timestamptz
    where id = %b::uuid
"""
