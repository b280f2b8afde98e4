"""The rulebook in the database: what is in force, who may change it, and what is left of it."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

from cartrita.accounts.queries import Caller, caller_in_workspace
from cartrita.eventstore import Append, Context, append, create_data_key, erase_key, load, new_id, put_blob
from governance.commands import policies as commands
from governance.commands.policies import OtherWorkspace, RulebookMoved
from governance.decision import DecisionMade, NotRedecidable, PolicySetRecorded
from governance.doors import make_decision
from governance.models import PolicyRule, PolicyVersion
from governance.policy import PolicyNotValid, PolicySet, load_policy
from governance.policy_store import policy_set
from governance.queries import decisions, policies
from governance.queries.decisions import UnknownDecision
from governance.rulebook import (
    AlreadyInForce,
    MayNotChangePolicy,
    SecondPersonNeeded,
    UnknownPolicy,
    UnknownRule,
    rulebook_id,
)
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.policies import request, rule

STARTER = """
policy: team
rules:
  - name: no-shell
    sentence: Nobody uses a shell.
    match: {kinds: [tool_call], tools: [shell]}
    outcome: deny
    examples:
      - given: {kind: tool_call, tool.name: shell}
        then: deny
  - name: the-rest
    sentence: The rest is allowed.
    priority: 9000
    match: {kinds: [plan, model_call, tool_call, retrieval, document, message_out, agent_change]}
    outcome: allow
    examples:
      - given: {kind: plan}
        then: allow
"""

pytestmark = pytest.mark.flow


@pytest.fixture(autouse=True)
def starter(database: Database, tmp_path: Path, settings: Any) -> Iterator[PolicySet]:
    path = tmp_path / "team.yaml"
    path.write_text(STARTER)
    settings.POLICY_FILE = str(path)
    yield load_policy(STARTER)
    with database.as_owner():
        call_command("rebuild_projections", check=True)


@pytest.fixture
def ann() -> Person:
    return someone(roles=("member", "policy_author"))


@pytest.fixture
def bob(ann: Person) -> Person:
    """Add a second person who may approve policies: four eyes are on."""
    return someone("bob@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))


def asks(person: Person) -> Caller:
    found = caller_in_workspace(person.id, person.workspace_id)
    assert found is not None
    return found


def of(person: Person) -> dict[str, Any]:
    return {"workspace_id": person.workspace_id, "caller": asks(person)}


def write(person: Person, name: str = "another", outcome: str = "audit", **more: Any) -> str:
    """Write a rule and return the draft's hash."""
    commands.write_rule(definition=rule(name, outcome, **more), **of(person))
    return policies.draft(person.workspace_id).policy_hash


def decided(workspace_id: UUID, **more: Any) -> UUID:
    """Record a decision under the set in force and return its id."""
    key_id = create_data_key(subject_id=new_id(), scope="session")
    context = Context(workspace_id=workspace_id, key_id=key_id)
    asked = request(workspace_id=workspace_id, **more)
    active = policies.active_policy(workspace_id)
    _, made, _ = make_decision(asked, decision_id=new_id(), context=context, policy=active)
    append(made)
    return made.stream_id


class TestActivePolicy:
    def test_is_the_file_for_a_workspace_that_never_had_one(self, starter: PolicySet) -> None:
        workspace_id = new_id()
        active = policies.active_policy(workspace_id)
        assert active.content_hash == starter.content_hash
        assert policies.active_policy(workspace_id) is active
        (version,) = PolicyVersion.objects.filter(workspace_id=workspace_id)
        assert (version.by, version.proposed_by, version.alone, version.active) == ("system", "", False, True)
        assert [row.name for row in policies.rules(workspace_id)] == ["no-shell", "the-rest"]
        assert policies.draft(workspace_id).changed == ()

    def test_begins_once_for_many_at_the_same_time(self) -> None:
        workspace_id = new_id()
        found = at_once(*[lambda: policies.active_policy(workspace_id).content_hash] * 4)
        assert len(set(found)) == 1
        assert PolicyVersion.objects.filter(workspace_id=workspace_id).count() == 1

    def test_begins_in_the_callers_transaction(self) -> None:
        workspace_id = new_id()
        with transaction.atomic():
            policies.active_policy(workspace_id)
            transaction.set_rollback(True)
        assert load(rulebook_id(workspace_id)) == []
        policies.active_policy(workspace_id)
        assert PolicyVersion.objects.count() == 1

    def test_goes_on_in_a_home_that_had_a_policy_file_alone(self, starter: PolicySet) -> None:
        workspace_id = new_id()
        put_blob(starter.text.encode(), key_id=None)
        before = PolicySetRecorded(
            policy="team",
            policy_hash=starter.content_hash,
            text_sha256=starter.content_hash,
            rules=("no-shell", "the-rest"),
        )
        append(Append(new_id(), 0, [before], Context(workspace_id=workspace_id)))
        assert policies.active_policy(workspace_id).content_hash == starter.content_hash

    def test_stays_when_the_file_changes_later(
        self, ann: Person, tmp_path: Path, settings: Any, starter: PolicySet
    ) -> None:
        policies.active_policy(ann.workspace_id)
        settings.POLICY_FILE = str(tmp_path / "gone.yaml")
        assert policies.active_policy(ann.workspace_id).content_hash == starter.content_hash

    def test_says_which_file_cannot_be_used(self, tmp_path: Path, settings: Any) -> None:
        broken = tmp_path / "broken.yaml"
        broken.write_text(STARTER.replace("outcome: deny", "outcome: denied"))
        settings.POLICY_FILE = str(broken)
        with pytest.raises(PolicyNotValid, match=r"broken\.yaml:7:14: outcome of rule no-shell"):
            policies.active_policy(new_id())

    def test_is_seen_by_others_as_soon_as_it_is_put_in_force(self, ann: Person, starter: PolicySet) -> None:
        def seen() -> str:
            return policies.active_policy(ann.workspace_id).content_hash

        assert at_once(seen) == [starter.content_hash]
        changed = write(ann)
        assert at_once(seen) == [starter.content_hash]
        commands.activate(policy_hash=changed, **of(ann))
        assert at_once(seen) == [changed]


class TestDraft:
    def test_gathers_changes_until_somebody_puts_them_in_force(self, ann: Person, starter: PolicySet) -> None:
        changed = write(ann)
        commands.withdraw_rule(name="no-shell", **of(ann))
        draft = policies.draft(ann.workspace_id)
        assert draft.changed == ("another", "no-shell")
        assert draft.ready
        assert draft.policy_hash != changed
        assert draft.active_hash == starter.content_hash
        assert PolicyRule.objects.get(name="no-shell").withdrawn
        with pytest.raises(UnknownRule):
            policies.rule(ann.workspace_id, "no-shell")
        commands.activate(policy_hash=draft.policy_hash, **of(ann))
        assert policies.active_policy(ann.workspace_id).content_hash == draft.policy_hash
        assert policies.draft(ann.workspace_id).changed == ()

    def test_refuses_a_rule_with_place_and_known_names(self, ann: Person) -> None:
        wrong = rule("wrong", condition="true &&\n  tool.nmae == 1")
        with pytest.raises(PolicyNotValid) as raised:
            commands.write_rule(definition=wrong, **of(ann))
        (problem,) = raised.value.problems
        assert (problem.rule, problem.field, problem.line) == ("wrong", "condition", 2)
        assert "known names:" in problem.message

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("Bad Name", "lower-case words"),
            ("a\u202eb", "lower-case words"),
            ("nothing-matched", "choose another"),
        ],
    )
    def test_refuses_names_that_nobody_can_read(self, ann: Person, name: str, said: str) -> None:
        with pytest.raises(PolicyNotValid, match=said):
            commands.write_rule(definition=rule(name), **of(ann))

    def test_shows_doubts_without_refusing_them(self, ann: Person) -> None:
        write(ann, "never", match={"kinds": ["tool_call"], "roles": []})
        write(ann, "covered", "allow", priority=9500)
        draft = policies.draft(ann.workspace_id)
        assert {warning.rule for warning in draft.warnings} == {"never", "covered"}
        assert draft.ready

    def test_is_empty_of_rules_but_not_of_words(self, ann: Person) -> None:
        for name in ("no-shell", "the-rest"):
            commands.withdraw_rule(name=name, **of(ann))
        draft = policies.draft(ann.workspace_id)
        assert [problem.field for problem in draft.problems] == ["rules"]
        assert draft.policy_hash == ""
        with pytest.raises(PolicyNotValid, match="at least one rule"):
            commands.propose(**of(ann))

    def test_moves_on_told_plainly(self, ann: Person) -> None:
        version = policies.draft(ann.workspace_id).version
        commands.write_rule(definition=rule("first"), expected_version=version, **of(ann))
        with pytest.raises(RulebookMoved, match="The rules changed since you read them") as raised:
            commands.write_rule(definition=rule("second"), expected_version=version, **of(ann))
        assert (raised.value.expected_version, raised.value.actual_version) == (version, version + 1)
        assert raised.value.status == 409

    def test_takes_the_changes_of_two_at_once(self, ann: Person) -> None:
        caller = asks(ann)
        policies.active_policy(ann.workspace_id)
        at_once(
            *[
                partial(
                    commands.write_rule,
                    workspace_id=ann.workspace_id,
                    definition=rule(name),
                    caller=caller,
                )
                for name in ("one", "two", "three")
            ]
        )
        assert {"one", "two", "three"} <= {row.name for row in policies.rules(ann.workspace_id)}


class TestActivate:
    def test_refuses_a_set_whose_examples_fail_naming_each(self, ann: Person, starter: PolicySet) -> None:
        examples = [{"given": {"kind": "tool_call"}, "then": then} for then in ("deny", "allow", "audit")]
        wrong = write(ann, "hasty", "audit", examples=examples)
        acts: list[Callable[[], Any]] = [
            lambda: commands.activate(policy_hash=wrong, **of(ann)),
            lambda: commands.propose(**of(ann)),
            lambda: commands.import_policy(
                text=STARTER.replace("then: allow", "then: deny"), activate=True, **of(ann)
            ),
        ]
        for attempt in acts:
            with pytest.raises(PolicyNotValid, match="expected"):
                attempt()
        assert [each.number for each in policies.draft(ann.workspace_id).failures] == [1, 2]
        assert policies.active_policy(ann.workspace_id).content_hash == starter.content_hash

    def test_refuses_what_the_caller_did_not_look_at(self, ann: Person) -> None:
        looked_at = write(ann)
        write(ann, "one-more")
        with pytest.raises(UnknownPolicy, match="look at the draft again"):
            commands.activate(policy_hash=looked_at, **of(ann))

    def test_puts_one_of_two_at_once_in_force(self, ann: Person, bob: Person) -> None:
        changed = write(ann)
        commands.propose(**of(ann))
        eve = someone("eve@example.org", workspace_id=ann.workspace_id, roles=("admin",))
        callers = [asks(bob), asks(eve)]

        def activate(caller: Caller) -> str:
            try:
                commands.activate(workspace_id=ann.workspace_id, policy_hash=changed, caller=caller)
            except AlreadyInForce:
                return "told"
            return "done"

        assert sorted(at_once(*[partial(activate, each) for each in callers])) == ["done", "told"]
        assert PolicyVersion.objects.filter(policy_hash=changed).count() == 1

    def test_is_for_roles(self, ann: Person, bob: Person) -> None:
        changed = write(ann)
        member = someone("mia@example.org", workspace_id=ann.workspace_id, roles=("member", "operator"))
        acts: list[Callable[[], Any]] = [
            lambda: commands.write_rule(definition=rule("mine"), **of(member)),
            lambda: commands.withdraw_rule(name="no-shell", **of(member)),
            lambda: commands.import_policy(text=STARTER, **of(member)),
            lambda: commands.propose(**of(member)),
            lambda: commands.propose(**of(bob)),
            lambda: commands.activate(policy_hash=changed, **of(member)),
        ]
        for act in acts:
            with pytest.raises(MayNotChangePolicy):
                act()

    def test_stays_in_the_callers_workspace(self, ann: Person) -> None:
        stranger = someone("zoe@example.org", roles=("admin",))
        caller = asks(stranger)
        acts: list[Callable[[], Any]] = [
            lambda: commands.write_rule(workspace_id=ann.workspace_id, definition=rule("x"), caller=caller),
            lambda: commands.activate(workspace_id=ann.workspace_id, policy_hash="0" * 64, caller=caller),
        ]
        for act in acts:
            with pytest.raises(OtherWorkspace):
                act()
        hidden = write(ann)
        commands.activate(policy_hash=hidden, **of(ann))
        for look in (policies.known_set, policies.export_text):
            with pytest.raises(UnknownPolicy):
                look(stranger.workspace_id, hidden)


class TestFourEyes:
    def test_are_off_until_the_second_person_and_on_with_them(self, ann: Person) -> None:
        assert not policies.draft(ann.workspace_id).four_eyes.on
        commands.activate(policy_hash=write(ann), **of(ann))
        assert policies.version_in_force(ann.workspace_id).alone
        someone("bob@example.org", workspace_id=ann.workspace_id, roles=("reviewer",))
        assert policies.draft(ann.workspace_id).four_eyes.on
        with pytest.raises(SecondPersonNeeded):
            commands.activate(policy_hash=write(ann, "another-one"), **of(ann))

    def test_count_people_not_ways_of_asking(self, ann: Person, bob: Person) -> None:
        changed = write(ann)
        program = replace(asks(ann), actor=f"token:{new_id()}", token_id=new_id())
        commands.propose(workspace_id=ann.workspace_id, caller=program)
        with pytest.raises(SecondPersonNeeded, match="yourself"):
            commands.activate(policy_hash=changed, **of(ann))
        commands.activate(policy_hash=changed, note="looks right", **of(bob))
        version = policies.version_in_force(ann.workspace_id)
        assert (version.by, version.proposed_by) == (f"user:{bob.id}", f"user:{ann.id}")
        assert (version.alone, version.note) == (False, "looks right")

    def test_hold_for_the_proposed_set_while_the_draft_moves_on(self, ann: Person, bob: Person) -> None:
        changed = write(ann)
        commands.propose(note="please", **of(ann))
        write(ann, "meanwhile")
        proposal = policies.draft(ann.workspace_id).proposal
        assert proposal is not None
        assert (proposal.policy_hash, proposal.note) == (changed, "please")
        assert [each.name for each in policies.known_set(ann.workspace_id, changed).rules][-1] == "the-rest"
        commands.activate(policy_hash=changed, **of(bob))
        assert policies.active_policy(ann.workspace_id).content_hash == changed
        assert policies.draft(ann.workspace_id).changed == ("meanwhile",)

    def test_hold_for_an_import_that_would_take_effect_at_once(self, ann: Person, bob: Person) -> None:
        version = policies.draft(ann.workspace_id).version
        with pytest.raises(SecondPersonNeeded):
            commands.import_policy(
                text=STARTER.replace("Nobody uses", "No one uses"), activate=True, **of(ann)
            )
        assert policies.draft(ann.workspace_id).version == version


class TestActivateAgain:
    def test_rolls_back_and_leaves_the_draft(self, ann: Person, starter: PolicySet) -> None:
        changed = write(ann)
        commands.activate(policy_hash=changed, **of(ann))
        commands.activate_again(policy_hash=starter.content_hash, note="worse", **of(ann))
        assert policies.active_policy(ann.workspace_id).content_hash == starter.content_hash
        assert policies.draft(ann.workspace_id).policy_hash == changed
        page = policies.versions(ann.workspace_id, limit=2)
        assert [row.policy_hash for row in page.items] == [starter.content_hash, changed]
        rest = policies.versions(ann.workspace_id, cursor=page.next_cursor)
        assert [row.by for row in rest.items] == ["system"]
        assert [row.active for row in [*page.items, *rest.items]] == [True, False, False]

    def test_needs_two_where_four_eyes_are_on(self, ann: Person, bob: Person, starter: PolicySet) -> None:
        changed = write(ann)
        commands.propose(**of(ann))
        commands.activate(policy_hash=changed, **of(bob))
        with pytest.raises(SecondPersonNeeded):
            commands.activate_again(policy_hash=starter.content_hash, **of(bob))
        commands.propose(policy_hash=starter.content_hash, **of(ann))
        commands.activate_again(policy_hash=starter.content_hash, **of(bob))
        assert policies.active_policy(ann.workspace_id).content_hash == starter.content_hash

    def test_refuses_what_never_was_in_force_here(self, ann: Person) -> None:
        with pytest.raises(UnknownPolicy, match="never was in force here"):
            commands.activate_again(policy_hash=write(ann), **of(ann))


class TestImportAndExport:
    def test_come_back_to_the_same_hash_with_examples(self, ann: Person, starter: PolicySet) -> None:
        changed = write(
            ann, condition='tool.name == "x"\n  && size(labels) > 0', match={"kinds": ["tool_call"]}
        )
        commands.activate(policy_hash=changed, **of(ann))
        for wanted in (changed, starter.content_hash, None):
            text = policies.export_text(ann.workspace_id, wanted)
            read = load_policy(text)
            assert read.content_hash == (wanted or changed)
            assert [len(each.examples) for each in read.rules if each.name != "another"] == [1, 1]
        commands.import_policy(
            text=policies.export_text(ann.workspace_id, starter.content_hash), activate=True, **of(ann)
        )
        assert policies.active_policy(ann.workspace_id).content_hash == starter.content_hash

    def test_say_every_problem_at_once_with_its_place(self, ann: Person) -> None:
        text = STARTER.replace("outcome: deny", "outcome: denied").replace("kinds: [plan,", "kinds: [plans,")
        with pytest.raises(PolicyNotValid) as raised:
            commands.import_policy(text=text + "extra: 1\n", **of(ann))
        assert [(problem.line, problem.field) for problem in raised.value.problems] == [
            (7, "outcome"),
            (14, "match.kinds.0"),
            (19, "extra"),
        ]
        assert policies.check_text(text).problems != ()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("x" * (2 * 1024 * 1024 + 1), "split the policy"),
            ("a: &a [x]\nb: [*a, *a]\n", "anchors and aliases"),
            ("[" * 10_000, "nested deeper"),
            ("rules: [" + "a," * 200_000 + "]", "words and lists; split the policy"),
            ("", "the text is empty"),
            ("rules: []", "at least one rule"),
            ("rules: 7", "at least one rule"),
            ("\x07", "not YAML"),
            (STARTER.replace("the-rest", "no-shell"), "another rule has this name"),
        ],
    )
    def test_refuse_what_is_no_policy(self, ann: Person, text: str, said: str) -> None:
        with pytest.raises(PolicyNotValid, match=said):
            commands.import_policy(text=text, **of(ann))

    def test_take_the_largest_policies(self, ann: Person) -> None:
        rules = [rule(f"rule-{n}-" + "x" * 30, "audit", f"cost.tokens > {n}") for n in range(800)]
        text = json.dumps({"policy": "large", "rules": rules})
        commands.import_policy(text=text, activate=True, **of(ann))
        assert len(policies.active_policy(ann.workspace_id).rules) == 800


class TestTryOn:
    def test_shows_both_verdicts_and_each_rule(self, ann: Person) -> None:
        decision_id = decided(ann.workspace_id)
        write(ann, "no-sums", "deny", match={"kinds": ["tool_call"], "tools": ["calculate"]})
        tried = policies.try_on(workspace_id=ann.workspace_id, decision_id=decision_id)
        assert (tried.recorded.outcome, tried.recorded.rule) == ("allow", "the-rest")
        assert (tried.new.outcome, tried.new.rule) == ("deny", "no-sums")
        assert [(one.rule, one.result) for one in tried.new.evaluated] == [
            ("no-sums", "matched"),
            ("the-rest", "matched"),
        ]
        assert tried.changed
        same = policies.try_on(workspace_id=ann.workspace_id, decision_id=decision_id, text=STARTER)
        assert not same.changed

    def test_stays_in_the_workspace(self, ann: Person) -> None:
        decision_id = decided(new_id())
        with pytest.raises(UnknownDecision):
            policies.try_on(workspace_id=ann.workspace_id, decision_id=decision_id)

    def test_says_that_the_input_is_erased(self, ann: Person) -> None:
        decision_id = decided(ann.workspace_id)
        key_id = decisions.decision_made(decision_id).key_id
        assert key_id is not None
        erase_key(key_id)
        with pytest.raises(NotRedecidable, match="erased"):
            policies.try_on(workspace_id=ann.workspace_id, decision_id=decision_id)


class TestRedeciding:
    def test_knows_the_text_of_every_set_that_decided(self, ann: Person) -> None:
        first = decided(ann.workspace_id)
        commands.activate(policy_hash=write(ann), **of(ann))
        second = decided(ann.workspace_id)
        policy_set.cache_clear()
        hashes = []
        for decision_id in (first, second):
            recorded = decisions.decision_made(decision_id)
            assert isinstance(recorded.event, DecisionMade)
            hashes.append(recorded.event.policy_hash)
            assert decisions.redecide(recorded).policy_hash == recorded.event.policy_hash
        assert len(set(hashes)) == 2


class TestRuleHits:
    def test_counts_matches_and_decisions_of_the_workspace(self, ann: Person) -> None:
        before = timezone.now()
        commands.activate(policy_hash=write(ann), **of(ann))
        for _ in range(2):
            decided(ann.workspace_id)
        decided(ann.workspace_id, tool="shell")
        decided(new_id())
        assert policies.rule_hits(ann.workspace_id, before) == {
            "another": policies.RuleHits(matched=3, decided=2),
            "no-shell": policies.RuleHits(matched=1, decided=1),
            "the-rest": policies.RuleHits(matched=3, decided=0),
        }
        assert policies.rule_hits(ann.workspace_id, timezone.now()) == {}


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """Run each in a thread of its own, all at the same time, and return what they returned."""
    start = threading.Barrier(len(acts))

    def run(act: Callable[[], Any]) -> Any:
        start.wait()
        try:
            return act()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(acts)) as pool:
        return [found.result() for found in [pool.submit(run, act) for act in acts]]
