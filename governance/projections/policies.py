"""The read models of rulebooks: the draft's rules, the sets that were in force, and what is proposed."""

from typing import Any
from uuid import UUID

from cartrita.eventstore import RecordedEvent, derived_id, inline
from governance.models import PolicyRule, PolicyVersion, Rulebook
from governance.policy import Rule
from governance.rulebook import (
    PolicyActivated,
    PolicyProposed,
    PolicyRetired,
    PolicyShadowed,
    ProposalApproved,
    ProposalRejected,
    ProposalWithdrawn,
    RulesArranged,
    RuleWithdrawn,
    RuleWritten,
    ShadowEnded,
)


@inline(RuleWritten, RuleWithdrawn, tables=[PolicyRule])
def project_policy_rules(recorded: RecordedEvent) -> None:
    """Show each rule in its newest version, withdrawn ones too."""
    match recorded.event:
        case RuleWritten() as event:
            rule = Rule.model_construct(**event.definition)
            shown: dict[str, Any] = {
                "version": event.version,
                "priority": rule.priority,
                "outcome": rule.outcome,
                "sentence": rule.sentence,
                "definition": event.definition,
                "rule_hash": event.rule_hash,
                "withdrawn": False,
                "updated_at": recorded.recorded_at,
                "updated_by": recorded.actor,
            }
            row_id = _rule_id(recorded, event.rule)
            if event.version > 1:
                PolicyRule.objects.filter(id=row_id).update(**shown)
            else:
                PolicyRule.objects.create(
                    id=row_id, workspace_id=recorded.workspace_id, name=event.rule, **shown
                )
        case RuleWithdrawn() as event:
            PolicyRule.objects.filter(id=_rule_id(recorded, event.rule)).update(
                withdrawn=True, updated_at=recorded.recorded_at, updated_by=recorded.actor
            )
        case _:
            pass


@inline(PolicyActivated, PolicyShadowed, ShadowEnded, tables=[PolicyVersion])
def project_policy_versions(recorded: RecordedEvent) -> None:
    """Show the sets that were in force, which one is, and which one is in shadow beside it."""
    in_force = PolicyVersion.objects.filter(workspace_id=recorded.workspace_id, active=True)
    match recorded.event:
        case PolicyActivated() as event:
            former = in_force.first()
            # A set of before PolicyRetired was recorded is retired likewise.
            in_force.update(active=False, shadow_hash="", retired_at=recorded.recorded_at)
            PolicyVersion.objects.create(
                id=recorded.event_id,
                workspace_id=recorded.workspace_id,
                stream_version=recorded.version,
                policy=event.policy,
                policy_hash=event.policy_hash,
                rules=list(event.rules),
                by=event.by,
                proposed_by=event.proposed_by,
                approved_by=event.approved_by,
                alone=event.alone,
                note=event.note,
                active=True,
                activated_at=recorded.recorded_at,
                shadow_hash=former.shadow_hash if former else "",
            )
        case PolicyShadowed() as event:
            in_force.update(shadow_hash=event.policy_hash)
        case ShadowEnded():
            in_force.update(shadow_hash="")
        case _:
            pass


@inline(
    RuleWritten,
    RuleWithdrawn,
    RulesArranged,
    PolicyProposed,
    ProposalApproved,
    ProposalRejected,
    ProposalWithdrawn,
    PolicyShadowed,
    ShadowEnded,
    PolicyActivated,
    PolicyRetired,
    tables=[Rulebook],
)
def project_rulebooks(recorded: RecordedEvent) -> None:
    """Show how far each rulebook is, and what waits for a second person."""
    changes: dict[str, Any] = {"version": recorded.version}
    match recorded.event:
        case PolicyProposed() as event:
            changes |= {
                "proposed_hash": event.policy_hash,
                "proposed_by": event.by,
                "proposed_at": recorded.recorded_at,
            }
        case PolicyActivated():
            changes |= _NOTHING_WAITS
        case ProposalApproved() | ProposalRejected() | ProposalWithdrawn() as event:
            # What was approved before may end while another set waits.
            waiting = Rulebook.objects.filter(id=recorded.stream_id, proposed_hash=event.policy_hash)
            waiting.update(**_NOTHING_WAITS)
        case _:
            pass
    if recorded.version > 1:
        Rulebook.objects.filter(id=recorded.stream_id).update(**changes)
    else:
        Rulebook.objects.create(id=recorded.stream_id, workspace_id=recorded.workspace_id, **changes)


_NOTHING_WAITS: dict[str, Any] = {"proposed_hash": "", "proposed_by": "", "proposed_at": None}


def _rule_id(recorded: RecordedEvent, rule: str) -> UUID:
    return derived_id(recorded.stream_id, f"rule:{rule}")
