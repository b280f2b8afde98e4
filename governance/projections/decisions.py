"""The read model of decisions follows the log."""

from collections.abc import Sequence

from cartrita.eventstore import RecordedEvent, following
from governance.decision import ActSettled, DecisionMade
from governance.models import PolicyDecision

_SETTLED = (
    "act_outcome",
    "act_cost_micros",
    "act_currency",
    "act_tokens",
    "act_estimated",
    "labels_added",
    "settled_at",
)


@following("governance.policy_decisions", DecisionMade, ActSettled, tables=[PolicyDecision])
def project_policy_decisions(batch: Sequence[RecordedEvent]) -> None:
    """Show each decision, and how its act ended as soon as that is recorded."""
    made: dict[object, PolicyDecision] = {}
    settled_before: list[PolicyDecision] = []
    for recorded in batch:
        if isinstance(recorded.event, DecisionMade):
            made[recorded.stream_id] = _row(recorded, recorded.event)
        elif isinstance(recorded.event, ActSettled):
            row = made.get(recorded.stream_id)
            if row is None:
                row = PolicyDecision(id=recorded.stream_id)
                settled_before.append(row)
            _settle(row, recorded, recorded.event)
    PolicyDecision.objects.bulk_create(made.values())
    PolicyDecision.objects.bulk_update(settled_before, _SETTLED)


def _row(recorded: RecordedEvent, event: DecisionMade) -> PolicyDecision:
    return PolicyDecision(
        id=recorded.stream_id,
        created_at=recorded.recorded_at,
        workspace_id=recorded.workspace_id,
        session_id=recorded.session_id,
        subject_kind=event.subject_kind,
        tool_name=event.tool,
        model_name=event.model,
        agent_name=event.agent,
        decision=event.outcome,
        policy_rule=event.rule,
        reason=event.reason,
        review=event.review,
        cost_limit_before=event.cost_limit_before,
        cost_limit_after=event.cost_limit_after,
        currency=event.currency,
        resource_usage_before=event.resource_usage_before,
        resource_usage_after=event.resource_usage_after,
        request_context=recorded.sealed["request"],
        user_context={"actor": event.actor, "roles": list(event.roles)},
        key_id=recorded.key_id,
        policy_hash=event.policy_hash,
        matched=list(event.matched),
        not_matched=list(event.not_matched),
        erred=list(event.erred),
        message_for_agent=event.message_for_agent,
        message_for_people=event.message_for_people,
        parameters=event.parameters,
        decided_at=event.at,
        trace_id=recorded.trace_id,
    )


def _settle(row: PolicyDecision, recorded: RecordedEvent, event: ActSettled) -> None:
    row.act_outcome = event.outcome
    row.act_cost_micros = event.cost_micros
    row.act_currency = event.currency
    row.act_tokens = event.tokens
    row.act_estimated = event.estimated
    row.labels_added = list(event.labels_added)
    row.settled_at = recorded.recorded_at
