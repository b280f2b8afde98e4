"""The read model of decisions, written with each of them: counters and settlements read it under locks."""

from cartrita.eventstore import RecordedEvent, inline, load
from governance.decision import ActSettled, DecisionMade
from governance.models import PolicyDecision


@inline(DecisionMade, ActSettled, tables=[PolicyDecision])
def project_policy_decision(recorded: RecordedEvent) -> None:
    """Show a decision, and how its act ended as soon as that is recorded."""
    if isinstance(recorded.event, DecisionMade):
        PolicyDecision.objects.bulk_create([_row(recorded, recorded.event)])
    elif isinstance(recorded.event, ActSettled) and not _settle(recorded, recorded.event):
        # Homes of before have decisions that the log's follower had not reached.
        for made in load(recorded.stream_id, up_to_version=1):
            project_policy_decision(made)
        _settle(recorded, recorded.event)


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
        rule_hash=event.rule_hash,
        reserved=[one.model_dump(mode="json") for one in event.reserved],
        possible_labels=list(event.possible_labels),
        grants=list(event.grants),
        approval_id=event.approval_id,
        retry_after_ms=event.retry_after_ms,
        requester_id=event.requester_id,
        budget_id=event.budget,
        warnings=list(event.warnings),
        decided_at=event.at,
        trace_id=recorded.trace_id,
    )


def _settle(recorded: RecordedEvent, event: ActSettled) -> bool:
    settled = PolicyDecision.objects.filter(id=recorded.stream_id).update(
        act_outcome=event.outcome,
        act_cost_micros=event.cost_micros,
        act_currency=event.currency,
        act_tokens=event.tokens,
        act_estimated=event.estimated,
        labels_added=list(event.labels_added),
        settled_at=recorded.recorded_at,
    )
    return bool(settled)
