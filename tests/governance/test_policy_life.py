"""The life of a policy set, purely: who may bring it one step further, and what a set in shadow says."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant
from hypothesis.stateful import rule as step

from cartrita.errors import BadInput, CartritaError
from cartrita.eventstore import Event, new_id
from governance import rulebook as rulebooks
from governance.decide import GrantFact, decide
from governance.four_eyes import FourEyes
from governance.policy import PolicySet
from governance.rulebook import (
    AlreadyApproved,
    AlreadyInForce,
    AlreadyInShadow,
    MayNotChangePolicy,
    NotInShadow,
    NotProposed,
    PolicyActivated,
    PolicyProposed,
    PolicyRetired,
    PolicyShadowed,
    Proposal,
    ProposalApproved,
    ProposalEnded,
    ProposalRejected,
    ProposalWithdrawn,
    Rulebook,
    SecondPersonNeeded,
    ShadowEnded,
    fold,
)
from governance.shadow import shadow_verdict
from tests.governance.eyes import eyes
from tests.governance.policies import policy, request, rule

ANN, BOB, EVE = "user:ann", "user:bob", "user:eve"
AUTHOR, REVIEWER, MEMBER = {"policy_author"}, {"reviewer"}, {"member", "operator"}
FIRST, SECOND, THIRD = (
    policy(rule(name), rule("the-rest", "allow", priority=9000)) for name in ("a", "b", "c")
)


ON, OFF = eyes(ANN, BOB, EVE), eyes(ANN, BOB, EVE, on=False)


def begun(*events: Event) -> Rulebook:
    return fold([*rulebooks.begin(FIRST), *events])


def proposed(by: str = ANN, wanted: PolicySet = SECOND) -> PolicyProposed:
    return PolicyProposed(policy_hash=wanted.content_hash, by=by)


def approved(by: str = BOB, wanted: PolicySet = SECOND) -> ProposalApproved:
    return ProposalApproved(policy_hash=wanted.content_hash, by=by)


def shadowed(by: str = BOB, wanted: PolicySet = SECOND) -> PolicyShadowed:
    return PolicyShadowed(policy_hash=wanted.content_hash, by=by)


def activate(
    rulebook: Rulebook, by: str, wanted: PolicySet = SECOND, *, four_eyes: FourEyes = ON
) -> list[Event]:
    return rulebooks.activate(rulebook, wanted, by=by, roles=AUTHOR, four_eyes=four_eyes)


def approve(
    rulebook: Rulebook, by: str, wanted: PolicySet = SECOND, *, four_eyes: FourEyes = ON
) -> list[Event]:
    return rulebooks.approve(rulebook, wanted.content_hash, by=by, roles=REVIEWER, four_eyes=four_eyes)


def shadow(
    rulebook: Rulebook, by: str, wanted: PolicySet = SECOND, *, four_eyes: FourEyes = ON
) -> list[Event]:
    return rulebooks.shadow(rulebook, wanted, by=by, roles=AUTHOR, four_eyes=four_eyes)


class TestApprove:
    def test_lets_the_proposer_put_the_set_in_force(self) -> None:
        rulebook = begun(proposed())
        assert approve(rulebook, BOB) == [approved()]
        rulebook = begun(proposed(), approved())
        assert rulebook.proposal is None
        retired, event = activate(rulebook, ANN)
        assert isinstance(event, PolicyActivated)
        assert (event.by, event.proposed_by, event.approved_by, event.alone) == (ANN, ANN, BOB, False)
        assert retired == PolicyRetired(policy_hash=FIRST.content_hash, by=ANN)

    def test_is_for_another_person_also_while_one_alone_looks_after_the_rules(self) -> None:
        with pytest.raises(SecondPersonNeeded, match="You proposed this set yourself"):
            approve(begun(proposed()), ANN)

    def test_is_for_roles(self) -> None:
        with pytest.raises(MayNotChangePolicy, match="reviewer"):
            rulebooks.approve(begun(proposed()), SECOND.content_hash, by=BOB, roles=MEMBER, four_eyes=ON)

    def test_records_nothing_when_repeated_and_tells_the_second_of_the_first(self) -> None:
        rulebook = begun(proposed(), approved())
        assert approve(rulebook, BOB) == []
        with pytest.raises(AlreadyApproved, match=BOB) as raised:
            approve(rulebook, EVE)
        assert raised.value.details == {"by": BOB}

    @pytest.mark.parametrize(
        ("events", "said"),
        [
            (
                (ProposalRejected(policy_hash=SECOND.content_hash, by=EVE, reason="no"),),
                "eve rejected it: no",
            ),
            ((ProposalWithdrawn(policy_hash=SECOND.content_hash, by=ANN),), "ann took the proposal back"),
            ((proposed(EVE, THIRD),), "eve proposed another set instead"),
            (
                (proposed(EVE, THIRD), *activate(begun(proposed(EVE, THIRD)), BOB, THIRD)),
                "eve proposed another",
            ),
        ],
    )
    def test_tells_how_the_proposal_ended(self, events: tuple[Event, ...], said: str) -> None:
        with pytest.raises(ProposalEnded, match=said):
            approve(begun(proposed(), *events), BOB)

    def test_tells_that_another_set_came_into_force(self) -> None:
        alone = activate(begun(proposed()), EVE, THIRD, four_eyes=OFF)
        with pytest.raises(ProposalEnded, match="eve put another set in force meanwhile"):
            approve(begun(proposed(), *alone), BOB)

    def test_names_what_is_proposed_for_what_is_not(self) -> None:
        with pytest.raises(NotProposed, match=f"Proposed is {SECOND.content_hash}"):
            approve(begun(proposed()), BOB, THIRD)
        with pytest.raises(NotProposed, match="Nothing is proposed"):
            approve(begun(), BOB, THIRD)
        with pytest.raises(AlreadyInForce, match="system put it there"):
            approve(begun(), BOB, FIRST)

    def test_holds_for_the_set_while_others_are_proposed(self) -> None:
        rulebook = begun(proposed(), approved(), proposed(EVE, THIRD))
        assert activate(rulebook, ANN)
        with pytest.raises(AlreadyApproved, match="put it in force"):
            rulebooks.propose(rulebook, SECOND, by=ANN, roles=AUTHOR, four_eyes=ON)

    def test_ends_where_another_set_is_put_in_force(self) -> None:
        rulebook = begun(proposed(), approved(), proposed(EVE, THIRD))
        rulebook = rulebooks.fold_onto(rulebook, activate(rulebook, BOB, THIRD))
        with pytest.raises(SecondPersonNeeded, match="bob put another set in force meanwhile"):
            activate(rulebook, ANN)

    def test_of_before_a_second_person_came_is_no_second_pair_of_eyes(self) -> None:
        # No command records this; a log that was written by hand could hold it.
        rulebook = begun(proposed(), approved(ANN))
        with pytest.raises(SecondPersonNeeded, match="yourself"):
            activate(rulebook, ANN)
        assert activate(rulebook, BOB)


class TestReject:
    def reject(self, rulebook: Rulebook, by: str = BOB, reason: str = "too strict") -> list[Event]:
        return rulebooks.reject(rulebook, SECOND.content_hash, by=by, roles=REVIEWER, reason=reason)

    def test_takes_proposed_and_approved_sets_out_of_the_way_into_force(self) -> None:
        for before in ((proposed(),), (proposed(), approved())):
            events = self.reject(begun(*before))
            assert events == [ProposalRejected(policy_hash=SECOND.content_hash, by=BOB, reason="too strict")]
            with pytest.raises(SecondPersonNeeded, match="bob rejected it: too strict"):
                activate(begun(*before, *events), EVE)
            assert self.reject(begun(*before, *events)) == []
            with pytest.raises(ProposalEnded, match="bob rejected it"):
                self.reject(begun(*before, *events), EVE)

    @pytest.mark.parametrize("reason", ["", "  \n", "x" * 2001])
    def test_needs_a_reason(self, reason: str) -> None:
        with pytest.raises(BadInput) as raised:
            self.reject(begun(proposed()), reason=reason)
        assert raised.value.field == "reason"

    def test_ends_its_shadow(self) -> None:
        events = self.reject(begun(proposed(), shadowed()))
        assert events[1:] == [ShadowEnded(policy_hash=SECOND.content_hash, by=BOB, reason="It was rejected.")]

    def test_leaves_the_set_to_be_proposed_again(self) -> None:
        rulebook = begun(proposed(), *self.reject(begun(proposed())))
        assert rulebooks.propose(rulebook, SECOND, by=ANN, roles=AUTHOR, four_eyes=ON) == [proposed()]
        assert approve(begun(proposed(), *self.reject(begun(proposed())), proposed()), BOB)


class TestWithdrawProposal:
    def test_is_for_who_proposed_it(self) -> None:
        for before in ((proposed(),), (proposed(), approved())):
            with pytest.raises(MayNotChangePolicy, match=r"ann proposed this set.*reject it instead"):
                rulebooks.withdraw_proposal(begun(*before), SECOND.content_hash, by=BOB)
            events = rulebooks.withdraw_proposal(begun(*before), SECOND.content_hash, by=ANN)
            assert events == [ProposalWithdrawn(policy_hash=SECOND.content_hash, by=ANN)]
            after = begun(*before, *events)
            assert (after.proposal, after.approved) == (None, {})
            assert rulebooks.withdraw_proposal(after, SECOND.content_hash, by=ANN) == []

    def test_leaves_another_proposal_alone(self) -> None:
        rulebook = begun(proposed(), approved(), proposed(EVE, THIRD))
        events = rulebooks.withdraw_proposal(rulebook, SECOND.content_hash, by=ANN)
        after = rulebooks.fold_onto(rulebook, events)
        assert after.proposal is not None
        assert after.proposal.policy_hash == THIRD.content_hash


class TestShadow:
    def test_takes_two_people_with_four_eyes(self) -> None:
        with pytest.raises(SecondPersonNeeded, match="propose this set first"):
            shadow(begun(), ANN)
        with pytest.raises(SecondPersonNeeded, match="You proposed this set yourself"):
            shadow(begun(proposed()), ANN)
        assert shadow(begun(proposed()), BOB) == [shadowed()]
        assert shadow(begun(proposed(), approved()), ANN) == [shadowed(ANN)]
        assert shadow(begun(), ANN, four_eyes=OFF) == [shadowed(ANN)]

    def test_is_no_leave_to_put_the_set_in_force(self) -> None:
        with pytest.raises(SecondPersonNeeded):
            activate(begun(proposed(), shadowed()), ANN)

    def test_takes_sets_of_before(self) -> None:
        rulebook = begun(*activate(begun(), ANN, four_eyes=OFF))
        assert shadow(rulebook, ANN, FIRST) == [shadowed(ANN, FIRST)]

    def test_refuses_the_set_in_force(self) -> None:
        with pytest.raises(AlreadyInForce):
            shadow(begun(), BOB, FIRST)

    def test_takes_the_place_of_another_set(self) -> None:
        ended, begins = shadow(begun(proposed(), shadowed(), proposed(ANN, THIRD)), BOB, THIRD)
        assert isinstance(ended, ShadowEnded)
        assert begins == shadowed(BOB, THIRD)

    def test_records_nothing_when_repeated_and_tells_the_second_of_the_first(self) -> None:
        rulebook = begun(proposed(), shadowed())
        assert shadow(rulebook, BOB) == []
        with pytest.raises(AlreadyInShadow, match="bob has the set"):
            shadow(rulebook, EVE)

    def test_ends_where_the_set_comes_into_force_and_goes_on_beside_another(self) -> None:
        rulebook = begun(proposed(), approved(), shadowed())
        events = activate(rulebook, ANN)
        assert [event.type_name.removeprefix("governance.") for event in events] == [
            "ShadowEnded",
            "PolicyRetired",
            "PolicyActivated",
        ]
        rulebook = begun(shadowed(), proposed(ANN, THIRD))
        after = rulebooks.fold_onto(rulebook, activate(rulebook, BOB, THIRD))
        assert after.shadow is not None

    def test_is_for_roles(self) -> None:
        acts: list[Callable[[], Any]] = [
            lambda: rulebooks.shadow(begun(proposed()), SECOND, by=BOB, roles=MEMBER, four_eyes=ON),
            lambda: rulebooks.shadow(begun(), SECOND, by=BOB, roles=REVIEWER, four_eyes=OFF),
            lambda: rulebooks.end_shadow(begun(shadowed()), by=BOB, roles=MEMBER),
            lambda: rulebooks.reject(
                begun(proposed()), SECOND.content_hash, by=BOB, roles=MEMBER, reason="no"
            ),
        ]
        for act in acts:
            with pytest.raises(MayNotChangePolicy):
                act()


class TestEndShadow:
    def test_says_which_set_was_looked_at(self) -> None:
        rulebook = begun(shadowed())
        with pytest.raises(NotInShadow, match=f"In shadow is {SECOND.content_hash}"):
            rulebooks.end_shadow(rulebook, by=ANN, roles=AUTHOR, policy_hash=THIRD.content_hash)
        ended = rulebooks.end_shadow(rulebook, by=ANN, roles=REVIEWER, reason="seen enough")
        assert ended == [ShadowEnded(policy_hash=SECOND.content_hash, by=ANN, reason="seen enough")]
        with pytest.raises(NotInShadow, match="ann ended that"):
            rulebooks.end_shadow(begun(shadowed(), *ended), by=BOB, roles=AUTHOR)
        with pytest.raises(NotInShadow, match="No set is in shadow"):
            rulebooks.end_shadow(begun(), by=BOB, roles=AUTHOR)


class TestShadowVerdict:
    def throttled(self, rate: str = "1/minute") -> PolicySet:
        slow = rule("slow", "throttle", priority=9500, parameters={"rate": rate})
        return policy(slow, rule("the-rest", "allow", priority=9000))

    def test_knows_the_level_of_the_same_throttle_rule(self) -> None:
        asked = request(throttles={"slow": 0})
        active = self.throttled()
        assert shadow_verdict(asked, active, active).outcome == "throttle"

    def test_takes_any_other_bucket_for_full(self) -> None:
        asked = request(throttles={"slow": 0})
        assert decide(asked, self.throttled("2/minute")).outcome == "throttle"
        verdict = shadow_verdict(asked, self.throttled(), self.throttled("2/minute"))
        assert (verdict.outcome, verdict.rule) == ("allow", "the-rest")
        assert shadow_verdict(request(), FIRST, self.throttled()).outcome == "allow"

    def test_takes_leave_for_a_rule_also_in_another_version(self) -> None:
        active = policy(rule("ask", "escalate"), rule("the-rest", "allow", priority=9000))
        changed = policy(rule("ask", "escalate", priority=7), rule("the-rest", "allow", priority=9000))
        renamed = policy(rule("ask-me", "escalate"), rule("the-rest", "allow", priority=9000))
        leave = GrantFact(approval_id=new_id(), rule="ask", rule_hash=active.rule_hashes["ask"], scope="once")
        asked = request(grants=(leave,))
        assert decide(asked, active).allowed
        assert shadow_verdict(asked, active, changed).allowed
        assert shadow_verdict(asked, active, renamed).outcome == "escalate"

    def test_names_a_rule_that_errs(self) -> None:
        broken = policy(
            rule("broken", "audit", "args.nothing == 1"), rule("the-rest", "allow", priority=9000)
        )
        verdict = shadow_verdict(request(), FIRST, broken)
        assert (verdict.outcome, verdict.rule) == ("deny", "broken")


class TestWhoHoldsARoleNoMore:
    """What somebody said counts while they hold an approving role, and no longer."""

    def test_is_no_second_person_for_what_they_approved(self) -> None:
        rulebook = begun(proposed(), approved())
        assert activate(rulebook, ANN)
        for act in (activate, shadow):
            with pytest.raises(
                SecondPersonNeeded, match=r"bob approved .* ask another person for leave"
            ) as raised:
                act(rulebook, ANN, four_eyes=eyes(ANN, EVE))
            assert raised.value.details["by"] == BOB

    def test_is_no_second_person_for_what_they_proposed(self) -> None:
        for rulebook in (begun(proposed()), begun(proposed(), approved())):
            for act in (activate, shadow):
                with pytest.raises(
                    SecondPersonNeeded, match=r"ann proposed .* propose the set again"
                ) as raised:
                    act(rulebook, BOB, four_eyes=eyes(BOB, EVE))
                assert raised.value.details["by"] == ANN

    @pytest.mark.parametrize("gone", [ANN, BOB])
    def test_is_not_needed_where_two_others_had_a_say(self, gone: str) -> None:
        rulebook = begun(proposed(), approved())
        assert activate(rulebook, EVE, four_eyes=eyes(*{ANN, BOB, EVE} - {gone}))

    def test_is_told_that_nobody_else_is_left(self) -> None:
        until = datetime(2026, 11, 29, 12, tzinfo=UTC)
        alone = eyes(ANN, until=until)
        for rulebook, said in (
            (begun(), "propose this set first"),
            (begun(proposed()), "You proposed this set yourself"),
            (begun(proposed(), approved()), "bob approved"),
        ):
            for act in (activate, shadow):
                with pytest.raises(SecondPersonNeeded, match=said) as raised:
                    act(rulebook, ANN, four_eyes=alone)
                assert "until 2026-11-29 12:00 UTC" in raised.value.message
                assert "give somebody the role, or wait" in raised.value.message
                assert raised.value.details["four_eyes_until"] == until.isoformat()

    def test_lets_another_person_approve_again(self) -> None:
        rulebook, now = begun(proposed(), approved()), eyes(ANN, EVE)
        assert approve(rulebook, EVE, four_eyes=now) == [approved(EVE)]
        rulebook = begun(proposed(), approved(), approved(EVE))
        assert rulebook.approved[SECOND.content_hash].by == EVE
        *_, event = activate(rulebook, ANN, four_eyes=now)
        assert isinstance(event, PolicyActivated)
        assert (event.proposed_by, event.approved_by) == (ANN, EVE)
        with pytest.raises(SecondPersonNeeded, match="You proposed this set yourself"):
            approve(begun(proposed(), approved()), ANN, four_eyes=now)

    def test_lets_another_person_propose_again(self) -> None:
        rulebook, now = begun(proposed(), approved()), eyes(BOB, EVE)
        again = rulebooks.propose(rulebook, SECOND, by=BOB, roles=AUTHOR, four_eyes=now)
        assert again == [proposed(BOB)]
        rulebook = begun(proposed(), approved(), *again)
        assert (rulebook.proposal, rulebook.approved) == (Proposal(SECOND.content_hash, BOB, ""), {})
        with pytest.raises(SecondPersonNeeded, match="You proposed this set yourself"):
            activate(rulebook, BOB, four_eyes=now)
        assert activate(rulebook, EVE, four_eyes=now)


PEOPLE = st.sampled_from([ANN, BOB, EVE])
SETS = st.sampled_from([FIRST, SECOND, THIRD])


class LifeMachine(RuleBasedStateMachine):
    """Any person tries anything at any time, and four eyes go on and off.

    People lose their role and get it back. Beside it stands a plain account of who proposed each set last and
    whose leave counts since.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rulebook = begun()
        self.four_eyes = ON
        self.active = FIRST.content_hash
        self.proposers: dict[str, str] = {}
        self.leaves: dict[str, set[str]] = {}
        self.seen: list[Event] = rulebooks.begin(FIRST)

    def attempt(self, act: Callable[[], list[Event]]) -> list[Event]:
        try:
            events = act()
        except CartritaError:
            return []
        self.seen += events
        self.rulebook = rulebooks.fold_onto(self.rulebook, events)
        return events

    def over(self, wanted: str) -> None:
        self.proposers.pop(wanted, None)
        self.leaves.pop(wanted, None)

    @step()
    def four_eyes_go_on_or_off(self) -> None:
        self.four_eyes = replace(self.four_eyes, on=not self.four_eyes.on)

    @step(who=PEOPLE)
    def somebody_gets_or_loses_the_role(self, who: str) -> None:
        self.four_eyes = replace(self.four_eyes, holders=self.four_eyes.holders ^ {who})

    @step(by=PEOPLE, wanted=SETS)
    def propose(self, by: str, wanted: PolicySet) -> None:
        proposing = partial(
            rulebooks.propose, self.rulebook, wanted, by=by, roles=AUTHOR, four_eyes=self.four_eyes
        )
        if self.attempt(proposing):
            for other in [each for each in self.proposers if not self.leaves.get(each)]:
                self.over(other)
            self.proposers[wanted.content_hash] = by
            self.leaves[wanted.content_hash] = set()

    @step(by=PEOPLE, wanted=SETS)
    def approve(self, by: str, wanted: PolicySet) -> None:
        if self.attempt(lambda: approve(self.rulebook, by, wanted, four_eyes=self.four_eyes)):
            assert not self.leaves[wanted.content_hash] & self.four_eyes.holders
            self.leaves[wanted.content_hash] = {by}

    @step(by=PEOPLE, wanted=SETS)
    def reject(self, by: str, wanted: PolicySet) -> None:
        if self.attempt(
            lambda: rulebooks.reject(self.rulebook, wanted.content_hash, by=by, roles=REVIEWER, reason="no")
        ):
            self.over(wanted.content_hash)

    @step(by=PEOPLE, wanted=SETS)
    def withdraw(self, by: str, wanted: PolicySet) -> None:
        if self.attempt(lambda: rulebooks.withdraw_proposal(self.rulebook, wanted.content_hash, by=by)):
            assert self.proposers[wanted.content_hash] == by
            self.over(wanted.content_hash)

    @step(by=PEOPLE, wanted=SETS)
    def put_in_shadow(self, by: str, wanted: PolicySet) -> None:
        self.attempt(lambda: shadow(self.rulebook, by, wanted, four_eyes=self.four_eyes))

    @step(by=PEOPLE)
    def end_shadow(self, by: str) -> None:
        self.attempt(lambda: rulebooks.end_shadow(self.rulebook, by=by, roles=REVIEWER))

    @step(by=PEOPLE, wanted=SETS)
    def activate(self, by: str, wanted: PolicySet) -> None:
        events = self.attempt(lambda: activate(self.rulebook, by, wanted, four_eyes=self.four_eyes))
        if events:
            name = wanted.content_hash
            if self.four_eyes.on:
                assert ({by} | self.leaves[name]) - {self.proposers[name]}
                assert {self.proposers[name], *self.leaves[name]} & self.four_eyes.holders - {by}
            assert PolicyRetired(policy_hash=self.active, by=by) in events
            self.active = name
            self.proposers.clear()
            self.leaves.clear()

    @invariant()
    def one_set_is_in_force_and_never_its_own_shadow(self) -> None:
        assert self.rulebook.active_hash == self.active
        shadowed = self.rulebook.shadow
        assert shadowed is None or shadowed.policy_hash != self.active

    @invariant()
    def what_may_come_is_what_was_said(self) -> None:
        approved = {name: leave.by for name, leave in self.rulebook.approved.items()}
        assert approved == {name: by for name, leaves in self.leaves.items() for by in leaves}
        waiting = {name for name in self.proposers if not self.leaves[name]}
        assert ({self.rulebook.proposal.policy_hash} if self.rulebook.proposal else set()) == waiting

    @invariant()
    def the_events_alone_tell_it(self) -> None:
        assert fold(self.seen) == self.rulebook


TestAnyOrderOfSteps = LifeMachine.TestCase
TestAnyOrderOfSteps.settings = settings(max_examples=60, stateful_step_count=30)
