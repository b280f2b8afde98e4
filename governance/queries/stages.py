"""How far a policy set is on its way from the draft into force and out of it: who did what, and when."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, get_args

from cartrita.eventstore import RecordedEvent
from governance.rulebook import (
    PolicyActivated,
    PolicyProposed,
    PolicyRetired,
    PolicyShadowed,
    PolicyTried,
    ProposalApproved,
    ProposalRejected,
    ProposalWithdrawn,
    RulesArranged,
    RuleWithdrawn,
    RuleWritten,
    ShadowEnded,
)

StageName = Literal[
    "draft", "validated", "tried", "back_tested", "proposed", "approved", "shadow", "active", "retired"
]
StageState = Literal["open", "now", "done", "failed", "skipped"]
STAGES: tuple[StageName, ...] = get_args(StageName)
# One of these lasts; the others are reached once.
LASTING: frozenset[StageName] = frozenset({"draft", "proposed", "shadow", "active"})
_OF_DRAFT = (RuleWritten, RuleWithdrawn, RulesArranged)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a set.

    `open` is what it has not reached, `now` where it is, `done` what it has been through, `failed` where
    somebody or a check stopped it, `skipped` what it went past without. `by` is a person (`user:<id>`) or
    `system`, empty where nobody did anything; `note` says in words what there is to say.
    """

    name: StageName
    state: StageState = "open"
    at: datetime | None = None
    by: str = ""
    note: str = ""


def stages_in(
    history: Sequence[RecordedEvent], policy_hash: str, *, is_draft: bool
) -> dict[StageName, Stage]:
    """Return the stages of a set as the events of the rulebook tell them; proposing it begins them anew."""
    stages: dict[StageName, Stage] = {name: Stage(name) for name in STAGES}
    written: RecordedEvent | None = None
    of_set: RecordedEvent | None = None
    for recorded in history:
        event = recorded.event
        if isinstance(event, _OF_DRAFT):
            written = recorded
        named = of_set is None and getattr(event, "policy_hash", "") == policy_hash
        if is_draft or named:
            of_set = written
        stages |= {stage.name: stage for stage in _changed(stages, recorded, policy_hash)}
    if of_set is not None:
        stages["draft"] = _stage("draft", "now" if is_draft else "done", of_set, of_set.actor)
    return stages


def with_skipped(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stages with those that a set went past, on its way into force, marked as skipped."""
    active = next(stage for stage in stages if stage.name == "active")
    if active.state not in {"now", "done"}:
        return tuple(stages)
    return tuple(
        replace(stage, state="skipped") if stage.state == "open" and stage.name != "retired" else stage
        for stage in stages
    )


def trials_stage(trials: Sequence[RecordedEvent]) -> Stage:
    """Return the stage in which a set is tried on past events."""
    tried = [each.event for each in trials if isinstance(each.event, PolicyTried)]
    if not tried:
        return Stage("tried")
    count, changed = (
        len({each.decision_id for each in tried}),
        {each.decision_id for each in tried if each.changed},
    )
    said = f"{count} past decision{'s' * (count != 1)} tried, {len(changed) or 'none'} would change"
    return _stage("tried", "done", trials[-1], tried[-1].by, said)


def _changed(stages: dict[StageName, Stage], recorded: RecordedEvent, policy_hash: str) -> tuple[Stage, ...]:
    """Return the stages that an event changes."""
    event = recorded.event
    if getattr(event, "policy_hash", "") == policy_hash:
        return _of_this(stages, recorded)
    match event:
        case PolicyProposed() if stages["proposed"].state == "now":
            return (_stage("proposed", "failed", recorded, event.by, "another set was proposed instead"),)
        case PolicyActivated() if stages["active"].state != "now":
            overtaken = "another set was put in force"
            return tuple(
                _stage(name, "failed", recorded, event.by, overtaken)
                for name in ("proposed", "approved")
                if stages[name].state == "now"
            )
        case PolicyActivated():
            # Rulebooks of before PolicyRetired was recorded.
            return (
                replace(stages["active"], state="done"),
                _stage("retired", "now", recorded, event.by, "another set took its place"),
            )
        case _:
            return ()


def _of_this(stages: dict[StageName, Stage], recorded: RecordedEvent) -> tuple[Stage, ...]:
    proposed, approved = stages["proposed"], stages["approved"]
    match recorded.event:
        case PolicyProposed() as event:
            again = (Stage("approved"), Stage("active"), Stage("retired"))
            return (_stage("proposed", "now", recorded, event.by, event.note), *again)
        case ProposalApproved() as event:
            return (
                replace(proposed, state="done"),
                _stage("approved", "now", recorded, event.by, event.note),
            )
        case ProposalRejected() as event:
            done = replace(proposed, state="done")
            return (done, _stage("approved", "failed", recorded, event.by, f"rejected: {event.reason}"))
        case ProposalWithdrawn() as event:
            return (_stage("proposed", "failed", recorded, event.by, "taken back"), Stage("approved"))
        case PolicyShadowed() as event:
            return (_stage("shadow", "now", recorded, event.by, event.note),)
        case ShadowEnded() as event:
            began = stages["shadow"]
            since = f"since {began.at:%Y-%m-%d %H:%M} UTC. " if began.at else ""
            return (_stage("shadow", "done", recorded, event.by, since + event.reason),)
        case PolicyActivated() as event:
            if proposed.state == "now" and event.proposed_by != event.by:
                approved = _stage("approved", "done", recorded, event.by, "by putting it in force")
            elif approved.state == "now":
                approved = replace(approved, state="done")
            if proposed.state == "now":
                proposed = replace(proposed, state="done")
            alone = " (alone: four eyes were off)" if event.alone else ""
            active = _stage("active", "now", recorded, event.by, (event.note + alone).strip())
            return (proposed, approved, active, Stage("retired"))
        case PolicyRetired() as event:
            retired = _stage("retired", "now", recorded, event.by, "another set took its place")
            return (replace(stages["active"], state="done"), retired)
        case _:
            return ()


def _stage(name: StageName, state: StageState, recorded: RecordedEvent, by: str, note: str = "") -> Stage:
    return Stage(name, state, recorded.recorded_at, by, note)
