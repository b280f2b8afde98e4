"""A workspace's rulebook: its rules, version by version, and which set of them is in force. Pure.

Changes gather in a draft. Activating compiles the whole draft into one set with one content hash; until then
the set in force decides. The stream is `rulebook_id(workspace_id)`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, ClassVar
from uuid import UUID

from pydantic import Field, ValidationError

from cartrita.errors import BadInput, Conflict, NotAllowed, NotFound, TooLarge
from cartrita.eventstore.canonical import canonical_json
from cartrita.eventstore.ids import derived_id
from cartrita.eventstore.types import Event
from governance.policy import (
    MOST_RULES,
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


class PolicyActivated(Event):
    """A set is in force: from the draft, or an earlier one again.

    `text_sha256` names the blob with the canonical text. `by` put it in force; `proposed_by` asked for it,
    and `alone` says that both are one person.
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

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of the set's text."""
        return (self.text_sha256,)


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
class Rulebook:
    """A rulebook as its events tell it.

    `order` names the draft's rules; `in_force` are the hashes of all sets that were in force, newest last.
    """

    policy: str = "policy"
    rules: Mapping[str, WrittenRule] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    proposal: Proposal | None = None
    in_force: tuple[str, ...] = ()

    @property
    def active_hash(self) -> str:
        """The hash of the set that decides, empty before the first."""
        return self.in_force[-1] if self.in_force else ""


def rulebook_id(workspace_id: UUID) -> UUID:
    """Return the stream of a workspace's rulebook."""
    return derived_id(workspace_id, "rulebook")


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
            return replace(rulebook, proposal=Proposal(event.policy_hash, event.by, event.note))
        case PolicyActivated():
            return replace(rulebook, proposal=None, in_force=(*rulebook.in_force, event.policy_hash))
        case _:
            return rulebook


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
    rulebook: Rulebook, policy: PolicySet, *, by: str, roles: Collection[str], note: str = ""
) -> list[Event]:
    """Ask a second person to put a set in force; nothing when the same person asks for the same again.

    `by` is the person (`user:<id>`). Raises MayNotChangePolicy, AlreadyInForce, BadInput.
    """
    require_author(roles)
    _check_note(note)
    _refuse_active(rulebook, policy)
    proposal = Proposal(policy.content_hash, by, note)
    if rulebook.proposal == proposal:
        return []
    return [PolicyProposed(policy_hash=policy.content_hash, by=by, note=note)]


def activate(
    rulebook: Rulebook,
    policy: PolicySet,
    *,
    by: str,
    roles: Collection[str],
    four_eyes: bool,
    note: str = "",
) -> list[Event]:
    """Put a set in force. With `four_eyes` another person must have proposed exactly this set.

    `by` is the person (`user:<id>`). Raises MayNotChangePolicy, SecondPersonNeeded, AlreadyInForce, BadInput.
    """
    proposal = rulebook.proposal
    proposed = proposal is not None and proposal.policy_hash == policy.content_hash
    if four_eyes:
        if not APPROVERS & set(roles):
            raise MayNotChangePolicy(
                f"Putting a policy in force needs one of the roles {_listed(APPROVERS)}."
            )
    else:
        require_author(roles)
    _check_note(note)
    _refuse_active(rulebook, policy)
    if four_eyes and (proposal is None or not proposed):
        waiting = f" Proposed is {proposal.policy_hash}." if proposal else ""
        raise SecondPersonNeeded(
            "Four eyes are on: propose this set first, then another person "
            f"({_listed(APPROVERS)}) puts it in force.{waiting}",
            field="policy_hash",
        )
    proposed_by = proposal.by if proposal and proposed else by
    if four_eyes and proposed_by == by:
        raise SecondPersonNeeded(
            "You proposed this set yourself; ask another person who holds one of the roles "
            f"{_listed(APPROVERS)} to put it in force.",
            field="policy_hash",
        )
    return [_activated(policy, by=by, proposed_by=proposed_by, note=note)]


def require_author(roles: Collection[str]) -> None:
    """Raise MayNotChangePolicy unless one of the roles may write and propose rules."""
    if not AUTHORS & set(roles):
        raise MayNotChangePolicy(f"Changing the rules needs one of the roles {_listed(AUTHORS)}.")


def _activated(policy: PolicySet, *, by: str, proposed_by: str, note: str) -> PolicyActivated:
    return PolicyActivated(
        policy=policy.name,
        policy_hash=policy.content_hash,
        # The text is stored as it is, so the hash of the blob is the set's own.
        text_sha256=policy.content_hash,
        rules=tuple(rule.name for rule in policy.rules),
        by=by,
        proposed_by=proposed_by,
        alone=proposed_by == by,
        note=note,
    )


def _refuse_active(rulebook: Rulebook, policy: PolicySet) -> None:
    if rulebook.active_hash == policy.content_hash:
        raise AlreadyInForce(f"The set {policy.content_hash} is in force already.", field="policy_hash")


def _check_note(note: str) -> None:
    if len(note) > LONGEST_NOTE:
        raise BadInput(f"A note has at most {LONGEST_NOTE} characters.", field="note")


def _listed(roles: Iterable[str]) -> str:
    return ", ".join(sorted(roles))
