"""The rulebook, purely: what may happen to rules, and which set decides."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition
from hypothesis.stateful import rule as step

from cartrita.errors import BadInput
from cartrita.eventstore import Event
from governance import rulebook as rulebooks
from governance.policy import PolicySet, compile_rule, load_policy
from governance.rulebook import (
    AlreadyInForce,
    MayNotChangePolicy,
    PolicyActivated,
    PolicyProposed,
    Rulebook,
    RulesArranged,
    RuleTooLarge,
    RuleWithdrawn,
    RuleWritten,
    SecondPersonNeeded,
    UnknownRule,
    compile_draft,
    fold,
)
from tests.governance.eyes import eyes
from tests.governance.policies import policy, rule, yaml_policy

ANN, BOB = "user:ann", "user:bob"
ON, OFF = eyes(ANN, BOB), eyes(ANN, BOB, on=False)
AUTHOR, REVIEWER, MEMBER = {"policy_author"}, {"reviewer"}, {"member", "operator"}
FIRST = policy(rule("no-shell"), rule("the-rest", "allow", priority=9000))


def begun(*events: Event, policy: PolicySet = FIRST) -> Rulebook:
    return fold([*rulebooks.begin(policy), *events])


def with_another(rulebook: Rulebook) -> Rulebook:
    return rulebooks.fold_onto(rulebook, rulebooks.write(rulebook, compile_rule(rule("another"))))


class TestBegin:
    def test_puts_the_set_in_force_as_it_is(self) -> None:
        events = rulebooks.begin(FIRST)
        assert [type(event) for event in events] == [RuleWritten, RuleWritten, RulesArranged, PolicyActivated]
        rulebook = fold(events)
        assert rulebook.active_hash == FIRST.content_hash
        assert compile_draft(rulebook).content_hash == FIRST.content_hash
        activated = events[-1]
        assert isinstance(activated, PolicyActivated)
        assert (activated.by, activated.proposed_by, activated.alone) == ("system", "", False)

    def test_keeps_the_order_of_rules_with_equal_priority(self) -> None:
        unsorted = policy(rule("zebra"), rule("ant"), rule("mole", priority=1))
        rulebook = begun(policy=unsorted)
        assert [each.name for each in compile_draft(rulebook).rules] == ["mole", "zebra", "ant"]
        assert compile_draft(rulebook).content_hash == unsorted.content_hash


class TestWrite:
    def test_counts_versions_of_each_rule_also_across_a_withdrawal(self) -> None:
        rulebook = begun()
        for wanted, outcome in ((2, "audit"), (3, "allow")):
            events = rulebooks.write(rulebook, compile_rule(rule("no-shell", outcome)))
            assert [event.version for event in events if isinstance(event, RuleWritten)] == [wanted]
            rulebook = rulebooks.fold_onto(rulebook, events)
        rulebook = rulebooks.fold_onto(rulebook, rulebooks.withdraw(rulebook, "no-shell"))
        (again,) = rulebooks.write(rulebook, compile_rule(rule("no-shell", "allow")))
        assert isinstance(again, RuleWritten)
        assert again.version == 4

    def test_records_nothing_when_the_rule_stands_there_so(self) -> None:
        assert rulebooks.write(begun(), compile_rule(rule("no-shell"))) == []

    def test_records_a_change_of_examples_alone(self) -> None:
        example = {"given": {"kind": "tool_call"}, "then": "deny"}
        (event,) = rulebooks.write(begun(), compile_rule(rule("no-shell", examples=[example])))
        assert isinstance(event, RuleWritten)
        assert event.rule_hash == FIRST.rule_hashes["no-shell"]
        assert event.definition["examples"] == [example]

    def test_leaves_what_is_in_force_alone(self) -> None:
        rulebook = with_another(begun())
        assert rulebook.active_hash == FIRST.content_hash
        assert compile_draft(rulebook).content_hash != FIRST.content_hash

    def test_refuses_a_rule_that_no_event_can_hold(self) -> None:
        examples = [{"given": {"kind": "tool_call", "args": {"a": "x" * 10_000}}, "then": "deny"}] * 6
        with pytest.raises(RuleTooLarge, match="at most 49152 are accepted"):
            rulebooks.write(begun(), compile_rule(rule("large", examples=examples)))

    def test_refuses_one_rule_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rulebooks, "MOST_RULES", 2)
        with pytest.raises(BadInput, match="at most 2 rules; withdraw one first"):
            with_another(begun())


class TestWithdraw:
    def test_takes_a_rule_out_once(self) -> None:
        rulebook = begun()
        events = rulebooks.withdraw(rulebook, "no-shell")
        assert events == [RuleWithdrawn(rule="no-shell")]
        rulebook = rulebooks.fold_onto(rulebook, events)
        assert [each.name for each in compile_draft(rulebook).rules] == ["the-rest"]
        assert rulebooks.withdraw(rulebook, "no-shell") == []

    def test_names_a_similar_rule_for_an_unknown_one(self) -> None:
        with pytest.raises(UnknownRule, match="Did you mean no-shell"):
            rulebooks.withdraw(begun(), "no-shel")


class TestReplaceRules:
    def test_writes_what_differs_and_withdraws_what_is_missing(self) -> None:
        wanted = policy(rule("the-rest", "allow", priority=9000), rule("new"))
        events = rulebooks.replace_rules(begun(), wanted)
        assert [type(event) for event in events] == [RuleWithdrawn, RuleWritten]
        assert compile_draft(begun(*events)).content_hash == wanted.content_hash

    def test_records_nothing_for_the_same_set(self) -> None:
        assert rulebooks.replace_rules(begun(), FIRST) == []

    def test_records_a_change_of_order_or_name_alone(self) -> None:
        first = policy(rule("zebra"), rule("ant"))
        second = policy(rule("ant"), rule("zebra"))
        events = rulebooks.replace_rules(begun(policy=first), second)
        assert events == [RulesArranged(policy="test", rules=("ant", "zebra"))]
        assert compile_draft(begun(*events, policy=first)).content_hash == second.content_hash

    @pytest.mark.parametrize("name", ["a\u202eb", "a\x07b", "a\nb", "a\u200bb"])
    def test_refuses_names_that_hide_something(self, name: str) -> None:
        hidden = load_policy(FIRST.text.replace('"policy":"test"', f'"policy":{name!a}'.replace("'", '"')))
        with pytest.raises(BadInput, match="control or invisible characters"):
            rulebooks.replace_rules(Rulebook(), hidden)


class TestActivate:
    def test_is_for_authors_while_one_person_looks_after_the_rules(self) -> None:
        rulebook = with_another(begun())
        draft = compile_draft(rulebook)
        _, event = rulebooks.activate(rulebook, draft, by=ANN, roles=AUTHOR, four_eyes=OFF)
        assert isinstance(event, PolicyActivated)
        assert (event.policy_hash, event.proposed_by, event.alone) == (draft.content_hash, ANN, True)
        for roles in (REVIEWER, MEMBER, set()):
            with pytest.raises(MayNotChangePolicy, match="admin, policy_author"):
                rulebooks.activate(rulebook, draft, by=ANN, roles=roles, four_eyes=OFF)

    def test_needs_a_second_person_with_four_eyes(self) -> None:
        rulebook = with_another(begun())
        draft = compile_draft(rulebook)
        with pytest.raises(SecondPersonNeeded, match="propose this set first"):
            rulebooks.activate(rulebook, draft, by=ANN, roles=AUTHOR, four_eyes=ON)
        proposed = rulebooks.fold_onto(
            rulebook, rulebooks.propose(rulebook, draft, by=ANN, roles=AUTHOR, four_eyes=ON, note="why")
        )
        with pytest.raises(SecondPersonNeeded, match="You proposed this set yourself"):
            rulebooks.activate(proposed, draft, by=ANN, roles=AUTHOR, four_eyes=ON)
        with pytest.raises(MayNotChangePolicy, match="reviewer"):
            rulebooks.activate(proposed, draft, by=BOB, roles=MEMBER, four_eyes=ON)
        _, event = rulebooks.activate(proposed, draft, by=BOB, roles=REVIEWER, four_eyes=ON)
        assert isinstance(event, PolicyActivated)
        assert (event.by, event.proposed_by, event.alone) == (BOB, ANN, False)
        assert rulebooks.evolve(proposed, event).proposal is None

    def test_takes_the_proposed_set_alone(self) -> None:
        rulebook = with_another(begun())
        draft = compile_draft(rulebook)
        rulebook = rulebooks.fold_onto(
            rulebook, rulebooks.propose(rulebook, draft, by=ANN, roles=AUTHOR, four_eyes=ON)
        )
        rulebook = rulebooks.fold_onto(rulebook, rulebooks.withdraw(rulebook, "no-shell"))
        with pytest.raises(SecondPersonNeeded, match=f"Proposed is {draft.content_hash}"):
            rulebooks.activate(rulebook, compile_draft(rulebook), by=BOB, roles=AUTHOR, four_eyes=ON)
        assert rulebooks.activate(rulebook, draft, by=BOB, roles=AUTHOR, four_eyes=ON)

    def test_is_told_what_is_in_force_already(self) -> None:
        with pytest.raises(AlreadyInForce, match=FIRST.content_hash):
            rulebooks.activate(begun(), FIRST, by=ANN, roles=AUTHOR, four_eyes=OFF)
        with pytest.raises(AlreadyInForce):
            rulebooks.propose(begun(), FIRST, by=ANN, roles=AUTHOR, four_eyes=ON)

    def test_refuses_a_note_that_is_a_book(self) -> None:
        rulebook = with_another(begun())
        with pytest.raises(BadInput, match="2000 characters"):
            rulebooks.activate(
                rulebook, compile_draft(rulebook), by=ANN, roles=AUTHOR, four_eyes=OFF, note="x" * 2001
            )


class TestPropose:
    def test_is_for_authors(self) -> None:
        rulebook = with_another(begun())
        with pytest.raises(MayNotChangePolicy):
            rulebooks.propose(rulebook, compile_draft(rulebook), by=BOB, roles=REVIEWER, four_eyes=ON)

    def test_records_nothing_when_asked_again(self) -> None:
        rulebook = with_another(begun())
        draft = compile_draft(rulebook)
        events = rulebooks.propose(rulebook, draft, by=ANN, roles=AUTHOR, four_eyes=ON)
        assert events == [PolicyProposed(policy_hash=draft.content_hash, by=ANN)]
        rulebook = rulebooks.fold_onto(rulebook, events)
        assert rulebooks.propose(rulebook, draft, by=ANN, roles=AUTHOR, four_eyes=ON) == []
        assert rulebooks.propose(rulebook, draft, by=BOB, roles=AUTHOR, four_eyes=ON) != []


NAMES = st.sampled_from(["ant", "bee", "cat", "dog"])
DEFINITIONS = st.builds(
    rule,
    NAMES,
    st.sampled_from(["allow", "audit", "deny", "escalate"]),
    st.sampled_from([None, "true", 'tool.name == "x"']),
    priority=st.sampled_from([1, 500, 9000]),
)


class RulebookMachine(RuleBasedStateMachine):
    """Any order of changes, beside a plain list of rules and a list of what was put in force."""

    def __init__(self) -> None:
        super().__init__()
        self.rulebook = fold(rulebooks.begin(FIRST))
        self.written: dict[str, dict[str, Any]] = {
            each.name: _plain(each.name, FIRST) for each in FIRST.rules
        }
        self.sets = {FIRST.content_hash: FIRST}
        self.active = FIRST
        self.proposed: tuple[PolicySet, str] | None = None

    def apply(self, events: list[Event]) -> None:
        self.rulebook = rulebooks.fold_onto(self.rulebook, events)

    @step(definition=DEFINITIONS)
    def write(self, definition: dict[str, Any]) -> None:
        self.apply(rulebooks.write(self.rulebook, compile_rule(definition)))
        self.written[definition["name"]] = definition

    @step(name=NAMES)
    def withdraw(self, name: str) -> None:
        if name in self.rulebook.rules:
            self.apply(rulebooks.withdraw(self.rulebook, name))
            self.written.pop(name, None)

    @step(definitions=st.lists(DEFINITIONS, min_size=1, unique_by=lambda one: one["name"]))
    def import_file(self, definitions: list[dict[str, Any]]) -> None:
        imported = yaml_policy(*definitions)
        self.apply(rulebooks.replace_rules(self.rulebook, imported))
        # Where priorities are equal the order of the file counts.
        self.written = {each.name: _plain(each.name, imported) for each in imported.rules}
        assert compile_draft(self.rulebook).content_hash == imported.content_hash

    @precondition(lambda self: self.written)
    @step(by=st.sampled_from([ANN, BOB]))
    def propose(self, by: str) -> None:
        draft = compile_draft(self.rulebook)
        if draft.content_hash == self.active.content_hash:
            with pytest.raises(AlreadyInForce):
                rulebooks.propose(self.rulebook, draft, by=by, roles=AUTHOR, four_eyes=ON)
            return
        self.apply(rulebooks.propose(self.rulebook, draft, by=by, roles=AUTHOR, four_eyes=ON))
        self.proposed = (draft, by)

    @precondition(lambda self: self.proposed)
    @step(by=st.sampled_from([ANN, BOB]))
    def activate_proposal(self, by: str) -> None:
        assert self.proposed is not None
        proposed, proposer = self.proposed
        if by == proposer:
            with pytest.raises(SecondPersonNeeded):
                rulebooks.activate(self.rulebook, proposed, by=by, roles=REVIEWER, four_eyes=ON)
            return
        self.activated(
            proposed, rulebooks.activate(self.rulebook, proposed, by=by, roles=REVIEWER, four_eyes=ON)
        )

    @precondition(lambda self: self.written)
    @step()
    def activate_draft_alone(self) -> None:
        draft = compile_draft(self.rulebook)
        if draft.content_hash != self.active.content_hash:
            self.activated(
                draft, rulebooks.activate(self.rulebook, draft, by=ANN, roles=AUTHOR, four_eyes=OFF)
            )

    @step(choice=st.integers(min_value=0, max_value=9))
    def roll_back(self, choice: int) -> None:
        earlier = [found for found in self.sets.values() if found.content_hash != self.active.content_hash]
        if earlier:
            again = earlier[choice % len(earlier)]
            self.activated(
                again, rulebooks.activate(self.rulebook, again, by=ANN, roles=AUTHOR, four_eyes=OFF)
            )

    def activated(self, put_in_force: PolicySet, events: list[Event]) -> None:
        self.apply(events)
        self.sets[put_in_force.content_hash] = self.active = put_in_force
        self.proposed = None

    @invariant()
    def the_active_hash_is_that_of_the_compiled_text(self) -> None:
        assert self.rulebook.active_hash == self.active.content_hash
        assert (
            load_policy(self.sets[self.rulebook.active_hash].text).content_hash == self.rulebook.active_hash
        )

    @invariant()
    def the_draft_holds_what_was_written(self) -> None:
        assert set(self.rulebook.order) == set(self.written)
        if self.written:
            wanted = policy(*self.written.values())
            draft = compile_draft(self.rulebook)
            assert draft.rule_hashes == wanted.rule_hashes
            priorities = [each.priority for each in draft.rules]
            assert priorities == sorted(priorities)


def _plain(name: str, of: PolicySet) -> dict[str, Any]:
    (found,) = (each for each in of.rules if each.name == name)
    return found.model_dump(mode="json", exclude_defaults=True)


TestAnyOrderOfChanges = RulebookMachine.TestCase
TestAnyOrderOfChanges.settings = settings(max_examples=40, stateful_step_count=25)
