"""What searches leave out: rules with `leave_out`, and steps over documents that carry labels."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.eventstore import load
from governance.candidates import Candidates
from governance.cel import ENVIRONMENT_VERSION
from governance.decide import DecisionRequest, decide
from governance.decision import DecisionMade, verdict_of
from governance.doors import decision_made, permit_of
from governance.models import LabelSet
from governance.policy import PolicyNotValid, PolicySet, load_policy
from governance.queries.decisions import recount, redecide_all
from governance.step import take_step
from tests.databases import Database
from tests.governance.policies import policy, request, rule
from tests.governance.steps import Place, settled


def of_searches() -> dict[str, Any]:
    return {"kinds": ["retrieval"]}


def leaving_out(*labels: str, outcome: str = "allow", **more: Any) -> dict[str, Any]:
    """Return a rule that lets searches pass without documents that carry these labels."""
    given: dict[str, Any] = {"match": of_searches(), "parameters": {"leave_out": list(labels)}, **more}
    return rule("-".join(["without", *labels]).replace(" ", ""), outcome, **given)


def search(**more: Any) -> DecisionRequest:
    given: dict[str, Any] = {"subject_kind": "retrieval", "tool": "", "arguments": {"query": "Where?"}}
    return request(**{**given, **more})


DEFAULT = rule("search", "allow", match=of_searches(), priority=900)


class TestVerdict:
    def test_leaves_out_what_any_matching_rule_says(self) -> None:
        rules = policy(
            leaving_out("secret", "pii"),
            leaving_out("pii", "draft", outcome="audit"),
            leaving_out("never", condition="kind == 'plan'"),
            DEFAULT,
        )
        verdict = decide(search(), rules)
        assert verdict.left_out == ("draft", "pii", "secret")
        assert (verdict.outcome, verdict.rule, verdict.review) == ("audit", "without-pii-draft", True)

    def test_leaves_out_nothing_where_nothing_is_searched(self) -> None:
        for outcome in ("deny", "escalate"):
            rules = policy(leaving_out("pii"), rule("no", outcome, match=of_searches()))
            assert decide(search(), rules).left_out == ()

    def test_leaves_out_when_another_rule_names_the_decision(self) -> None:
        slow = rule("slow", "throttle", match=of_searches(), parameters={"rate": "1/second"}, priority=1)
        verdict = decide(search(), policy(slow, leaving_out("pii"), DEFAULT))
        assert (verdict.rule, verdict.left_out) == ("slow", ("pii",))

    def test_stands_in_its_event(self, database: Database) -> None:
        place = Place()
        rules = policy(leaving_out("pii"), DEFAULT)
        verdict = decide(search(), rules)
        event = decision_made(search(), verdict, place.context)
        assert verdict_of(event) == verdict

    def test_ignores_what_sets_of_the_first_environment_say_in_parameters(self) -> None:
        newest = f'"environment":{ENVIRONMENT_VERSION}'
        text = policy(leaving_out("pii"), DEFAULT).text.replace(newest, '"environment":1')
        assert decide(search(), load_policy(text)).left_out == ()

    @given(
        labels=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1), read=st.sets(st.sampled_from("abc"))
    )
    def test_depends_on_request_and_policy_alone(self, labels: list[str], read: set[str]) -> None:
        rules = policy(leaving_out(*labels, condition="'a' in labels"), DEFAULT)
        asked = search(labels=frozenset(read))
        again = decide(DecisionRequest.from_json(asked.as_json), load_policy(rules.text))
        assert decide(asked, rules) == again
        assert again.left_out == (tuple(sorted(set(labels))) if "a" in read else ())


class TestParameters:
    @pytest.mark.parametrize(
        ("written", "said"),
        [
            (leaving_out("pii", match={"kinds": ["tool_call"]}), "only a search leaves documents out"),
            (leaving_out("pii", match={"kinds": ["retrieval", "plan"]}), "write kinds: [retrieval]"),
            (leaving_out("pii", outcome="deny"), "deny takes no parameters"),
            (leaving_out("p i i"), "a label is 1 to 64 letters, digits, hyphens or underscores"),
            (leaving_out(), "at least 1 item"),
            (
                rule("typo", "allow", match=of_searches(), parameters={"leaveout": ["a"]}),
                "known keys: leave_out",
            ),
        ],
    )
    def test_are_refused_with_a_remedy(self, written: dict[str, Any], said: str) -> None:
        with pytest.raises(PolicyNotValid) as refused:
            policy(written)
        assert said in refused.value.message

    def test_keep_a_rule_from_being_called_dead(self) -> None:
        first = rule("search", "allow", match=of_searches(), priority=1)
        assert policy(first, leaving_out("pii", priority=2)).warnings == ()


class TestCandidates:
    def test_know_labels_and_numbers(self) -> None:
        several = Candidates({frozenset(): 3, frozenset({"pii"}): 2, frozenset({"pii", "draft"}): 1})
        assert (several.labels, several.documents) == (frozenset({"pii", "draft"}), 6)
        assert several.without(["draft"]) == Candidates({frozenset(): 3, frozenset({"pii"}): 2})
        assert several.without(["pii"]).labels == frozenset()
        assert several.without([]) == several


class TestTakeStep:
    CANDIDATES = Candidates({frozenset(): 3, frozenset({"pii"}): 2, frozenset({"pii", "draft"}): 1})

    def decided(self, place: Place, rules: PolicySet | None = None) -> Any:
        act = place.act(
            "search_documents",
            subject_kind="retrieval",
            may_add=("untrusted",),
            candidates=self.CANDIDATES,
        )
        (one,) = take_step(context=place.context, acts=[act])
        return one

    def test_tells_the_rules_the_labels_of_all_candidates(self, database: Database) -> None:
        place = Place()
        place.follows(rule("no-drafts", "deny", "'draft' in labels", match=of_searches()), DEFAULT)
        assert self.decided(place).verdict.rule == "no-drafts"
        assert not LabelSet.objects.filter(labels__has_key="pii").exists()

    def test_adds_and_permits_no_label_of_what_is_left_out(self, database: Database) -> None:
        place = Place()
        place.follows(leaving_out("draft"), DEFAULT)
        one = self.decided(place)
        made = load(one.decision_id)[0].event
        assert isinstance(made, DecisionMade)
        assert (made.left_out, made.left_out_documents) == (("draft",), 1)
        assert made.possible_labels == ("pii", "untrusted")
        assert made.request["labels"] == ["draft", "pii"]
        assert (one.permit.left_out, one.permit.labels) == ({"draft"}, {"pii", "untrusted"})
        assert permit_of(one.decision_id, made) == one.permit
        assert {*LabelSet.objects.get(subject=f"session:{place.session_id}").labels} == {"pii", "untrusted"}
        take_step(context=place.context, settlements=[settled(one.decision_id)])
        assert (recount(), redecide_all()[1]) == ([], [])

    def test_leaves_alone_what_is_under_way_without_what_it_leaves_out(self, database: Database) -> None:
        place = Place()
        no_send = rule("no-send", "deny", "tool.name == 'send' && 'pii' in labels")
        place.follows(no_send, rule("tools", "allow"), leaving_out("pii", "draft"), DEFAULT)
        assert take_step(context=place.context, acts=[place.act("send")])[0].permit is not None
        assert self.decided(place).permit is not None
        place.follows(no_send, rule("tools", "allow"), DEFAULT)
        assert self.decided(place).verdict.rule == "taints-act-under-way"
