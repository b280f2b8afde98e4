"""A workspace's rulebook: its rules, version by version, and which set of them is in force. Pure.

Changes gather in a draft. Compiled it is a set with one content hash, which is proposed, approved by a second
person, evaluated in shadow, put in force and retired; until then the set in force decides. The stream is
`rulebook_id(workspace_id)`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field, ValidationError

from cartrita.errors import BadInput, Conflict, NotAllowed, NotFound, TooLarge
from cartrita.eventstore.canonical import canonical_json
from cartrita.eventstore.ids import derived_id
from cartrita.eventstore.types import Event
from governance.four_eyes import FourEyes
from governance.policy import (
    MOST_RULES,
    Outcome,
    PolicyNotValid,
    PolicySet,
    Problem,
    Rule,
    compile_policy,
    definition_of,
    rule_hash,
)

AUTHORS: frozenset[str] = frozenset({"policy_author", "admin"})
# Whose leave counts as the second pair of eyes, and two of whom switch four eyes on.
APPROVERS: frozenset[str] = AUTHORS | {"reviewer"}

SYSTEM = "system"
LONGEST_NOTE = 2000
# An event holds 64 KiB.
LARGEST_DEFINITION = 48 * 1024


class RuleWritten(Event):
    """A rule of the draft was added or changed: version 1 is its first.

    `definition` is the rule's canonical JSON with its examples; `rule_hash` its SHA-256 without them.
    """

    type_name: ClassVar[str] = "governance.RuleWritten"

    rule: str
    version: int = Field(ge=1)
    definition: dict[str, Any]
    rule_hash: str


class RuleWithdrawn(Event):
    """A rule was taken out of the draft."""

    type_name: ClassVar[str] = "governance.RuleWithdrawn"

    rule: str


class RulesArranged(Event):
    """An import gave the draft its name, and its rules their order among those of equal priority."""

    type_name: ClassVar[str] = "governance.RulesArranged"

    policy: str
    rules: tuple[str, ...]


class PolicyProposed(Event):
    """Somebody asks a second person to put the set with this hash in force: the draft, or an earlier set.

    The set's canonical text stands in the blob of this hash.
    """

    type_name: ClassVar[str] = "governance.PolicyProposed"

    policy_hash: str
    by: str
    note: str = ""

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of the set's text."""
        return (self.policy_hash,)


class ProposalApproved(Event):
    """A second person gave their leave: exactly the set of this hash may be put in force.

    It takes the place of the leave of somebody who holds no approving role any more.
    """

    type_name: ClassVar[str] = "governance.ProposalApproved"

    policy_hash: str
    by: str
    note: str = ""


class ProposalRejected(Event):
    """Somebody refused a set that was proposed or approved, and said why."""

    type_name: ClassVar[str] = "governance.ProposalRejected"

    policy_hash: str
    by: str
    reason: str


class ProposalWithdrawn(Event):
    """Who proposed a set took that back."""

    type_name: ClassVar[str] = "governance.ProposalWithdrawn"

    policy_hash: str
    by: str


class PolicyShadowed(Event):
    """A set is evaluated beside every decision from now on, recorded and not enforced.

    The set's canonical text stands in the blob of this hash.
    """

    type_name: ClassVar[str] = "governance.PolicyShadowed"

    policy_hash: str
    by: str
    note: str = ""

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of the set's text."""
        return (self.policy_hash,)


class ShadowEnded(Event):
    """A set is evaluated beside decisions no more."""

    type_name: ClassVar[str] = "governance.ShadowEnded"

    policy_hash: str
    by: str
    reason: str = ""


class PolicyActivated(Event):
    """A set is in force: from the draft, or an earlier one again.

    `text_sha256` names the blob with the canonical text. `by` put it in force, `proposed_by` asked for it,
    `approved_by` gave leave before; `alone` says that nobody else than `by` had a say in it.
    """

    type_name: ClassVar[str] = "governance.PolicyActivated"

    policy: str
    policy_hash: str
    text_sha256: str
    rules: tuple[str, ...]
    by: str
    proposed_by: str = ""
    alone: bool = False
    note: str = ""
    approved_by: str = ""

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of the set's text."""
        return (self.text_sha256,)


class PolicyTried(Event):
    """Somebody decided a past request under a set, to see what it says; the stream is `trials_id`.

    `outcome` and `rule` are what it says, `changed` that this is not what was decided.
    """

    type_name: ClassVar[str] = "governance.PolicyTried"

    policy_hash: str
    decision_id: UUID
    by: str
    changed: bool
    outcome: Outcome
    rule: str


class PolicyRetired(Event):
    """A set is in force no more: another one took its place. It stays known, and may be proposed again."""

    type_name: ClassVar[str] = "governance.PolicyRetired"

    policy_hash: str
    by: str


class UnknownRule(NotFound):
    """The draft has no rule of that name."""

    code: ClassVar[str] = "unknown_rule"


class UnknownPolicy(NotFound):
    """No policy set of that hash is known here."""

    code: ClassVar[str] = "unknown_policy"


class MayNotChangePolicy(NotAllowed):
    """The caller holds no role that may do this to the rules."""

    code: ClassVar[str] = "may_not_change_policy"


class SecondPersonNeeded(NotAllowed):
    """Four eyes are on: one person proposes a set, another puts it in force."""

    code: ClassVar[str] = "second_person_needed"


class AlreadyInForce(Conflict):
    """The set decides already."""

    code: ClassVar[str] = "already_in_force"


class NotProposed(NotFound):
    """No such set waits for a second person."""

    code: ClassVar[str] = "not_proposed"


class ProposalEnded(Conflict):
    """The proposal waits no more: `details["by"]` was quicker."""

    code: ClassVar[str] = "proposal_ended"


class AlreadyApproved(Conflict):
    """The set has a second person's leave: `details["by"]` gave it."""

    code: ClassVar[str] = "already_approved"


class AlreadyInShadow(Conflict):
    """The set is evaluated beside decisions: `details["by"]` asked for that."""

    code: ClassVar[str] = "already_in_shadow"


class NotInShadow(Conflict):
    """The set is not evaluated beside decisions; who ended that, if anybody, is `details["by"]`."""

    code: ClassVar[str] = "not_in_shadow"


class RuleTooLarge(TooLarge):
    """A rule is larger than an event can hold."""

    code: ClassVar[str] = "rule_too_large"


@dataclass(frozen=True, slots=True)
class WrittenRule:
    """A rule in its newest version; a withdrawn one keeps counting its versions."""

    version: int
    definition: Mapping[str, Any]
    rule_hash: str
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Proposal:
    """A set that waits for a second person."""

    policy_hash: str
    by: str
    note: str


@dataclass(frozen=True, slots=True)
class Leave:
    """A proposed set that a second person approved; it holds until any set is put in force."""

    policy_hash: str
    proposed_by: str
    by: str

    def stands(self, holders: Collection[str]) -> bool:
        """Tell whether both hold an approving role still: `holders` do."""
        return self.by in holders and self.proposed_by in holders


@dataclass(frozen=True, slots=True)
class Shadow:
    """The set that is evaluated beside decisions, and who asked for that."""

    policy_hash: str
    by: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a proposal ended, or a time in shadow, and through whom."""

    how: Literal["rejected", "withdrawn", "replaced", "overtaken", "ended"]
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rulebook:
    """A rulebook as its events tell it.

    `order` names the draft's rules; `in_force` are the hashes of all sets that were in force, newest last,
    and `activated_by` put the last one there. `approved` are the sets that may be put in force, and `ended`
    the proposals that wait no more, both by hash. `shadowed` are the hashes of all sets that were in shadow,
    and `unshadowed` is how the last time in shadow ended.
    """

    policy: str = "policy"
    rules: Mapping[str, WrittenRule] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    proposal: Proposal | None = None
    in_force: tuple[str, ...] = ()
    activated_by: str = ""
    approved: Mapping[str, Leave] = field(default_factory=dict)
    ended: Mapping[str, Ended] = field(default_factory=dict)
    shadow: Shadow | None = None
    shadowed: frozenset[str] = frozenset()
    unshadowed: Ended | None = None

    @property
    def active_hash(self) -> str:
        """The hash of the set that decides, empty before the first."""
        return self.in_force[-1] if self.in_force else ""

    @property
    def stored(self) -> frozenset[str]:
        """The hashes of all sets whose text is stored, because something happened to them."""
        proposed = () if self.proposal is None else (self.proposal.policy_hash,)
        return frozenset((*proposed, *self.approved, *self.ended, *self.in_force)) | self.shadowed


def rulebook_id(workspace_id: UUID) -> UUID:
    """Return the stream of a workspace's rulebook."""
    return derived_id(workspace_id, "rulebook")


def trials_id(workspace_id: UUID, policy_hash: str) -> UUID:
    """Return the stream of what a set was tried on; apart, so that trying makes nobody's version stale."""
    return derived_id(rulebook_id(workspace_id), f"trials:{policy_hash}")


def fold(events: Iterable[Event]) -> Rulebook:
    """Return the rulebook that these events make."""
    rulebook = Rulebook()
    for event in events:
        rulebook = evolve(rulebook, event)
    return rulebook


def evolve(rulebook: Rulebook, event: Event) -> Rulebook:
    """Return the rulebook after `event`."""
    match event:
        case RuleWritten():
            written = WrittenRule(event.version, event.definition, event.rule_hash)
            order = rulebook.order if event.rule in rulebook.order else (*rulebook.order, event.rule)
            return replace(rulebook, rules={**rulebook.rules, event.rule: written}, order=order)
        case RuleWithdrawn():
            withdrawn = replace(rulebook.rules[event.rule], withdrawn=True)
            order = tuple(name for name in rulebook.order if name != event.rule)
            return replace(rulebook, rules={**rulebook.rules, event.rule: withdrawn}, order=order)
        case RulesArranged():
            return replace(rulebook, policy=event.policy, order=event.rules)
        case PolicyProposed():
            return replace(
                rulebook,
                proposal=Proposal(event.policy_hash, event.by, event.note),
                # Only a set whose leave holds no more is proposed while it has one.
                approved={
                    each: leave for each, leave in rulebook.approved.items() if each != event.policy_hash
                },
                ended=_all_ended(rulebook, event.policy_hash, Ended("replaced", event.by), approved=()),
            )
        case ProposalApproved():
            return _approved(rulebook, event)
        case ProposalRejected():
            return _taken_back(rulebook, event.policy_hash, Ended("rejected", event.by, event.reason))
        case ProposalWithdrawn():
            return _taken_back(rulebook, event.policy_hash, Ended("withdrawn", event.by))
        case PolicyShadowed():
            shadowed = rulebook.shadowed | {event.policy_hash}
            return replace(rulebook, shadow=Shadow(event.policy_hash, event.by), shadowed=shadowed)
        case ShadowEnded():
            return replace(rulebook, shadow=None, unshadowed=Ended("ended", event.by, event.reason))
        case PolicyActivated():
            return replace(
                rulebook,
                proposal=None,
                # Leave was given to change what was in force then.
                approved={},
                ended=_all_ended(
                    rulebook, event.policy_hash, Ended("overtaken", event.by), approved=rulebook.approved
                ),
                in_force=(*rulebook.in_force, event.policy_hash),
                activated_by=event.by,
            )
        case _:
            return rulebook


def _all_ended(rulebook: Rulebook, but: str, how: Ended, *, approved: Iterable[str]) -> Mapping[str, Ended]:
    """Return how proposals ended once what waits, and these approved ones, are over: all but one."""
    waits = () if rulebook.proposal is None else (rulebook.proposal.policy_hash,)
    over = dict.fromkeys((*waits, *approved), how)
    return {
        policy_hash: each for policy_hash, each in {**rulebook.ended, **over}.items() if policy_hash != but
    }


def _approved(rulebook: Rulebook, event: ProposalApproved) -> Rulebook:
    proposal, former = rulebook.proposal, rulebook.approved.get(event.policy_hash)
    if former is not None:
        anew = {**rulebook.approved, event.policy_hash: replace(former, by=event.by)}
        return replace(rulebook, approved=anew)
    if proposal is None or proposal.policy_hash != event.policy_hash:
        return rulebook
    leave = Leave(event.policy_hash, proposal.by, event.by)
    return replace(rulebook, proposal=None, approved={**rulebook.approved, event.policy_hash: leave})


def _taken_back(rulebook: Rulebook, policy_hash: str, how: Ended) -> Rulebook:
    proposal = rulebook.proposal
    return replace(
        rulebook,
        proposal=None if proposal is None or proposal.policy_hash == policy_hash else proposal,
        approved={each: leave for each, leave in rulebook.approved.items() if each != policy_hash},
        ended={**rulebook.ended, policy_hash: how},
    )


def draft_rules(rulebook: Rulebook) -> tuple[tuple[Rule, ...], tuple[Problem, ...]]:
    """Return the draft's rules with their examples, in order of priority, and why others cannot be read."""
    rules, problems = [], []
    for name in rulebook.order:
        try:
            rules.append(Rule.model_validate(rulebook.rules[name].definition))
        except ValidationError as error:
            # What was checked when it was written can only be refused by a later release.
            said = f"this release refuses the rule ({error.error_count()} problems); write it anew"
            problems.append(Problem(line=1, column=1, rule=name, field="", message=said))
    return tuple(sorted(rules, key=lambda rule: rule.priority)), tuple(problems)


def compile_draft(rulebook: Rulebook) -> PolicySet:
    """Compile the draft, examples included. Raises PolicyNotValid."""
    rules, problems = draft_rules(rulebook)
    if problems:
        raise PolicyNotValid("draft", problems)
    return compile_policy(rules, rulebook.policy)


def begin(policy: PolicySet) -> list[Event]:
    """Begin a rulebook with a set that is in force at once: version 1, put there by the system."""
    started = Rulebook()
    events = replace_rules(started, policy)
    return [
        *events,
        _activated(policy, by=SYSTEM, proposed_by="", note="the set that a workspace starts with"),
    ]


def write(rulebook: Rulebook, rule: Rule) -> list[Event]:
    """Add a rule to the draft or change it; nothing when it stands there so.

    Raises RuleTooLarge, and BadInput when the draft is full.
    """
    definition = definition_of(rule)
    size = len(canonical_json(definition))
    if size > LARGEST_DEFINITION:
        raise RuleTooLarge(
            f"The rule {rule.name} has {size} bytes as JSON; at most {LARGEST_DEFINITION} are accepted. "
            "Shorten its condition, or give it fewer examples.",
            field="definition",
            limit=LARGEST_DEFINITION,
        )
    former = rulebook.rules.get(rule.name)
    if former and not former.withdrawn and former.definition == definition:
        return []
    if rule.name not in rulebook.order and len(rulebook.order) >= MOST_RULES:
        raise BadInput(f"A policy has at most {MOST_RULES} rules; withdraw one first.", field="rules")
    version = former.version + 1 if former else 1
    return [RuleWritten(rule=rule.name, version=version, definition=definition, rule_hash=rule_hash(rule))]


def withdraw(rulebook: Rulebook, name: str) -> list[Event]:
    """Take a rule out of the draft; nothing when it was taken out before. Raises UnknownRule."""
    if name not in rulebook.rules:
        close = get_close_matches(name, rulebook.order, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UnknownRule(f"The draft has no rule {name[:60]!r}.{hint}", field="name")
    return [] if rulebook.rules[name].withdrawn else [RuleWithdrawn(rule=name)]


def replace_rules(rulebook: Rulebook, policy: PolicySet) -> list[Event]:
    """Make the draft equal to a whole set: what differs is written, what is missing there withdrawn.

    Raises RuleTooLarge, and BadInput for a name that holds control or invisible characters.
    """
    if not policy.name.isprintable():
        raise BadInput(
            f"The policy's name {policy.name!r} holds control or invisible characters; leave them out.",
            field="policy",
        )
    kept = {rule.name for rule in policy.rules}
    events: list[Event] = [RuleWithdrawn(rule=name) for name in rulebook.order if name not in kept]
    after = fold_onto(rulebook, events)
    for rule in policy.rules:
        written = write(after, rule)
        after = fold_onto(after, written)
        events += written
    wanted = tuple(rule.name for rule in policy.rules)
    if after.policy != policy.name or tuple(rule.name for rule in draft_rules(after)[0]) != wanted:
        events.append(RulesArranged(policy=policy.name, rules=wanted))
    return events


def fold_onto(rulebook: Rulebook, events: Iterable[Event]) -> Rulebook:
    """Return the rulebook after further events."""
    for event in events:
        rulebook = evolve(rulebook, event)
    return rulebook


def propose(
    rulebook: Rulebook,
    policy: PolicySet,
    *,
    by: str,
    roles: Collection[str],
    four_eyes: FourEyes,
    note: str = "",
) -> list[Event]:
    """Ask a second person for leave to put a set in force; nothing when the same person asks the same again.

    It takes the place of what was proposed before and waits still; what is approved stays so, as long as
    those who proposed and approved it hold an approving role. `by` is the person (`user:<id>`). Raises
    MayNotChangePolicy, AlreadyInForce, AlreadyApproved, BadInput.
    """
    require_author(roles)
    _check_note(note)
    _refuse_active(rulebook, policy.content_hash)
    leave = rulebook.approved.get(policy.content_hash)
    if leave is not None and leave.stands(four_eyes.holders):
        raise AlreadyApproved(
            f"{leave.by} approved the set {policy.content_hash} already; put it in force.",
            field="policy_hash",
            by=leave.by,
        )
    proposal = Proposal(policy.content_hash, by, note)
    if rulebook.proposal == proposal:
        return []
    return [PolicyProposed(policy_hash=policy.content_hash, by=by, note=note)]


def approve(
    rulebook: Rulebook,
    policy_hash: str,
    *,
    by: str,
    roles: Collection[str],
    four_eyes: FourEyes,
    note: str = "",
) -> list[Event]:
    """Give leave, as the second person, to put a proposed set in force; nothing when they gave it before.

    Leave of somebody who holds no approving role any more is given anew. `by` is the person (`user:<id>`).
    Raises MayNotChangePolicy, SecondPersonNeeded for a proposal of their own, AlreadyApproved and
    ProposalEnded where somebody was quicker, AlreadyInForce, NotProposed, BadInput.
    """
    _require_approver(roles)
    _check_note(note)
    leave = rulebook.approved.get(policy_hash)
    if leave is not None:
        if leave.by == by:
            return []
        if leave.by in four_eyes.holders:
            raise AlreadyApproved(
                f"{leave.by} approved the set {policy_hash} already.", field="policy_hash", by=leave.by
            )
    proposed_by = leave.proposed_by if leave is not None else _waiting(rulebook, policy_hash).by
    if proposed_by == by:
        raise SecondPersonNeeded(
            "You proposed this set yourself; ask another person who holds one of the roles "
            f"{_listed(APPROVERS)} to approve it.{four_eyes.remedy}",
            field="policy_hash",
            **four_eyes.details,
        )
    return [ProposalApproved(policy_hash=policy_hash, by=by, note=note)]


def reject(
    rulebook: Rulebook, policy_hash: str, *, by: str, roles: Collection[str], reason: str
) -> list[Event]:
    """Refuse a set that is proposed or approved; nothing when they refused it before. Its shadow ends too.

    `by` is the person (`user:<id>`). Raises MayNotChangePolicy, BadInput without a reason, ProposalEnded,
    AlreadyInForce, NotProposed.
    """
    _require_approver(roles)
    if not reason.strip():
        raise BadInput("Say why: whoever proposed the set reads it.", field="reason")
    _check_note(reason, "reason")
    ended = rulebook.ended.get(policy_hash)
    if ended is not None and ended.how == "rejected" and ended.by == by:
        return []
    if policy_hash not in rulebook.approved:
        _waiting(rulebook, policy_hash)
    rejected = ProposalRejected(policy_hash=policy_hash, by=by, reason=reason)
    return [rejected, *_without_shadow(rulebook, policy_hash, by, "It was rejected.")]


def withdraw_proposal(rulebook: Rulebook, policy_hash: str, *, by: str) -> list[Event]:
    """Take a proposal back, also an approved one; nothing when they did before. Its shadow ends too.

    `by` is the person (`user:<id>`). Raises MayNotChangePolicy for all but who proposed it, ProposalEnded,
    AlreadyInForce, NotProposed.
    """
    ended = rulebook.ended.get(policy_hash)
    if ended is not None and ended.how == "withdrawn" and ended.by == by:
        return []
    leave = rulebook.approved.get(policy_hash)
    proposed_by = leave.proposed_by if leave is not None else _waiting(rulebook, policy_hash).by
    if proposed_by != by:
        raise MayNotChangePolicy(
            f"{proposed_by} proposed this set, and nobody else takes that back; reject it instead.",
            by=proposed_by,
        )
    withdrawn = ProposalWithdrawn(policy_hash=policy_hash, by=by)
    return [withdrawn, *_without_shadow(rulebook, policy_hash, by, "It was withdrawn.")]


def shadow(
    rulebook: Rulebook,
    policy: PolicySet,
    *,
    by: str,
    roles: Collection[str],
    four_eyes: FourEyes,
    note: str = "",
) -> list[Event]:
    """Have a set evaluated beside every decision, in place of another one; nothing when they did before.

    With `four_eyes` two people must have had a say in it who hold an approving role still: it is approved,
    or another person proposed it; or it was in force before. Shadowing gives no leave to put the set in
    force. `by` is the person (`user:<id>`). Raises MayNotChangePolicy, SecondPersonNeeded, AlreadyInForce,
    AlreadyInShadow, BadInput.
    """
    policy_hash = policy.content_hash
    _require_for_force(roles, four_eyes=four_eyes.on)
    _check_note(note)
    _refuse_active(rulebook, policy_hash)
    present = rulebook.shadow
    if present is not None and present.policy_hash == policy_hash:
        if present.by == by:
            return []
        raise AlreadyInShadow(
            f"{present.by} has the set {policy_hash} in shadow already.", field="policy_hash", by=present.by
        )
    if four_eyes.on and policy_hash not in rulebook.in_force:
        proposed_by, approved_by = _said(rulebook, policy_hash)
        if not proposed_by:
            raise SecondPersonNeeded(
                f"Four eyes are on: propose this set first, then another person ({_listed(APPROVERS)}) "
                f"approves it or puts it in shadow.{four_eyes.remedy}",
                field="policy_hash",
                **four_eyes.details,
            )
        if not approved_by and proposed_by == by:
            raise SecondPersonNeeded(
                "You proposed this set yourself; ask another person who holds one of the roles "
                f"{_listed(APPROVERS)} to approve it, or to put it in shadow.{four_eyes.remedy}",
                field="policy_hash",
                **four_eyes.details,
            )
        _refuse_lapsed(by, proposed_by, approved_by, four_eyes)
    former = (
        []
        if present is None
        else _without_shadow(rulebook, present.policy_hash, by, "Another set is in shadow.")
    )
    return [*former, PolicyShadowed(policy_hash=policy_hash, by=by, note=note)]


def end_shadow(
    rulebook: Rulebook,
    *,
    by: str,
    roles: Collection[str],
    policy_hash: str | None = None,
    reason: str = "",
) -> list[Event]:
    """Evaluate no set beside decisions any more; `policy_hash` says which one the caller looked at.

    `by` is the person (`user:<id>`). Raises MayNotChangePolicy, NotInShadow, BadInput.
    """
    _require_approver(roles)
    _check_note(reason, "reason")
    present = rulebook.shadow
    if present is None or policy_hash not in {None, present.policy_hash}:
        ended = rulebook.unshadowed
        told = f" {ended.by} ended that of the last one." if ended and present is None else ""
        other = f" In shadow is {present.policy_hash}." if present else ""
        raise NotInShadow(
            f"{'This set is not' if policy_hash else 'No set is'} in shadow.{told}{other}",
            field="policy_hash",
            **({"by": ended.by} if ended and present is None else {}),
        )
    return _without_shadow(rulebook, present.policy_hash, by, reason)


def activate(
    rulebook: Rulebook,
    policy: PolicySet,
    *,
    by: str,
    roles: Collection[str],
    four_eyes: FourEyes,
    note: str = "",
) -> list[Event]:
    """Put a set in force, and retire the one before it.

    With `four_eyes` another person than who proposed exactly this set must have approved it, or does so by
    putting it in force, and both hold an approving role still. `by` is the person (`user:<id>`). Raises
    MayNotChangePolicy, SecondPersonNeeded, AlreadyInForce, BadInput.
    """
    policy_hash = policy.content_hash
    _require_for_force(roles, four_eyes=four_eyes.on)
    _check_note(note)
    _refuse_active(rulebook, policy_hash)
    proposal = rulebook.proposal
    proposed_by, approved_by = _said(rulebook, policy_hash)
    if four_eyes.on and not proposed_by:
        waiting = f" Proposed is {proposal.policy_hash}." if proposal else ""
        ended = rulebook.ended.get(policy_hash)
        how = f" {_how_it_ended(ended)}" if ended else ""
        raise SecondPersonNeeded(
            "Four eyes are on: propose this set first, then another person "
            f"({_listed(APPROVERS)}) puts it in force.{waiting}{how}{four_eyes.remedy}",
            field="policy_hash",
            **({"by": ended.by} if ended else {}),
            **four_eyes.details,
        )
    if four_eyes.on and {by, approved_by} <= {proposed_by, ""}:
        raise SecondPersonNeeded(
            "You proposed this set yourself; ask another person who holds one of the roles "
            f"{_listed(APPROVERS)} to put it in force.{four_eyes.remedy}",
            field="policy_hash",
            **four_eyes.details,
        )
    if four_eyes.on:
        _refuse_lapsed(by, proposed_by, approved_by, four_eyes)
    events = _without_shadow(rulebook, policy_hash, by, "It comes into force.")
    if rulebook.active_hash:
        events.append(PolicyRetired(policy_hash=rulebook.active_hash, by=by))
    return [
        *events,
        _activated(policy, by=by, proposed_by=proposed_by or by, approved_by=approved_by, note=note),
    ]


def require_author(roles: Collection[str]) -> None:
    """Raise MayNotChangePolicy unless one of the roles may write and propose rules."""
    if not AUTHORS & set(roles):
        raise MayNotChangePolicy(f"Changing the rules needs one of the roles {_listed(AUTHORS)}.")


def _require_approver(roles: Collection[str]) -> None:
    if not APPROVERS & set(roles):
        raise MayNotChangePolicy(f"Deciding on policies needs one of the roles {_listed(APPROVERS)}.")


def _require_for_force(roles: Collection[str], *, four_eyes: bool) -> None:
    if not four_eyes:
        require_author(roles)
    elif not APPROVERS & set(roles):
        raise MayNotChangePolicy(f"Putting a policy in force needs one of the roles {_listed(APPROVERS)}.")


def _said(rulebook: Rulebook, policy_hash: str) -> tuple[str, str]:
    """Return who proposed a set that may come into force, and who gave leave; empty for nobody."""
    leave, proposal = rulebook.approved.get(policy_hash), rulebook.proposal
    if leave is not None:
        return leave.proposed_by, leave.by
    waits = proposal is not None and proposal.policy_hash == policy_hash
    return (proposal.by if proposal and waits else ""), ""


def _refuse_lapsed(by: str, proposed_by: str, approved_by: str, four_eyes: FourEyes) -> None:
    """Raise SecondPersonNeeded unless somebody besides `by` had a say who holds an approving role still.

    What people said outlives their role in the history alone.
    """
    if {proposed_by, approved_by} & four_eyes.holders - {by}:
        return
    lapsed = proposed_by if approved_by in {by, ""} else approved_by
    did, remedy = (
        ("approved", "ask another person for leave again")
        if lapsed == approved_by
        else ("proposed", "propose the set again, and have another person approve it")
    )
    raise SecondPersonNeeded(
        f"{lapsed} {did} this set and holds none of the roles {_listed(APPROVERS)} here any more, or may not "
        f"sign in, so that counts no longer: {remedy}.{four_eyes.remedy}",
        field="policy_hash",
        by=lapsed,
        **four_eyes.details,
    )


def _waiting(rulebook: Rulebook, policy_hash: str) -> Proposal:
    """Return the proposal of that hash, which waits for a second person.

    Raises AlreadyInForce, ProposalEnded, NotProposed.
    """
    proposal = rulebook.proposal
    if proposal is not None and proposal.policy_hash == policy_hash:
        return proposal
    _refuse_active(rulebook, policy_hash)
    ended = rulebook.ended.get(policy_hash)
    if ended is not None:
        raise ProposalEnded(_how_it_ended(ended), field="policy_hash", by=ended.by)
    waits = f" Proposed is {proposal.policy_hash}." if proposal else " Nothing is proposed."
    raise NotProposed(f"The set {policy_hash[:64]} is not proposed here.{waits}", field="policy_hash")


def _how_it_ended(ended: Ended) -> str:
    match ended.how:
        case "rejected":
            return f"{ended.by} rejected it: {ended.reason}"
        case "withdrawn":
            return f"{ended.by} took the proposal back."
        case "replaced":
            return f"{ended.by} proposed another set instead; propose this one again."
        case _:
            return f"{ended.by} put another set in force meanwhile; propose this one again."


def _without_shadow(rulebook: Rulebook, policy_hash: str, by: str, reason: str) -> list[Event]:
    """Return that this set is in shadow no more; nothing where it is not."""
    if rulebook.shadow is None or rulebook.shadow.policy_hash != policy_hash:
        return []
    return [ShadowEnded(policy_hash=policy_hash, by=by, reason=reason)]


def _activated(
    policy: PolicySet, *, by: str, proposed_by: str, note: str, approved_by: str = ""
) -> PolicyActivated:
    return PolicyActivated(
        policy=policy.name,
        policy_hash=policy.content_hash,
        # The text is stored as it is, so the hash of the blob is the set's own.
        text_sha256=policy.content_hash,
        rules=tuple(rule.name for rule in policy.rules),
        by=by,
        proposed_by=proposed_by,
        alone=proposed_by == by and not approved_by,
        note=note,
        approved_by=approved_by,
    )


def _refuse_active(rulebook: Rulebook, policy_hash: str) -> None:
    if rulebook.active_hash == policy_hash:
        raise AlreadyInForce(
            f"The set {policy_hash} is in force already; {rulebook.activated_by} put it there.",
            field="policy_hash",
            by=rulebook.activated_by,
        )


def _check_note(note: str, field: str = "note") -> None:
    if len(note) > LONGEST_NOTE:
        raise BadInput(f"A {field} has at most {LONGEST_NOTE} characters.", field=field)


def _listed(roles: Iterable[str]) -> str:
    return ", ".join(sorted(roles))
